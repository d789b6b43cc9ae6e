"""Resampling between voxel grids of the same box, as nnU-Net does it (Isensee et al. 2021, supplementary note 2).

Images: third-order spline. Label maps: linear on the one-hot labels, then argmax. Along a strongly anisotropic
axis both use nearest neighbour, since interpolating between slices far apart invents tissue.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F

from autoseg.plans.preprocessing import Resampling

#: Rows of scores that are resampled at once: few, so that little memory is needed besides the result.
ROWS_AT_ONCE = 16

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


def _nearest(old: int, new: int) -> np.ndarray:
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
    return np.moveaxis(planes[_nearest(len(planes), shape[axis])], 0, axis)


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
    z, y, x = (_nearest(old, new) for old, new in zip(mask.shape, shape, strict=True))
    return mask[np.ix_(z, y, x)]


@dataclass(frozen=True)
class ScoreResampling:
    """Linear interpolation of scores between two grids of the same box (nearest neighbour along one axis, or none).

    The scores may come some rows at a time along one of the axes: a new row needs two neighbouring old ones, and does
    not depend on how many others are there. The two other axes are interpolated first, then the rows, which takes a
    third of the time of torch's ``trilinear`` (6.3 instead of 17.4 ns a voxel on a core of a Xeon) and equals it within
    rounding.

    Attributes:
        old: shape ``(z, y, x)`` of the network's grid.
        new: shape ``(z, y, x)`` of the scan's grid.
        nearest: axis that gets nearest neighbour, or None.
        axis: along which rows are given.
    """

    old: Shape
    new: Shape
    nearest: int | None = None
    axis: int = 0

    @cached_property
    def lower(self) -> np.ndarray:
        """The first old row that each new one needs."""
        return self._table[0]

    @cached_property
    def upper(self) -> np.ndarray:
        """The last old row that each new one needs."""
        return self._table[1]

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Both neighbours of each new row, and the weight of the second."""
        old, new = self.old[self.axis], self.new[self.axis]
        if self.axis == self.nearest:
            index = _nearest(old, new)
            return index, index, np.zeros(new, np.float32)
        # As torch's interpolate without align_corners: in 32 bits, and nothing before the first row's middle.
        middle = np.float64(np.float32(old) / np.float32(new)) * (np.arange(new) + 0.5) - 0.5
        middle = np.maximum(middle.astype(np.float32), np.float32(0))
        lower = np.minimum(middle.astype(np.int64), old - 1)
        weight = np.clip(middle - lower.astype(np.float32), 0, 1).astype(np.float32)
        return lower, np.where(weight > 0, np.minimum(lower + 1, old - 1), lower), weight

    def ready(self, old_rows: int) -> int:
        """How many new rows need none but the first ``old_rows`` old ones."""
        return int(np.searchsorted(self.upper, old_rows))

    def rows(self, scores: torch.Tensor, first: int, wanted: slice) -> torch.Tensor:
        """Some rows of the new grid.

        Args:
            scores: float32 ``(row, …)``: consecutive old rows, the axis of rows first, then the two others in order.
            first: number of the first one of them.
            wanted: new rows; all that they need is given.

        Returns:
            float32 ``(wanted row, …)`` on the same device.
        """
        planes = self._planes(scores)
        if self.old[self.axis] == self.new[self.axis]:
            return planes[wanted.start - first : wanted.stop - first]
        lower, upper, weight = (torch.from_numpy(part[wanted]).to(scores.device) for part in self._table)
        result = planes[lower - first]
        if self.axis != self.nearest:
            share = weight[:, None, None]
            result.mul_(1 - share).add_(planes[upper - first].mul_(share))
        return result

    def whole(self, scores: torch.Tensor) -> torch.Tensor:
        """All of the new grid, float32 ``(z, y, x)``, from all of the old one; rows are along the first axis."""
        if tuple(scores.shape) == self.new:
            return scores.float()
        result = torch.empty(self.new, device=scores.device)
        for start in range(0, len(result), ROWS_AT_ONCE):
            wanted = slice(start, min(start + ROWS_AT_ONCE, len(result)))
            first, last = int(self.lower[wanted.start]), int(self.upper[wanted.stop - 1])
            result[wanted] = self.rows(scores[first : last + 1].float(), first, wanted)
        return result

    def _planes(self, planes: torch.Tensor) -> torch.Tensor:
        """Rows ``(row, a, b)`` on the new grid's two other axes."""
        others = [axis for axis in range(3) if axis != self.axis]
        if self.nearest in others:
            place = others.index(self.nearest)
            index = torch.from_numpy(_nearest(self.old[self.nearest], self.new[self.nearest])).to(planes.device)
            planes = planes.index_select(place + 1, index)
        shape = [self.new[axis] for axis in others]
        if list(planes.shape[1:]) == shape:
            return planes
        return F.interpolate(planes[:, None], size=shape, mode="bilinear", align_corners=False)[:, 0]


def resample_scores(scores: torch.Tensor, shape: Shape, axis: int | None) -> torch.Tensor:
    """Resample one output channel of a network, linearly (nearest along ``axis``).

    Args:
        scores: ``(z, y, x)``.
        shape: wanted ``(z, y, x)``.
        axis: as for :func:`resample_image`.

    Returns:
        float32 ``shape``, on the same device.
    """
    depth, height, width = scores.shape
    return ScoreResampling((depth, height, width), (shape[0], shape[1], shape[2]), axis).whole(scores)
