"""The voxels of a series as an image on its own grid."""

import math

import numpy as np
import SimpleITK as sitk

from autoseg.clinical.multiframe import voxels_with_pydicom
from autoseg.clinical.series import Series
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
    array = None if series.frames is not None else _with_gdcm(series)
    if array is None:
        array = voxels_with_pydicom(series)
    size = tuple(reversed(series.grid.size))
    if array.shape != size:
        raise AutosegError(f"{series.name}: its files hold {array.shape} voxels where the headers say {size}.")
    image = sitk.GetImageFromArray(array.astype(np.float32, copy=False))
    image.SetSpacing(series.grid.spacing)
    image.SetOrigin(series.grid.origin)
    image.SetDirection(series.grid.direction)
    return image


def _with_gdcm(series: Series) -> np.ndarray | None:
    """Voxels as SimpleITK reads them; None where it can't."""
    sitk.ProcessObject.GlobalWarningDisplayOff()
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames([str(path) for path in series.files])
    try:
        image = reader.Execute()
    except RuntimeError:
        return None
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise AutosegError(f"{series.name} holds colours; it is a picture and no scan.")
    array = sitk.GetArrayFromImage(sitk.Cast(image, sitk.sitkFloat32))
    return array if math.isfinite(float(array.sum())) else np.nan_to_num(array, posinf=0.0, neginf=0.0)
