"""Prediction: the segmentation of one case, and what else was asked for."""

from dataclasses import dataclass, field

import numpy as np

from autoseg.data.image import Geometry
from autoseg.inference.opinions import Group, Opinions


@dataclass(frozen=True)
class Prediction:
    """The segmentation of one case, in canonical axes on the grid of the original image.

    Attributes:
        label: int16 ``(z, y, x)`` with the values of the training data.
        probabilities: output name → float32 ``(z, y, x)``; empty unless asked for.
        geometry: of the original file.
        missing: channels of the plan that the case lacked.
        answers: rater → label map like ``label``; empty unless asked for.
        opinions: grouping → the opinions grouped that way; only those that were asked for.
    """

    label: np.ndarray
    probabilities: dict[str, np.ndarray]
    geometry: Geometry
    missing: list[str] = field(default_factory=list)
    answers: dict[str, np.ndarray] = field(default_factory=dict)
    opinions: dict[Group, Opinions] = field(default_factory=dict)

    @property
    def disagreement(self) -> np.ndarray | None:
        """How far the answers' probabilities differ, float32 ``(z, y, x)`` from 0 to 1; None unless asked for."""
        opinions = self.opinions.get("rater")
        return None if opinions is None else opinions.disagreement().numpy()
