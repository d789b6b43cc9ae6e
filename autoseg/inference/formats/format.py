"""ResultFormat: a file format of results that a user asks for, and the registry of them.

One more is an object in one file, registered under the name that asks for it (or in an extension, see
:mod:`autoseg.utils.registry`)::

    class Plain(ResultFormat):
        ending = ".nii"

    RESULT_FORMATS.register("plain", Plain())
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from autoseg.data.dataset import Case
from autoseg.data.dicom_series import Stack
from autoseg.data.file_names import image_ending, is_picture
from autoseg.data.geometry import Geometry
from autoseg.data.image import write_image
from autoseg.inference.segments import Segment
from autoseg.utils.registry import Registry


@dataclass(frozen=True)
class LabelContent:
    """What a label map's file can say besides its voxels.

    Attributes:
        case: that was segmented.
        channels: names of the plan's channels, in order; the label map lies on the grid of the first one of the case.
        segments: the plan's outputs; regions may overlap.
        parts: one segment a value of the label map.
        stack: the DICOM series that the label map lies on, where it is not a whole channel of the case.
    """

    case: Case
    channels: tuple[str, ...]
    segments: Sequence[Segment]
    parts: Sequence[Segment]
    stack: Stack | None = None


class ResultFormat:
    """A format of label maps.

    Attributes:
        ending: of a label map's file.
        numbers_ending: of a file of numbers that are not whole, as probabilities.
    """

    ending: ClassVar[str]
    numbers_ending: ClassVar[str] = ".nii.gz"

    def check(self, case: Case) -> None:
        """Refuse a case whose result can't be written so.

        Raises:
            AutosegError: it can't.
        """

    def write(self, path: Path, label: np.ndarray, geometry: Geometry, content: LabelContent) -> None:
        """Write a label map.

        Args:
            path: of the file.
            label: integers ``(z, y, x)`` in canonical axes.
            geometry: of the scan.
            content: what the label map holds.

        Raises:
            AutosegError: it can't be written.
        """
        write_label(path, label, geometry)


#: Largest value of a pixel of a picture.
_MOST_IN_PICTURES = 2**16 - 1

#: Formats by the name that asks for one: ``autoseg predict --format NAME``.
RESULT_FORMATS: Registry[ResultFormat] = Registry("format", option="--format", package="autoseg.inference.formats")


def numbers_ending(ending: str) -> str:
    """Ending of files of numbers beside label maps of this ending."""
    found = (RESULT_FORMATS.find(name) for name in RESULT_FORMATS)
    return next((form.numbers_ending for form in found if form.ending == ending.lower()), ending)


def write_label(path: Path, label: np.ndarray, geometry: Geometry) -> None:
    """Write a label map in the smallest integer type that holds it; few programs read integers of 64 bits.

    Pictures have no sign: values above 255 are unsigned integers of 16 bits there.
    """
    small = smallest(label)
    fits = small.min(initial=0) >= 0 and 255 < small.max(initial=0) <= _MOST_IN_PICTURES
    if fits and is_picture(image_ending(path)):
        small = small.astype(np.uint16)
    write_image(path, small, geometry)


def smallest(label: np.ndarray) -> np.ndarray:
    """A label map as 8-bit integers where they hold it, 64-bit ones as unsigned ones of 32 bits."""
    low, high = int(label.min(initial=0)), int(label.max(initial=0))
    if low >= 0 and (high <= 255 or label.dtype == np.int64):
        return label.astype(np.uint8 if high <= 255 else np.uint32)
    return label
