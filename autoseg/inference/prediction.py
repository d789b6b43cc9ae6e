"""Prediction: the segmentation of one case, and what else was asked for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from autoseg.data.image import Geometry
from autoseg.inference.opinions import Group, Opinions

#: Probabilities with fewer numbers than these are kept once they were made; others are made anew, one at a time.
KEPT_PROBABILITIES = 1 << 27


class NamedProbabilities(Mapping[str, np.ndarray]):
    """Probabilities by the name of the output, each made when it is asked for: many labels take too much memory.

    Args:
        names: of the outputs.
        probabilities: of each, float32 ``(z, y, x)``.
    """

    def __init__(self, names: Sequence[str], probabilities: Sequence[torch.Tensor]) -> None:
        self._numbers = {name: number for number, name in enumerate(names)}
        self._probabilities = probabilities
        self._kept: dict[int, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        return self._volume(self._numbers[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def only(self, names: Sequence[str]) -> "NamedProbabilities":
        """Those of some outputs; each is still made once."""
        found = NamedProbabilities((), self._probabilities)
        found._numbers = {name: self._numbers[name] for name in names}
        found._kept = self._kept
        return found

    @property
    def volumes(self) -> Iterator[torch.Tensor]:
        """Those of all outputs in order."""
        return (torch.from_numpy(self._volume(number)) for number in range(len(self)))

    def _volume(self, number: int) -> np.ndarray:
        found = self._kept.get(number)
        if found is None:
            found = self._probabilities[number].numpy()
            if found.size * len(self) <= KEPT_PROBABILITIES:
                self._kept[number] = found
        return found


@dataclass(frozen=True)
class Prediction:
    """The segmentation of one case, in canonical axes on the grid of the original image.

    Attributes:
        label: ``(z, y, x)`` with the values of the training data: int16, or int32 where they are larger.
        probabilities: output name → float32 ``(z, y, x)``, made when it is asked for; empty unless it was wanted.
        geometry: of the original file.
        missing: channels of the plan that the case lacked.
        answers: rater → label map like ``label``; empty unless asked for.
        opinions: grouping → the opinions grouped that way; only those that were asked for.
    """

    label: np.ndarray
    probabilities: Mapping[str, np.ndarray]
    geometry: Geometry
    missing: list[str] = field(default_factory=list)
    answers: dict[str, np.ndarray] = field(default_factory=dict)
    opinions: dict[Group, Opinions] = field(default_factory=dict)

    @property
    def disagreement(self) -> np.ndarray | None:
        """How far the answers' probabilities differ, float32 ``(z, y, x)`` from 0 to 1; None unless asked for."""
        opinions = self.opinions.get("rater")
        return None if opinions is None else opinions.disagreement().numpy()
