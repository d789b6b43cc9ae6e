"""Augmentation as batched tensor operations on the training device.

The random parameters (which samples, angles, factors) are sampled on the CPU from a NumPy generator, so that a training
is the same on every device and can be resumed exactly; noise fields are sampled on the device. Ranges are the plan's
(:class:`autoseg.plans.recipe.Augmentation`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from autoseg.plans.recipe import Augmentation
from autoseg.utils.registry import Registry

#: Augments images ``(batch, channel, *space)``, given the description and a random generator.
Transformer = Callable[[torch.Tensor, Any, np.random.Generator], torch.Tensor]

#: Further augmentations: name → function (:data:`autoseg.plans.recipe.TRANSFORMS` describes it).
TRANSFORMERS: Registry[Transformer] = Registry("augmentation", package="autoseg.training")


def loading_size(patch: Sequence[int], augmentation: Augmentation) -> list[int]:
    """Size of the box to load, so that a rotated and scaled patch rarely reaches beyond it.

    Args:
        patch: voxels of the final patch.
        augmentation: gives the largest rotation and zoom; a probability of 0 switches either off.

    Returns:
        Voxels an axis, at least the patch.
    """
    size = np.asarray(patch, float)
    dimensions = len(patch)
    if augmentation.rotation_probability and augmentation.rotation:
        angle = np.radians(min(augmentation.rotation, 45.0))
        turned = size.copy()
        for axis in _rotation_axes(augmentation, dimensions):
            a, b = [other for other in range(dimensions) if other != axis] if dimensions == 3 else (0, 1)
            turned[a] = max(turned[a], size[a] * np.cos(angle) + size[b] * np.sin(angle))
            turned[b] = max(turned[b], size[b] * np.cos(angle) + size[a] * np.sin(angle))
        size = turned
    if augmentation.scaling_probability:
        # The largest zoom-out is rare; nnU-Net, too, loads for 0.85 where it scales down to 0.7.
        zoom = max(augmentation.scaling[0], 0.85)
        zoomed = size / min(zoom, 1.0)
        if _in_plane(augmentation, dimensions):
            zoomed[0] = size[0]
        size = zoomed
    return [int(n) for n in np.ceil(np.maximum(size, patch))]


def _rotation_axes(augmentation: Augmentation, dimensions: int) -> list[int]:
    return [0] if dimensions == 2 else [axis for axis in augmentation.rotation_axes if axis < 3]


def _in_plane(augmentation: Augmentation, dimensions: int) -> bool:
    return dimensions == 3 and list(augmentation.rotation_axes) == [0]


def augment_maps(
    image: torch.Tensor,
    maps: torch.Tensor,
    patch: Sequence[int],
    augmentation: Augmentation,
    rng: np.random.Generator,
    fields: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Augment a batch and crop it to the patch.

    Args:
        image: float32 ``(batch, channel, *loaded)``.
        maps: label maps of each sample, transformed alike: integer ``(batch, map, *loaded)``.
        patch: size of the result's space.
        augmentation: probabilities and ranges.
        rng: random generator; the same state gives the same result (on one kind of device).
        fields: number of the image's last channels that are no intensities: only spatial changes apply to them.

    Returns:
        Image ``(batch, channel, *patch)`` and label maps ``(batch, map, *patch)``.
    """
    noise = torch.Generator(image.device).manual_seed(int(rng.integers(2**62)))
    moved, maps = _spatial(image, maps, patch, augmentation, rng)
    batch = len(moved)
    image = moved[:, : moved.shape[1] - fields]  # a view: assignments change ``moved``, too

    def happens(probability: float) -> np.ndarray:
        return np.flatnonzero(rng.random(batch) < probability)

    def uniform(bounds: tuple[float, float], count: int) -> np.ndarray:
        return rng.uniform(bounds[0], bounds[1], count)

    a = augmentation
    chosen = happens(a.noise_probability)
    sigma = uniform(a.noise_std, len(chosen))
    if len(chosen):
        picked = image[chosen]
        field = torch.randn(picked.shape, device=image.device, generator=noise)
        image[chosen] = picked + field * _column(sigma, picked)
    _per_channel(image, happens(a.blur_probability), rng, lambda x, n: blur(x, uniform(a.blur_sigma, n)))
    chosen = happens(a.brightness_probability)
    factor = uniform(a.brightness, len(chosen))
    if len(chosen):
        image[chosen] = image[chosen] * _column(factor, image)
    chosen = happens(a.contrast_probability)
    factor = uniform(a.contrast, len(chosen))
    if len(chosen):
        image[chosen] = contrast(image[chosen], _column(factor, image))
    flat = _in_plane(a, len(patch))
    _per_channel(
        image,
        happens(a.low_resolution_probability),
        rng,
        lambda x, n: low_resolution(x, uniform(a.low_resolution, n), flat),
    )
    for probability, invert in ((a.gamma_invert_probability, True), (a.gamma_probability, False)):
        chosen = happens(probability)
        exponent = uniform(a.gamma, len(chosen))
        if len(chosen):
            sign = -1 if invert else 1
            image[chosen] = sign * gamma(sign * image[chosen], _column(exponent, image))
    for name, transform in a.transforms.items():
        chosen = happens(transform.probability)
        if len(chosen):
            image[chosen] = TRANSFORMERS.find(name)(image[chosen], transform, rng)
    for axis in a.mirror_axes:
        chosen = happens(0.5)
        if len(chosen):
            moved[chosen] = moved[chosen].flip(axis + 2)
            maps[chosen] = maps[chosen].flip(axis + 2)
    return moved, maps


def _column(values: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    column = torch.as_tensor(values, dtype=like.dtype, device=like.device)
    return column.reshape(-1, *[1] * (like.ndim - 1))


def _per_channel(
    image: torch.Tensor,
    samples: np.ndarray,
    rng: np.random.Generator,
    change: Callable[[torch.Tensor, int], torch.Tensor],
) -> None:
    """Apply ``change`` in place to a random half of the channels of the chosen samples."""
    picked = rng.random((len(samples), image.shape[1])) < 0.5
    rows, channels = samples[np.nonzero(picked)[0]], np.nonzero(picked)[1]
    if len(rows):
        image[rows, channels] = change(image[rows, channels], len(rows))


def _spatial(
    image: torch.Tensor, maps: torch.Tensor, patch: Sequence[int], a: Augmentation, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate, scale and deform some samples; crop the patch from the centre of all."""
    batch, dimensions = len(image), image.ndim - 2
    axes = _rotation_axes(a, dimensions)
    turned = rng.random(batch) < (a.rotation_probability if a.rotation else 0)
    angles = rng.uniform(-a.rotation, a.rotation, (batch, 3)) * turned[:, None]
    zoomed = rng.random(batch) < a.scaling_probability
    zoom = np.where(zoomed, rng.uniform(*a.scaling, batch), 1.0)
    bent = rng.random(batch) < (a.elastic_probability if a.elastic_magnitude else 0)
    magnitude = rng.uniform(0, a.elastic_magnitude, batch) * bent
    nodes = [max(2, round(n / a.elastic_spacing) + 1) for n in patch]
    displacement = rng.uniform(-1, 1, (batch, dimensions, *nodes)) * magnitude.reshape(-1, *[1] * (dimensions + 1))
    if _in_plane(a, dimensions):
        displacement[:, 0] = 0
    start = [(n - p) // 2 for n, p in zip(image.shape[2:], patch, strict=True)]
    middle = tuple(slice(s, s + p) for s, p in zip(start, patch, strict=True))
    new_image = image[(slice(None), slice(None), *middle)].clone()
    new_maps = maps[(slice(None), slice(None), *middle)].clone()
    moved = np.flatnonzero(turned | zoomed | bent)
    if not len(moved):
        return new_image, new_maps
    matrices = np.stack([_matrix(angles[i], axes, zoom[i], dimensions, _in_plane(a, dimensions)) for i in moved])
    grid = _sampling_grid(matrices, displacement[moved], patch, image.shape[2:], image.device)
    new_image[moved] = F.grid_sample(image[moved], grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    nearest = F.grid_sample(maps[moved].float(), grid, mode="nearest", align_corners=False)
    new_maps[moved] = nearest.to(maps.dtype)
    return new_image, new_maps


def _matrix(angles: np.ndarray, axes: list[int], zoom: float, dimensions: int, in_plane: bool) -> np.ndarray:
    """Voxel offsets in the patch → voxel offsets in the loaded box, ``(dimensions, dimensions)``."""
    matrix = np.eye(dimensions)
    for axis in axes:
        cosine, sine = np.cos(np.radians(angles[axis])), np.sin(np.radians(angles[axis]))
        i, j = (0, 1) if dimensions == 2 else [other for other in range(3) if other != axis]
        turn = np.eye(dimensions)
        turn[i, i] = turn[j, j] = cosine
        turn[i, j], turn[j, i] = -sine, sine
        matrix = turn @ matrix
    factor = np.full(dimensions, 1 / zoom)
    if in_plane:
        factor[0] = 1.0
    return matrix * factor[:, None]


def _sampling_grid(
    matrices: np.ndarray,
    displacement: np.ndarray,
    patch: Sequence[int],
    loaded: Sequence[int],
    device: torch.device,
) -> torch.Tensor:
    """Coordinates for ``grid_sample``: ``(n, *patch, dimensions)``, in [−1, 1] of the loaded box, x first."""
    dimensions = len(patch)
    lines = [torch.arange(n, device=device, dtype=torch.float32) - (n - 1) / 2 for n in patch]
    offsets = torch.stack(torch.meshgrid(*lines, indexing="ij")).reshape(dimensions, -1)
    turned = torch.as_tensor(matrices, dtype=torch.float32, device=device) @ offsets
    coordinates = turned.reshape(len(matrices), dimensions, *patch)
    if np.any(displacement):
        coarse = torch.as_tensor(displacement, dtype=torch.float32, device=device)
        mode = "trilinear" if dimensions == 3 else "bilinear"
        coordinates = coordinates + F.interpolate(coarse, size=list(patch), mode=mode, align_corners=True)
    # The patch's centre may lie half a voxel off the box's, exactly as in the plain crop.
    shift = [(n - p) // 2 + (p - 1) / 2 - (n - 1) / 2 for n, p in zip(loaded, patch, strict=True)]
    half = torch.tensor(list(loaded), dtype=torch.float32, device=device) / 2
    coordinates = coordinates.movedim(1, -1) + torch.tensor(shift, dtype=torch.float32, device=device)
    return (coordinates / half).flip(-1)


def blur(channels: torch.Tensor, sigma: np.ndarray) -> torch.Tensor:
    """Gaussian blur of each ``(n, *space)`` channel by its own ``sigma`` (voxels), edges repeated."""
    sigma = np.maximum(sigma, 1e-3)  # no blur in effect, without dividing by a width of 0
    radius = int(np.ceil(3 * sigma.max()))
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets[None] / sigma[:, None]) ** 2)
    taps = torch.as_tensor(weights / weights.sum(1, keepdims=True), dtype=channels.dtype, device=channels.device)
    for axis in range(1, channels.ndim):
        size = channels.shape[axis]
        index = torch.arange(-radius, size + radius, device=channels.device).clamp(0, size - 1)
        padded = channels.index_select(axis, index)
        out = torch.zeros_like(channels)
        for tap in range(2 * radius + 1):
            out.addcmul_(padded.narrow(axis, tap, size), taps[:, tap].reshape(-1, *[1] * (channels.ndim - 1)))
        channels = out
    return channels


def contrast(image: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Scale intensities ``(n, channel, *space)`` about their mean by ``factor``, clipped to their old range."""
    axes = tuple(range(2, image.ndim))
    mean = image.mean(axes, keepdim=True)
    low, high = image.amin(axes, keepdim=True), image.amax(axes, keepdim=True)
    return torch.minimum(torch.maximum((image - mean) * factor + mean, low), high)


def low_resolution(channels: torch.Tensor, zoom: np.ndarray, in_plane: bool = False) -> torch.Tensor:
    """Simulate a coarser acquisition of each channel: nearest-neighbour downsampling by ``zoom``, linear upsampling.

    Args:
        channels: ``(n, *space)``.
        zoom: one factor for each channel.
        in_plane: keep the first axis, whose resolution is low already (as nnU-Net does).
    """
    mode = "trilinear" if channels.ndim == 4 else "bilinear"
    done = []
    for channel, factor in zip(channels, zoom, strict=True):
        size = [max(1, round(n * factor)) for n in channel.shape]
        if in_plane:
            size[0] = channel.shape[0]
        small = F.interpolate(channel[None, None], size=size, mode="nearest-exact")
        done.append(F.interpolate(small, size=list(channel.shape), mode=mode, align_corners=False)[0, 0])
    return torch.stack(done)


def gamma(image: torch.Tensor, exponent: torch.Tensor) -> torch.Tensor:
    """Gamma curve over each channel's range ``(n, channel, *space)``, its mean and standard deviation kept."""
    axes = tuple(range(2, image.ndim))
    low = image.amin(axes, keepdim=True)
    span = (image.amax(axes, keepdim=True) - low).clamp(min=1e-7)
    curved = ((image - low) / span).pow(exponent) * span + low
    std, mean = torch.std_mean(image, axes, keepdim=True)
    new_std, new_mean = torch.std_mean(curved, axes, keepdim=True)
    return (curved - new_mean) / new_std.clamp(min=1e-7) * std + mean
