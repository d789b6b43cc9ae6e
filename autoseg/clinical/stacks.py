"""Stacks of slices: what is wrong with their distances and directions."""

import numpy as np

from autoseg.data.geometry import Geometry

#: Slices that a volume has at least.
LEAST_SLICES = 3

#: Share of the distance between slices, and mm, by which distances may differ: headers are rounded.
UNEQUAL, UNEQUAL_MM = 0.02, 0.05

#: Degrees between the stack's direction and the normal of its slices: beyond, it is sheared (gantry tilt).
TILT = 0.5

#: A grid for a series whose own is unknown since it can't be used.
NO_GRID = Geometry((1, 1, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


def grid_of(
    positions: np.ndarray, axes: np.ndarray, size: tuple[int, int], spacing: tuple[float, float]
) -> Geometry | str:
    """The grid of a stack of slices; what is wrong with the stack, as the end of a sentence, where it makes none.

    Args:
        positions: of the first voxel of each slice ``(n, 3)``, mm, sorted along the normal.
        axes: direction cosines of a row, then of a column ``(6,)``.
        size: columns and rows.
        spacing: mm between columns and between rows.
    """
    count = len(positions)
    if count < LEAST_SLICES:
        return f"it has {count} slices only"
    row, column = axes[:3], axes[3:]
    normal = np.cross(row, column)
    places = positions @ normal
    if fault := uneven(places) or sheared(positions, normal):
        return fault
    return Geometry(
        (*size, count),
        (*spacing, float((places[-1] - places[0]) / (count - 1))),
        tuple(float(value) for value in positions[0]),
        tuple(float(value) for value in np.column_stack([row, column, normal / np.linalg.norm(normal)]).ravel()),
    )


def uneven(places: np.ndarray) -> str:
    """What is wrong with the distances of sorted slices; ``""`` where they are equal.

    Args:
        places: mm along the slice axis.
    """
    steps = np.diff(places)
    usual = float(np.median(steps))
    off = np.abs(steps - usual) > max(UNEQUAL * usual, UNEQUAL_MM)
    if not off.any():
        return ""
    wide = steps[off] / usual
    if (np.abs(wide - np.rint(wide)) < 0.1).all() and (np.rint(wide) >= 2).all():
        missing = int((np.rint(wide) - 1).sum())
        index = int(np.flatnonzero(off)[0])
        what = "a slice is missing" if missing == 1 else f"{missing} slices are missing, the first"
        return f"{what} between its slices {index + 1} and {index + 2}; export the series again"
    return (
        f"its slices are unequally spaced, from {steps.min():.3g} to {steps.max():.3g} mm; resample it onto one "
        "spacing and give that file"
    )


def sheared(stack: np.ndarray, normal: np.ndarray) -> str:
    """What is wrong with the direction of a stack of slices; ``""`` where it is along their normal.

    Args:
        stack: position of each slice ``(n, 3)``, sorted.
        normal: of the slices.
    """
    direction = stack[-1] - stack[0]
    cosine = float(direction @ normal / (np.linalg.norm(direction) * np.linalg.norm(normal)))
    angle = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    if angle <= TILT:
        return ""
    return (
        f"its slices are sheared by {angle:.1f} degrees (gantry tilt); straighten it, as dcm2niix does, and give that "
        "file"
    )
