"""Labels of an exam, taken along to the output space: a label map, or a mask a structure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from autoseg.clinical.label_objects import referenced_series, structure_origins, structures_of
from autoseg.clinical.rtstruct import ContourOrigin
from autoseg.clinical.series import Series
from autoseg.clinical.transforms import PreparedCase, SpatialGrid, inverse_of, resample_labels, transform_of
from autoseg.data.dicom import is_dicom
from autoseg.data.dicom_headers import read_dicom_header
from autoseg.data.formats.simpleitk import to_sitk
from autoseg.data.image import read_image
from autoseg.data.label_maps import label_values
from autoseg.data.segments import segment_names
from autoseg.utils.errors import AutosegError
from autoseg.utils.progress import silenced

_UNKNOWN = "its structures were drawn on a series whose way to its channels is unknown; --channel makes it one"


@dataclass(frozen=True)
class ExamLabels:
    """Labels on the output grid.

    Attributes:
        label: integers; None where the exam has no label map.
        names: of the map's values, where its file says them.
        structures: structure → mask (0, 1).
        lost: largest share of a file's labelled volume that the output lacks, cut off or too small for its voxels.
        doubts: about structures, in sentences without a stop.
    """

    label: sitk.Image | None = None
    names: dict[int, str] = field(default_factory=dict)
    structures: dict[str, sitk.Image] = field(default_factory=dict)
    lost: float = 0.0
    doubts: tuple[str, ...] = ()


def labels_in_output(files: Sequence[Path], series: Sequence[Series], case: PreparedCase, method: str) -> ExamLabels:
    """Bring an exam's labels to the output space, through the transform of the series that they were drawn on.

    Args:
        files: label maps, RTSTRUCT or DICOM-SEG.
        series: of the exam.
        case: grids and transforms; its series have the names of ``series``.
        method: ``linear`` (the largest interpolated mask) or ``nearest``.

    Raises:
        AutosegError: there are several label maps, or one lies on no series of the exam.
    """
    structures: dict[str, _Moved] = {}
    maps = [path for path in files if not is_dicom(path)]
    if maps and len(maps) < len(files):
        raise AutosegError(
            "it has a label map and DICOM files of structures, and a case has one kind; --labels PATTERN picks one"
        )
    if len(maps) > 1:
        raise AutosegError(f"{len(maps)} files of it look like label maps; --labels PATTERN picks one")
    for path in files:
        if is_dicom(path):
            found = _of_dicom(path, series, case, method)
            if again := sorted(set(found) & set(structures)):
                raise AutosegError(f"several of its files hold the structure {', '.join(again)}; keep one")
            structures |= found
    images = {name: moved.image for name, moved in structures.items()}
    lost = max((moved.lost for moved in structures.values()), default=0.0)
    doubts = tuple(moved.doubt for moved in structures.values() if moved.doubt)
    if not maps:
        return ExamLabels(structures=images, lost=lost, doubts=doubts)
    image = read_image(maps[0])
    try:
        values = label_values(image)
    except ValueError as error:
        raise AutosegError(f"its label map is none: {error}") from None
    native = to_sitk(values, image.geometry)
    on = next((one for one in _by_reference(series, case) if one.grid.same_voxels(image.geometry)), None)
    if on is None:
        raise AutosegError(
            "its label map lies on the grid of none of its series; resample it to the one that it was drawn on"
        )
    moved = _moved(native, case, on.name, method)
    return ExamLabels(moved.image, segment_names(maps[0]), images, max(lost, moved.lost))


def _by_reference(series: Sequence[Series], case: PreparedCase) -> list[Series]:
    """The series whose way to the output is known, the reference first, then the other channels."""
    known = [one for one in series if one.name in case.series]
    return sorted(known, key=lambda one: (one.name != case.reference, case.series[one.name].channel is None))


def _of_dicom(path: Path, series: Sequence[Series], case: PreparedCase, method: str) -> "dict[str, _Moved]":
    known = _by_reference(series, case)
    with silenced():  # what is said there names the file
        try:
            drawn = {name: _drawn_on(name, origin, known) for name, origin in structure_origins(path).items()}
            if not drawn:  # it holds voxels
                on = _segmented(ContourOrigin(frozenset(referenced_series(path)), frame=_frame_of(path)), known)
                masks = structures_of(path, SpatialGrid.of(on.grid).empty())
                return {name: _moved(mask, case, on.name, method) for name, mask in masks.items()}
            found = {}
            for on in {one.name: one for one in drawn.values()}.values():
                names = [name for name, one in drawn.items() if one.name == on.name]
                for name, mask in structures_of(path, SpatialGrid.of(on.grid).empty(), names).items():
                    found[name] = _moved(mask, case, on.name, method)._replace(doubt=_doubt_of(name, mask, on))
        except AutosegError as error:
            raise AutosegError(str(error).replace(str(path), "its file of structures").rstrip(".")) from None
    return {name: found[name] for name in drawn}


def _segmented(origin: ContourOrigin, known: Sequence[Series]) -> Series:
    """The series that a segmentation refers to; of one that refers to none, the only one in its frame of reference.

    Raises:
        AutosegError: its way to the output is unknown.
    """
    found = [one for uid in sorted(origin.series) for one in known if one.identity.series == uid]
    if not origin.series:
        found = [one for one in known if _may_be_of(one, origin)]
    if not found or (not origin.series and len({one.identity.series for one in found}) > 1):
        raise AutosegError(_UNKNOWN)
    return found[0]


def _drawn_on(name: str, origin: ContourOrigin, known: Sequence[Series]) -> Series:
    """The series that a structure's contours were drawn on.

    Of volumes of one series on several grids, as of two echoes, the reference or else a channel, where the contours do
    not say which of its slices they lie on.

    Raises:
        AutosegError: its way to the output is unknown, or it may be one of several on different grids.
    """
    found = [one for one in known if _may_be_of(one, origin)]
    if origin.series and origin.images and _on_several_grids(found):
        found = [one for one in found if origin.images & _images_of(one)] or found
    several = len({one.identity.series for one in found}) > 1
    if not found or (several and not origin.series):
        raise AutosegError(_UNKNOWN)
    if several and _on_several_grids(found):
        raise AutosegError(
            f"its structure {name} refers to {' and '.join(one.name for one in found)}, which lie on different grids; "
            "export it again with a reference to the one that it was drawn on"
        )
    return found[0]


def _may_be_of(series: Series, origin: ContourOrigin) -> bool:
    """Whether structures may have been drawn on a series: by its UID, else by its slices, else by the frame of both."""
    if origin.series:
        return series.identity.series in origin.series
    if origin.images and (own := _images_of(series)):
        return bool(origin.images & own)
    return not origin.frame or series.identity.frame in ("", origin.frame)


def _frame_of(path: Path) -> str:
    """UID of the frame of reference of a DICOM file; "" where it does not say."""
    header = read_dicom_header(path)
    return "" if header is None else header.text("FrameOfReferenceUID")


def _on_several_grids(series: Sequence[Series]) -> bool:
    return any(not series[0].shares_grid_with(one) for one in series[1:])


def _images_of(series: Series) -> set[str]:
    """SOP instance UIDs of its files."""
    headers = [read_dicom_header(path) for path in series.files] if series.dicom else []
    return {header.text("SOPInstanceUID") for header in headers if header is not None} - {""}


def _doubt_of(name: str, mask: sitk.Image, on: Series) -> str:
    """What is doubtful about a structure of three slices and more; nothing where two lie side by side."""
    drawn = np.flatnonzero(sitk.GetArrayViewFromImage(mask).any(axis=(1, 2)))
    apart = int(np.diff(drawn).min()) if len(drawn) > 2 else 1
    if apart < 2:
        return ""
    return (
        f"{name} has contours in one of {apart} slices of {on.name} at most, as if it were drawn on a series of "
        "thicker slices, and is empty between them"
    )


class _Moved(NamedTuple):
    """Labels in the output space, the share of their volume that the output lacks, and what is doubtful about them."""

    image: sitk.Image
    lost: float
    doubt: str = ""


def _moved(label: sitk.Image, case: PreparedCase, series: str, method: str) -> _Moved:
    to_series = transform_of(inverse_of(case.series[series].to_output))
    if method == "nearest":
        empty = case.output.empty(label.GetPixelID())
        found = sitk.Resample(label, empty, to_series, sitk.sitkNearestNeighbor, 0)
    else:
        found = resample_labels(label, case.output, to_series)
    before, after = (
        np.count_nonzero(sitk.GetArrayViewFromImage(image)) * float(np.prod(image.GetSpacing()))
        for image in (label, found)
    )
    return _Moved(found, max(0.0, 1 - after / before) if before else 0.0)


def label_names(exams: Sequence[ExamLabels]) -> dict[str, int]:
    """Names of the label values of a dataset, as the files say: name → value.

    Raises:
        AutosegError: two exams name a value differently, or two values alike.
    """
    names: dict[int, str] = {}
    for exam in exams:
        for value, name in exam.names.items():
            if names.setdefault(value, name).casefold() != name.casefold():
                raise AutosegError(f"the label value {value} is {names[value]} in one exam and {name} in another.")
    named = {name: value for value, name in sorted(names.items()) if value}
    if len(named) < len(set(names) - {0}):
        raise AutosegError("two label values have one name; rename a segment.")
    return named
