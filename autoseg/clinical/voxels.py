"""The voxels of a series as an image on its own grid."""

import math

import numpy as np
import SimpleITK as sitk

from autoseg.clinical.series import Series
from autoseg.data.dicom import CLINICAL, planes_of, read_with_gdcm
from autoseg.data.formats.simpleitk import to_sitk
from autoseg.data.image import read_image
from autoseg.utils.errors import AutosegError


def read_series(series: Series) -> sitk.Image:
    """Read a series.

    Returns:
        float32, on the series' grid.

    Raises:
        AutosegError: a file is damaged, or needs a library that is not installed; names the series, and no file.
    """
    if series.fault:
        raise AutosegError(f"{series.name}: {series.fault}.")
    if not series.dicom:
        found = read_image(series.files[0])
        if len(found.array) > 1:
            raise AutosegError(f"{series.name} holds {len(found.array)} volumes; give the one that is wanted.")
        return sitk.Cast(to_sitk(found.array[0], found.geometry), sitk.sitkFloat32)
    by_gdcm = None if series.frames is not None else read_with_gdcm(series.files, as_float=True)
    array = voxels_with_pydicom(series) if by_gdcm is None else sitk.GetArrayFromImage(by_gdcm)
    if not math.isfinite(float(array.sum())):
        array = np.nan_to_num(array, posinf=0.0, neginf=0.0)
    size = tuple(reversed(series.grid.size))
    if array.shape != size:
        raise AutosegError(f"{series.name}: its files hold {array.shape} voxels where the headers say {size}.")
    image = sitk.GetImageFromArray(array.astype(np.float32, copy=False))
    image.SetSpacing(series.grid.spacing)
    image.SetOrigin(series.grid.origin)
    image.SetDirection(series.grid.direction)
    return image


def voxels_with_pydicom(series: Series) -> np.ndarray:
    """The voxels of a series ``(z, y, x)``, float32, decompressed by pydicom's handlers and rescaled.

    Raises:
        AutosegError: pydicom or a handler is missing, or a file can't be decoded.
    """
    planes = []
    for path in series.files:
        try:
            planes += planes_of(path, series.frames)
        except AutosegError:
            raise
        except Exception as error:  # a handler's own error, or a damaged stream
            reason = "a decoder is missing" if "plugin" in str(error) else "its voxels are damaged"
            raise AutosegError(f"{series.name} can't be decoded ({reason}); copy it again, or {CLINICAL}.") from None
    if len({plane.shape for plane in planes}) > 1:
        raise AutosegError(f"{series.name}: its files hold slices of several sizes.")
    return np.stack(planes).astype(np.float32)
