"""Series measured more than once: a volume is one measurement of one kind of image, whatever was stopped or lost."""

from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")

from tests.clinical.test_exams import VOXELS, edited, every, fault, single, voxels_of  # noqa: E402


def without(folder: Path, *numbers: int) -> None:
    """Remove the slices with these numbers."""
    for path in list(folder.iterdir()):
        if int(pydicom.dcmread(path, stop_before_pixels=True).InstanceNumber) in numbers:
            path.unlink()


@pytest.mark.parametrize("lost", [(5, 6), (1,), (3, 4, 5, 6)])
def test_of_a_measurement_that_was_stopped_no_slice_is_taken(tmp_path: Path, lost: tuple[int, ...]) -> None:
    every(tmp_path, VOXELS, VOXELS + 1000, AcquisitionNumber=(1, 2))
    without(tmp_path / "0", *lost)
    (series,) = single(tmp_path).series
    assert series.fault == ""
    assert np.array_equal(voxels_of(series), VOXELS + 1000)
    assert series.remarks == ("it was measured 1 to 2 times; the first that is complete is taken",)


def test_two_stopped_measurements_make_no_volume(tmp_path: Path) -> None:
    every(tmp_path, VOXELS, VOXELS + 1000, AcquisitionNumber=(1, 2))
    without(tmp_path / "0", 6)
    without(tmp_path / "1", 1)
    assert "no measurement has all of its 6 slices" in fault(tmp_path)


def test_what_a_stopped_measurement_left_makes_no_volume_where_nothing_tells_it_apart(tmp_path: Path) -> None:
    every(tmp_path, VOXELS, VOXELS + 1000)
    without(tmp_path / "0", 5, 6)
    assert "no measurement has all of its 6 slices" in fault(tmp_path)


def test_acquisitions_that_are_parts_of_a_stack_make_one(tmp_path: Path) -> None:
    """Packages of every second slice, measured twice, the second time stopped; and a number for each slice."""
    for name, acquisition in (("packages", lambda n: n % 2), ("slices", lambda n: n)):
        every(tmp_path / name, VOXELS, VOXELS + 1000)
        for repetition in (0, 1):
            for path in (tmp_path / name / str(repetition)).iterdir():
                number = int(pydicom.dcmread(path).InstanceNumber)
                edited(path, AcquisitionNumber=acquisition(number) + 10 * repetition + 1)
        without(tmp_path / name / "1", 2)
        (series,) = single(tmp_path / name).series
        assert np.array_equal(voxels_of(series), VOXELS)
        assert series.remarks == ("it was measured 1 to 2 times; the first is taken",)


@pytest.mark.parametrize("lost", [3, 6])
def test_a_slice_that_one_kind_of_image_lacks_is_not_taken_from_another(tmp_path: Path, lost: int) -> None:
    kinds = ["ORIGINAL", "PRIMARY", "M", "WATER"], ["ORIGINAL", "PRIMARY", "M", "FAT"]
    every(tmp_path, VOXELS, VOXELS + 1000, ImageType=kinds)
    without(tmp_path / "0", lost)
    found = {series.facts.image_type[3]: series for series in single(tmp_path).series}
    assert np.array_equal(voxels_of(found["FAT"]), VOXELS + 1000)
    assert "it has 5 slices where other images of its series have 6" in found["WATER"].fault


def test_of_two_kinds_of_image_that_both_lack_a_slice_none_is_made(tmp_path: Path) -> None:
    every(tmp_path, VOXELS, VOXELS + 1000, ImageType=(["ORIGINAL", "M", "WATER"], ["ORIGINAL", "M", "FAT"]))
    without(tmp_path / "0", 6)
    without(tmp_path / "1", 1)
    assert "no measurement has all of its 6 slices" in fault(tmp_path)


def test_inversion_times_of_slices_hide_no_measurement_that_was_stopped(tmp_path: Path) -> None:
    every(tmp_path, VOXELS, VOXELS + 1000, AcquisitionNumber=(1, 2))
    for path in tmp_path.rglob("*.dcm"):
        edited(path, InversionTime=2000 + 50 * int(pydicom.dcmread(path).InstanceNumber))
    without(tmp_path / "0", 5, 6)
    (series,) = single(tmp_path).series
    assert np.array_equal(voxels_of(series), VOXELS + 1000)
