"""Label maps as files hold them: whole numbers, in whatever type."""

import numpy as np

from autoseg.data.geometry import Image
from autoseg.utils.errors import AutosegError
from autoseg.utils.integers import whole_numbers

#: Largest label value: of an unsigned integer of 32 bits, the largest that image formats share.
LARGEST_LABEL = 2**32 - 1

#: How far a value may be from a whole number, for the rounding of programs that store labels as floats.
_ROUNDING = 1e-3

#: Slopes this close to 1 come from programs that scale a label map's integers as if they were intensities.
_SLOPE = 1e-3


class NotALabelMap(AutosegError):
    """Several channels, or values that are no whole numbers."""


def label_values(image: Image) -> np.ndarray:
    """The label map ``(z, y, x)`` of a file, in the smallest of int16, int32 and int64 that holds it.

    Raises:
        NotALabelMap: it has several channels, or values that are no whole numbers.
    """
    if len(image.array) > 1:
        raise NotALabelMap(f"holds {len(image.array)} channels instead of one")
    array = image.array[0]
    if array.dtype.kind not in "uib":
        if image.slope != 1 and abs(image.slope - 1) <= _SLOPE:
            array = array / image.slope
        uneven = int(np.count_nonzero(np.abs(array - np.rint(array)) > _ROUNDING))
        if uneven:
            raise NotALabelMap(f"{uneven} voxels of the label are no whole numbers")
    return whole_numbers(array)
