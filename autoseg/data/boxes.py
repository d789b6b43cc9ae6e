"""Foreground of an image and its bounding box, which fingerprint and preprocessing crop to."""

from collections.abc import Sequence

import numpy as np

Box = tuple[slice, slice, slice]


def foreground(image: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Voxels that are not background: inside the mask, or non-zero in any channel where there is no mask.

    An empty mask counts as none.

    Args:
        image: ``(channel, z, y, x)``.
        mask: bool ``(z, y, x)``, or None.

    Returns:
        bool ``(z, y, x)``.
    """
    if mask is not None and mask.any():
        return mask.astype(bool, copy=False)
    inside = np.zeros(image.shape[1:], bool)
    for channel in image:  # one channel at a time: a bool copy of all of them is a quarter of the image
        inside |= channel != 0
    return inside


def bounding_box(inside: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around the true voxels of a bool array of any dimension; an empty box where none is true."""
    slices = []
    for axis in range(inside.ndim):
        others = tuple(other for other in range(inside.ndim) if other != axis)
        where = np.flatnonzero(inside.any(axis=others))
        slices.append(slice(int(where[0]), int(where[-1]) + 1) if len(where) else slice(0, 0))
    return tuple(slices)


def volume_box(box: tuple[slice, ...], shape: Sequence[int]) -> tuple[slice, ...]:
    """The box, with a second slice along each axis where it has one of several: what is cut of a volume stays a volume.

    An array of one slice, along whichever axis, is a picture, and is measured in its plane.

    Args:
        box: a part of the image, ``(z, y, x)``; an empty one stays empty.
        shape: of the image, likewise.
    """
    found = []
    for side, size in zip(box, shape, strict=True):
        start = min(side.start, size - 2)
        found.append(slice(start, start + 2) if side.stop - side.start == 1 < size else side)
    return tuple(found)


def box_of_all(boxes: Sequence[tuple[slice, ...]], shape: Sequence[int]) -> tuple[slice, ...]:
    """The smallest box around some boxes, of a volume a volume (:func:`volume_box`); an empty one around none.

    Args:
        boxes: parts of the image.
        shape: of the image, ``(z, y, x)``.
    """
    if not boxes:
        return (slice(0, 0),) * len(shape)
    box = tuple(
        slice(min(side.start for side in sides), max(side.stop for side in sides)) for sides in zip(*boxes, strict=True)
    )
    return volume_box(box, shape)


def cropping_box(inside: np.ndarray) -> Box:
    """The smallest box around the true voxels of a ``(z, y, x)`` array; the whole array where none is true."""
    z, y, x = bounding_box(inside) if inside.any() else (slice(0, size) for size in inside.shape)
    return z, y, x


def middle_of(box: Box, largest: Sequence[int]) -> Box:
    """The centre of a box, at most ``largest`` voxels along each axis; an odd rest is cut more at the end."""
    starts = [part.start + max(0, part.stop - part.start - most) // 2 for part, most in zip(box, largest, strict=True)]
    z, y, x = (
        slice(start, min(start + most, part.stop)) for start, part, most in zip(starts, box, largest, strict=True)
    )
    return z, y, x


def box_around(inside: np.ndarray, margin: int) -> Box | None:
    """The smallest box around the true voxels of a ``(z, y, x)`` array and ``margin`` more on each side, within it.

    Returns:
        None where no voxel is true.
    """
    if not inside.any():
        return None
    z, y, x = (
        slice(max(0, found.start - margin), min(size, found.stop + margin))
        for found, size in zip(bounding_box(inside), inside.shape, strict=True)
    )
    return z, y, x
