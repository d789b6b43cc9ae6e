"""Structures go to the series that they were drawn on, among several that a file refers to."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.clinical.exam_labels import ExamLabels, labels_in_output
from autoseg.clinical.exams import find_exams
from autoseg.clinical.transforms import PreparedCase, SpatialGrid, StoredSeries
from autoseg.utils.errors import AutosegError
from tests.dicom_series import SmallSeries, pydicom, write_rtstruct, write_series

#: Series on one corner, the coarse one's slices in every fifth plane of the fine one's, whose UID comes first.
COARSE = SmallSeries(pixel=(1.0, 1.0), series="1.2.9", frame="1.2.77.9")
FINE = SmallSeries(pixel=(1.0, 1.0), series="1.2.1", between_slices=1.0, frame="1.2.77.1")
SQUARE = np.array([(2.5, 2.5), (9.5, 2.5), (9.5, 9.5), (2.5, 9.5)])

Change = Callable[[Any], Any]


def item(**values: Any) -> Any:
    made = pydicom.Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def images(series: SmallSeries, numbers: range) -> list[Any]:
    return [item(ReferencedSOPInstanceUID=f"{series.series}.{number + 1}") for number in numbers]


def refer_to(dataset: Any, *series: SmallSeries) -> list[Any]:
    """Let a file refer to series, each in its frame of reference; return the items of the series."""
    items = [item(SeriesInstanceUID=one.series) for one in series]
    dataset.ReferencedFrameOfReferenceSequence = [
        item(FrameOfReferenceUID=one.frame, RTReferencedStudySequence=[item(RTReferencedSeriesSequence=[listed])])
        for one, listed in zip(series, items, strict=True)
    ]
    return items


def name_slices(dataset: Any) -> None:
    for number, contour in enumerate(dataset.ROIContourSequence[0].ContourSequence, start=1):
        contour.ContourImageSequence = images(COARSE, range(number, number + 1))


def by_listed_slices(dataset: Any) -> None:
    fine, coarse = refer_to(dataset, FINE, COARSE)
    fine.ContourImageSequence, coarse.ContourImageSequence = images(FINE, range(16)), images(COARSE, range(4))
    name_slices(dataset)


def by_slices(dataset: Any) -> None:
    refer_to(dataset, FINE, COARSE)
    name_slices(dataset)


def by_frame(dataset: Any) -> None:
    refer_to(dataset, FINE, COARSE)
    dataset.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = COARSE.frame


def by_slices_alone(dataset: Any) -> None:
    del dataset.ReferencedFrameOfReferenceSequence
    name_slices(dataset)


def of_other_slices(dataset: Any) -> None:
    del dataset.ReferencedFrameOfReferenceSequence
    for contour in dataset.ROIContourSequence[0].ContourSequence:
        contour.ContourImageSequence = [item(ReferencedSOPInstanceUID="1.2.10.1")]


def of_another_frame(dataset: Any) -> None:
    del dataset.ReferencedFrameOfReferenceSequence
    dataset.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "1.2.77.10"


def of_a_file_in_another_frame(dataset: Any) -> None:
    dataset.ReferencedFrameOfReferenceSequence = [item(FrameOfReferenceUID="1.2.77.10")]


def by_frame_alone(dataset: Any) -> None:
    dataset.ReferencedFrameOfReferenceSequence = [item(FrameOfReferenceUID=COARSE.frame)]


def by_nothing(dataset: Any) -> None:
    del dataset.ReferencedFrameOfReferenceSequence


def taken_along(
    folder: Path, change: Change, names: tuple[str, ...] = ("tumor",), scans: tuple[SmallSeries, ...] = (FINE, COARSE)
) -> ExamLabels:
    """Structures in the three last slices of the coarse series, in an output space that is its grid."""
    for series in scans:
        write_series(folder / series.series, np.zeros((16 if series is FINE else 4, 14, 14)), series)
    drawn = [("CLOSED_PLANAR", np.array([COARSE.point(x, y, n) for x, y in SQUARE])) for n in (1, 2, 3)]
    path = write_rtstruct(folder / "rs.dcm", dict.fromkeys(names, drawn))
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)
    (exam,) = find_exams(folder)
    found = {series.identity.series: series for series in exam.series}
    stored = {series.name: StoredSeries(channel=uid, grid=SpatialGrid.of(series.grid)) for uid, series in found.items()}
    output = SpatialGrid.of(found[COARSE.series].grid)
    case = PreparedCase(case="P1", reference=found[scans[0].series].name, output=output, series=stored)
    return labels_in_output([path], exam.series, case, "nearest")


def volume(labels: ExamLabels, name: str = "tumor") -> list[int]:
    """Voxels in each slice of the coarse series."""
    return [int(plane.sum()) for plane in sitk.GetArrayViewFromImage(labels.structures[name])]


@pytest.mark.parametrize("change", [by_listed_slices, by_slices, by_frame, by_slices_alone])
def test_contours_are_filled_on_the_series_that_they_name(tmp_path: Path, change: Change) -> None:
    found = taken_along(tmp_path, change)
    assert volume(found) == [0, 49, 49, 49]
    assert (found.doubts, found.lost) == ((), 0.0)


def test_structures_of_one_file_go_to_a_series_each(tmp_path: Path) -> None:
    def change(dataset: Any) -> None:
        by_frame(dataset)
        dataset.StructureSetROISequence[1].ReferencedFrameOfReferenceUID = FINE.frame

    found = taken_along(tmp_path, change, ("tumor", "edema"))
    assert list(found.structures) == ["tumor", "edema"]
    assert volume(found, "tumor") == [0, 49, 49, 49]
    assert [doubt.split(" has ")[0] for doubt in found.doubts] == ["edema"]


def test_contours_that_may_be_of_several_series_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AutosegError, match=r"tumor refers to series 1\.\d and series 1\.\d, which lie on"):
        taken_along(tmp_path, lambda dataset: refer_to(dataset, FINE, COARSE))


def test_contours_on_a_series_that_is_not_there_are_refused(tmp_path: Path) -> None:
    def change(dataset: Any) -> None:
        by_listed_slices(dataset)
        listed = dataset.ReferencedFrameOfReferenceSequence[1].RTReferencedStudySequence[0]
        listed.RTReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.10"

    with pytest.raises(AutosegError, match="drawn on a series whose way to its channels is unknown"):
        taken_along(tmp_path, change)


@pytest.mark.parametrize("change", [of_other_slices, of_another_frame, of_a_file_in_another_frame])
def test_contours_of_another_scan_are_not_filled_on_the_only_series(tmp_path: Path, change: Change) -> None:
    """Though the file lists no series: it names other slices, or another frame of reference."""
    with pytest.raises(AutosegError, match="drawn on a series whose way to its channels is unknown"):
        taken_along(tmp_path, change, scans=(COARSE,))


@pytest.mark.parametrize("change", [by_slices_alone, by_frame_alone, by_nothing])
def test_contours_without_a_series_are_filled_on_the_only_one(tmp_path: Path, change: Change) -> None:
    assert volume(taken_along(tmp_path, change, scans=(COARSE,))) == [0, 49, 49, 49]


def test_contours_of_thicker_slices_than_the_series_that_they_name_are_flagged(tmp_path: Path) -> None:
    found = taken_along(tmp_path, lambda dataset: refer_to(dataset, FINE))
    (doubt,) = found.doubts
    assert "tumor has contours in one of 5 slices of series 1." in doubt


def test_of_two_volumes_of_one_series_the_channel_is_taken(tmp_path: Path) -> None:
    """An echo on another grid is no channel, and comes last."""
    files = write_series(tmp_path / "a", np.zeros((4, 14, 14)), COARSE)
    fine = write_series(tmp_path / "b", np.zeros((16, 14, 14)), FINE)
    for path in fine:
        dataset = pydicom.dcmread(path)
        dataset.SeriesInstanceUID, dataset.EchoNumbers = COARSE.series, 2
        dataset.save_as(path)
    drawn = [("CLOSED_PLANAR", np.array([COARSE.point(x, y, n) for x, y in SQUARE])) for n in (1, 2, 3)]
    path = write_rtstruct(tmp_path / "rs.dcm", {"tumor": drawn}, COARSE)
    (exam,) = find_exams(tmp_path)
    coarse, other = sorted(exam.series, key=lambda series: len(series.files))
    assert (len(coarse.files), len(other.files)) == (len(files), len(fine))
    stored = {
        coarse.name: StoredSeries(channel="flair", grid=SpatialGrid.of(coarse.grid)),
        other.name: StoredSeries(grid=SpatialGrid.of(other.grid)),
    }
    output = SpatialGrid.of(coarse.grid)
    case = PreparedCase(case="P1", reference=coarse.name, output=output, series=stored)
    found = labels_in_output([path], exam.series, case, "nearest")
    assert volume(found) == [0, 49, 49, 49]
    assert found.doubts == ()
