"""A DICOM series in a folder: its slices in order of position, checked, and its voxels.

SimpleITK reads headers and voxels; pydicom (extra ``clinical``) reads what it can't: other compressions, and the frames
of enhanced files, whose positions lie in nested sequences.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoseg.data.dicom import CLINICAL, functional_group, import_pydicom, is_dicom, planes_of
from autoseg.data.formats.format import UnusableImage
from autoseg.data.geometry import Geometry
from autoseg.utils.errors import AutosegError

if TYPE_CHECKING:
    import SimpleITK

#: Gaps between slices may differ by this part of their median: the rounding of positions and of the couch.
_UNEVEN = 0.02

#: Slices may be shifted in their plane by this part of the distance between them: 0.3 degrees of a tilted gantry.
_TILT = 0.005

#: Cosines of two slices' axes may differ by this: what rounding to four decimals does.
_TURNED = 1e-3

#: Modalities of objects with voxels that are no scans: segmentations and doses.
_NO_SCANS = ("SEG", "RTDOSE")

#: Name of the table of contents of a disk.
_CONTENTS = "DICOMDIR"

#: What to do with a series that is no regular stack.
_CONVERT = "Export the series again, or give the folder to 'autoseg prepare'."


@dataclass(frozen=True)
class SliceHead:
    """What a file's header says; one frame, or all frames of an enhanced file.

    Attributes:
        path: of the file.
        series: SeriesInstanceUID.
        study: StudyInstanceUID.
        description: SeriesDescription.
        modality: ``MR``, ``CT``, ….
        size: columns and rows.
        spacing: mm between columns and between rows.
        positions: ``(frame, xyz)`` of the first voxel's centre, mm; empty where the header has none.
        axes: direction cosines of a row, then of a column; empty where the header has none.
        thickness: SliceThickness or SpacingBetweenSlices, mm, for a single slice.
    """

    path: Path
    series: str
    study: str = ""
    description: str = ""
    modality: str = ""
    size: tuple[int, int] = (0, 0)
    spacing: tuple[float, float] = (1.0, 1.0)
    positions: tuple[tuple[float, float, float], ...] = ()
    axes: tuple[float, ...] = ()
    thickness: float = 1.0


@dataclass(frozen=True)
class Stack:
    """Slices of a series in order of position.

    Attributes:
        files: one a slice, or one with all frames.
        frames: of an enhanced file, the order of its frames; None for a file a slice.
        geometry: of the volume; slices along its third axis.
        head: of the first file.
    """

    files: tuple[Path, ...]
    frames: tuple[int, ...] | None
    geometry: Geometry
    head: SliceHead


def series_in(folder: Path) -> dict[str, list[SliceHead]]:
    """Scans in a folder (without subfolders): series instance UID → headers of its files, by name.

    Objects without voxels (structures, reports) are left out.

    Raises:
        UnusableImage: a file can't be read.
    """
    found: dict[str, list[SliceHead]] = {}
    for path in sorted(folder.iterdir()):
        if not path.name.startswith(".") and is_dicom(path) and (head := slice_head(path)) is not None:
            found.setdefault(head.series, []).append(head)
    return found


def slice_head(path: Path) -> SliceHead | None:
    """A DICOM file's header; None for an object without voxels, a segmentation or a disk's table of contents.

    Raises:
        UnusableImage: it can't be read, or is an enhanced file and pydicom is not installed.
    """
    import SimpleITK as sitk

    if path.name.upper() == _CONTENTS:
        return None
    sitk.ProcessObject.GlobalWarningDisplayOff()
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return _head_by_pydicom(path)
    tags = {key: reader.GetMetaData(key).strip(" \0") for key in reader.GetMetaDataKeys()}
    if tags.get("0008|0060") in _NO_SCANS:
        return None
    if reader.GetDimension() > 2 and reader.GetSize()[2] > 1:
        return _head_by_pydicom(path)
    return SliceHead(
        path=path,
        series=tags.get("0020|000e", ""),
        study=tags.get("0020|000d", ""),
        description=tags.get("0008|103e", ""),
        modality=tags.get("0008|0060", ""),
        size=(int(reader.GetSize()[0]), int(reader.GetSize()[1])),
        spacing=(float(reader.GetSpacing()[0]), float(reader.GetSpacing()[1])),
        positions=_triples(_numbers(tags.get("0020|0032", ""))),
        axes=_numbers(tags.get("0020|0037", "")),
        thickness=next(iter(_numbers(tags.get("0018|0088") or tags.get("0018|0050") or "")), 1.0),
    )


def stacked(heads: Sequence[SliceHead], folder: Path) -> Stack:
    """Order the slices of one series, and make sure that they are a regular stack.

    Args:
        heads: of all its files.
        folder: that they lie in, for messages.

    Raises:
        UnusableImage: slices are missing, doubled, unevenly spaced, tilted, or of several sizes or orientations.
    """
    first = heads[0]
    if len(heads) > 1 and any(len(head.positions) > 1 for head in heads):
        raise UnusableImage(folder, f"it holds {len(heads)} files of several frames each", _CONVERT)
    if any(head.size != first.size for head in heads):
        raise UnusableImage(folder, "the slices of its series have several sizes, as localizers have", _CONVERT)
    if not all(len(head.axes) == 6 and head.positions for head in heads):
        if len(heads) == 1:
            return Stack((first.path,), None, _unplaced(first), first)
        raise UnusableImage(folder, "its files do not say where their slices lie", _CONVERT)
    if any(np.abs(np.subtract(head.axes, first.axes)).max() > _TURNED for head in heads):
        raise UnusableImage(folder, "the slices of its series lie in several directions, as localizers do", _CONVERT)
    row, column = np.asarray(first.axes[:3]), np.asarray(first.axes[3:])
    normal = np.cross(row, column)
    whose = [head for head in heads for _ in head.positions]
    positions = np.array([position for head in heads for position in head.positions])
    order = np.argsort(positions @ normal, kind="stable")
    positions, names = positions[order], [whose[index].path.name for index in order]
    between = first.thickness
    if len(order) > 1:
        between = _even_gap(positions, names, normal, folder)
    geometry = Geometry(
        (*first.size, len(order)),
        (*first.spacing, between),
        tuple(float(v) for v in positions[0]),
        tuple(float(v) for v in np.stack([row, column, normal], axis=1).ravel()),
    )
    if len(heads) == 1 and len(order) > 1:
        return Stack((first.path,), tuple(int(index) for index in order), geometry, first)
    return Stack(tuple(whose[index].path for index in order), None, geometry, first)


def read_stack(stack: Stack) -> "SimpleITK.Image":
    """The voxels of a series with rescale slope and intercept applied, its slices in the stack's order.

    Raises:
        UnusableImage: a file is damaged, or is compressed in a way that needs the extra ``clinical``.
    """
    import SimpleITK as sitk

    image = None
    if stack.frames is None:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames([str(path) for path in stack.files])
        try:
            image = reader.Execute()
        except RuntimeError:
            image = None
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
        head = slice_head(path)
        if head is None:
            raise UnusableImage(path, "it is DICOM without voxels", "Give a scan.")
        return stacked([head], path)
    series = series_in(path)
    if not series:
        raise UnusableImage(path, "it holds no DICOM files with voxels", "Give the folder of a scan.")
    if len(series) > 1:
        counts = " and ".join(str(len(heads)) for heads in series.values())
        remedy = "Give each series a folder of its own, or the whole exam to 'autoseg prepare'."
        raise UnusableImage(path, f"it holds {len(series)} DICOM series (of {counts} files)", remedy)
    (heads,) = series.values()
    return stacked(heads, path)


def _even_gap(positions: np.ndarray, names: Sequence[str], normal: np.ndarray, folder: Path) -> float:
    """The distance between slices, in mm."""
    steps = np.diff(positions, axis=0)
    gaps = steps @ normal
    usual = float(np.median(gaps))
    doubled = np.flatnonzero(gaps <= _UNEVEN * usual) if usual > 0 else np.arange(len(gaps))
    if doubled.size:
        one, two = names[doubled[0]], names[doubled[0] + 1]
        which = f"{one} and {two} among them" if one != two else f"frames of {one}"
        raise UnusableImage(folder, f"several slices of its series lie at one place ({which})", _CONVERT)
    odd = np.flatnonzero(np.abs(gaps - usual) > _UNEVEN * usual)
    if odd.size:
        times = gaps[odd[0]] / usual
        where = f"between {names[odd[0]]} and {names[odd[0] + 1]}"
        what = f"its slices are {usual:.4g} mm apart, but {gaps[odd[0]]:.4g} mm {where}"
        if times > 1.5 and abs(times - round(times)) < 2 * _UNEVEN * times:
            missing = round(times) - 1
            what = f"{missing} slice{'s are' if missing > 1 else ' is'} missing {where}"
        raise UnusableImage(folder, what, _CONVERT)
    shift = float(np.linalg.norm(steps - np.outer(gaps, normal), axis=1).max())
    if shift > _TILT * usual + 1e-3:
        what = f"its slices are shifted by {shift:.3g} mm from one to the next, as by a tilted gantry"
        raise UnusableImage(folder, what, _CONVERT)
    return float(gaps.mean())


def _unplaced(head: SliceHead) -> Geometry:
    """Of a picture without a place in space, as a radiograph."""
    return Geometry((*head.size, 1), (*head.spacing, head.thickness), (0.0,) * 3, tuple(np.eye(3).ravel().tolist()))


def _head_by_pydicom(path: Path) -> SliceHead | None:
    damaged = UnusableImage(path, "it is incomplete or damaged", "Copy or export it again.")
    try:
        pydicom = import_pydicom()
    except AutosegError:
        what = "SimpleITK can't read its slices"
        raise UnusableImage(path, what, f"Copy it again, or install pydicom with {CLINICAL}.") from None
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        if "Rows" not in dataset:
            if "SOPClassUID" not in dataset:
                raise damaged
            if dataset.get("Modality", "") in ("MR", "CT", "PT"):
                raise damaged
            return None
        return _head_of(dataset, path)
    except (pydicom.errors.InvalidDicomError, OSError, ValueError, EOFError, AttributeError, TypeError):
        raise damaged from None


def _head_of(dataset: Any, path: Path) -> SliceHead | None:
    if dataset.get("Modality") in _NO_SCANS:
        return None
    head = SliceHead(
        path=path,
        series=str(dataset.get("SeriesInstanceUID", "")),
        study=str(dataset.get("StudyInstanceUID", "")),
        description=str(dataset.get("SeriesDescription", "")),
        modality=str(dataset.get("Modality", "")),
        size=(int(dataset.Columns), int(dataset.Rows)),
    )
    frames = dataset.get("PerFrameFunctionalGroupsSequence")
    if not frames:
        return _placed(head, dataset, dataset, [dataset])
    measures = functional_group(dataset, 0, "PixelMeasuresSequence")
    orientation = functional_group(dataset, 0, "PlaneOrientationSequence")
    places = [functional_group(dataset, number, "PlanePositionSequence") for number in range(len(frames))]
    return _placed(head, measures, orientation, places)


def _placed(head: SliceHead, measures: Any, orientation: Any, places: Sequence[Any]) -> SliceHead:
    rows, columns = (float(v) for v in measures.get("PixelSpacing") or (1.0, 1.0))
    positions = [v for place in places for v in place.get("ImagePositionPatient") or ()]
    between = measures.get("SpacingBetweenSlices") or measures.get("SliceThickness") or 1.0
    return replace(
        head,
        spacing=(columns, rows),
        positions=_triples([float(v) for v in positions]),
        axes=tuple(float(v) for v in orientation.get("ImageOrientationPatient") or ()),
        thickness=float(between),
    )


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


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split("\\")) if text else ()
    except ValueError:
        return ()


def _triples(values: Sequence[float]) -> tuple[tuple[float, float, float], ...]:
    whole = len(values) // 3 * 3
    return tuple((values[at], values[at + 1], values[at + 2]) for at in range(0, whole, 3))


def _times(size: Sequence[int]) -> str:
    return "×".join(map(str, size))
