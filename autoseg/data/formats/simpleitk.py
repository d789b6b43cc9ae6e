"""Common formats that SimpleITK reads and writes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoseg.data.formats.format import FORMATS, ImageFormat
from autoseg.data.geometry import Geometry, Header, Image
from autoseg.utils.errors import AutosegError

if TYPE_CHECKING:
    import SimpleITK

# SimpleITK is imported where it is used: its import takes longer than most commands' own. Its warnings are lines
# without a file's name and a way out; what they are about is checked here (:mod:`autoseg.data.nifti_forms`).

#: Spacing in mm given to the missing axis of a two-dimensional image.
FLAT_SPACING = 1.0


def _geometry(image: Any, dimension: int) -> Geometry:
    direction = np.asarray(image.GetDirection()).reshape(image.GetDimension(), -1)[:dimension, :dimension]
    return Geometry(
        tuple(int(n) for n in image.GetSize()[:dimension]),
        tuple(float(v) for v in image.GetSpacing()[:dimension]),
        tuple(float(v) for v in image.GetOrigin()[:dimension]),
        tuple(float(v) for v in direction.reshape(-1)),
    )


def read_header_with_sitk(path: Path) -> Header:
    """Read a file's header with SimpleITK."""
    import SimpleITK as sitk

    sitk.ProcessObject.GlobalWarningDisplayOff()
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    dimension = reader.GetDimension()
    if dimension not in (2, 3, 4):
        raise AutosegError(f"{path} has {dimension} dimensions; autoseg reads 2D, 3D and 4D (channels last) images.")
    components = reader.GetNumberOfComponents()
    if dimension == 4:
        components *= reader.GetSize()[3]
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    return Header(_geometry(reader, min(dimension, 3)), components, kind)


def read_with_sitk(path: Path) -> Image:
    """Read all channels of a file with SimpleITK, in canonical orientation."""
    import SimpleITK as sitk

    sitk.ProcessObject.GlobalWarningDisplayOff()
    return as_image(sitk.ReadImage(str(path)))


def as_image(image: "SimpleITK.Image") -> Image:
    """A file's image, as SimpleITK read it, in canonical orientation."""
    import SimpleITK as sitk

    dimension = image.GetDimension()
    if dimension == 4:
        volumes = [image[..., index] for index in range(image.GetSize()[3])]
    elif image.GetNumberOfComponentsPerPixel() > 1:
        volumes = [
            sitk.VectorIndexSelectionCast(image, index) for index in range(image.GetNumberOfComponentsPerPixel())
        ]
    else:
        volumes = [image]
    geometry = _geometry(volumes[0], volumes[0].GetDimension())
    if geometry.dimension == 3:
        volumes = [sitk.DICOMOrient(volume, "LPS") for volume in volumes]
        spacing = tuple(float(v) for v in reversed(volumes[0].GetSpacing()))
        array = np.stack([sitk.GetArrayFromImage(volume) for volume in volumes])
    else:
        spacing = (FLAT_SPACING, *(float(v) for v in reversed(volumes[0].GetSpacing())))
        array = np.stack([sitk.GetArrayFromImage(volume) for volume in volumes])[:, None]
    return Image(array, (spacing[0], spacing[1], spacing[2]), geometry)


def to_sitk(array: np.ndarray, geometry: Geometry) -> "SimpleITK.Image":
    """Put one canonical ``(z, y, x)`` volume back into its file's order of axes and exact geometry.

    Raises:
        AutosegError: the array does not have the geometry's size.
    """
    import SimpleITK as sitk

    if geometry.dimension == 2:
        image = sitk.GetImageFromArray(np.ascontiguousarray(array[0]))
    else:
        image = sitk.GetImageFromArray(np.ascontiguousarray(array))
        image.SetDirection(_canonical_direction(geometry))
        image = sitk.DICOMOrient(image, geometry.orientation)
    if tuple(image.GetSize()) != geometry.size:
        raise AutosegError(
            f"a result of {'×'.join(map(str, image.GetSize()))} voxels can't be written into the geometry of an image "
            f"of {'×'.join(map(str, geometry.size))} voxels."
        )
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    return image


def _canonical_direction(geometry: Geometry) -> tuple[float, ...]:
    """The direction cosines that a file of this geometry has after SimpleITK reoriented it to canonical axes (LPS)."""
    import SimpleITK as sitk

    reference = sitk.Image([2, 2, 2], sitk.sitkUInt8)
    reference.SetDirection(geometry.direction)
    return tuple(sitk.DICOMOrient(reference, "LPS").GetDirection())


def write_with_sitk(path: Path, array: np.ndarray, geometry: Geometry) -> None:
    """Write canonical voxels with SimpleITK, compressed where the format can."""
    import SimpleITK as sitk

    if array.ndim == 4:
        image = sitk.Compose([to_sitk(channel, geometry) for channel in array])
    else:
        image = to_sitk(array, geometry)
    sitk.WriteImage(image, str(path), useCompression=True)


def _format(*endings: str, flat: bool = False, fractions: bool = True, lossless: bool = True) -> ImageFormat:
    return ImageFormat(endings, read_header_with_sitk, read_with_sitk, write_with_sitk, flat, fractions, lossless)


#: A header that names the file of its voxels, in formats of that kind.
_TWO_FILES = ImageFormat(
    (".nhdr", ".mhd", ".hdr"), read_header_with_sitk, read_with_sitk, write_with_sitk, one_file=False
)

FORMATS.register("nrrd", _format(".nrrd"))
FORMATS.register("metaimage", _format(".mha"))
FORMATS.register("header", _TWO_FILES)
FORMATS.register("gipl", _format(".gipl"))
FORMATS.register("png", _format(".png", flat=True, fractions=False))
FORMATS.register("bmp", _format(".bmp", flat=True, fractions=False))
FORMATS.register("jpeg", _format(".jpeg", ".jpg", flat=True, fractions=False, lossless=False))

#: For files of other endings, which SimpleITK may know by their content.
ANY_OTHER = _format()
