"""Intensities to a common scale, one function a scheme."""

import numpy as np

from autoseg.plans.preprocessing import Normalization

#: Smallest standard deviation or range divided by; below it a channel is constant and becomes zero.
_EPSILON = 1e-8


def normalize(channel: np.ndarray, scheme: Normalization, mask: np.ndarray) -> np.ndarray:
    """Normalize one channel.

    Args:
        channel: float32 ``(z, y, x)``.
        scheme: which statistics, from where.
        mask: bool ``(z, y, x)``: the brain mask, or the non-zero voxels. With ``scheme.masked`` statistics come from
            inside and voxels outside are zero.

    Returns:
        float32 ``(z, y, x)``.
    """
    inside = channel[mask] if scheme.masked else channel.reshape(-1)
    if inside.size == 0:
        return np.zeros_like(channel)
    if scheme.scheme == "zscore":
        result = (channel - inside.mean(dtype=np.float64)) / max(float(inside.std(dtype=np.float64)), _EPSILON)
    elif scheme.scheme == "ct":
        assert scheme.lower is not None
        assert scheme.upper is not None
        assert scheme.mean is not None
        assert scheme.std is not None
        result = (np.clip(channel, scheme.lower, scheme.upper) - scheme.mean) / scheme.std
    elif scheme.scheme == "minmax":
        low, high = float(inside.min()), float(inside.max())
        result = (channel - low) / max(high - low, _EPSILON)
    elif scheme.scheme == "percentile":
        # Where hardly anything is above zero, the percentile says nothing and the largest value stands in.
        scale = float(np.percentile(inside, 95))
        result = channel / max(scale if scale > _EPSILON else float(np.abs(inside).max()), _EPSILON)
    else:
        result = channel
    result = result.astype(np.float32)
    if scheme.masked:
        result = np.where(mask, result, np.float32(0))
    return result
