"""A chain of stages applied to one case: each stage's segmentation is input of the next one, or the box it works in.

Scores stay on the stages' own grids until they are used: :class:`ScoresOnScan` brings one channel at a time to the grid
of the scan.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd, insert_crop_into_image
from torch import nn

from autoseg.data.boxes import Box, box_around
from autoseg.inference.decoding import mean_of_answers, one_hot, paint_scores
from autoseg.inference.variant_choice import inference_variant
from autoseg.networks.weights import load_network
from autoseg.plans.stage import Stage
from autoseg.plans.target import Target
from autoseg.preprocessing.case import PreprocessedCase, Trace, scores_on_original
from autoseg.preprocessing.resample import resample_label
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
    """

    stage: Stage
    networks: list[nn.Module]
    folds: Sequence[int] | None = None
    variant: Variant | None = None

    @classmethod
    def load(
        cls, stage: Stage, weights: Sequence[Path], device: torch.device, folds: Sequence[int] | None = None
    ) -> "TrainedStage":
        """Load the networks of a stage, in the variant that suits the device.

        Raises:
            AutosegError: weights are missing or fit another plan.
        """
        networks = [load_network(path, stage, device) for path in weights]
        variant = inference_variant(stage, device, weights)
        for network in networks:
            variant.prepare(network)
        return cls(stage, networks, folds, variant)

    @property
    def by_fold(self) -> dict[int, nn.Module]:
        """Number of a fold → its network."""
        return dict(zip(range(len(self.networks)) if self.folds is None else self.folds, self.networks, strict=True))


@dataclass(frozen=True)
class StageScores:
    """A stage's scores of a case, on the stage's grid.

    Attributes:
        scores: logits ``(heads, z, y, x)`` inside ``box``; None where the stage before left no box.
        box: where they lie on the grid; None with the scores.
        shape: of the grid.
        trace: from the grid back to the scan.
        stage: that gave them.
    """

    scores: torch.Tensor | None
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
        if self.scores is not None and tuple(self.scores.shape[1:]) == self.shape:
            return self.scores[index]
        background = self.target.kind == "labels" and index % self.target.heads == 0
        device = None if self.scores is None else self.scores.device
        whole = torch.full(self.shape, 0.0 if background else ABSENT, device=device)
        if self.scores is not None and self.box is not None:
            insert_crop_into_image(whole, self.scores[index], limits(self.box))
        return whole

    def mean_answer(self) -> "StageScores":
        """The mean of the answers, where the network gives several: what the next stage is given."""
        return self if self.scores is None else replace(self, scores=mean_of_answers(self.scores, self.target))

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
    predict: Callable[[TrainedStage, torch.Tensor], torch.Tensor],
) -> ScoresOnScan:
    """Run a chain of stages on one case.

    Args:
        stages: in order.
        prepared: the case as each stage sees it.
        result: the target to predict: each region comes from the last stage that segments one of that name, labels
            come from the last stage.
        predict: stage and image ``(channel, z, y, x)`` → logits ``(heads, z, y, x)``.

    Returns:
        Logits of the result's heads on the cropped grid of the scan; where the network gives several answers, all heads
        of the first one, then those of the next.
    """
    sources = _sources(stages, result)
    wanted = {index for index, _ in sources}
    found: list[StageScores | None] = []
    for stage, case in zip(stages, prepared, strict=True):
        previous = stage.stage.previous
        image = torch.from_numpy(case.image)
        shape = tuple(image.shape[1:])
        box: Box | None = (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))
        if previous is not None:
            assert found[-1] is not None
            before = found[-1].mean_answer()
            if previous.use == "channels":
                image = torch.cat([image, _segmentation_channels(before, case, stage.stage)])
            else:
                box = box_around(before.mask(previous.output), previous.margin)
        scores = None if box is None else predict(stage, crop_and_pad_nd(image, limits(box)))
        if found and len(found) - 1 not in wanted:
            found[-1] = None  # its scores are not used again
        found.append(StageScores(scores, box, shape, case.trace, stage.stage))
    heads = []
    for answer in range(stages[-1].stage.network.answers):
        for index, head in sources:
            scored = found[index]
            assert scored is not None
            heads.append((scored, head + answer * scored.stage.heads))
    return ScoresOnScan(heads)


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
