"""Exams found in folders: sorting, and every fault that DICOM exports come with, in series written with pydicom."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

pydicom = pytest.importorskip("pydicom")

from autoseg.clinical.exams import Exam, Patterns, find_exams  # noqa: E402
from autoseg.clinical.voxels import read_series, voxels_with_pydicom  # noqa: E402
from tests.dicom_series import OBLIQUE, SmallSeries, write_enhanced, write_rtstruct, write_series  # noqa: E402

VOXELS = np.arange(6 * 5 * 4).reshape(6, 5, 4)


def edited(path: Path, **values: Any) -> None:
    found = pydicom.dcmread(path)
    for key, value in values.items():
        setattr(found, key, value)
    found.save_as(path)


def single(folder: Path) -> Exam:
    (exam,) = find_exams(folder)
    return exam


def fault(folder: Path) -> str:
    (series,) = single(folder).series
    return series.fault


def by_position(files: list[Path]) -> list[Path]:
    return sorted(files, key=lambda path: int(pydicom.dcmread(path, stop_before_pixels=True).InstanceNumber))


def test_slices_are_sorted_by_position_whatever_their_names(tmp_path: Path) -> None:
    like = SmallSeries()
    write_series(tmp_path / "deep" / "down" / "x", VOXELS, like)
    (series,) = single(tmp_path).series
    image = read_series(series)
    assert series.fault == ""
    assert np.array_equal(sitk.GetArrayFromImage(image), VOXELS)
    assert image.GetSpacing() == pytest.approx((0.8, 1.5, 5.0))
    assert image.TransformIndexToPhysicalPoint((1, 2, 3)) == pytest.approx(like.point(1, 2, 3), abs=1e-3)
    assert (series.facts.repetition_time, series.facts.echo_time) == (500, 9)


def test_frames_of_an_enhanced_file(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "one.dcm", VOXELS, [3, 0, 5, 1, 2, 4])
    (series,) = single(tmp_path).series
    found = sitk.GetArrayFromImage(read_series(series))
    assert np.allclose(found, VOXELS * 3 + np.arange(6)[:, None, None])


def test_compressed_files(tmp_path: Path) -> None:
    for path in write_series(tmp_path, VOXELS):
        found = pydicom.dcmread(path)
        found.compress(pydicom.uid.RLELossless)
        found.save_as(path)
    (series,) = single(tmp_path).series
    assert series.fault == ""
    assert np.array_equal(sitk.GetArrayFromImage(read_series(series)), VOXELS)
    assert np.array_equal(voxels_with_pydicom(series), VOXELS)


def test_without_pydicom_plain_series_are_read(tmp_path: Path, monkeypatch) -> None:
    write_series(tmp_path, VOXELS)
    expected = single(tmp_path).series
    monkeypatch.setitem(sys.modules, "pydicom", None)
    (series,) = single(tmp_path).series
    assert (series.grid, series.facts) == (expected[0].grid, expected[0].facts)
    assert np.array_equal(sitk.GetArrayFromImage(read_series(series)), VOXELS)


def test_a_cut_off_file(tmp_path: Path) -> None:
    victim = by_position(write_series(tmp_path, VOXELS))[2]
    victim.write_bytes(victim.read_bytes()[:-10])
    assert "slice number 3 is cut off" in fault(tmp_path)


def test_a_file_cut_off_in_its_header(tmp_path: Path) -> None:
    victim = write_series(tmp_path, VOXELS)[2]
    victim.write_bytes(victim.read_bytes()[:200])
    exam = single(tmp_path)
    assert "1 DICOM file can't be read" in exam.fault or "cut off" in exam.series[0].fault


def test_a_missing_slice(tmp_path: Path) -> None:
    by_position(write_series(tmp_path, VOXELS))[2].unlink()
    assert "a slice is missing between its slices 2 and 3" in fault(tmp_path)


def test_copies_of_a_slice_are_left_out(tmp_path: Path) -> None:
    files = write_series(tmp_path, VOXELS)
    (tmp_path / "copy.dcm").write_bytes(files[1].read_bytes())
    (series,) = single(tmp_path).series
    assert series.fault == ""
    assert series.grid.size[2] == 6
    assert "copies" in series.remarks[0]


def test_duplicated_slices(tmp_path: Path) -> None:
    files = write_series(tmp_path, VOXELS)
    (tmp_path / "again.dcm").write_bytes(files[1].read_bytes())
    edited(tmp_path / "again.dcm", SOPInstanceUID="1.2.3.4")
    assert "1 of its positions have more than one slice" in fault(tmp_path)


def test_repetitions_give_the_first_volume(tmp_path: Path) -> None:
    write_series(tmp_path / "a", VOXELS)
    for number, path in enumerate(write_series(tmp_path / "b", VOXELS + 1)):
        edited(path, SOPInstanceUID=f"1.2.9.{number}", AcquisitionNumber=2)
    (series,) = single(tmp_path).series
    assert (series.fault, series.facts.repetitions, series.grid.size[2]) == ("", 2, 6)


def test_two_echoes_are_two_series(tmp_path: Path) -> None:
    write_series(tmp_path / "a", VOXELS)
    for number, path in enumerate(write_series(tmp_path / "b", VOXELS)):
        edited(path, SOPInstanceUID=f"1.2.9.{number}", EchoNumbers=2, EchoTime=90)
    assert sorted(series.facts.echo_time for series in single(tmp_path).series) == [9, 90]


def every(folder: Path, *volumes: np.ndarray, **values: tuple[object, ...]) -> None:
    """Volumes of one series at one place, with elements of their own."""
    for number, voxels in enumerate(volumes):
        for index, path in enumerate(write_series(folder / str(number), voxels)):
            own = {key: value[number] for key, value in values.items()}
            edited(path, SOPInstanceUID=f"1.2.9.{number}.{index}", **own)


def voxels_of(found: object) -> np.ndarray:
    return sitk.GetArrayFromImage(read_series(found))


@pytest.mark.parametrize(
    "values",
    [
        {"ImageType": (["ORIGINAL", "PRIMARY", "M", "FAT"], ["ORIGINAL", "PRIMARY", "M", "WATER"])},
        {"EchoTime": (9, 90)},  # without numbers of echoes
        {"InversionTime": (700, 2500)},
    ],
    ids=["Dixon", "echoes", "inversions"],
)
def test_images_of_two_kinds_at_one_place_are_two_series(tmp_path: Path, values: dict) -> None:
    every(tmp_path, VOXELS, VOXELS + 1000, **values)
    one, two = single(tmp_path).series
    assert (one.fault, two.fault, one.facts.repetitions) == ("", "", 1)
    assert np.array_equal(voxels_of(one), VOXELS)
    assert np.array_equal(voxels_of(two), VOXELS + 1000)


def test_repetitions_are_not_mixed_where_their_positions_are_rounded(tmp_path: Path) -> None:
    every(tmp_path, VOXELS, VOXELS + 1000, AcquisitionNumber=(2, 1))
    rng = np.random.default_rng(0)
    for path in (tmp_path / "0").iterdir():
        place = np.asarray(pydicom.dcmread(path).ImagePositionPatient, float) + rng.uniform(-3e-3, 3e-3, 3)
        edited(path, ImagePositionPatient=[f"{v:.5f}" for v in place])
    (series,) = single(tmp_path).series
    assert np.array_equal(voxels_of(series), VOXELS + 1000)


def test_a_series_over_time_is_one_and_no_channel(tmp_path: Path) -> None:
    times = tuple(range(1, 10))
    every(tmp_path, *([VOXELS] * 9), TemporalPositionIdentifier=times)
    next((tmp_path / "8").iterdir()).unlink()  # stopped in the middle
    (series,) = single(tmp_path).series
    assert (series.fault, series.facts.repetitions) == ("", 9)
    assert "8 to 9 times" in series.remarks[0]


def test_slices_that_share_one_uid_are_no_copies(tmp_path: Path) -> None:
    for path in write_series(tmp_path, VOXELS):
        edited(path, SOPInstanceUID="1.2.3")
    assert fault(tmp_path) == ""


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"ImageOrientationPatient": [0] * 6}, "no directions of rows and columns"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "no directions of rows and columns"),
        ({"ImagePositionPatient": ["nan", "0", "0"]}, "no position in space"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "it is a mosaic"),
        ({"SamplesPerPixel": 3}, "holds colours"),
        ({"PixelSpacing": [0, 0]}, "gives its pixels no size"),
    ],
)
def test_headers_that_give_no_volume(tmp_path: Path, values: dict, told: str) -> None:
    for path in write_series(tmp_path, VOXELS):
        edited(path, **values)
    assert told in fault(tmp_path)


def test_axes_that_differ_in_the_last_digits_are_one_plane(tmp_path: Path) -> None:
    """Two decimals would put 0.99499 and 0.99501 apart."""
    turn = np.array([0.995, np.sqrt(1 - 0.995**2), 0.0, -np.sqrt(1 - 0.995**2), 0.995, 0.0])
    for number, path in enumerate(write_series(tmp_path, VOXELS, replace(SmallSeries(), axes=turn))):
        edited(path, ImageOrientationPatient=[f"{v + (-1) ** number * 1e-5:.6f}" for v in turn])
    (series,) = single(tmp_path).series
    assert (series.fault, series.facts.planes) == ("", 1)


def test_every_slice_has_its_own_slope(tmp_path: Path) -> None:
    for path in write_series(tmp_path, VOXELS):
        number = int(pydicom.dcmread(path).InstanceNumber)
        edited(path, RescaleSlope=str(1 + 0.25 * (number - 1)), RescaleIntercept="0")
    (series,) = single(tmp_path).series
    expected = VOXELS * (1 + 0.25 * np.arange(6))[:, None, None]
    assert np.allclose(voxels_of(series), expected)
    assert np.allclose(voxels_with_pydicom(series), expected)


def test_a_slice_out_of_line(tmp_path: Path) -> None:
    like = SmallSeries()
    victim = by_position(write_series(tmp_path, VOXELS, like))[3]
    edited(victim, ImagePositionPatient=[f"{v:.6f}" for v in like.point(4, 0, 3)])
    assert "shifted in their plane, by up to 3.2 mm" in fault(tmp_path)


def test_frames_of_two_echoes_of_an_enhanced_file(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path / "one.dcm", np.concatenate([VOXELS, VOXELS + 500]), range(12))
    found = pydicom.dcmread(path)
    for number, group in enumerate(found.PerFrameFunctionalGroupsSequence):
        echo = pydicom.Dataset()
        echo.EffectiveEchoTime = 9.0 if number < 6 else 90.0
        group.MREchoSequence = [echo]
        group.PlanePositionSequence[0].ImagePositionPatient = [
            f"{v:.8g}" for v in SmallSeries().point(0, 0, number % 6)
        ]
        group.PixelValueTransformationSequence[0].RescaleIntercept = 0
    found.save_as(path)
    one, two = single(tmp_path).series
    assert (one.name, two.name) == ("series 1.1", "series 1.2")
    assert (one.facts.echo_time, two.facts.echo_time) == (9.0, 90.0)
    assert np.array_equal(voxels_of(one), VOXELS * 3)
    assert np.array_equal(voxels_of(two), (VOXELS + 500) * 3)


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((6, 5, 4), np.float32)), str(path))


def test_names_of_image_files_show_no_patient(tmp_path: Path) -> None:
    def shown(*names: str) -> list[str]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for name in names:
            write_image(folder / name)
        return [series.name for series in single(folder).series]

    assert shown("Doe_Jane.nii.gz") == ["scan"]
    assert shown("t1_Doe.nii.gz", "t2_Doe.nii.gz") == ["t1", "t2"]
    assert shown("Doe_Jane_t1.nii.gz", "FLAIR.nii.gz") == ["t1", "FLAIR"]
    assert shown("t1.mha", "t1.nii.gz", "t2_20200304.nii.gz") == ["t1", "t1.2", "t2"]


def test_folders_called_after_sequences_are_one_exam(tmp_path: Path) -> None:
    for number, name in enumerate(("T1", "T1_GD", "FLAIR")):
        write_image(tmp_path / "one" / name / "image.nii.gz")
        write_image(tmp_path / "cohort" / "p1" / name / "image.nii.gz")
        write_image(tmp_path / "visits" / "p1" / f"visit {number}" / "t1.nii.gz")
    assert sorted(series.name for series in single(tmp_path / "one").series) == ["FLAIR", "T1", "T1_GD"]
    assert len(single(tmp_path / "cohort").series) == 3
    assert len(find_exams(tmp_path / "visits")) == 3


def test_links_are_followed_once(tmp_path: Path) -> None:
    write_image(tmp_path / "archive" / "t1.nii.gz")
    (tmp_path / "exams").mkdir()
    (tmp_path / "exams" / "p1").symlink_to(tmp_path / "archive")
    (tmp_path / "archive" / "loop").symlink_to(tmp_path / "exams")
    assert [exam.folder.name for exam in find_exams(tmp_path / "exams")] == ["p1"]


def test_a_file_that_can_not_be_opened_is_a_fault_of_its_exam(tmp_path: Path, forbid) -> None:
    for name in ("a", "b"):
        like = replace(SmallSeries(), series=f"1.2.5.{ord(name)}", study=f"1.2.6.{ord(name)}")
        for path in write_series(tmp_path / name, VOXELS, like):
            edited(path, PatientID=name)
    forbid(path)
    assert [exam.fault for exam in find_exams(tmp_path)] == [
        "",
        "you may not read 1 DICOM file; ask for the right to",
    ]


def test_a_folder_that_may_not_be_entered_is_a_fault_of_its_exam(tmp_path: Path, lock, capsys) -> None:
    """Of the exam of a patient that has others, or of one that is all in it; its name is not in the fault."""
    for name in ("a", "b/first", "b/second", "c/Mueller"):
        write_image(tmp_path / name / "t1.nii.gz")
    (tmp_path / "a" / "dicom").mkdir()
    for locked in ("a/dicom", "c"):
        lock(tmp_path / locked)
    told = "you may not enter a folder of it; ask for the right to"
    assert [(exam.folder.relative_to(tmp_path).as_posix(), exam.fault) for exam in find_exams(tmp_path)] == [
        ("a", told),
        ("b/first", ""),
        ("b/second", ""),
        ("c", told),
    ]
    said = capsys.readouterr().err
    for locked in ("a/dicom", "c"):
        assert f"{tmp_path / locked}: you may not enter this folder" in said


def test_a_series_number_that_is_none_is_not_shown(tmp_path: Path) -> None:
    for path in write_series(tmp_path, VOXELS):
        found = pydicom.dcmread(path)
        found["SeriesNumber"]._value = "Doe"
        found.save_as(path)
    (series,) = single(tmp_path).series
    assert "Doe" not in series.name


def test_prepared_datasets_are_no_exams(tmp_path: Path) -> None:
    write_image(tmp_path / "exam" / "t1.nii.gz")
    write_image(tmp_path / "data" / "P0001_1" / "t1.nii.gz")
    (tmp_path / "data" / "preparation.json").write_text("{}")
    assert [exam.folder.name for exam in find_exams(tmp_path)] == ["exam"]


def test_anonymized_patients_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for number in (1, 2):
        like = replace(SmallSeries(), series=f"1.2.5.{number}", study=f"1.2.6.{number}")
        for path in write_series(tmp_path / f"p{number}", VOXELS, like):
            edited(path, PatientID="ANONYMOUS", PatientName="anonymized")
    assert len({exam.patient for exam in find_exams(tmp_path)}) == 2


@pytest.mark.parametrize("identifiers", [("A", "B", "C"), ("ANONYMOUS",) * 3], ids=["told", "anonymous"])
def test_an_exam_that_lies_in_two_folders_does_not_make_a_cohort_one_patient(
    tmp_path: Path, identifiers: tuple[str, ...]
) -> None:
    for number, identifier in enumerate(identifiers):
        study = min(number, 1)  # the second and the third folder hold one study
        like = replace(SmallSeries(), series=f"1.2.5.{study}", study=f"1.2.6.{study}")
        for path in write_series(tmp_path / f"p{number}" / "t1", VOXELS, like):
            edited(path, PatientID=identifier, PatientName="")
    exams = find_exams(tmp_path)
    assert [exam.folder.name for exam in exams] == ["p0", "p1", "p2"]
    assert [exam.fault for exam in exams] == ["", "", ""]
    assert len({exam.patient for exam in exams}) == 3


def test_folders_of_one_study_are_one_exam_whoever_it_is_of(tmp_path: Path) -> None:
    for number in (1, 2):
        for path in write_series(tmp_path / str(number), VOXELS, replace(SmallSeries(), series=f"1.2.5.{number}")):
            edited(path, PatientID="ANONYMOUS", PatientName="")
    like = SmallSeries(series="1.2.5.1")
    square = np.array([like.point(x, y, 2) for x, y in ((1, 1), (3, 1), (3, 3))])
    path = write_rtstruct(tmp_path / "labels" / "rs.dcm", {"a": [("CLOSED_PLANAR", square)]}, like)
    edited(path, PatientID="ANONYMOUS", PatientName="", StudyInstanceUID="1.2.6.9")
    exam = single(tmp_path)
    assert (len(exam.series), len(exam.labels)) == (2, 1)


def test_files_without_an_identifier_are_of_the_patient_that_the_others_name(tmp_path: Path) -> None:
    for number, path in enumerate(write_series(tmp_path, VOXELS)):
        edited(path, PatientID="ID-1" if number else "")
    assert single(tmp_path).fault == ""


def test_structures_in_a_study_of_their_own_go_to_the_exam_that_they_refer_to(tmp_path: Path) -> None:
    for number in (1, 2):
        like = replace(SmallSeries(), series=f"1.2.5.{number}", study=f"1.2.6.{number}")
        write_series(tmp_path / str(number), VOXELS, like)
    square = np.array([like.point(x, y, 2) for x, y in ((1, 1), (3, 1), (3, 3))])
    path = write_rtstruct(tmp_path / "rs.dcm", {"a": [("CLOSED_PLANAR", square)]}, like)
    edited(path, StudyInstanceUID="1.2.6.9")
    found = {exam.series[0].identity.series: len(exam.labels) for exam in find_exams(tmp_path)}
    assert found == {"1.2.5.1": 0, "1.2.5.2": 1}


def test_the_agent_of_an_enhanced_file_is_coded(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path / "one.dcm", VOXELS, range(6))
    found = pydicom.dcmread(path)
    agent = pydicom.Dataset()
    agent.CodeValue, agent.CodingSchemeDesignator, agent.CodeMeaning = "C-B03CA", "SRT", "Gadolinium"
    found.ContrastBolusAgentSequence = [agent]
    found.save_as(path)
    (series,) = single(tmp_path).series
    assert series.facts.contrast == "Gadolinium"


def test_unequal_spacing(tmp_path: Path) -> None:
    like = SmallSeries()
    for index, path in enumerate(by_position(write_series(tmp_path, VOXELS, like))):
        edited(path, ImagePositionPatient=[f"{v:.6f}" for v in like.point(0, 0, index**1.1)])
    assert "unequally spaced" in fault(tmp_path)


def test_gantry_tilt(tmp_path: Path) -> None:
    like = SmallSeries()
    for index, path in enumerate(by_position(write_series(tmp_path, VOXELS, like))):
        sheared = like.point(0, 0, index) + np.asarray(OBLIQUE[3:]) * 5 * np.tan(np.radians(12)) * index
        edited(path, ImagePositionPatient=[f"{v:.6f}" for v in sheared])
    assert "sheared by 12.0 degrees (gantry tilt)" in fault(tmp_path)


def test_two_patients_in_one_folder(tmp_path: Path) -> None:
    write_series(tmp_path / "t1", VOXELS)
    for path in write_series(tmp_path / "t2", VOXELS, replace(SmallSeries(), series="1.2.5")):
        edited(path, PatientID="ID-2", PatientName="Roe^Richard")
    exam = single(tmp_path)
    assert exam.fault == "its folder holds DICOM files of 2 patients; separate them"


def test_a_folder_a_patient(tmp_path: Path) -> None:
    for number in (1, 2):
        like = replace(SmallSeries(), series=f"1.2.5.{number}", study=f"1.2.6.{number}")
        for path in write_series(tmp_path / f"patient {number}" / "t1", VOXELS, like):
            edited(path, PatientID=f"ID-{number}")
    exams = find_exams(tmp_path)
    assert [exam.folder.name for exam in exams] == ["patient 1", "patient 2"]
    assert all(exam.fault == "" for exam in exams)


def test_a_patient_s_studies_are_exams_in_order_of_date(tmp_path: Path) -> None:
    for number, day in ((1, "20210101"), (2, "20200101")):
        like = replace(SmallSeries(), series=f"1.2.5.{number}", study=f"1.2.6.{number}")
        for path in write_series(tmp_path / str(number), VOXELS, like):
            edited(path, StudyDate=day)
    assert [exam.date for exam in find_exams(tmp_path)] == ["20200101", "20210101"]


def test_a_localizer_in_three_planes(tmp_path: Path) -> None:
    write_series(tmp_path / "a", VOXELS)
    axes = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
    for number, path in enumerate(write_series(tmp_path / "b", VOXELS, replace(SmallSeries(), axes=axes))):
        edited(path, SOPInstanceUID=f"1.2.9.{number}")
    assert {series.facts.planes for series in single(tmp_path).series} == {2}


def test_image_files_and_their_kinds(tmp_path: Path) -> None:
    pixels = np.zeros((6, 5, 4), np.float32)
    for name in ("Smith_t1", "Smith_flair", "Smith_seg", "Smith_brainmask"):
        (tmp_path / "Smith").mkdir(exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(pixels), str(tmp_path / "Smith" / f"{name}.nii.gz"))
    (exam,) = find_exams(tmp_path, Patterns(brain_mask="*brainmask*"))
    assert [series.name for series in exam.series] == ["flair", "t1"]
    assert [path.name for path in exam.labels] == ["Smith_seg.nii.gz"]
    assert exam.brain_mask is not None
    assert exam.brain_mask.name == "Smith_brainmask.nii.gz"
    assert find_exams(tmp_path)[0].brain_mask is None


def two_studies(folder: Path, *places: str) -> list[SmallSeries]:
    """A series of a study in each place, on two days."""
    made = []
    for number, place in enumerate(places, start=1):
        made.append(replace(SmallSeries(), series=f"1.2.5.{number}", study=f"1.2.6.{number}"))
        for path in write_series(folder / place, VOXELS, made[-1]):
            edited(path, StudyDate=f"2020010{number}")
    return made


def test_image_files_go_to_the_study_in_whose_folder_they_lie(tmp_path: Path) -> None:
    two_studies(tmp_path, "DICOM/a/1", "DICOM/b/1")
    write_image(tmp_path / "DICOM" / "a" / "flair.nii.gz")
    write_image(tmp_path / "DICOM" / "b" / "nifti" / "seg.nii.gz")
    first, second = find_exams(tmp_path)
    assert [series.name for series in first.series] == ["series 1", "flair"]
    assert [series.name for series in second.series] == ["series 1"]
    assert (first.labels, [path.name for path in second.labels]) == ((), ["seg.nii.gz"])
    assert first.remarks == second.remarks == ()
    write_image(tmp_path / "label.nii.gz")
    write_image(tmp_path / "brain_mask.nii.gz")  # nobody asked for it
    for exam in find_exams(tmp_path):
        (remark,) = exam.remarks
        assert remark.startswith("1 image file or structure set lies in no single study's folder and is left out")
    write_image(tmp_path / "DICOM" / "t2.nii.gz")
    assert [exam.remarks[0][:36] for exam in find_exams(tmp_path)] == ["2 image files or structure sets lie "] * 2


def test_image_files_beside_the_slices_of_a_study_that_lies_above_another(tmp_path: Path) -> None:
    two_studies(tmp_path / "p", "", "later")
    write_image(tmp_path / "p" / "flair.nii.gz")
    write_image(tmp_path / "p" / "later" / "t2.nii.gz")
    names = [[series.name for series in exam.series] for exam in find_exams(tmp_path)]
    assert names == [["series 1", "flair"], ["series 1", "t2"]]


def test_structures_of_no_study_are_told(tmp_path: Path) -> None:
    like, _ = two_studies(tmp_path, "a", "b")
    square = np.array([like.point(x, y, 2) for x, y in ((1, 1), (3, 1), (3, 3))])
    elsewhere = replace(like, series="1.2.5.9")
    path = write_rtstruct(tmp_path / "a" / "rs.dcm", {"a": [("CLOSED_PLANAR", square)]}, elsewhere)
    edited(path, StudyInstanceUID="1.2.6.9")
    for exam in find_exams(tmp_path):
        assert exam.labels == ()
        assert "1 image file or structure set" in exam.remarks[0]
    assert [exam.remarks for exam in find_exams(tmp_path, Patterns("*.nii.gz"))] == [(), ()]  # not wanted


def test_words_of_label_maps_and_brain_masks_are_whole_words(tmp_path: Path) -> None:
    def kind(name: str) -> str:
        path = tmp_path / f"{name}.nii.gz"
        if Patterns().is_label(path, tmp_path):
            return "label"
        return "ignored" if Patterns().is_ignored(path) else "scan"

    kinds = {
        "scan": "t1_thyroid Leroi_t1 Segovia_t2 Labelle_flair t1_masked t1_skullstripped t1-skull-stripped t1_noskull "
        "t1_no_skull t1_with_skull",
        "label": "Doe_seg aseg tumorseg TumorSeg SegTumor Segmentation lesionmask masks roi ROIs ROI_1 tumorROI labels "
        "labelmap label2 GTVp gt",
        "ignored": "brainmask t1_brain_mask BrainMask maskBrain skull Doe_skull skull_mask skullstripping_mask",
    }
    assert {name: kind(name) for names in kinds.values() for name in names.split()} == {
        name: expected for expected, names in kinds.items() for name in names.split()
    }
