"""Translation: from all that a source segments as it is to what a run that scores or keeps it writes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from autoseg.data.dataset import LoadedCase
from autoseg.inference.chain import TrainedStage
from autoseg.plans.postprocessing import Step
from autoseg.plans.stage import Stage
from autoseg.plans.target import Target
from autoseg.preprocessing.case import PreprocessedCase
from autoseg.utils.integers import integer_type

if TYPE_CHECKING:
    from typing import Self


@dataclass(frozen=True)
class Translation:
    """Between a run's plan and a source with more channels or outputs, which predicts with all of them.

    The source decides each voxel among all of its outputs, and is cleaned up by its own steps; then its label map gets
    the plan's values. So that is what its own run predicts, but for outputs that the plan has not, which are left out.

    Attributes:
        target: the plan's.
        channels: names of the plan's, in order; the others of the source are missing.
        values: value of the source's label maps → the plan's, 0 for none; empty where they are the plan's.
        steps: of post-processing, by the source's outputs.
    """

    target: Target
    channels: tuple[str, ...]
    values: Mapping[int, int]
    steps: tuple[Step, ...] = ()

    @classmethod
    def of(cls, stage: Stage) -> "Self | None":
        """Of the source that a stage of a plan starts from; None where it has no more than the plan."""
        own = stage.recipe.initialization.untouched
        if own is None or not own.has_network:
            return None
        return cls(stage.result, tuple(stage.channel_names), own.values, tuple(own.postprocessing))

    @property
    def uncleaned(self) -> "Translation":
        """The same without post-processing."""
        return replace(self, steps=())

    def label(self, own: np.ndarray) -> np.ndarray:
        """A label map of the source's with the plan's values."""
        if not self.values:
            return own
        found = np.zeros(own.shape, integer_type(output.paint for output in self.target.outputs))
        for value, ours in self.values.items():
            if ours:
                found[own == value] = ours
        return found

    def loaded(self, case: LoadedCase, source: Stage) -> LoadedCase:
        """A case with the plan's channels as one with the source's."""
        image, present = self._arranged(case.image, case.present, source)
        return case.model_copy(update={"image": image, "present": present})

    def preprocessed(self, case: PreprocessedCase, source: Stage) -> PreprocessedCase:
        """The same of a case that is preprocessed; of the plan's channels only image and trace are kept."""
        image, present = self._arranged(case.image, case.trace.present, source)
        return PreprocessedCase(image, None, replace(case.trace, present=present))

    def _arranged(
        self, image: np.ndarray, present: Sequence[bool], source: Stage
    ) -> tuple[np.ndarray, tuple[bool, ...]]:
        """Channels in the source's order, and whether each is there; one that is missing is 0."""
        places = [self.channels.index(name) if name in self.channels else None for name in source.channel_names]
        missing = np.zeros_like(image[0])
        arranged = np.stack([missing if place is None else image[place] for place in places])
        return arranged, tuple(place is not None and present[place] for place in places)


def load_source(
    stage: Stage, weights: Sequence[Path], device: torch.device, folds: Sequence[int] | None = None
) -> TrainedStage:
    """The source of a stage as its own run predicts, ready to predict.

    Args:
        stage: of the plan that starts from it.
        weights: of its folds (:func:`autoseg.transfer.tensors.untouched_source`).
        device: to compute on.
        folds: numbers of these; counted from 0 where None.

    Raises:
        AutosegError: weights are missing or fit another plan.
    """
    own = stage.recipe.initialization.untouched
    if own is not None and own.has_network:
        return TrainedStage.load(stage.as_source, weights, device, folds)
    # The network is the plan's, whose images it sees without their harmonization.
    return replace(TrainedStage.load(stage, weights, device, folds), stage=stage.as_source)
