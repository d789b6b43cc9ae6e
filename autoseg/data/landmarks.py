"""Landmarks of an image's intensities, by which images of different scanners are brought onto one scale.

Nyúl, Udupa & Zhang, "New variants of a method of MRI scale standardization", IEEE Trans Med Imaging 19, 143 (2000): the
percentiles of an image are mapped to those of a standard, piecewise linearly in between.
"""

import numpy as np

#: Percentiles that are landmarks: the ends and the deciles (method L4 of the paper, its ends 1 and 99).
PERCENTILES = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99)

#: Voxels that percentiles are taken from, at most.
_SAMPLE = 1_000_000


def landmarks(channel: np.ndarray) -> list[float]:
    """The percentiles of a channel's finite non-zero voxels; empty where there is none.

    Args:
        channel: intensities, of any shape.
    """
    values: np.ndarray = channel.reshape(-1)
    values = values[:: max(1, values.size // _SAMPLE)]
    values = values[np.isfinite(values) & (values != 0)]
    return [float(value) for value in np.percentile(values, PERCENTILES)] if values.size else []


def matched(channel: np.ndarray, standard: list[float], inside: np.ndarray | None = None) -> np.ndarray:
    """A channel whose landmarks are those of a standard; zeros stay zero.

    Beyond the first and the last landmark the outer slopes go on. A constant channel stays as it is.

    Args:
        channel: float32, of any shape.
        standard: intensities at :data:`PERCENTILES`.
        inside: bool, of its shape: the voxels that its landmarks are taken from; all where None.
    """
    own = np.array(landmarks(channel if inside is None else channel[inside]))
    keep = np.flatnonzero(np.diff(own, prepend=-np.inf) > 0)
    if len(keep) < 2:
        return channel
    x, y = own[keep], np.array(standard)[keep]
    result = np.interp(channel, x, y)
    low, high = channel < x[0], channel > x[-1]
    result[low] = y[0] + (channel[low] - x[0]) * (y[1] - y[0]) / (x[1] - x[0])
    result[high] = y[-1] + (channel[high] - x[-1]) * (y[-1] - y[-2]) / (x[-1] - x[-2])
    return np.where(channel == 0, np.float32(0), result.astype(np.float32))
