"""Resampling between voxel grids of the same box, as nnU-Net does it (Isensee et al. 2021, supplementary note 2).

Images: third-order spline. Label maps: linear on the one-hot labels, then argmax. Along a strongly anisotropic
axis both use nearest neighbour, since interpolating between slices far apart invents tissue.
"""

from collections.abc import Sequence

import numpy as np

from autoseg.plans.preprocessing import Resampling

Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]


def target_spacing(spacing: Sequence[float], wanted: Sequence[float | None]) -> Spacing:
    """Fill the axes that keep their own spacing (None in the plan)."""
    filled = [own if target is None else target for own, target in zip(spacing, wanted, strict=True)]
    return filled[0], filled[1], filled[2]


def resampled_shape(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> Shape:
    """Number of voxels that cover the same box at another spacing, at least one an axis."""
    new = [max(1, round(n * old / t)) for n, old, t in zip(shape, spacing, target, strict=True)]
    return new[0], new[1], new[2]


def separate_axis(spacing: Sequence[float], target: Sequence[float], rule: Resampling) -> int | None:
    """The axis to resample separately with nearest neighbour, or None.

    It is the axis of the largest spacing, where that exceeds ``rule.anisotropy`` times the smallest: first by the
    image's spacing, then by the target's.
    """
    if rule.separate_axis == "never":
        return None
    for candidate in (spacing, target):
        if max(candidate) > rule.anisotropy * min(candidate):
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
    """Resample a label map ``(z, y, x)`` one label at a time; where labels tie, the smaller value wins."""
    if label.shape == shape:
        return label
    values = np.unique(label)
    best = np.zeros(shape, np.float32)
    result = np.full(shape, values[0], label.dtype)
    for value in values:
        share = _spline((label == value).astype(np.float32), shape, order, axis)
        wins = share > best
        result[wins] = value
        best[wins] = share[wins]
    return result


def resample_mask(mask: np.ndarray, shape: Shape) -> np.ndarray:
    """Resample a bool mask ``(z, y, x)`` by nearest neighbour along each axis."""
    z, y, x = (nearest_index(old, new) for old, new in zip(mask.shape, shape, strict=True))
    return mask[np.ix_(z, y, x)]
