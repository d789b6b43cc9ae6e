"""Labels of an exam, taken along to the output space: a label map, or a mask a structure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from autoseg.clinical.label_objects import referenced_series, structures_of
from autoseg.clinical.series import Series
from autoseg.clinical.transforms import PreparedCase, SpatialGrid, inverse_of, resample_labels, transform_of
from autoseg.data.dicom import is_dicom
from autoseg.data.formats.simpleitk import to_sitk
from autoseg.data.image import read_image
from autoseg.data.label_maps import label_values
from autoseg.data.segments import segment_names
from autoseg.utils.errors import AutosegError
from autoseg.utils.progress import silenced


@dataclass(frozen=True)
class ExamLabels:
    """Labels on the output grid.

    Attributes:
        label: integers; None where the exam has no label map.
        names: of the map's values, where its file says them.
        structures: structure → mask (0, 1).
        lost: largest share of a file's labelled volume that the output lacks, cut off or too small for its voxels.
    """

    label: sitk.Image | None = None
    names: dict[int, str] = field(default_factory=dict)
    structures: dict[str, sitk.Image] = field(default_factory=dict)
    lost: float = 0.0


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
    if not maps:
        return ExamLabels(structures=images, lost=lost)
    image = read_image(maps[0])
    try:
        values = label_values(image)
    except ValueError as error:
        raise AutosegError(f"its label map is none: {error}") from None
    native = to_sitk(values, image.geometry)
    on = next((one for one in _by_reference(series, case) if one.grid.differs_from(image.geometry) is None), None)
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
    wanted = referenced_series(path)
    known = {one.identity.series: one for one in _by_reference(series, case)}
    on = next((known[uid] for uid in wanted if uid in known), None)
    if on is None and not wanted and len(known) == 1:
        on = next(iter(known.values()))
    if on is None:
        raise AutosegError(
            "its structures were drawn on a series whose way to its channels is unknown; --channel makes it one"
        )
    with silenced():  # what is said there names the file
        try:
            masks = structures_of(path, SpatialGrid.of(on.grid).empty())
        except AutosegError as error:
            raise AutosegError(str(error).replace(str(path), "its file of structures").rstrip(".")) from None
    return {name: _moved(mask, case, on.name, method) for name, mask in masks.items()}


class _Moved(NamedTuple):
    """Labels in the output space, and the share of their volume that the output lacks."""

    image: sitk.Image
    lost: float


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
