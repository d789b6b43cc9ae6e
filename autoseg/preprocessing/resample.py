"""Resampling between voxel grids of the same box, as nnU-Net does it (Isensee et al. 2021, supplementary note 2).

Images: third-order spline. Label maps: linear on the one-hot labels, then argmax. Along a strongly anisotropic
axis both use nearest neighbour, since interpolating between slices far apart invents tissue.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from autoseg.plans.preprocessing import Resampling

#: Voxels between several labels that are weighed at once.
_POINTS = 1 << 18

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
    if volume.shape == shape:
        return volume
    from skimage.transform import resize  # takes half a second to import, and many scans need no resampling

    if axis is None:
        return resize(volume, shape, order=order, mode="edge", anti_aliasing=False, preserve_range=True)
    planes = np.moveaxis(volume, axis, 0)
    in_plane = tuple(n for a, n in enumerate(shape) if a != axis)
    if planes.shape[1:] != in_plane:
        planes = np.stack(
            [resize(p, in_plane, order=order, mode="edge", anti_aliasing=False, preserve_range=True) for p in planes]
        )
    return np.moveaxis(planes[nearest_index(len(planes), shape[axis])], 0, axis)


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
    return np.stack([_spline(channel, shape, order, axis) for channel in image]).astype(np.float32)


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
