"""Which voxels of a label map are one lesion, by the rules of BraTS 2024 and 2025.

Predicted lesions are grouped as those of the reference are (github.com/rachitsaluja/BraTS-2024-Metrics, the code that
both years point to): components that a dilation joins are one; predicted ones up to the smallest volume are dropped;
and lesions of one tissue that touch the same lesion of another tissue are one, as the fragments of an enhancing rim are
round one necrosis.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cc3d
import numpy as np
from scipy import ndimage

from autoseg.data.boxes import bounding_box

#: Components are connected through faces, edges and corners; dilations and contact reach 18 neighbours.
LESION_CONNECTIVITY: Literal[26] = 26
NEIGHBOURS = ndimage.generate_binary_structure(3, 2)


@dataclass(frozen=True)
class Tissue:
    """Lesions of one tissue.

    Attributes:
        values: label values that it is made of.
        dilation: steps that join its components.
        above_mm3: predicted lesions up to this volume are dropped.
    """

    values: tuple[int, ...]
    dilation: int
    above_mm3: float


def grown_lesions(mask: np.ndarray, dilation: int) -> np.ndarray:
    """Number the lesions of a mask, each with what its dilation covers: components that it joins are one.

    Args:
        mask: bool ``(z, y, x)``.
        dilation: steps, each to 18 neighbours.

    Returns:
        Integers of the same shape: 0, or the lesion's number, from 1.
    """
    # Room for the dilation: two lesions that only meet outside of a cut-out would else be two.
    around = dilation + 1
    grown = np.pad(mask, around)
    if dilation:
        grown = ndimage.binary_dilation(grown, NEIGHBOURS, iterations=dilation)
    # Each component is the dilation of one lesion, as every voxel of it is near one of that lesion's.
    near: np.ndarray = cc3d.connected_components(grown.astype(np.uint8), connectivity=LESION_CONNECTIVITY)
    return near[(slice(around, -around),) * 3]


def joined_lesions(mask: np.ndarray, dilation: int) -> np.ndarray:
    """Number the lesions of a mask: components that a dilation joins are one.

    Args:
        mask: bool ``(z, y, x)``.
        dilation: steps, each to 18 neighbours.

    Returns:
        int64 of the same shape: 0, or the lesion's number, from 1; numbers may be left out.
    """
    return np.where(mask, grown_lesions(mask, dilation), 0).astype(np.int64)


def without_small(lesions: np.ndarray, voxels: float) -> np.ndarray:
    """Numbered lesions without those of up to so many voxels."""
    sizes = np.bincount(lesions.ravel())
    return np.where(sizes[lesions] > voxels, lesions, 0)


def joined_through(lesions: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Lesions of one tissue, where those that touch the same lesion of another tissue are one.

    One that touches several of them belongs to that with the lowest number.

    Args:
        lesions: numbered ``(z, y, x)``.
        others: those of the other tissue, likewise.
    """
    first: dict[int, int] = {}
    for own, other in _touching(lesions, others):
        first[own] = min(other, first.get(own, other))
    highest = int(lesions.max(initial=0))
    table = np.arange(highest + 1)
    for own, other in first.items():
        table[own] = highest + other
    return table[lesions]


def lesions_of(
    labels: np.ndarray, own: Tissue, through: Sequence[Tissue], voxel_mm3: float, drop_small: bool
) -> np.ndarray:
    """Number the lesions of a tissue in a label map.

    Args:
        labels: label values ``(z, y, x)``.
        own: the tissue.
        through: tissues by which its lesions are joined, one after the other.
        voxel_mm3: volume of a voxel.
        drop_small: leave small ones out, as of a prediction.

    Returns:
        int64 of the same shape: 0, or the lesion's number; numbers may be left out.
    """
    box = bounding_box(labels != 0)
    inside = labels[box]

    def numbered(tissue: Tissue) -> np.ndarray:
        found = joined_lesions(np.isin(inside, tissue.values), tissue.dilation)
        return without_small(found, tissue.above_mm3 / voxel_mm3) if drop_small else found

    found = numbered(own)
    for tissue in through:
        found = joined_through(found, numbered(tissue))
    whole = np.zeros(labels.shape, np.int64)
    whole[box] = found
    return whole


def _touching(lesions: np.ndarray, others: np.ndarray) -> set[tuple[int, int]]:
    """Pairs of numbers of lesions that have neighbouring voxels, or one in common."""
    pairs: set[tuple[int, int]] = set()
    padded = np.pad(others, 1)
    for offset in np.argwhere(NEIGHBOURS):
        window = tuple(slice(start, start + size) for start, size in zip(offset, others.shape, strict=True))
        beside = padded[window]
        both = (lesions > 0) & (beside > 0)
        pairs |= {(int(a), int(b)) for a, b in np.unique(np.stack([lesions[both], beside[both]], axis=1), axis=0)}
    return pairs
