"""Deformation: how a training patch is rotated, zoomed and bent, and which source voxels it needs for that.

Deformations are drawn on the CPU before anything is read, so that the box of source voxels is known; the patch is then
one resampling from that box, on the device that the box lies on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from autoseg.plans.augmentation import Augmentation
from autoseg.training.transfers import to_device

#: Coordinates are 32-bit floats: this far from a whole number, in voxels, a coordinate counts as whole.
_ROUNDING = 1e-3


@dataclass(frozen=True)
class Deformation:
    """Where the voxels of one patch come from.

    A voxel at offset o from the patch's middle comes from ``matrix`` · o + displacement, counted from the middle.

    Attributes:
        patch: voxels of the patch.
        matrix: ``(axes, axes)``; None for a patch that is cut as it is.
        nodes: displacement in voxels at the nodes of a coarse grid over the patch, ``(axes, *nodes)``, interpolated
            linearly between them; None for none.
    """

    patch: tuple[int, ...]
    matrix: np.ndarray | None = None
    nodes: np.ndarray | None = None

    def reach(self) -> list[tuple[int, int]]:
        """First and end of the source voxels along each axis, counted from the first voxel of the patch."""
        if self.matrix is None:
            return [(0, size) for size in self.patch]
        half = (np.array(self.patch) - 1) / 2
        spread = np.abs(self.matrix) @ half
        low, high = half - spread, half + spread
        if self.nodes is not None:
            flat = self.nodes.reshape(len(self.patch), -1)
            low, high = low + flat.min(axis=1), high + flat.max(axis=1)
        return [
            (int(np.floor(first - _ROUNDING)), int(np.floor(last + _ROUNDING)) + 2)
            for first, last in zip(low, high, strict=True)
        ]

    def coordinates(self, size: Sequence[int], first: Sequence[int], device: torch.device) -> torch.Tensor:
        """Coordinates for ``grid_sample`` in a box of source voxels: float32 ``(1, *patch, axes)``, x first.

        Args:
            size: voxels of the box.
            first: its first voxel, counted from the patch's.
            device: of the result.
        """
        assert self.matrix is not None
        axes = len(self.patch)
        # Everything small is computed on the CPU and moved at once; x first, as grid_sample wants it.
        matrix = self.matrix[::-1].astype(np.float32)
        parts = [
            matrix[:, other, None] * (np.arange(n, dtype=np.float32) - np.float32((n - 1) / 2))
            for other, n in enumerate(self.patch)
        ]
        middle = [(n - 1) / 2 - start for n, start in zip(self.patch, first, strict=True)]
        parts.append(np.array([middle[::-1], list(size)[::-1]], np.float32).T)
        moved = to_device(np.concatenate(parts, axis=1), device).split([*self.patch, 1, 1], dim=1)

        def along(values: torch.Tensor, axis: int) -> torch.Tensor:
            return values.reshape(axes, *(-1 if a == axis else 1 for a in range(axes)))

        lines, middles, sizes = moved[:axes], along(moved[-2], 0), along(moved[-1], 0)
        total = along(lines[0], 0)
        for axis, line in enumerate(lines[1:], start=1):
            total = total + along(line, axis)
        total = total + middles
        if self.nodes is not None:
            coarse = to_device(np.ascontiguousarray(self.nodes[::-1], np.float32), device)
            mode = "trilinear" if axes == 3 else "bilinear"
            total += F.interpolate(coarse[None], size=list(self.patch), mode=mode, align_corners=True)[0]
        return ((2 * total + 1) / sizes - 1).movedim(0, -1)[None]


def draw_deformations(
    count: int, patch: Sequence[int], augmentation: Augmentation, rng: np.random.Generator
) -> list[Deformation]:
    """Draw the deformations of a batch.

    Args:
        count: patches of the batch.
        patch: voxels of each, two numbers for slices.
        augmentation: probabilities and ranges.
        rng: random generator.
    """
    a, dimensions = augmentation, len(patch)
    in_plane = only_in_plane(a, dimensions)
    turned = rng.random(count) < (a.rotation_probability if a.rotation else 0)
    angles = rng.uniform(-a.rotation, a.rotation, (count, 3)) * turned[:, None]
    zoomed = rng.random(count) < a.scaling_probability
    zoom = np.where(zoomed, rng.uniform(*a.scaling, count), 1.0)
    bent = rng.random(count) < (a.elastic_probability if a.elastic_magnitude else 0)
    magnitude = rng.uniform(0, a.elastic_magnitude, count) * bent
    nodes = [max(2, round(n / a.elastic_spacing) + 1) for n in patch]
    displacement = rng.uniform(-1, 1, (count, dimensions, *nodes)) * magnitude.reshape(-1, *[1] * (dimensions + 1))
    shifted: np.ndarray = np.zeros(count, bool)
    if a.translation_probability and a.translation:  # else nothing is drawn: trainings without it stay as they were
        shifted = rng.random(count) < a.translation_probability
        shift = rng.uniform(-a.translation, a.translation, (count, dimensions)) * shifted[:, None]
        displacement = displacement + shift.reshape(count, dimensions, *[1] * dimensions)
    if in_plane:
        displacement[:, 0] = 0
    drawn = []
    for sample in range(count):
        moved = bent[sample] or shifted[sample]
        if not (turned[sample] or zoomed[sample] or moved):
            drawn.append(Deformation(tuple(patch)))
            continue
        factors = [1 / zoom[sample] if axis in scaling_axes(a, dimensions) else 1.0 for axis in range(dimensions)]
        matrix = _matrix(angles[sample], rotation_axes(a, dimensions), np.array(factors))
        drawn.append(Deformation(tuple(patch), matrix, displacement[sample] if moved else None))
    return drawn


def rotation_axes(augmentation: Augmentation, dimensions: int) -> list[int]:
    """Axes of the patch that it is rotated about; a slice turns in its plane, whichever axes there are."""
    if dimensions == 2:
        return [0] if augmentation.rotation_axes else []
    return [axis for axis in augmentation.rotation_axes if axis < 3]


def only_in_plane(augmentation: Augmentation, dimensions: int) -> bool:
    """Whether a volume is only changed within its slices."""
    return dimensions == 3 and list(augmentation.rotation_axes) == [0] and augmentation.scaling_axes is None


def scaling_axes(augmentation: Augmentation, dimensions: int) -> list[int]:
    """Axes of the patch that it is zoomed along."""
    if augmentation.scaling_axes is not None:
        return [axis for axis in augmentation.scaling_axes if axis < dimensions]
    return list(range(1 if only_in_plane(augmentation, dimensions) else 0, dimensions))


def reach_limit(patch: Sequence[int], augmentation: Augmentation) -> list[int]:
    """Size of the box around a patch beyond which a deformation takes zeros: rarely needed, and expensive to read.

    Args:
        patch: voxels of the patch.
        augmentation: gives the largest rotation, zoom, translation and displacement; a probability of 0 switches each
            off.

    Returns:
        Voxels an axis, at least the patch.
    """
    size = np.asarray(patch, float)
    dimensions = len(patch)
    if augmentation.rotation_probability and augmentation.rotation:
        angle = np.radians(min(augmentation.rotation, 45.0))
        turned = size.copy()
        for axis in rotation_axes(augmentation, dimensions):
            a, b = [other for other in range(dimensions) if other != axis] if dimensions == 3 else (0, 1)
            turned[a] = max(turned[a], size[a] * np.cos(angle) + size[b] * np.sin(angle))
            turned[b] = max(turned[b], size[b] * np.cos(angle) + size[a] * np.sin(angle))
        size = turned
    if augmentation.scaling_probability:
        # The largest zoom-out is rare; nnU-Net, too, loads for 0.85 where it scales down to 0.7.
        zoom = max(augmentation.scaling[0], 0.85)
        for axis in scaling_axes(augmentation, dimensions):
            size[axis] /= min(zoom, 1.0)
    moved = np.ceil(augmentation.translation) if augmentation.translation_probability else 0
    if augmentation.elastic_probability:
        moved += np.ceil(augmentation.elastic_magnitude)
    size[1 if only_in_plane(augmentation, dimensions) else 0 :] += 2 * moved
    return [int(n) for n in np.ceil(np.maximum(size, patch))]


def _matrix(angles: np.ndarray, axes: list[int], factor: np.ndarray) -> np.ndarray:
    """Voxel offsets in the patch → voxel offsets in the source, ``(dimensions, dimensions)``, by a factor an axis."""
    dimensions = len(factor)
    matrix = np.eye(dimensions)
    for axis in axes:
        cosine, sine = np.cos(np.radians(angles[axis])), np.sin(np.radians(angles[axis]))
        i, j = (0, 1) if dimensions == 2 else [other for other in range(3) if other != axis]
        turn = np.eye(dimensions)
        turn[i, i] = turn[j, j] = cosine
        turn[i, j], turn[j, i] = -sine, sine
        matrix = turn @ matrix
    return matrix * factor[:, None]


def resample_patch(
    numbers: torch.Tensor, maps: torch.Tensor, first: Sequence[int], deformation: Deformation
) -> tuple[torch.Tensor, torch.Tensor]:
    """A deformed patch from a box of source voxels; zero where it reaches beyond the box.

    Args:
        numbers: float32 ``(channel, *box)``, interpolated linearly.
        maps: integers ``(map, *box)``, of which the nearest voxel is taken.
        first: the box's first voxel, counted from the patch's.
        deformation: of the patch, with a matrix.

    Returns:
        Numbers ``(channel, *patch)`` and maps ``(map, *patch)``.
    """
    patch, size = deformation.patch, numbers.shape[1:]
    if 0 in size:  # the patch sees nothing of the image
        return numbers.new_zeros((len(numbers), *patch)), maps.new_zeros((len(maps), *patch))
    grid = deformation.coordinates(size, first, numbers.device)
    moved = F.grid_sample(numbers[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]
    nearest = F.grid_sample(maps[None].float(), grid, mode="nearest", align_corners=False)[0]
    return moved, nearest.to(maps.dtype)
