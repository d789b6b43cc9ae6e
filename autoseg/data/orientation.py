"""Orientation: the axes of a network's input, as flips and an order of the canonical axes."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from autoseg.data.geometry import Geometry

#: ``canonical``: LPS, as images are read; ``stored``: the file's own order and directions of axes; ``ras``: canonical,
#: rotated by 180 degrees about the long axis of the body.
Orientation = Literal["canonical", "stored", "ras"]


@dataclass(frozen=True)
class Axes:
    """Other axes of a canonical ``(z, y, x)`` volume.

    Attributes:
        order: which canonical axis each of them is.
        flipped: whether it runs the other way.
    """

    order: tuple[int, int, int] = (0, 1, 2)
    flipped: tuple[bool, bool, bool] = (False, False, False)

    def turn(self, volume: np.ndarray) -> np.ndarray:
        """A canonical volume ``(…, z, y, x)`` in these axes; a view."""
        front = volume.ndim - 3
        moved = volume.transpose(*range(front), *(front + axis for axis in self.order))
        return np.flip(moved, tuple(front + axis for axis in range(3) if self.flipped[axis]))

    def turn_back(self, volume: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`turn`; a view."""
        front = volume.ndim - 3
        moved = np.flip(volume, tuple(front + axis for axis in range(3) if self.flipped[axis]))
        return moved.transpose(*range(front), *(front + int(axis) for axis in np.argsort(self.order)))


def axes_in(orientation: Orientation, geometry: Geometry) -> Axes:
    """The axes of an orientation for a file of this geometry; 2D images keep their own."""
    if orientation == "canonical" or geometry.dimension != 3:
        return Axes()
    if orientation == "ras":
        return Axes(flipped=(False, True, True))
    letters = geometry.orientation[::-1]  # SimpleITK's x, y, z to array order
    z, y, x = (2 - next(i for i, pair in enumerate(("LR", "PA", "SI")) if letter in pair) for letter in letters)
    return Axes((z, y, x), (letters[0] in "RAI", letters[1] in "RAI", letters[2] in "RAI"))
