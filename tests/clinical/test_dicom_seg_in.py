"""Segments of a DICOM-SEG become masks; the objects are made by highdicom."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.clinical.dicom_seg import segment_masks
from autoseg.clinical.exam_labels import labels_in_output
from autoseg.clinical.exams import find_exams
from autoseg.clinical.label_objects import referenced_series, structures_of
from autoseg.clinical.transforms import PreparedCase, SpatialGrid, StoredSeries
from autoseg.utils.errors import AutosegError
from tests.dicom_series import SmallSeries, pydicom, write_series

highdicom = pytest.importorskip("highdicom")

SHAPE = (6, 10, 12)


@pytest.fixture
def scan(tmp_path: Path) -> tuple[list[Any], sitk.Image]:
    """The data sets in order of position, and the same as SimpleITK reads them."""
    files = write_series(tmp_path / "scan", np.zeros(SHAPE))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "scan")))
    return [pydicom.dcmread(path) for path in files], reader.Execute()


def write_segments(path: Path, scan: list[Any], array: np.ndarray, kind: str) -> Path:
    code = highdicom.sr.CodedConcept("49755003", "SCT", "Morphologically abnormal structure")
    descriptions = [
        highdicom.seg.SegmentDescription(n, name, code, code, "MANUAL") for n, name in enumerate(("core", "all"), 1)
    ]
    highdicom.seg.Segmentation(
        source_images=scan,
        pixel_array=array,
        segmentation_type=kind,
        segment_descriptions=descriptions,
        series_instance_uid=pydicom.uid.generate_uid(),
        series_number=9,
        sop_instance_uid=pydicom.uid.generate_uid(),
        instance_number=1,
        manufacturer="tests",
        manufacturer_model_name="tests",
        software_versions="1",
        device_serial_number="1",
    ).save_as(path)
    return path


def in_order_of(grid: sitk.Image, array: np.ndarray) -> np.ndarray:
    """Slices as written, in the order that the grid has them."""
    first = grid.TransformPhysicalPointToIndex(SmallSeries().point(0, 0, 0))[2]
    return array if first == 0 else array[::-1]


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL"])
def test_overlapping_segments(tmp_path: Path, scan: tuple[list[Any], sitk.Image], kind: str) -> None:
    datasets, grid = scan
    array = np.zeros((*SHAPE, 2), np.uint8 if kind == "BINARY" else np.float32)
    array[2:4, 3:6, 4:9, 0] = 1
    array[2:5, 2:8, 1:9, 1] = 1
    if kind == "FRACTIONAL":
        array[0, :, :, 1] = 0.4
        array[1, :2, :, 1] = 0.6
    path = write_segments(tmp_path / "seg.dcm", datasets, array, kind)
    assert referenced_series(path) == (SmallSeries().series,)
    masks = structures_of(path, grid)
    assert list(masks) == ["core", "all"]
    for number, mask in enumerate(masks.values()):
        assert np.array_equal(sitk.GetArrayFromImage(mask), in_order_of(grid, array[..., number] > 0.5))
        assert mask.GetOrigin() == grid.GetOrigin()


def test_a_label_map(tmp_path: Path, scan: tuple[list[Any], sitk.Image]) -> None:
    datasets, grid = scan
    array = np.zeros(SHAPE, np.uint8)
    array[1:4, 2:8, 2:9] = 2
    array[2:3, 3:6, 4:9] = 1
    masks = structures_of(write_segments(tmp_path / "seg.dcm", datasets, array, "LABELMAP"), grid)
    for name, value in (("core", 1), ("all", 2)):
        assert np.array_equal(sitk.GetArrayFromImage(masks[name]), in_order_of(grid, array == value))


def test_what_is_no_volume_is_refused(tmp_path: Path, scan: tuple[list[Any], sitk.Image]) -> None:
    datasets, grid = scan
    array = np.ones((*SHAPE, 2), np.uint8)
    path = write_segments(tmp_path / "seg.dcm", datasets, array, "BINARY")
    dataset = pydicom.dcmread(path)
    del dataset.SegmentSequence
    dataset.save_as(path)
    with pytest.raises(AutosegError, match=r"seg\.dcm can't be read as a DICOM-SEG"):
        structures_of(path, grid)


@pytest.mark.parametrize("frame", [SmallSeries().frame, "1.2.77.10"])
def test_segments_that_name_no_series_lie_in_their_frame_of_reference(
    tmp_path: Path, scan: tuple[list[Any], sitk.Image], frame: str
) -> None:
    array = np.zeros((*SHAPE, 2), np.uint8)
    array[2:4, 3:6, 4:9] = 1
    path = write_segments(tmp_path / "seg.dcm", scan[0], array, "BINARY")
    dataset = pydicom.dcmread(path)
    del dataset.ReferencedSeriesSequence
    dataset.FrameOfReferenceUID = frame
    dataset.save_as(path)
    (exam,) = find_exams(tmp_path)
    (series,) = exam.series
    grid = SpatialGrid.of(series.grid)
    stored = {series.name: StoredSeries(channel="t1c", grid=grid)}
    case = PreparedCase(case="P1", reference=series.name, output=grid, series=stored)
    if frame == SmallSeries().frame:
        assert list(labels_in_output([path], exam.series, case, "nearest").structures) == ["core", "all"]
        return
    with pytest.raises(AutosegError, match="drawn on a series whose way to its channels is unknown"):
        labels_in_output([path], exam.series, case, "nearest")


def without_spacing(path: Path) -> Any:
    """A DICOM-SEG as others write it, which leaves the distance of its slices to its frames."""
    dataset = pydicom.dcmread(path)
    del dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices
    dataset.save_as(path)
    return dataset


@pytest.mark.parametrize("drawn", [(1, 3, 5), (0, 2), (0, 2, 5), (2, 3), (3,)])
def test_slices_are_as_thick_as_those_of_the_series(
    tmp_path: Path, scan: tuple[list[Any], sitk.Image], drawn: tuple[int, ...]
) -> None:
    datasets, grid = scan
    array = np.zeros(SHAPE, np.uint8)
    array[list(drawn), 2:8, 2:9] = 1
    path = write_segments(tmp_path / "seg.dcm", datasets, array, "BINARY")
    without_spacing(path)
    mask = structures_of(path, grid)["core"]
    assert np.array_equal(sitk.GetArrayFromImage(mask), in_order_of(grid, array))


def test_a_single_slice_is_as_thick_as_it_says(tmp_path: Path, scan: tuple[list[Any], sitk.Image]) -> None:
    array = np.zeros(SHAPE, np.uint8)
    array[3, 2:8, 2:9] = 1
    path = write_segments(tmp_path / "seg.dcm", scan[0], array, "BINARY")
    dataset = without_spacing(path)
    assert segment_masks(dataset, path)["core"].GetSpacing()[2] == pytest.approx(5.0)
    dataset = pydicom.dcmread(path)
    del dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness
    with pytest.raises(AutosegError, match=r"seg\.dcm has one slice and does not say how thick that is"):
        segment_masks(dataset, path)
