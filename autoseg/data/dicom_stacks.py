"""Stacks of slices: their order along the normal, their grid, and what is wrong with their distances and directions."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from autoseg.data.geometry import Geometry
from autoseg.utils.text import capital

#: mm within which two slices lie at one place: positions are text, rounded.
SAME_PLACE = 1e-2

#: Cosines of two slices' axes may differ by this: what rounding to three decimals does.
ONE_DIRECTION = 1e-3

#: Distances between slices may differ by this share of their median, or by these mm: headers are rounded.
UNEQUAL, UNEQUAL_MM = 0.02, 0.05

#: Pixels that slices may be shifted in their plane from the first to the last: the grid is taken to be straight.
SHIFTED = 0.5

#: What the axes of slices may be off unit length and a right angle.
_CROOKED = 1e-2


class StackFault(NamedTuple):
    """Why slices make no volume.

    Attributes:
        what: is wrong, as the end of a sentence about them.
        remedy: what to do, as the beginning of one.
    """

    what: str
    remedy: str = "export the series again"

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"

    @property
    def sentences(self) -> tuple[str, str]:
        """What is wrong, and what to do, the latter as a whole sentence."""
        return self.what, f"{capital(self.remedy)}."


class PlacedSlices(NamedTuple):
    """Slices sorted along their normal.

    Attributes:
        order: numbers of the slices.
        places: of each in this order, the number of its place; slices at one place share it.
    """

    order: list[int]
    places: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """Slices at each place."""
        return np.bincount(self.places)


def normal_of(axes: Sequence[float]) -> np.ndarray | StackFault:
    """The direction from slice to slice.

    Args:
        axes: direction cosines of a row, then of a column.
    """
    crooked = StackFault("its header gives no directions of rows and columns", "convert it with another tool")
    if len(axes) != 6:
        return crooked
    row, column = np.asarray(axes[:3], float), np.asarray(axes[3:], float)
    off = abs(np.linalg.norm(row) - 1), abs(np.linalg.norm(column) - 1), abs(row @ column)
    if max(off) > _CROOKED:
        return crooked
    normal = np.cross(row, column)
    found: np.ndarray = normal / np.linalg.norm(normal)
    return found


def placed_along(positions: np.ndarray, normal: np.ndarray, ties: Sequence[tuple[float, ...]] = ()) -> PlacedSlices:
    """Sort slices along their normal.

    Args:
        positions: of the first voxel of each ``(n, 3)``, mm.
        normal: of the slices.
        ties: what slices at one place are sorted by.
    """
    heights = np.asarray(positions, float) @ normal
    order = np.argsort(heights, kind="stable")
    numbers = np.cumsum(np.diff(heights[order], prepend=heights[order[0]]) > SAME_PLACE)
    if ties:
        ranked = sorted(range(len(order)), key=lambda at: (numbers[at], ties[int(order[at])]))
        order = order[np.asarray(ranked)]
    return PlacedSlices([int(index) for index in order], numbers)


def grid_of(
    positions: np.ndarray,
    axes: Sequence[float],
    size: tuple[int, int],
    spacing: tuple[float, float],
    names: Sequence[str] = (),
) -> Geometry | StackFault:
    """The grid of a stack of slices, or why it makes none.

    Args:
        positions: of the first voxel of each slice ``(n, 3)``, mm, sorted along the normal; two at least.
        axes: direction cosines of a row, then of a column.
        size: columns and rows.
        spacing: mm between columns and between rows.
        names: of the slices, for the message; their numbers where there are none.
    """
    normal = normal_of(axes)
    if isinstance(normal, StackFault):
        return normal
    heights = positions @ normal
    if fault := _uneven(heights, names) or _shifted(positions, normal, min(spacing)):
        return fault
    between = float((heights[-1] - heights[0]) / (len(positions) - 1))
    return straight_grid(positions[0], axes, size, (*spacing, between), len(positions))


def straight_grid(
    corner: Sequence[float] | np.ndarray,
    axes: Sequence[float],
    size: tuple[int, int],
    spacing: tuple[float, float, float],
    count: int,
) -> Geometry:
    """The grid of slices whose axes :func:`normal_of` takes.

    Args:
        corner: position of the first slice, mm.
        axes: direction cosines of a row, then of a column.
        size: columns and rows.
        spacing: mm between columns, rows and slices.
        count: slices.
    """
    row, column = np.asarray(axes[:3], float), np.asarray(axes[3:], float)
    row = row / np.linalg.norm(row)
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    # Rounded axes are made orthogonal, which images have to be.
    direction = np.column_stack([row, np.cross(normal, row), normal])
    return Geometry(
        (*size, count),
        spacing,
        tuple(float(value) for value in corner),
        tuple(float(value) for value in direction.ravel()),
    )


def _uneven(heights: np.ndarray, names: Sequence[str]) -> StackFault | None:
    """What is wrong with the distances of sorted slices; None where they are equal."""
    steps = np.diff(heights)
    usual = float(np.median(steps))
    off = np.flatnonzero(np.abs(steps - usual) > max(UNEQUAL * usual, UNEQUAL_MM))
    if not off.size:
        return None
    first = int(off[0])
    between = f"{names[first]} and {names[first + 1]}" if names else f"its slices {first + 1} and {first + 2}"
    wide = steps[off] / usual
    if (np.abs(wide - np.rint(wide)) < 0.1).all() and (np.rint(wide) >= 2).all():
        missing = int((np.rint(wide) - 1).sum())
        what = "a slice is missing" if missing == 1 else f"{missing} slices are missing, the first"
        return StackFault(f"{what} between {between}")
    return StackFault(
        f"its slices are unequally spaced, from {steps.min():.3g} to {steps.max():.3g} mm",
        "resample it onto one spacing and give that file",
    )


def _shifted(positions: np.ndarray, normal: np.ndarray, pixel: float) -> StackFault | None:
    """What is wrong with the direction of sorted slices; None where the stack is along their normal."""
    ways = positions - positions[0]
    heights = ways @ normal
    across = ways - np.outer(heights, normal)
    shift = float(np.linalg.norm(across, axis=1).max())
    if shift <= SHIFTED * pixel:
        return None
    # A sheared stack is straight: what is left of it beside a line is small.
    slope = heights @ across / (heights @ heights)
    left = float(np.linalg.norm(across - np.outer(heights, slope), axis=1).max())
    if left > SHIFTED * pixel:
        return StackFault(f"its slices are shifted in their plane, by up to {shift:.3g} mm")
    angle = float(np.degrees(np.arctan(np.linalg.norm(slope))))
    return StackFault(
        f"its slices are sheared by {angle:.1f} degrees (gantry tilt)",
        "straighten it, as dcm2niix does, and give that file",
    )
