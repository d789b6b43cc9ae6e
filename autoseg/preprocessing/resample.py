"""Resampling between voxel grids of the same box, as nnU-Net does it (Isensee et al. 2021, supplementary note 2).

Images: third-order spline. Label maps: linear on the one-hot labels, then argmax. Along a strongly anisotropic
axis both use nearest neighbour, since interpolating between slices far apart invents tissue.
"""

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from autoseg.plans.preprocessing import Resampling

#: Voxels between several labels that are weighed at once.
_POINTS = 1 << 18

#: Rows of a spline's matrix that are applied at once, and the share of a voxel that counts as none of it.
_ROWS, _NOTHING = 64, 1e-7

Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]


def target_spacing(spacing: Sequence[float], wanted: Sequence[float | None]) -> Spacing:
    """Fill the axes that keep their own spacing (None in the plan)."""
    filled = [own if target is None else target for own, target in zip(spacing, wanted, strict=True)]
    return filled[0], filled[1], filled[2]


def resampled_shape(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> Shape:
    """Number of voxels that cover the same box at another spacing, at least one an axis."""
    # In nnU-Net's order: where half a voxel is left over, floating point decides.
    new = [max(1, round(old / t * n)) for n, old, t in zip(shape, spacing, target, strict=True)]
    return new[0], new[1], new[2]


def separate_axis(spacing: Sequence[float], target: Sequence[float], rule: Resampling) -> int | None:
    """The axis to resample separately with nearest neighbour, or None.

    It is the axis of the largest spacing, where that exceeds ``rule.anisotropy`` times the smallest: first by the
    image's spacing, then by the target's.
    """
    if rule.separate_axis == "never":
        return None
    for candidate in (spacing, target):
        # Divided, as nnU-Net does: 3 × 0.3 is less than 0.9 in floating point, and 0.9 / 0.3 is 3.
        if max(candidate) / min(candidate) > rule.anisotropy:
            axes = [axis for axis in range(3) if candidate[axis] == max(candidate)]
            # Two equally coarse axes have no in-plane resolution to preserve: resample all three together.
            return axes[0] if len(axes) == 1 else None
    return None


def nearest_index(old: int, new: int) -> np.ndarray:
    """For each of ``new`` voxels along an axis, the one of ``old`` voxels that is nearest to its centre."""
    return np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.int64), old - 1)


def _spline(volume: np.ndarray, shape: Shape, order: int, axis: int | None) -> np.ndarray:
    """As scikit-image's ``resize`` within rounding, in a fraction of its time: one matrix product an axis.

    A spline is linear in the voxels and goes along one axis after the other, so a matrix says all of it, to which far
    voxels hardly add.
    """
    if volume.shape == shape:
        return volume
    along = [a for a in range(3) if a != axis and volume.shape[a] != shape[a]]
    if axis is not None:
        index = nearest_index(volume.shape[axis], shape[axis])
        used, index = np.unique(index, return_inverse=True)
        volume = volume.take(used, axis)
    within = tuple(a for a in range(3) if a != axis)
    least, most = volume.min(within, keepdims=True), volume.max(within, keepdims=True)
    result = np.ascontiguousarray(volume, np.float32)
    for a in sorted(along, key=lambda a: shape[a] / result.shape[a]):  # what shrinks first makes less work of the rest
        result = _product(spline_matrix(result.shape[a], shape[a], order), result, a)
    if along:  # a spline overshoots
        np.clip(result, least, most, out=result)
    return result if axis is None else result.take(index, axis)


@lru_cache(maxsize=12)
def spline_matrix(old: int, new: int, order: int) -> np.ndarray:
    """What each old voxel of a line adds to each new one, ``(new, old)`` float32; the voxels cover the same line.

    Args:
        old: number of voxels.
        new: number of voxels.
        order: of the spline.
    """
    from skimage.transform import resize  # takes half a second to import, and many scans need no resampling

    # Of any line it is the sum of what it is of each voxel alone.
    lines = np.eye(old)
    matrix = resize(lines, (new, old), order=order, mode="edge", anti_aliasing=False, clip=False)
    return np.ascontiguousarray(matrix, np.float32)


def _product(matrix: np.ndarray, volume: np.ndarray, axis: int) -> np.ndarray:
    """A matrix applied along an axis, for some rows at a time the columns in which these are not 0 alone."""
    new, old = matrix.shape
    shape = [new if a == axis else n for a, n in enumerate(volume.shape)]
    result = np.empty(shape, np.float32)
    flat = axis == volume.ndim - 1
    given = volume.reshape(-1, old) if flat else volume.reshape(-1, old, math.prod(volume.shape[axis + 1 :]))
    into = result.reshape(-1, new) if flat else result.reshape(-1, new, given.shape[-1])
    for start in range(0, new, _ROWS):
        rows = slice(start, min(start + _ROWS, new))
        columns = np.flatnonzero((np.abs(matrix[rows]) > _NOTHING).any(0))
        band = slice(columns[0], columns[-1] + 1)
        part = matrix[rows, band]
        if flat:
            np.matmul(given[:, band], part.T, out=into[:, rows])
        else:
            np.matmul(part, given[:, band], out=into[:, rows])
    return result


def resample_image(image: np.ndarray, shape: Shape, axis: int | None, order: int) -> np.ndarray:
    """Resample channels.

    Args:
        image: float32 ``(channel, z, y, x)``.
        shape: wanted ``(z, y, x)``.
        axis: the axis that gets nearest neighbour, from :func:`separate_axis`.
        order: of the spline.

    Returns:
        float32 ``(channel, *shape)``.
    """
    if image.shape[1:] == shape:
        return image
    return np.stack([_spline(channel, shape, order, axis) for channel in image]).astype(np.float32, copy=False)


def resample_label(label: np.ndarray, shape: Shape, axis: int | None, order: int) -> np.ndarray:
    """Resample a label map ``(z, y, x)``: each label as a mask, the largest wins; of ties the smaller value."""
    if label.shape == shape:
        return label
    if order == 1:
        return _linear_label(label, shape, axis)
    values = np.unique(label)
    best = np.zeros(shape, np.float32)
    result = np.full(shape, values[0], label.dtype)
    for value in values:
        share = _spline((label == value).astype(np.float32), shape, order, axis)
        wins = share > best
        result[wins] = value
        best[wins] = share[wins]
    return result


def _linear_label(label: np.ndarray, shape: Shape, axis: int | None) -> np.ndarray:
    """:func:`resample_label` of order 1, without a mask for each label.

    A voxel lies between eight (along an axis with nearest neighbour, or without change, fewer) of the old ones; where
    these are of one label, which is nearly everywhere, it is theirs. Elsewhere their weights are added up by label.
    """
    lower, weight = [], []
    for a, (old, new) in enumerate(zip(label.shape, shape, strict=True)):
        if a == axis:
            at = nearest_index(old, new).astype(np.float64)
        else:
            at = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
        lower.append(np.floor(at).astype(np.intp))
        weight.append(at - lower[-1])
    between = [a for a in range(3) if weight[a].any()]
    least = most = label
    for a in between:
        following = np.minimum(np.arange(label.shape[a]) + 1, label.shape[a] - 1)
        least = np.minimum(least, least.take(following, a))
        most = np.maximum(most, most.take(following, a))
    corner = np.ix_(*lower)
    result: np.ndarray = label[corner]
    mixed = np.flatnonzero((least != most)[corner])
    flat = result.reshape(-1)
    for start in range(0, len(mixed), _POINTS):
        points = mixed[start : start + _POINTS]
        flat[points] = _heaviest(label, lower, weight, between, np.unravel_index(points, shape))
    return result


def _heaviest(
    label: np.ndarray,
    lower: Sequence[np.ndarray],
    weight: Sequence[np.ndarray],
    between: Sequence[int],
    points: Sequence[np.ndarray],
) -> np.ndarray:
    """The label with the largest weight at some points.

    Args:
        label: old label map.
        lower: for each axis, the old voxel before each of the new ones.
        weight: … and the weight of the one after it.
        between: axes along which there are weights.
        points: new voxels, an array of indices an axis.
    """
    first = [lower[a][points[a]] for a in range(3)]
    after = [weight[a][points[a]] for a in range(3)]
    values, weights = [], []
    for steps in itertools.product((0, 1), repeat=len(between)):
        step = dict(zip(between, steps, strict=True))
        # Beyond the last voxel the weight is 0.
        at = [np.minimum(first[a] + step.get(a, 0), label.shape[a] - 1) for a in range(3)]
        values.append(label[at[0], at[1], at[2]])
        factors = [after[a] if step[a] else 1 - after[a] for a in between]
        weights.append(np.prod(factors, axis=0))
    best = np.full(len(points[0]), -1, np.float32)
    result = values[0].copy()
    for value in values:
        # In 32 bits, in which labels tie that differ by rounding alone.
        share = sum(np.where(other == value, part, 0.0) for other, part in zip(values, weights, strict=True))
        share = np.asarray(share, np.float32)
        wins = (share > best) | ((share == best) & (value < result))
        result[wins], best[wins] = value[wins], share[wins]
    return result


def resample_mask(mask: np.ndarray, shape: Shape) -> np.ndarray:
    """Resample a bool mask ``(z, y, x)`` by nearest neighbour along each axis."""
    z, y, x = (nearest_index(old, new) for old, new in zip(mask.shape, shape, strict=True))
    return mask[np.ix_(z, y, x)]
