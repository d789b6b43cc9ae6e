"""Intensity normalization, one function for each scheme."""

from collections.abc import Callable
from typing import Any

import numpy as np

from autoseg.plans.preprocessing import Normalization
from autoseg.utils.registry import Registry

#: Smallest standard deviation or range divided by; below it a channel is constant and becomes zero.
_EPSILON = 1e-8

#: Takes a channel ``(z, y, x)``, the values ``(voxels,)`` that statistics come from, and the description.
Normalizer = Callable[[np.ndarray, np.ndarray, Any], np.ndarray]

#: Scheme → its function (:data:`autoseg.plans.preprocessing.NORMALIZATIONS` describes it).
NORMALIZERS: Registry[Normalizer] = Registry("normalization", package="autoseg.preprocessing")


def normalize(channel: np.ndarray, normalization: Normalization, mask: np.ndarray) -> np.ndarray:
    """Normalize one channel.

    Args:
        channel: float32 ``(z, y, x)``.
        normalization: which statistics, from where.
        mask: bool ``(z, y, x)``: the brain mask, or the non-zero voxels. Where the normalization is ``masked``,
            statistics come from inside and voxels outside are zero.

    Returns:
        float32 ``(z, y, x)``.
    """
    values = channel[mask] if normalization.masked else channel.reshape(-1)
    if values.size == 0:
        return np.zeros_like(channel)
    result = NORMALIZERS.find(normalization.scheme)(channel, values, normalization).astype(np.float32)
    if normalization.masked:
        result = np.where(mask, result, np.float32(0))
    return result


@NORMALIZERS.register("none")
def keep_values(channel: np.ndarray, values: np.ndarray, normalization: Normalization) -> np.ndarray:
    """The channel as it is."""
    return channel


@NORMALIZERS.register("zscore")
def zscore(channel: np.ndarray, values: np.ndarray, normalization: Normalization) -> np.ndarray:
    """Mean 0 and standard deviation 1."""
    mean, deviation = values.mean(dtype=np.float64), float(values.std(dtype=np.float64))
    return np.asarray((channel - mean) / max(deviation, _EPSILON))


@NORMALIZERS.register("ct")
def ct(channel: np.ndarray, values: np.ndarray, normalization: Normalization) -> np.ndarray:
    """Clipped, then z-scored with the dataset's mean and standard deviation."""
    lower, upper, mean, std = (getattr(normalization, name) for name in ("lower", "upper", "mean", "std"))
    return np.asarray((np.clip(channel, lower, upper) - mean) / std)


@NORMALIZERS.register("minmax")
def minmax(channel: np.ndarray, values: np.ndarray, normalization: Normalization) -> np.ndarray:
    """From 0 to 1."""
    low, high = float(values.min()), float(values.max())
    return np.asarray((channel - low) / max(high - low, _EPSILON))


@NORMALIZERS.register("percentile")
def percentile(channel: np.ndarray, values: np.ndarray, normalization: Normalization) -> np.ndarray:
    """Divided by the 95th percentile."""
    # Where almost no voxel is above zero, the percentile is 0; the largest value is used instead.
    scale = float(np.percentile(values, 95))
    return np.asarray(channel / max(scale if scale > _EPSILON else float(np.abs(values).max()), _EPSILON))
