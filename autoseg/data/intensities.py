"""What can be said against the intensities of a scan: the same when a dataset is checked and when it is predicted."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np

#: Voxels looked at for the usual range.
_SAMPLE = 100_000

#: Voxels this many times the usual range away from it (which holds 99 % of the non-zero ones) may be outliers.
_FAR = 10.0

#: They are where they widen the standard deviation, which intensities are divided by, by more than this factor.
_WIDER = 2.0


class Doubt(NamedTuple):
    """Something wrong with the intensities of an image.

    Attributes:
        severity: of an ``error`` nothing can be learned or predicted; a ``warning`` should be checked.
        what: description, with the name of the channel.
        remedy: how to correct it.
        blank: whether it is that all voxels have one value.
    """

    severity: Literal["error", "warning"]
    what: str
    remedy: str
    blank: bool = False


def is_blank(array: np.ndarray) -> bool:
    """Whether all voxels have one value."""
    return bool(array.min() == array.max())


def doubt_about(name: str, array: np.ndarray, beside: Iterable[np.ndarray] = ()) -> Doubt | None:
    """Judge the finite voxels of one channel, of any shape; None where there is nothing to say.

    Args:
        name: of the channel.
        array: its voxels.
        beside: the other channels in its file: a colour that does not occur in a picture is no fault of the file.
    """
    low, high = float(array.min()), float(array.max())
    if low == high:
        what = f"{name} is empty (all voxels are 0)" if low == 0 else f"{name} is constant (all voxels are {low:g})"
        if not all(map(is_blank, beside)):
            return Doubt("warning", what, "Fine for a colour that does not occur; else replace the file.", blank=True)
        return Doubt("error", what, "Take the file out (a case may lack a channel), or replace it.", blank=True)
    flat = array.reshape(-1)
    sample = flat[:: max(1, flat.size // _SAMPLE)]
    sample = sample[sample != 0]
    if not sample.size:
        return None
    first, last = (float(value) for value in np.percentile(sample, (0.5, 99.5)))
    lower, upper = first - _FAR * (last - first), last + _FAR * (last - first)
    if first == last or (low >= lower and high <= upper):
        return None
    values = flat[flat != 0].astype(np.float64)
    usual = values[(values >= lower) & (values <= upper)]
    if not usual.size or values.std() <= _WIDER * usual.std():
        return None
    extreme = high if high > upper else low
    return Doubt(
        "warning",
        f"{values.size - usual.size} voxel(s) of {name} are far from all others, as {extreme:.3g} "
        f"(99 % lie between {first:.3g} and {last:.3g}), and decide how the others are scaled",
        "Clip or replace them.",
    )
