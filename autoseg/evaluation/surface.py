"""Distances between the surfaces of two masks, in mm, with every piece of surface weighted by its area.

A surface runs between voxels: a corner where eight voxels meet carries a piece of it if some of the eight
are inside and some are outside. Its area is that of the marching-cubes triangles for these eight (Lorensen &
Cline 1987), so that a distance counts by how much surface has it, whatever the voxels' shape. These are the
conventions of DeepMind's ``surface-distance`` (Nikolov et al. 2021, doi:10.2196/26151), whose results these
functions reproduce.

A picture, ``(1, y, x)``, is measured in its plane: contours weighted by length. A mask in one slice of a volume has a
surface, so what is cut out of a volume keeps two slices or more along each axis
(:func:`autoseg.data.boxes.volume_box`).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes

#: Share by which a distance may exceed a tolerance that it equals: 5 voxels of 0.4 mm are 2.0000000000000004 mm apart.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class SurfaceDistances:
    """How far each piece of one surface is from the other surface.

    Attributes:
        from_prediction: mm, a value for each piece of the prediction's surface, ascending; infinite where
            there is no reference.
        from_reference: mm, a value for each piece of the reference's surface, likewise.
        prediction_areas: mm² (mm in a picture), in the order of ``from_prediction``.
        reference_areas: likewise, in the order of ``from_reference``.
    """

    from_prediction: np.ndarray
    from_reference: np.ndarray
    prediction_areas: np.ndarray
    reference_areas: np.ndarray

    def hausdorff(self, percent: float = 100.0) -> float:
        """The larger of the two distances that ``percent`` of each surface's area stays within (mm)."""
        return max(
            _percentile(self.from_prediction, self.prediction_areas, percent),
            _percentile(self.from_reference, self.reference_areas, percent),
        )

    def average(self) -> float:
        """Average symmetric surface distance: the mean of the two directed averages (mm)."""
        forth = np.average(self.from_prediction, weights=self.prediction_areas)
        back = np.average(self.from_reference, weights=self.reference_areas)
        return float((forth + back) / 2)

    def dice(self, tolerance: float) -> float:
        """Normalised surface Dice: share of both surfaces within ``tolerance`` mm of the other."""
        tolerance *= 1 + _ROUNDING
        near = self.prediction_areas[self.from_prediction <= tolerance].sum()
        near += self.reference_areas[self.from_reference <= tolerance].sum()
        return float(near / (self.prediction_areas.sum() + self.reference_areas.sum()))


def surface_distances(
    prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, float, float]
) -> SurfaceDistances:
    """Measure the surface of each mask against that of the other.

    Args:
        prediction: bool ``(z, y, x)``, a picture where it has one slice; crop it first, the work grows with the size of
            the array.
        reference: bool, of the same shape.
        spacing: mm ``(z, y, x)``.
    """
    mine, my_areas = _surface(prediction, spacing)
    theirs, their_areas = _surface(reference, spacing)
    forth, back = _nearest(mine, theirs), _nearest(theirs, mine)
    mine_first, theirs_first = np.argsort(forth), np.argsort(back)
    return SurfaceDistances(forth[mine_first], back[theirs_first], my_areas[mine_first], their_areas[theirs_first])


def border_hausdorff_95(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, float, float]) -> float:
    """95th percentile of the distances between border voxels (mm), both directions pooled, as MedPy and panoptica do.

    A border voxel has a face in common with the background, or with the end of the array.

    Args:
        prediction: bool ``(z, y, x)``, not empty; a picture, of one slice, is measured in its plane.
        reference: likewise, of the same shape.
        spacing: mm ``(z, y, x)``.
    """
    flat = prediction.shape[0] == 1
    scale = np.asarray(spacing[1:] if flat else spacing, dtype=np.float64)
    mine, theirs = (_border(mask[0] if flat else mask) * scale for mask in (prediction, reference))
    return float(np.percentile(np.concatenate([_nearest(mine, theirs), _nearest(theirs, mine)]), 95))


def _border(mask: np.ndarray) -> np.ndarray:
    """Indices of border voxels ``(n, axes)``."""
    return np.argwhere(mask & ~ndimage.binary_erosion(mask))


def _percentile(distances: np.ndarray, areas: np.ndarray, percent: float) -> float:
    if not len(distances):
        return float("inf")
    cumulated = np.cumsum(areas) / areas.sum()
    return float(distances[min(int(np.searchsorted(cumulated, percent / 100)), len(distances) - 1)])


def _nearest(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    if not len(others):
        return np.full(len(points), np.inf)
    # A tree over surface points beats a distance transform of the box: surfaces are thin and mostly close.
    distances, _ = cKDTree(others, balanced_tree=False, compact_nodes=False).query(points)
    return np.asarray(distances, dtype=np.float64)


def _surface(mask: np.ndarray, spacing: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Corners that carry surface: positions in mm ``(n, axes)`` and areas in mm² (mm in a picture)."""
    flat = mask.shape[0] == 1
    if flat:
        mask = mask[0]
    scale = np.asarray(spacing[1:] if flat else spacing, dtype=np.float64)
    padded = np.pad(mask, 1).astype(np.uint8)
    code: np.ndarray = np.zeros(tuple(n - 1 for n in padded.shape), np.uint8)
    for bit, corner in enumerate(np.ndindex(*(2,) * mask.ndim)):
        window = tuple(slice(offset, offset + n) for offset, n in zip(corner, code.shape, strict=True))
        code |= padded[window] << bit
    corners = np.nonzero((code != 0) & (code != 2 ** (2**mask.ndim) - 1))
    areas = _contour_lengths(*scale) if flat else _surface_areas(*scale)
    return np.stack(corners, axis=1) * scale, areas[code[corners]]


@lru_cache(maxsize=64)
def _surface_areas(dz: float, dy: float, dx: float) -> np.ndarray:
    """Area in mm² of the marching-cubes surface for each of the 256 patterns of eight voxels."""
    areas = np.zeros(256)
    for code in range(1, 255):
        inside = (code >> np.arange(8)) & 1
        # Where the surface is ambiguous, the inside of a mask and of its complement get the same one.
        corners = (inside if inside.sum() <= 4 else 1 - inside).reshape(2, 2, 2)
        vertices, faces, _, _ = marching_cubes(
            corners.astype(np.float32), level=0.5, spacing=(dz, dy, dx), method="lorensen"
        )
        a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
        areas[code] = np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2
    areas.flags.writeable = False
    return areas


@lru_cache(maxsize=64)
def _contour_lengths(dy: float, dx: float) -> np.ndarray:
    """Length in mm of the marching-squares contour for each of the 16 patterns of four pixels."""
    lengths = np.zeros(16)
    diagonal = float(np.hypot(dy, dx)) / 2
    for code in range(1, 15):
        square = ((code >> np.arange(4)) & 1).reshape(2, 2)
        if square.sum() != 2:  # one pixel differs from the other three: its corner is cut off
            lengths[code] = diagonal
        elif square[0, 0] == square[1, 1]:  # two opposite pixels: two corners cut off
            lengths[code] = 2 * diagonal
        else:
            lengths[code] = dx if square[0, 0] == square[0, 1] else dy
    lengths.flags.writeable = False
    return lengths
