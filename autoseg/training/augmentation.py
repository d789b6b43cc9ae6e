"""Augmentation of intensities, and mirroring, on the training device.

The random parameters (which samples, which factors) are sampled on the CPU from a NumPy generator, so that a training
is the same on every device and can be resumed exactly; noise fields are sampled on the device. Ranges are the plan's
(:class:`autoseg.plans.augmentation.Augmentation`). Samples are chosen by numbers, not by index tensors, and factors
come from pinned memory: nothing waits for the device.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from autoseg.plans.augmentation import Augmentation, BiasField, GaussianScale, GaussianShift
from autoseg.training.deformation import only_in_plane
from autoseg.training.transfers import to_device
from autoseg.utils.registry import Registry

#: Order of the polynomial whose exponential a bias field is.
_FIELD_ORDER = 3

#: Augments images ``(batch, channel, *space)``, given the description and a random generator.
Transformer = Callable[[torch.Tensor, Any, np.random.Generator], torch.Tensor]

#: Further augmentations: name → function (:data:`autoseg.plans.augmentation.TRANSFORMS` describes it).
TRANSFORMERS: Registry[Transformer] = Registry("augmentation", package="autoseg.training")


def augment_intensities(
    image: torch.Tensor, augmentation: Augmentation, rng: np.random.Generator, noise: torch.Generator
) -> None:
    """Change the intensities of some samples, in place.

    Args:
        image: float32 ``(batch, channel, *space)``.
        augmentation: probabilities and ranges.
        rng: random generator of all parameters.
        noise: random generator of noise, on the image's device.
    """
    a, batch = augmentation, len(image)

    def happens(probability: float) -> list[int]:
        return [int(sample) for sample in np.flatnonzero(rng.random(batch) < probability)]

    def uniform(bounds: tuple[float, float], count: int) -> np.ndarray:
        return rng.uniform(bounds[0], bounds[1], count)

    chosen = happens(a.noise_probability)
    sigma = uniform(a.noise_std, len(chosen))
    if chosen:
        field = torch.randn((len(chosen), *image.shape[1:]), device=image.device, generator=noise)
        for sample, values, width in zip(chosen, field, sigma, strict=True):
            image[sample].add_(values.mul_(float(width)))
    _per_channel(image, happens(a.blur_probability), rng, lambda x, n: blur(x, uniform(a.blur_sigma, n)))
    chosen = happens(a.brightness_probability)
    for sample, factor in zip(chosen, uniform(a.brightness, len(chosen)), strict=True):
        image[sample].mul_(float(factor))
    chosen = happens(a.contrast_probability)
    factors = uniform(a.contrast, len(chosen))
    _per_sample(image, chosen, lambda x: contrast(x, _column(factors, x)))
    flat = only_in_plane(a, image.ndim - 2)
    _per_channel(
        image,
        happens(a.low_resolution_probability),
        rng,
        lambda x, n: low_resolution(x, uniform(a.low_resolution, n), flat),
    )
    for probability, sign in ((a.gamma_invert_probability, -1), (a.gamma_probability, 1)):
        chosen = happens(probability)
        exponents = uniform(a.gamma, len(chosen))
        _per_sample(image, chosen, partial(_signed_gamma, sign=sign, exponents=exponents))
    for name, transform in a.transforms.items():
        chosen = happens(transform.probability)
        if chosen:
            _per_sample(image, chosen, _described(TRANSFORMERS.find(name), transform, rng))


def mirror(
    arrays: Sequence[torch.Tensor], axes: Sequence[int], rng: np.random.Generator, probability: float = 0.5
) -> None:
    """Flip some samples of all arrays ``(batch, channel, *space)`` alike, in place, each axis with ``probability``."""
    flipped: list[list[int]] = [[] for _ in arrays[0]]
    for axis in axes:
        for sample in np.flatnonzero(rng.random(len(flipped)) < probability):
            flipped[sample].append(axis + 2)
    # Samples with the same flips together: a batch may have hundreds of small ones.
    alike: dict[tuple[int, ...], list[int]] = {}
    for sample, own in enumerate(flipped):
        if own:
            alike.setdefault(tuple(own), []).append(sample)
    for array in arrays:
        samples = array.unbind()
        for turned, chosen in alike.items():
            places = [samples[sample] for sample in chosen]
            together = places[0][None] if len(places) == 1 else torch.stack(places)
            torch._foreach_copy_(places, list(together.flip(turned).unbind()))


@TRANSFORMERS.register("gaussian_shift")
def gaussian_shift(image: torch.Tensor, shift: GaussianShift, rng: np.random.Generator) -> torch.Tensor:
    """Add a number from N(0, std) to each channel of ``(n, channel, *space)``."""
    return image + _a_channel(rng.normal(0, shift.std, image.shape[:2]), image)


@TRANSFORMERS.register("gaussian_scale")
def gaussian_scale(image: torch.Tensor, scale: GaussianScale, rng: np.random.Generator) -> torch.Tensor:
    """Multiply each channel of ``(n, channel, *space)`` by 1 plus a number from N(0, std)."""
    return image * (1 + _a_channel(rng.normal(0, scale.std, image.shape[:2]), image))


@TRANSFORMERS.register("bias_field")
def bias_field(image: torch.Tensor, field: BiasField, rng: np.random.Generator) -> torch.Tensor:
    """Multiply each channel of ``(n, channel, *space)`` by a smooth field, from its smallest intensity on."""
    space = image.shape[2:]
    orders = np.indices((_FIELD_ORDER + 1,) * len(space)).sum(0)
    coefficients = rng.uniform(-1, 1, (*image.shape[:2], *orders.shape)) * ((orders > 0) & (orders <= _FIELD_ORDER))
    strength = _a_channel(rng.uniform(*field.strength, image.shape[:2]), image)
    logarithm = to_device(coefficients.astype(np.float32), image.device).to(image.dtype)
    for size in space:  # each product replaces the first axis of coefficients by one of voxels, put last
        powers = np.vander(np.linspace(-1, 1, size), _FIELD_ORDER + 1, increasing=True).T.astype(np.float32)
        logarithm = torch.tensordot(logarithm, to_device(powers, image.device).to(image.dtype), dims=([2], [0]))
    axes = tuple(range(2, image.ndim))
    largest = logarithm.abs().amax(axes, keepdim=True).clamp(min=1e-7)
    low = image.amin(axes, keepdim=True)
    changed = (image - low) * torch.exp(logarithm / largest * strength) + low
    return torch.where(image == 0, image, changed)


def _a_channel(values: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """Numbers ``(n, channel)`` on the device of an image ``(n, channel, *space)``, to be broadcast over its space."""
    moved = to_device(np.ascontiguousarray(values, np.float32), like.device).to(like.dtype)
    return moved.reshape(*values.shape, *[1] * (like.ndim - 2))


def _described(
    transform: Transformer, description: Any, rng: np.random.Generator
) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda image: transform(image, description, rng)


def _signed_gamma(image: torch.Tensor, sign: int, exponents: np.ndarray) -> torch.Tensor:
    return sign * gamma(sign * image, _column(exponents, image))


def _column(values: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    column = to_device(values.astype(np.float32), like.device).to(like.dtype)
    return column.reshape(-1, *[1] * (like.ndim - 1))


def _per_sample(image: torch.Tensor, samples: list[int], change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Apply ``change`` in place to the chosen samples, all at once."""
    if samples:
        places = [image[sample] for sample in samples]
        torch._foreach_copy_(places, list(change(torch.stack(places)).unbind()))


def _per_channel(
    image: torch.Tensor,
    samples: list[int],
    rng: np.random.Generator,
    change: Callable[[torch.Tensor, int], torch.Tensor],
) -> None:
    """Apply ``change`` in place to a random half of the channels of the chosen samples."""
    picked = rng.random((len(samples), image.shape[1])) < 0.5
    places = [image[samples[row], int(channel)] for row, channel in np.argwhere(picked)]
    if places:
        torch._foreach_copy_(places, list(change(torch.stack(places), len(places)).unbind()))


def blur(channels: torch.Tensor, sigma: np.ndarray) -> torch.Tensor:
    """Gaussian blur of each ``(n, *space)`` channel by its own ``sigma`` (voxels), edges repeated."""
    sigma = np.maximum(sigma, 1e-3)  # no blur in effect, without dividing by a width of 0
    radius = int(np.ceil(3 * sigma.max()))
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets[None] / sigma[:, None]) ** 2)
    taps = to_device((weights / weights.sum(1, keepdims=True)).astype(np.float32), channels.device).to(channels.dtype)
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
