"""Integer types for label values of any size."""

from collections.abc import Iterable
from typing import Any

import numpy as np


def integer_type(values: Iterable[int]) -> type[np.signedinteger[Any]]:
    """The smallest of int16, int32 and int64 that holds all values."""
    known = [0, *values]
    for kind in (np.int16, np.int32):
        if np.iinfo(kind).min <= min(known) and max(known) <= np.iinfo(kind).max:
            return kind
    return np.int64


def whole_numbers(array: np.ndarray) -> np.ndarray:
    """An array rounded to whole numbers, in the smallest of int16, int32 and int64 that holds them."""
    rounded = array if array.dtype.kind in "uib" else np.rint(array)
    return rounded.astype(integer_type((int(rounded.min(initial=0)), int(rounded.max(initial=0)))))
