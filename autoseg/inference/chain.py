"""A chain of stages applied to one case: what one finds, the next is given, or works inside the box of.

Everything stays on the stages' own grids until somebody looks at it: :class:`OnOriginal` brings one channel at a time
to the grid of the scan.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from autoseg.data.boxes import Box, box_around
from autoseg.inference.decide import one_hot, paint_scores
from autoseg.plans.stage import Stage
from autoseg.plans.target import Target
from autoseg.preprocessing.case import PreprocessedCase, Trace, scores_on_original
from autoseg.preprocessing.resample import resample_label

#: Logit of what a stage did not look at, outside of its box: a probability of 10⁻¹³.
ABSENT = -30.0


@dataclass(frozen=True)
class TrainedStage:
    """One stage, ready to predict.

    Attributes:
        stage: of the plan; says what it takes over from the stage before.
        networks: of its folds.
    """

    stage: Stage
    networks: list[nn.Module]


@dataclass(frozen=True)
class Found:
    """What a stage says of a case, on the stage's grid.

    Attributes:
        scores: logits ``(heads, z, y, x)`` inside ``box``; None where it had nothing to look at.
        box: where they lie on the grid; None with the scores.
        shape: of the grid.
        target: what the heads mean.
        trace: from the grid back to the scan.
        stage: that found it.
    """

    scores: torch.Tensor | None
    box: Box | None
    shape: tuple[int, ...]
    target: Target
    trace: Trace
    stage: Stage

    def head(self, index: int) -> torch.Tensor:
        """Logits of one head on the whole grid; outside of the box nothing is there."""
        if self.scores is not None and tuple(self.scores.shape[1:]) == self.shape:
            return self.scores[index]
        background = self.target.kind == "labels" and index == 0
        device = None if self.scores is None else self.scores.device
        whole = torch.full(self.shape, 0.0 if background else ABSENT, device=device)
        if self.scores is not None and self.box is not None:
            whole[self.box] = self.scores[index]
        return whole

    def mask(self, output: str) -> np.ndarray:
        """Where on the grid an output is, bool ``(z, y, x)``."""
        inside = np.zeros(self.shape, bool)
        if self.scores is None or self.box is None:
            return inside
        index = [found.name for found in self.target.outputs].index(output)
        if self.target.kind == "regions":
            inside[self.box] = (self.scores[index] > 0).cpu().numpy()
        else:
            painted = paint_scores(iter(self.scores), self.target)
            inside[self.box] = (painted == self.target.outputs[index].paint).cpu().numpy()
        return inside


class OnOriginal(Sequence[torch.Tensor]):
    """Heads on the cropped original grid, resampled one at a time when looked at, to hold few in memory.

    Args:
        heads: for each, what a stage found, and the number of the head there.
    """

    def __init__(self, heads: Sequence[tuple[Found, int]]) -> None:
        self._heads = list(heads)

    def __len__(self) -> int:
        return len(self._heads)

    def blocks(self, heads: int) -> "list[OnOriginal]":
        """The heads of each rater, so many each."""
        return [OnOriginal(self._heads[first : first + heads]) for first in range(0, len(self._heads), heads)]

    def __getitem__(self, index: int) -> torch.Tensor:  # type: ignore[override]
        found, head = self._heads[index]
        return scores_on_original(found.head(head), found.trace, found.stage).cpu()


def apply_stages(
    stages: Sequence[TrainedStage],
    prepared: Sequence[PreprocessedCase],
    result: Target,
    predict: Callable[[TrainedStage, torch.Tensor], torch.Tensor],
) -> OnOriginal:
    """Run a chain of stages on one case.

    Args:
        stages: in order.
        prepared: the case as each stage sees it.
        result: the target to speak about: regions come each from the last stage that segments one of that name,
            labels from the last stage.
        predict: stage and image ``(channel, z, y, x)`` → logits ``(heads, z, y, x)``.

    Returns:
        Logits of the result's heads on the cropped original grid; of several raters, all heads of each together.
    """
    sources = _sources(stages, result)
    wanted = {index for index, _ in sources}
    found: list[Found | None] = []
    for stage, case in zip(stages, prepared, strict=True):
        previous = stage.stage.previous
        image = torch.from_numpy(case.image)
        shape = tuple(image.shape[1:])
        box: Box | None = (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))
        if previous is not None:
            before = found[-1]
            assert before is not None
            if previous.use == "channels":
                image = torch.cat([image, _handed_on(before, case, stage.stage)])
            else:
                box = box_around(before.mask(previous.output), previous.margin)
        scores = None if box is None else predict(stage, image[(slice(None), *box)])
        if found and len(found) - 1 not in wanted:
            found[-1] = None  # nobody will look at its scores again
        found.append(Found(scores, box, shape, stage.stage.target, case.trace, stage.stage))
    heads = []
    for rater in range(stages[-1].stage.network.answers):
        for index, head in sources:
            stage_found = found[index]
            assert stage_found is not None
            heads.append((stage_found, head + rater * stages[-1].stage.heads))
    return OnOriginal(heads)


def _sources(stages: Sequence[TrainedStage], result: Target) -> list[tuple[int, int]]:
    """For each head of the result, number of the stage that it comes from, and of the head there."""
    if result.kind == "labels":
        return [(len(stages) - 1, head) for head in range(result.heads)]
    found = {
        output.name: (i, j) for i, stage in enumerate(stages) for j, output in enumerate(stage.stage.target.outputs)
    }
    return [found[output.name] for output in result.outputs]


def _handed_on(before: Found, case: PreprocessedCase, stage: Stage) -> torch.Tensor:
    """What the stage before found, on this stage's grid, a channel an output.

    It takes the way over a label map on the grid of the scan, as it did for training, where files are read.
    """
    label = paint_scores(OnOriginal([(before, head) for head in range(before.target.heads)]), before.target).numpy()
    shape = case.image.shape[1:]
    moved = resample_label(label, shape, case.trace.separate_axis, stage.configuration.resampling.label_order)
    return one_hot(torch.from_numpy(moved)[None], before.target)[0]
