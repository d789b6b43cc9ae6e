"""A chain of stages applied to one case: each stage's segmentation is input of the next one, or the box it works in.

Where only a label map is wanted, the last stage's scores are brought to the grid of the scan and decided while they are
computed (:func:`segment_by_stages`). Scores that are kept stay on the stages' own grids until they are used:
:class:`ScoresOnScan` brings one channel at a time to the grid of the scan.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd, insert_crop_into_image
from torch import nn

from autoseg.data.boxes import Box, box_around
from autoseg.inference.decoding import label_type, mean_of_answers, one_hot, paint_scores
from autoseg.inference.painting import SlabPainter, paint_slabs
from autoseg.inference.slabs import Slab, in_box
from autoseg.inference.stored_scores import StoredScores
from autoseg.inference.variant_choice import inference_variant
from autoseg.networks.weights import load_network
from autoseg.plans.stage import Stage
from autoseg.plans.target import Target
from autoseg.preprocessing.case import PreprocessedCase, Trace
from autoseg.preprocessing.resample import Shape, resample_label
from autoseg.preprocessing.scores import scores_on_original, scores_resampling
from autoseg.step.variant import Variant

#: Logit of an output outside of the box that a stage worked in: a probability of 10⁻¹³.
ABSENT = -30.0


@dataclass(frozen=True)
class TrainedStage:
    """One stage, ready to predict.

    Attributes:
        stage: of the plan; says what it uses of the stage before.
        networks: of its folds.
        folds: their numbers, in the same order; counted from 0 where None.
        variant: to compute them in; chosen for the device where None.
        weights: files that they come from.
    """

    stage: Stage
    networks: list[nn.Module]
    folds: Sequence[int] | None = None
    variant: Variant | None = None
    weights: Sequence[Path] = ()

    @classmethod
    def load(
        cls, stage: Stage, weights: Sequence[Path], device: torch.device, folds: Sequence[int] | None = None
    ) -> "TrainedStage":
        """Load the networks of a stage, in the variant that suits the device.

        Raises:
            AutosegError: weights are missing or fit another plan.
        """
        networks = [load_network(path, stage, device) for path in weights]
        return cls(stage, networks, folds, weights=weights).tuned(device)

    def tuned(self, device: torch.device, passes: int = 0) -> "TrainedStage":
        """The same in the fastest variant, measured where none is known and many passes over a tile are to come.

        Networks without files stay as they are.
        """
        if not self.weights:
            return self
        variant = inference_variant(self.stage, device, self.weights, passes)
        for network in self.networks:
            variant.prepare(network)
        return replace(self, variant=variant)

    @property
    def by_fold(self) -> dict[int, nn.Module]:
        """Number of a fold → its network."""
        return dict(zip(range(len(self.networks)) if self.folds is None else self.folds, self.networks, strict=True))


#: Applies a stage's networks: stage and image ``(channel, z, y, x)`` → slabs of its logits, in order.
Predict = Callable[[TrainedStage, torch.Tensor], Iterable[Slab]]


@dataclass(frozen=True)
class StageScores:
    """A stage's scores of a case, on the stage's grid.

    Attributes:
        scores: logits ``(z, y, x)`` of each head inside ``box``; None where the stage before left no box.
        box: where they lie on the grid; None with the scores.
        shape: of the grid.
        trace: from the grid back to the scan.
        stage: that gave them.
    """

    scores: Sequence[torch.Tensor] | torch.Tensor | None
    box: Box | None
    shape: tuple[int, ...]
    trace: Trace
    stage: Stage

    @property
    def target(self) -> Target:
        """What the heads mean."""
        return self.stage.target

    def head(self, index: int) -> torch.Tensor:
        """Logits ``(z, y, x)`` of one head on the whole grid; outside of the box there is background."""
        inside = None if self.scores is None else self.scores[index]
        if inside is not None and tuple(inside.shape) == self.shape:
            return inside
        device = None if inside is None else inside.device
        whole = torch.full(self.shape, value_outside(self.target, index), device=device)
        if inside is not None and self.box is not None:
            insert_crop_into_image(whole, inside, limits(self.box))
        return whole

    def mean_answer(self) -> "StageScores":
        """The mean of the answers, where the network gives several: what the next stage is given."""
        if self.scores is None or len(self.scores) == self.target.heads:
            return self
        return replace(self, scores=mean_of_answers(torch.stack(list(self.scores)), self.target))

    def mask(self, output: str) -> np.ndarray:
        """Where on the grid an output is segmented, bool ``(z, y, x)``."""
        inside = np.zeros(self.shape, bool)
        if self.scores is None or self.box is None:
            return inside
        index = [other.name for other in self.target.outputs].index(output)
        if self.target.kind == "regions":
            found = self.scores[index] > 0
        else:
            found = paint_scores(iter(self.scores), self.target) == self.target.outputs[index].paint
        return np.asarray(insert_crop_into_image(inside, found.cpu().numpy(), limits(self.box)))

    def limit(self, output: str) -> torch.Tensor:
        """The most that the logit of something inside an output may be, ``(z, y, x)``: above 0 in its mask alone."""
        if self.target.kind == "regions":
            return self.head([other.name for other in self.target.outputs].index(output))
        return torch.where(torch.from_numpy(self.mask(output)), -ABSENT, ABSENT)


@dataclass(frozen=True)
class StageSlabs:
    """A stage's scores of a case in the order in which they are computed.

    Attributes:
        slabs: of the part inside ``box``; None where the stage before left no box.
        box: where they lie on the grid; None with the slabs.
        shape: of the grid.
        trace: from the grid back to the scan.
        stage: that gives them.
    """

    slabs: Iterable[Slab] | None
    box: Box | None
    shape: Shape
    trace: Trace
    stage: Stage

    def stored(self, device: torch.device) -> StageScores:
        """Compute and keep all of them."""
        scores: StoredScores | None = None
        if self.slabs is not None and self.box is not None:
            inside = [side.stop - side.start for side in self.box]
            scores = StoredScores(self.slabs, self.stage.out_channels, inside, device)
        return StageScores(scores, self.box, self.shape, self.trace, self.stage)

    def painted(self, result: Target, heads: Sequence[int]) -> torch.Tensor:
        """Compute them, and decide each voxel of the cropped scan as soon as that is possible.

        Args:
            result: the target to paint.
            heads: number of each of its heads among the stage's.

        Returns:
            Label map ``(z, y, x)``.
        """
        if self.slabs is None or self.box is None:
            return torch.zeros(self.trace.cropped_shape, dtype=label_type(result))
        outside = [value_outside(self.stage.target, head) for head in range(self.stage.out_channels)]
        whole = in_box(self.slabs, self.box, self.shape, outside)

        def painter_on(axis: int) -> SlabPainter:
            return SlabPainter(result, heads, scores_resampling(self.shape, self.trace, self.stage, axis))

        return paint_slabs(whole, painter_on)


def value_outside(target: Target, head: int) -> float:
    """Logit of a head outside of the box that a stage worked in: certainly background."""
    return 0.0 if target.kind == "labels" and head % target.heads == 0 else ABSENT


class ScoresOnScan(Sequence[torch.Tensor]):
    """Logits of several heads on the cropped grid of the scan; each is resampled when it is used, to save memory.

    Args:
        heads: for each, the scores of a stage, and the number of the head in them.
    """

    def __init__(self, heads: Sequence[tuple[StageScores, int]]) -> None:
        self._heads = list(heads)

    def __len__(self) -> int:
        return len(self._heads)

    def answers(self, heads: int) -> "list[ScoresOnScan]":
        """The scores of each of the network's answers, of ``heads`` heads each."""
        return [ScoresOnScan(self._heads[first : first + heads]) for first in range(0, len(self._heads), heads)]

    def __getitem__(self, index: int) -> torch.Tensor:  # type: ignore[override]
        source, head = self._heads[index]
        return scores_on_original(source.head(head), source.trace, source.stage).cpu()


def apply_stages(
    stages: Sequence[TrainedStage],
    prepared: Sequence[PreprocessedCase],
    result: Target,
    predict: Predict,
    device: torch.device,
) -> ScoresOnScan:
    """Run a chain of stages on one case, and keep its scores.

    Args:
        stages: in order.
        prepared: the case as each stage sees it.
        result: the target to predict: each region comes from the last stage that segments one of that name, labels
            come from the last stage.
        predict: applies a stage's networks.
        device: to keep scores on, where there is room.

    Returns:
        Logits of the result's heads on the cropped grid of the scan; where the network gives several answers, all heads
        of the first one, then those of the next.
    """
    sources = _sources(stages, result)
    found = _earlier(stages, prepared, {index for index, _ in sources}, predict, device)
    found.append(_slabs(stages[-1], prepared[-1], found[-1] if found else None, predict).stored(device))
    heads = []
    for answer in range(stages[-1].stage.network.answers):
        for index, head in sources:
            scored = found[index]
            assert scored is not None
            heads.append((scored, head + answer * scored.stage.heads))
    return ScoresOnScan(heads)


def segment_by_stages(
    stages: Sequence[TrainedStage],
    prepared: Sequence[PreprocessedCase],
    result: Target,
    predict: Predict,
    device: torch.device,
) -> torch.Tensor:
    """Run a chain of stages on one case; the last one's scores are not kept where they alone decide.

    Args:
        stages: in order; the last one gives one answer.
        prepared, result, predict, device: the same as for :func:`apply_stages`.

    Returns:
        Label map ``(z, y, x)`` on the cropped grid of the scan, by the rules of
        :func:`autoseg.inference.decoding.paint_scores`.
    """
    sources = _sources(stages, result)
    if {index for index, _ in sources} != {len(stages) - 1}:
        return paint_scores(apply_stages(stages, prepared, result, predict, device), result)
    found = _earlier(stages, prepared, set(), predict, device)
    last = _slabs(stages[-1], prepared[-1], found[-1] if found else None, predict)
    return last.painted(result, [head for _, head in sources])


def _earlier(
    stages: Sequence[TrainedStage],
    prepared: Sequence[PreprocessedCase],
    wanted: set[int],
    predict: Predict,
    device: torch.device,
) -> list[StageScores | None]:
    """Scores of all stages but the last; None for those that are neither wanted nor used by the last one."""
    found: list[StageScores | None] = []
    for trained, case in zip(stages[:-1], prepared, strict=False):
        slabs = _slabs(trained, case, found[-1] if found else None, predict)
        if found and len(found) - 1 not in wanted:
            found[-1] = None  # its scores are not used again
        found.append(slabs.stored(device))
    return found


def _slabs(trained: TrainedStage, case: PreprocessedCase, before: StageScores | None, predict: Predict) -> StageSlabs:
    """A stage's scores of a case, given those of the stage before it, where it uses them."""
    previous = trained.stage.previous
    image = torch.from_numpy(case.image)
    depth, height, width = image.shape[1:]
    box: Box | None = (slice(0, depth), slice(0, height), slice(0, width))
    if previous is not None:
        assert before is not None
        before = before.mean_answer()
        if previous.use == "channels":
            image = torch.cat([image, _segmentation_channels(before, case, trained.stage)])
        else:
            box = box_around(before.mask(previous.output), previous.margin)
    slabs = None if box is None else predict(trained, crop_and_pad_nd(image, limits(box)))
    if slabs is not None and box is not None and previous is not None and previous.within == "mask":
        assert before is not None
        slabs = _confined(slabs, before.limit(previous.output)[box], trained.stage.target)
    return StageSlabs(slabs, box, (depth, height, width), case.trace, trained.stage)


def _confined(slabs: Iterable[Slab], limit: torch.Tensor, target: Target) -> Iterator[Slab]:
    """Slabs of a stage that segments nothing outside of the mask of the stage before.

    A region is at most as probable as what it lies in, voxel by voxel. So it is wherever their logits are resampled,
    too, as that takes means of both with the same weights.

    Args:
        slabs: of the part in the box.
        limit: logits ``(z, y, x)`` of that mask there.
        target: of the stage.
    """
    for slab in slabs:
        turned = limit.movedim(slab.axis, 0)

        def finish(index: int, first: int, scores: torch.Tensor, turned: torch.Tensor = turned) -> torch.Tensor:
            here = turned[first : first + len(scores)].to(scores.device)
            if target.kind == "regions":
                return torch.minimum(scores, here)
            return torch.where(here > 0, scores, value_outside(target, index))

        yield slab.finished_by(finish)


def limits(box: Box) -> list[list[int]]:
    """A box as acvl-utils writes it: ``[first, end]`` along each axis."""
    return [[side.start, side.stop] for side in box]


def _sources(stages: Sequence[TrainedStage], result: Target) -> list[tuple[int, int]]:
    """For each head of the result, the number of the stage that it comes from, and of the head there."""
    if result.kind == "labels":
        return [(len(stages) - 1, head) for head in range(result.heads)]
    found = {
        output.name: (i, j) for i, stage in enumerate(stages) for j, output in enumerate(stage.stage.target.outputs)
    }
    return [found[output.name] for output in result.outputs]


def _segmentation_channels(before: StageScores, case: PreprocessedCase, stage: Stage) -> torch.Tensor:
    """The segmentation of the stage before on this stage's grid, a channel an output.

    It is made from a label map on the grid of the scan, as in training, where the label maps are read from files.
    """
    label = paint_scores(ScoresOnScan([(before, head) for head in range(before.target.heads)]), before.target).numpy()
    shape = case.image.shape[1:]
    moved = resample_label(label, shape, case.trace.separate_axis, stage.configuration.resampling.label_order)
    return one_hot(torch.from_numpy(moved)[None], before.target)[0]
