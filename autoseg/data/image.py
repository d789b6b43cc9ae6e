"""Reading and writing images, in the format that a file's ending names.

Reading brings an image into canonical orientation (:class:`autoseg.data.geometry.Image`); writing puts an array back
into the order, flips and exact geometry of the file it came from.
"""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from autoseg.data.dicom import holds_dicom, is_dicom, slices_of_series
from autoseg.data.file_names import image_ending
from autoseg.data.formats.dicom import DICOM_FORMAT
from autoseg.data.formats.format import ImageFormat, UnusableImage, forbidden, format_of
from autoseg.data.formats.simpleitk import ANY_OTHER
from autoseg.data.geometry import Geometry, Header, Image
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import atomic

__all__ = ["Geometry", "Header", "Image", "UnusableImage", "read_geometry", "read_image", "write_image"]


#: Largest cosine between two axes of an image: what rounding to two or three decimals leaves.
_SKEW = 5e-3


def read_geometry(path: str | Path) -> Header:
    """Read a file's header only.

    Raises:
        AutosegError: the file is missing, is not an image, or has an unsupported shape.
    """
    refuse_part(Path(path))
    try:
        header = _format(path).read_header(Path(path))
    except (RuntimeError, OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    _refuse_unusable(Path(path), header.geometry)
    return header


def geometry_remarks(path: str | Path, taken: Geometry) -> list[str]:
    """What a file's header contradicts itself in, in words, with what is taken.

    Args:
        path: of the file.
        taken: the geometry that it is read with.
    """
    remarks = _format(path).remarks
    return [] if remarks is None else remarks(Path(path), taken)


def read_image(path: str | Path) -> Image:
    """Read an image file, all its channels, in canonical orientation; voxels that are NaN or infinite are 0.

    Raises:
        AutosegError: the file is missing or unreadable.
    """
    refuse_part(Path(path))
    try:
        image = _finite(_format(path).read(Path(path)))
    except (RuntimeError, OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    _refuse_unusable(Path(path), image.geometry)
    return image


def write_image(path: str | Path, array: np.ndarray, geometry: Geometry) -> None:
    """Write canonical voxels beside the file they came from, atomically.

    Args:
        path: its ending chooses the format (``.nii.gz``, ``.mha``, ``.nrrd``, ``.png``, …).
        array: ``(z, y, x)``, or ``(channel, z, y, x)`` for a file with several channels.
        geometry: of the original file.

    Raises:
        AutosegError: the format can't be written, or takes two files.
    """
    path = Path(path)
    if not _format(path).one_file:
        # A header renamed into place would still name the temporary file's voxels.
        raise AutosegError(f"{path}: {path.suffix} takes two files; choose a format of one, such as .nii.gz.")
    with atomic(path, suffix=image_ending(path) or path.suffix) as temporary:
        try:
            _format(path).write(temporary, array, geometry)
        except (RuntimeError, ValueError) as error:
            raise AutosegError(
                f"{path} can't be written ({_reason(error)}); choose another folder or file ending."
            ) from None
    if (beside := _format(path).beside) is not None:
        beside(path, geometry)


def refuse_part(path: Path) -> None:
    """Refuse a folder that is no DICOM series, and one slice of a series, in place of an image.

    Raises:
        UnusableImage: it is one, with the way to an image file.
    """
    if path.is_dir():
        if holds_dicom(path, depth=1):
            return
        if holds_dicom(path):
            raise UnusableImage(path, "it is a folder of folders of DICOM files", "Give the folder of one series.")
        raise UnusableImage(path, "it is a folder", "Give the image file, or the folder of a DICOM series.")
    if image_ending(path) is None and is_dicom(path) and (slices := slices_of_series(path)) > 1:
        what = f"it is one slice of a DICOM series of {slices}"
        raise UnusableImage(path, what, f"Give the folder of the series, {path.absolute().parent}.")


def _refuse_unusable(path: Path, geometry: Geometry) -> None:
    if not all(math.isfinite(mm) and mm > 0 for mm in geometry.spacing):
        sizes = "×".join(f"{mm:g}" for mm in geometry.spacing)
        raise UnusableImage(path, f"the size of its voxels is {sizes} mm", "Correct its header.")
    if not np.isfinite([*geometry.origin, *geometry.direction]).all():
        raise UnusableImage(path, "its position in space is not finite", "Correct its header.")

    axes = np.asarray(geometry.direction).reshape(geometry.dimension, -1)
    if np.abs(axes.T @ axes - np.eye(geometry.dimension)).max() > _SKEW:
        raise UnusableImage(path, "its axes are not at right angles", "Resample it onto a grid of right angles.")


def _finite(image: Image) -> Image:
    array = image.array
    # Minimum and maximum are NaN or infinite where any voxel is, and take no memory.
    if array.dtype.kind != "f" or not array.size or np.isfinite([array.min(), array.max()]).all():
        return image
    finite = np.isfinite(array)
    count = int(array.size - np.count_nonzero(finite))
    return replace(image, array=np.where(finite, array, array.dtype.type(0)), non_finite=image.non_finite + count)


def _format(path: str | Path) -> ImageFormat:
    path = Path(path)
    ending = image_ending(path)
    if path.is_dir() or (ending is None and is_dicom(path)):
        return DICOM_FORMAT
    return format_of(ending) or ANY_OTHER


def _unreadable(path: str | Path, error: Exception) -> AutosegError:
    if not Path(path).exists():
        return AutosegError(f"{path} does not exist.")
    if (found := forbidden(path)) is not None:
        return found
    return AutosegError(f"{path} can't be read as an image ({_reason(error)}); replace the file or take the case out.")


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
