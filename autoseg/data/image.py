"""Image: an array with its place in space; reading, writing, reorienting (SimpleITK).

Arrays are ``(channel, z, y, x)`` in the closest axis-aligned LPS orientation, whatever the file's own order of axes,
so that a network never sees one case flipped against another. Writing puts an array back into the order, flips
and exact geometry of the file it came from. Two-dimensional images keep their orientation and get ``z = 1``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from autoseg.utils.errors import AutosegError
from autoseg.utils.files import atomic

#: Spacing in mm given to the missing axis of a two-dimensional image.
FLAT_SPACING = 1.0

#: Headers whose voxels lie in a second file.
_TWO_FILE_FORMATS = (".mhd", ".nhdr", ".hdr")

#: File formats that can't hold a label map, or not in one file.
_UNFIT_FORMATS = (".jpg", ".jpeg", *_TWO_FILE_FORMATS)


@dataclass(frozen=True)
class Geometry:
    """Where a file's voxels lie, as the file says it (SimpleITK's x, y, z order; mm)."""

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    @property
    def dimension(self) -> int:
        """2 for a flat image, 3 for a volume."""
        return len(self.size)

    @property
    def orientation(self) -> str:
        """The closest axis-aligned orientation as three letters (``LPS``), or ``""`` for a flat image."""
        if self.dimension != 3:
            return ""
        return str(sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(self.direction))

    @property
    def oblique_degrees(self) -> float:
        """The largest angle between an image axis and the closest axis of space, in degrees."""
        matrix = np.abs(np.asarray(self.direction).reshape(self.dimension, self.dimension))
        cosines = np.clip(matrix.max(axis=0), 0.0, 1.0)
        return float(np.degrees(np.arccos(cosines)).max())

    def to_json(self) -> dict[str, list[float]]:
        """Plain lists, for a JSON file."""
        return {
            "size": list(self.size),
            "spacing": list(self.spacing),
            "origin": list(self.origin),
            "direction": list(self.direction),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Geometry":
        """The inverse of :meth:`to_json`."""
        return cls(
            tuple(int(n) for n in data["size"]),
            tuple(data["spacing"]),
            tuple(data["origin"]),
            tuple(data["direction"]),
        )

    def differs_from(self, other: "Geometry", tolerance: float = 1e-3) -> str | None:
        """Say in words how two geometries differ, or None where they agree within ``tolerance`` voxels.

        Sizes must be equal, spacings within a thousandth, directions within a thousandth of a cosine, and origins
        within a hundredth of the largest voxel side or ``tolerance`` of it, whichever is more.
        """
        if self.size != other.size:
            return f"size {'×'.join(map(str, self.size))} instead of {'×'.join(map(str, other.size))}"
        if not np.allclose(self.spacing, other.spacing, rtol=1e-3, atol=1e-4):
            return f"spacing {_mm(self.spacing)} instead of {_mm(other.spacing)}"
        if not np.allclose(self.direction, other.direction, atol=max(tolerance, 1e-3)):
            return "another orientation of the axes"
        distance = np.abs(np.subtract(self.origin, other.origin)).max()
        if distance > max(tolerance, 1e-2) * max(self.spacing):
            return f"origin {distance:.3g} mm away"
        return None


@dataclass(frozen=True)
class Image:
    """Voxels in canonical (LPS) order and the geometry of the file they came from.

    Attributes:
        array: ``(channel, z, y, x)``.
        spacing: mm per voxel in array order ``(z, y, x)``.
        geometry: the file's own geometry, needed to write a result beside it.
    """

    array: np.ndarray
    spacing: tuple[float, float, float]
    geometry: Geometry


def _mm(values: Sequence[float]) -> str:
    return "×".join(f"{v:.4g}" for v in values) + " mm"


def _geometry(image: Any, dimension: int) -> Geometry:
    direction = np.asarray(image.GetDirection()).reshape(image.GetDimension(), -1)[:dimension, :dimension]
    return Geometry(
        tuple(int(n) for n in image.GetSize()[:dimension]),
        tuple(float(v) for v in image.GetSpacing()[:dimension]),
        tuple(float(v) for v in image.GetOrigin()[:dimension]),
        tuple(float(v) for v in direction.reshape(-1)),
    )


def read_geometry(path: str | Path) -> tuple[Geometry, int, str]:
    """Read a file's header only.

    Returns:
        The geometry (2D or 3D), the number of channels in the file (a 4D file's last axis or its vector
        components) and the voxel type in words (``"32-bit float"``).

    Raises:
        AutosegError: the file is missing, is not an image, or has a shape we can't use.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(path, error) from None
    dimension = reader.GetDimension()
    if dimension not in (2, 3, 4):
        raise AutosegError(f"{path} has {dimension} dimensions; autoseg reads 2D, 3D and 4D (channels last) images.")
    components = reader.GetNumberOfComponents()
    if dimension == 4:
        components *= reader.GetSize()[3]
    return _geometry(reader, min(dimension, 3)), components, sitk.GetPixelIDValueAsString(reader.GetPixelID())


def _unreadable(path: str | Path, error: Exception) -> AutosegError:
    if not Path(path).exists():
        return AutosegError(f"{path} does not exist.")
    reason = str(error).strip().splitlines()[-1].strip()
    return AutosegError(f"{path} can't be read as an image ({reason}); replace the file or take the case out.")


def read_image(path: str | Path) -> Image:
    """Read an image file of any format SimpleITK knows, all its channels, in canonical orientation.

    Raises:
        AutosegError: the file is missing or unreadable.
    """
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise _unreadable(path, error) from None
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


def to_sitk(array: np.ndarray, geometry: Geometry) -> sitk.Image:
    """Put one canonical ``(z, y, x)`` volume back into its file's order of axes and exact geometry.

    Raises:
        AutosegError: the array does not have the geometry's size.
    """
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
    """The direction cosines that a file of this geometry has after :func:`read_image` reoriented it."""
    reference = sitk.Image([2, 2, 2], sitk.sitkUInt8)
    reference.SetDirection(geometry.direction)
    return tuple(sitk.DICOMOrient(reference, "LPS").GetDirection())


def write_image(path: str | Path, array: np.ndarray, geometry: Geometry) -> None:
    """Write canonical voxels beside the file they came from, atomically.

    Args:
        path: its ending chooses the format (``.nii.gz``, ``.mha``, ``.nrrd``, ``.png``, …).
        array: ``(z, y, x)``, or ``(channel, z, y, x)`` for a file with several channels.
        geometry: of the original file.

    Raises:
        AutosegError: the format can't be written, or takes two files.
    """
    if Path(path).suffix.lower() in _TWO_FILE_FORMATS:
        # A header renamed into place would still name the temporary file's voxels.
        raise AutosegError(f"{path}: {Path(path).suffix} takes two files; choose a format of one, such as .nii.gz.")
    if array.ndim == 4:
        image = sitk.Compose([to_sitk(channel, geometry) for channel in array])
    else:
        image = to_sitk(array, geometry)
    suffix = "".join(Path(path).suffixes[-2:]) if str(path).endswith(".gz") else Path(path).suffix
    with atomic(path, suffix=suffix) as temporary:
        try:
            sitk.WriteImage(image, str(temporary), useCompression=True)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise AutosegError(f"{path} can't be written ({reason}); choose another folder or file ending.") from None


def result_ending(*wanted: str | None) -> str:
    """The first of these file endings that can hold a label map in one file; ``.nii.gz`` where none can.

    Of a scan's format and that of the training labels, say: a result comes in the former where it can.
    """
    for ending in wanted:
        if ending and ending.lower() not in _UNFIT_FORMATS:
            return ending.lower()
    return ".nii.gz"
