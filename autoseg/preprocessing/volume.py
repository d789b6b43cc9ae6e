"""Volume: voxels of a case in 16 bits or fewer, and what they stand for."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from autoseg.data.counts import value_counts
from autoseg.utils.integers import integer_type

#: Largest absolute intensity that is stored as a 16-bit float, whose step there is ½; beyond it, integers are finer.
LARGEST_FLOAT = 1000.0

#: Steps of a 16-bit integer.
_STEPS = 2**16 - 1


@dataclass(frozen=True)
class Volume:
    """One array of a case.

    Attributes:
        array: voxels ``(channel, z, y, x)``, an array or what can be sliced like one: numbers as float16, or as int16
            with ``scales``; label maps as unsigned indices of ``values``. What an earlier version stored is float32, or
            label values themselves.
        scales: (slope, shift) of each channel: the value is slope · (voxel + shift), which keeps 0 exact. Empty where
            voxels are values.
        values: label value of each index; empty where voxels are values.
    """

    array: Any
    scales: tuple[tuple[float, float], ...] = ()
    values: tuple[int, ...] = ()

    @classmethod
    def of(cls, array: np.ndarray, encoding: dict[str, Any]) -> "Volume":
        """The inverse of :attr:`encoding`."""
        scales = tuple((float(slope), float(shift)) for slope, shift in encoding.get("scales", ()))
        return cls(array, scales, tuple(encoding.get("values", ())))

    @property
    def encoding(self) -> dict[str, Any]:
        """Plain data that say what the voxels stand for."""
        return {"scales": [list(scale) for scale in self.scales], "values": list(self.values)}

    @property
    def shape(self) -> tuple[int, ...]:
        """``(channel, z, y, x)``."""
        return tuple(self.array.shape)

    def cut(self, box: tuple[slice, ...]) -> "Volume":
        """The part inside a box ``(z, y, x)``, a view; all of it where empty."""
        return Volume(self.array[(slice(None), *box)], self.scales, self.values)

    def decoded(self) -> np.ndarray:
        """The values: float32, or for a label map the smallest of int16, int32 and int64 that holds all of them."""
        if self.values:
            return np.array(self.values, integer_type(self.values))[self.array]
        voxels = np.asarray(self.array)
        if voxels.dtype.kind in "iu" and not self.scales:
            return np.array(voxels)  # label values, of an earlier version
        values = voxels.astype(np.float32)
        for channel, (slope, shift) in zip(values, self.scales, strict=False):
            channel += np.float32(shift)
            channel *= np.float32(slope)
        return values

    def indices_of(self, values: list[int]) -> np.ndarray:
        """A label map as indices of other values, uint8 or (from 256 values on) int16; 0 for any value not among them.

        Args:
            values: the first stands for all that are not named.
        """
        kind = np.uint8 if len(values) <= 2**8 else np.int16
        index = {value: position for position, value in enumerate(values)}
        if self.values:
            table = np.array([index.get(value, 0) for value in self.values], kind)
            if self.array.dtype == kind and np.array_equal(table, np.arange(len(table))):
                return np.array(self.array)
            return np.asarray(np.take(table, self.array))
        voxels = np.asarray(self.array)
        found = np.zeros(voxels.shape, kind)
        for value, position in index.items():
            found[voxels == value] = position
        return found


def encode_image(image: np.ndarray) -> Volume:
    """Store numbers in 16 bits: floats up to ±:data:`LARGEST_FLOAT`, beyond it integers with a scale for each channel.

    Args:
        image: float ``(channel, z, y, x)``.
    """
    if not image.size:
        return Volume(image.astype(np.float16))
    low, high = (getattr(image, name)(axis=(1, 2, 3)).astype(np.float64) for name in ("min", "max"))
    if not np.isfinite([low, high]).all() or max(-low.min(), high.max()) <= LARGEST_FLOAT:
        return Volume(image.astype(np.float16))
    # The range holds 0, which is an integer of its own: background and missing channels stay exactly zero.
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    stored, scales = np.empty(image.shape, np.int16), []
    for channel, (first, last) in enumerate(zip(low, high, strict=True)):
        slope = max(float(np.float32((last - first) / (_STEPS - 1))), float(np.finfo(np.float32).tiny))
        shift = float(round(first / slope) + 2**15)
        stored[channel] = np.clip(np.rint(image[channel] / slope) - shift, -(2**15), 2**15 - 1)
        scales.append((slope, shift))
    return Volume(stored, tuple(scales))


def encode_labels(maps: np.ndarray) -> Volume:
    """Store label maps ``(map, z, y, x)`` as indices of the values that occur in them, in 8 bits where they suffice."""
    values = list(value_counts(maps))
    kind = np.uint8 if len(values) <= 2**8 else np.uint16 if len(values) <= 2**16 else np.uint32
    if values[0] < 0 or values[-1] >= 2**20:
        return Volume(np.searchsorted(values, maps).astype(kind), values=tuple(values))
    table = np.zeros(values[-1] + 1, kind)  # faster than searching
    table[values] = np.arange(len(values))
    return Volume(table[maps], values=tuple(values))
