"""A DICOM series in a folder: its slices in order of position, checked, and its voxels.

SimpleITK reads headers and voxels; pydicom (extra ``clinical``) reads what it can't: other compressions, and the frames
of enhanced files, whose positions lie in nested sequences.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autoseg.data.dicom import CLINICAL, import_pydicom, may_be_dicom, planes_of, read_with_gdcm
from autoseg.data.dicom_headers import DicomHeader, headers_of_frames, read_dicom_header
from autoseg.data.dicom_stacks import ONE_DIRECTION, StackFault, grid_of, normal_of, placed_along, straight_grid
from autoseg.data.formats.format import UnusableImage, forbidden
from autoseg.data.geometry import Geometry
from autoseg.utils.errors import AutosegError

if TYPE_CHECKING:
    import SimpleITK

#: Modalities of objects with voxels that are no scans: segmentations and doses.
_NO_SCANS = ("SEG", "RTDOSE")

#: Name of the table of contents of a disk.
_CONTENTS = "DICOMDIR"

#: Axes of a picture without a place in space, as a radiograph.
_UPRIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

#: What to do with a series that is no regular stack.
_CONVERT = "Export the series again, or give the folder to 'autoseg prepare'."


@dataclass(frozen=True)
class Stack:
    """Slices of a series in order of position.

    Attributes:
        files: one a slice, or one with all frames.
        frames: of an enhanced file, the order of its frames; None for a file a slice.
        geometry: of the volume; slices along its third axis.
        scaled_alike: whether all slices have one slope and intercept.
    """

    files: tuple[Path, ...]
    frames: tuple[int, ...] | None
    geometry: Geometry
    scaled_alike: bool = True


def series_in(folder: Path) -> dict[str, list[DicomHeader]]:
    """Scans in a folder (without subfolders): series instance UID → headers of its files, by name.

    Objects without voxels (structures, reports) are left out.

    Raises:
        UnusableImage: a file can't be read.
    """
    found: dict[str, list[DicomHeader]] = {}
    for path in sorted(folder.iterdir()):
        if not path.name.startswith(".") and may_be_dicom(path) and (header := scan_header(path)) is not None:
            found.setdefault(header.text("SeriesInstanceUID"), []).append(header)
    return found


def scan_header(path: Path) -> DicomHeader | None:
    """A scan's header; None for an object without voxels, a segmentation or a disk's table of contents.

    Raises:
        UnusableImage: it can't be read, or is an enhanced file and pydicom is not installed.
    """
    if path.name.upper() == _CONTENTS:
        return None
    header = read_dicom_header(path)
    if header is not None and (not header.values or header.frames > 1):
        try:
            import_pydicom()
        except AutosegError:
            remedy = f"Copy it again, or install pydicom with {CLINICAL}."
            raise UnusableImage(path, "SimpleITK can't read its slices", remedy) from None
    if header is None and (error := forbidden(path)) is not None:
        raise error
    if header is None or header.is_cut_off or not (header.is_image or _is_whole(header)):
        raise UnusableImage(path, "it is incomplete or damaged", "Copy or export it again.")
    return None if not header.is_image or header.text("Modality") in _NO_SCANS else header


def stacked(headers: Sequence[DicomHeader], folder: Path) -> Stack:
    """Order the slices of one series, and make sure that they are a regular stack.

    Args:
        headers: of all its files.
        folder: that they lie in, for messages.

    Raises:
        UnusableImage: slices are missing, doubled, unevenly spaced, tilted, or of several sizes or orientations.
    """
    first = headers[0]
    if len(headers) > 1 and any(header.frames > 1 for header in headers):
        raise UnusableImage(folder, f"it holds {len(headers)} files of several frames each", _CONVERT)
    if first.frames > 1:
        try:
            headers = headers_of_frames(first)
        except AutosegError:
            raise UnusableImage(first.path, "it is incomplete or damaged", "Copy or export it again.") from None
    if any(header.size != first.size for header in headers):
        raise UnusableImage(folder, "the slices of its series have several sizes, as localizers have", _CONVERT)
    axes, spacing = headers[0].numbers("ImageOrientationPatient"), headers[0].pixel_spacing
    if any(header.pixel_spacing != spacing for header in headers) or (spacing is None and axes):
        raise UnusableImage(folder, "its headers give its pixels no size, or several", _CONVERT)
    positions = [header.numbers("ImagePositionPatient") for header in headers]
    if len(axes) != 6 or any(len(position) != 3 for position in positions):
        if len(headers) == 1:
            return Stack((first.path,), None, straight_grid((0, 0, 0), _UPRIGHT, first.size, _voxel(first), 1))
        raise UnusableImage(folder, "its files do not say where their slices lie", _CONVERT)
    for header in headers:
        own = header.numbers("ImageOrientationPatient")
        if len(own) != 6 or np.abs(np.subtract(own, axes)).max() > ONE_DIRECTION:
            what = "the slices of its series lie in several directions, as localizers do"
            raise UnusableImage(folder, what, _CONVERT)
    normal = normal_of(axes)
    if isinstance(normal, StackFault):
        raise UnusableImage(folder, *normal.sentences)
    placed = placed_along(np.asarray(positions), normal)
    ordered = [headers[index] for index in placed.order]
    names = [header.path.name if header.frame is None else f"frame {header.frame + 1}" for header in ordered]
    if placed.counts.max() > 1:
        doubled = int(np.flatnonzero(np.diff(placed.places) == 0)[0])
        which = f"{names[doubled]} and {names[doubled + 1]} among them"
        raise UnusableImage(folder, f"several slices of its series lie at one place ({which})", _CONVERT)
    if len(ordered) == 1:
        grid: Geometry | StackFault = straight_grid(positions[0], axes, first.size, _voxel(headers[0]), 1)
    else:
        grid = grid_of(np.asarray(positions)[placed.order], axes, first.size, spacing or (1.0, 1.0), names)
    if isinstance(grid, StackFault):
        raise UnusableImage(folder, *grid.sentences)
    frames = tuple(header.frame for header in ordered if header.frame is not None)
    files = (first.path,) if frames else tuple(header.path for header in ordered)
    return Stack(files, frames or None, grid, len({header.rescaling for header in ordered}) == 1)


def read_stack(stack: Stack) -> "SimpleITK.Image":
    """The voxels of a series with rescale slope and intercept applied, its slices in the stack's order.

    Raises:
        UnusableImage: a file is damaged, or is compressed in a way that needs the extra ``clinical``.
    """
    import SimpleITK as sitk

    image = None if stack.frames is not None else read_with_gdcm(stack.files, not stack.scaled_alike)
    if image is None:
        image = sitk.GetImageFromArray(_voxels_by_pydicom(stack))
    if image.GetSize() != stack.geometry.size:
        what = f"it holds {_times(image.GetSize())} voxels, and its headers say {_times(stack.geometry.size)}"
        raise UnusableImage(stack.files[0].parent, what, _CONVERT)
    image.SetSpacing(stack.geometry.spacing)
    image.SetOrigin(stack.geometry.origin)
    image.SetDirection(stack.geometry.direction)
    return image


def stack_at(path: Path) -> Stack:
    """The series in a folder, or in one file with all its frames.

    Raises:
        UnusableImage: there is none, or several, or it is no regular stack.
    """
    if not path.is_dir():
        header = scan_header(path)
        if header is None:
            raise UnusableImage(path, "it is DICOM without voxels", "Give a scan.")
        return stacked([header], path)
    series = series_in(path)
    if not series:
        raise UnusableImage(path, "it holds no DICOM files with voxels", "Give the folder of a scan.")
    if len(series) > 1:
        counts = " and ".join(str(len(headers)) for headers in series.values())
        remedy = "Give each series a folder of its own, or the whole exam to 'autoseg prepare'."
        raise UnusableImage(path, f"it holds {len(series)} DICOM series (of {counts} files)", remedy)
    (headers,) = series.values()
    return stacked(headers, path)


def _voxel(header: DicomHeader) -> tuple[float, float, float]:
    """Mm of a single slice's voxel."""
    between = header.number("SpacingBetweenSlices") or header.number("SliceThickness") or 1.0
    return (*(header.pixel_spacing or (1.0, 1.0)), abs(between))


def _is_whole(header: DicomHeader) -> bool:
    """Whether a file without voxels is one that has none, and was not cut off before them."""
    return bool(header.text("SOPClassUID")) and header.text("Modality") not in ("MR", "CT", "PT")


def _voxels_by_pydicom(stack: Stack) -> np.ndarray:
    """``(slice, row, column)``."""
    try:
        pydicom = import_pydicom()
    except AutosegError:
        what = "SimpleITK can't read its voxels"
        raise UnusableImage(
            stack.files[0].parent, what, f"Copy it again, or install pydicom with {CLINICAL}."
        ) from None
    planes = []
    for path in stack.files:
        try:
            planes += planes_of(path, stack.frames)
        except (pydicom.errors.InvalidDicomError, OSError, ValueError, EOFError, AttributeError, RuntimeError) as error:
            if "plugin" in str(error) or "missing" in str(error).lower():
                what = "its compression needs further libraries"
                raise UnusableImage(path, what, f"Install them with {CLINICAL}.") from None
            raise UnusableImage(path, "it is incomplete or damaged", "Copy or export it again.") from None
    return np.stack(planes)


def _times(size: Sequence[int]) -> str:
    return "×".join(map(str, size))
