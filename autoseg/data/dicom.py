"""DICOM files: recognised, whatever their names."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autoseg.utils.errors import AutosegError

#: Files of a folder that are looked at, and levels of folders, itself the first.
_LOOK_AT, _DEPTH = 200, 4

#: What installs the libraries for DICOM, for messages.
CLINICAL = "pip install 'autoseg[clinical]'"


def import_pydicom() -> Any:
    """The library that reads and writes DICOM.

    Raises:
        AutosegError: it is not installed.
    """
    try:
        import pydicom
    except ImportError:
        raise AutosegError(f"this needs pydicom, which is not installed; install it with {CLINICAL}.") from None
    # Its warnings about a value repeat it, and the value may be a name or a date.
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    return pydicom


def import_highdicom() -> Any:
    """The library for segmentations in DICOM.

    Raises:
        AutosegError: it is not installed.
    """
    try:
        import highdicom
    except ImportError:
        raise AutosegError(f"DICOM-SEG needs highdicom, which is not installed; install it with {CLINICAL}.") from None
    return highdicom


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, whatever its name."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def holds_dicom(folder: Path, depth: int = _DEPTH) -> bool:
    """Whether a folder holds DICOM files; the first few hundred are looked at.

    Args:
        folder: to look into.
        depth: levels of folders to look into, itself the first.
    """
    return any(is_dicom(path) for path, _ in zip(_files(folder, depth), range(_LOOK_AT), strict=False))


def slices_of_series(path: Path) -> int:
    """Number of files in a DICOM file's folder that belong to its series, itself among them."""
    import SimpleITK as sitk

    series = "0020|000e"
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    if not reader.HasMetaDataKey(series):
        return 1
    name = reader.GetMetaData(series).strip().rstrip("\0")
    return max(1, len(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path.absolute().parent), name)))


def _files(folder: Path, depth: int) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        if len(Path(parent).relative_to(folder).parts) >= depth - 1:
            folders.clear()
        folders.sort()
        yield from (Path(parent) / name for name in sorted(names) if not name.startswith("."))
