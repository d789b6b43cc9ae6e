"""ImageFormat: how files of one format are read and written, and the registry of those that autoseg knows.

One more format is one module of :mod:`autoseg.data.formats` (or an extension, see :mod:`autoseg.utils.registry`)::

    FORMATS.register("numpy", ImageFormat((".npz",), read_header, read, write))
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.data.geometry import Geometry, Header, Image
from autoseg.utils.errors import AutosegError
from autoseg.utils.registry import Registry


class UnusableImage(AutosegError):
    """An image file that says what it must not.

    Args:
        path: of the file.
        what: is wrong with it.
        remedy: how to correct it.
    """

    def __init__(self, path: Path, what: str, remedy: str) -> None:
        super().__init__(f"{path}: {what}. {remedy}")
        self.path, self.what, self.remedy = path, what, remedy

    def __reduce__(self) -> tuple[type["UnusableImage"], tuple[Path, str, str]]:
        """With all its arguments, from another process."""
        return UnusableImage, (self.path, self.what, self.remedy)


def forbidden(path: str | Path) -> UnusableImage | None:
    """The error of a file that is there and that the user may not read; None of another."""
    if not os.path.exists(path) or os.access(path, os.R_OK):
        return None
    return UnusableImage(Path(path), "you may not read it", "Ask for the right to.")


@dataclass(frozen=True)
class ImageFormat:
    """A format of image files. Its functions raise RuntimeError, OSError or ValueError for an unfit file.

    Attributes:
        endings: of its files, in lower case and with the dot (``.nii.gz``).
        read_header: reads geometry, number of channels and voxel type, without the voxels where it can.
        read: reads all channels, in canonical (LPS) orientation.
        write: writes canonical voxels ``(z, y, x)`` or ``(channel, z, y, x)`` in a file's own order of axes.
        flat: its files are pictures, of which one may hold red, green and blue.
        fractions: it can hold non-integer numbers.
        lossless: reading returns the written values.
        one_file: header and voxels are in one file.
        remarks: what a file's header contradicts itself in, in words; given the geometry it is read with.
        beside: writes what a written file can't hold into one beside it.
    """

    endings: tuple[str, ...]
    read_header: Callable[[Path], Header]
    read: Callable[[Path], Image]
    write: Callable[[Path, np.ndarray, Geometry], None]
    flat: bool = False
    fractions: bool = True
    lossless: bool = True
    one_file: bool = True
    remarks: Callable[[Path, Geometry], list[str]] | None = None
    beside: Callable[[Path, Geometry], None] | None = None

    @property
    def holds_labels(self) -> bool:
        """Whether it can hold a label map in one file."""
        return self.lossless and self.one_file


FORMATS: Registry[ImageFormat] = Registry("image format", package="autoseg.data.formats")


def format_of(ending: str | None) -> ImageFormat | None:
    """The format with this ending, case-insensitive, or None."""
    wanted = (ending or "").lower()
    return next((found for name in FORMATS if wanted in (found := FORMATS.find(name)).endings), None)
