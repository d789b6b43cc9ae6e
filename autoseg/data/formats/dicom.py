"""DICOM: a series in a folder of its own, or one file with all its frames."""

from pathlib import Path

import numpy as np

from autoseg.data.dicom_headers import read_dicom_header
from autoseg.data.dicom_series import read_stack, scan_header, stack_at
from autoseg.data.formats.format import FORMATS, ImageFormat
from autoseg.data.formats.simpleitk import as_image, read_header_with_sitk, read_with_sitk
from autoseg.data.geometry import Geometry, Header, Image
from autoseg.utils.errors import AutosegError

#: Modalities of scans, whose frames lie in space.
_SCANS = ("MR", "CT", "PT")


def _lies_in_frames(path: Path) -> bool:
    """Whether a file holds frames that have to be put in order; else SimpleITK reads it as it lies."""
    try:
        if read_header_with_sitk(path).geometry.size[2:] in ((), (1,)):
            return False
    except RuntimeError:
        pass
    try:
        header = scan_header(path)
    except AutosegError:
        # Of a scan of several frames it can't be told, as without pydicom: not to be read as it lies.
        found = read_dicom_header(path)
        if found is not None and found.frames > 1 and found.text("Modality") in _SCANS:
            raise
        return False
    return header is not None and header.text("ImagePositionPatient") != ""


def _read_header(path: Path) -> Header:
    if not path.is_dir() and not _lies_in_frames(path):
        return read_header_with_sitk(path)
    stack = stack_at(path)
    try:
        return read_header_with_sitk(stack.files[0])._replace(geometry=stack.geometry)
    except RuntimeError:
        return Header(stack.geometry, 1, "compressed")


def _read(path: Path) -> Image:
    if not path.is_dir() and not _lies_in_frames(path):
        return read_with_sitk(path)
    return as_image(read_stack(stack_at(path)))


def _write(path: Path, array: np.ndarray, geometry: Geometry) -> None:
    raise ValueError("a scan is not written as DICOM")


#: Of no ending: a folder, or a file that says so itself.
DICOM_FORMAT = FORMATS.register("dicom", ImageFormat((), _read_header, _read, _write, lossless=False))
