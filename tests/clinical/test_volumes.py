"""Volumes of exams: hand-worked millilitres, days instead of dates, nothing of a patient's identity."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from autoseg.clinical.exam_days import days_in_headers
from autoseg.clinical.volumes import PAGE_FILE, TABLE_FILE, volumes
from autoseg.evaluation.cases import Structure
from autoseg.evaluation.folders import label_maps
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import write_json
from tests.builders import write

#: Voxels of 2 × 2 × 5 mm: 0.02 ml.
SPACING = (2.0, 2.0, 5.0)


def label_map(path: Path, one: int, two: int) -> Path:
    """A label map with so many voxels of 1 and of 2."""
    voxels = np.zeros(1000, np.uint8)
    voxels[:one] = 1
    voxels[one : one + two] = 2
    return write(path, voxels.reshape(10, 10, 10), spacing=SPACING)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    for name, one, two in (("b_late", 300, 0), ("b_early", 100, 50), ("a", 10, 20)):
        label_map(folder / f"{name}.nii.gz", one, two)
    return folder


def table(path: Path, rows: Sequence[str]) -> Path:
    path.write_text("\n".join(rows) + "\n")
    return path


def test_millilitres_of_values_that_are_found(results: Path) -> None:
    found = volumes(results)
    assert found.structures == ("label 1", "label 2")
    assert {exam.case: exam.ml for exam in found.exams} == {
        "a": {"label 1": pytest.approx(0.2), "label 2": pytest.approx(0.4)},
        "b_early": {"label 1": pytest.approx(2.0), "label 2": pytest.approx(1.0)},
        "b_late": {"label 1": pytest.approx(6.0), "label 2": 0.0},
    }
    assert found.courses == {}


def test_structures_of_a_prediction_and_only_its_label_maps(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a_probability_x", "b_early_rater_ann", "b_late_disagreement"):
        label_map(results / f"{name}.nii.gz", 1, 1)
    told = {
        "cases": {"a": {}, "b_early": {}},
        "kept_from_before": ["b_late"],
        "structures": {"all": [1, 2], "core": [2]},
    }
    write_json(results / "predictions.json", told)
    found = volumes(results)
    assert [exam.case for exam in found.exams] == ["a", "b_early", "b_late"]
    assert found.exams[0].ml == {"all": pytest.approx(0.6), "core": pytest.approx(0.4)}
    asked = volumes(results, targets=[Structure("mine", (1,))])
    assert asked.exams[0].ml == {"mine": pytest.approx(0.2)}
    assert "left out" not in capsys.readouterr().err
    # As 'evaluate' does: what another model left is left out, what somebody drew is not.
    for name in ("a_2", "drawn"):
        label_map(results / f"{name}.nii.gz", 1, 1)
    files = [path.name for path in results.glob("*.nii.gz") if path.name != "drawn.nii.gz"]
    write_json(results / "predictions.json", {**told, "files": files})
    assert [exam.case for exam in volumes(results).exams] == ["a", "b_early", "b_late", "drawn"]
    assert capsys.readouterr().err.count("left out") == 1
    assert list(label_maps(results)) == [
        "a",
        "a_probability_x",
        "b_early",
        "b_early_rater_ann",
        "b_late",
        "b_late_disagreement",
        "drawn",
    ]
    # A command that was killed before its first case tells of none.
    write_json(results / "predictions.json", {"cases": {}, "files": files})
    assert [exam.case for exam in volumes(results).exams] == ["drawn"]
    (results / "drawn.nii.gz").unlink()
    with pytest.raises(AutosegError, match=r"holds nothing but results of which its predictions\.json says nothing"):
        volumes(results)


def test_days_since_the_first_exam_of_each_patient(results: Path, tmp_path: Path) -> None:
    rows = ["Case;Patient;Date", "b_late;B;2021-03-05", "b_early;B;20210227", "a;A;2020-01-01"]
    out = tmp_path / "out"
    found = volumes(results, days=table(tmp_path / "dates.csv", rows), out=out)
    assert [(exam.case, exam.exam.patient, exam.exam.day) for exam in found.exams] == [
        ("a", "A", 0),
        ("b_early", "B", 0),
        ("b_late", "B", 6),
    ]
    assert list(found.courses) == ["B"]
    assert (out / TABLE_FILE).read_text().splitlines() == [
        "case,patient,day,label 1_ml,label 2_ml",
        "a,A,0,0.2,0.4",
        "b_early,B,0,2,1",
        "b_late,B,6,6,0",
    ]
    page = (out / PAGE_FILE).read_text()
    assert "<svg" in page
    for text in (page, (out / TABLE_FILE).read_text()):
        assert not any(date in text for date in ("2021-", "20210227", "2020-"))


def test_days_as_numbers_and_exams_without(results: Path, tmp_path: Path) -> None:
    found = volumes(
        results, days=table(tmp_path / "d.csv", ["case,patient,day", "b_late,B,40", "b_early,B,30", "a,A,"])
    )
    assert {exam.case: exam.exam.day for exam in found.exams} == {"a": None, "b_early": 0, "b_late": 10}


def test_days_of_a_prepared_dataset(results: Path, tmp_path: Path) -> None:
    for case, patient, day in (("a", "p1", 0), ("b_early", "p2", 0), ("b_late", "p2", 91)):
        stored = {"version": 1, "case": case, "patient": patient, "day": day}
        write_json(tmp_path / "dataset" / case / "transforms.json", stored)
    found = volumes(results, days=tmp_path / "dataset")
    assert [(exam.exam.patient, exam.exam.day) for exam in found.exams] == [("p1", 0), ("p2", 0), ("p2", 91)]
    with pytest.raises(AutosegError, match="holds no exam made by 'autoseg prepare'"):
        volumes(results, days=results)


def test_dates_and_days_of_one_patient_are_not_mixed(results: Path, tmp_path: Path) -> None:
    mixed = table(tmp_path / "days.csv", ["case,patient,date,day", "b_early,b,2020-01-01,", "b_late,b,,40"])
    with pytest.raises(AutosegError, match="dates for some exams of a patient and days for others"):
        volumes(results, days=mixed)


def test_wrong_tables_end_in_one_sentence_without_dates(results: Path, tmp_path: Path) -> None:
    for rows, expected in (
        (["name,date", "a,2020-01-01"], "needs the columns case and date"),
        (["case,date", "a,01.02.2020"], "the date in row 2 is no date of the form YYYY-MM-DD"),
        (["case,day", "a,soon"], "the day in row 2 is no whole number"),
        (["case,day", "a,1", "a,2"], "row 3 is the second one of a"),
        (["case,day", "x,1"], r"names none of the cases \(a, b_early"),
    ):
        with pytest.raises(AutosegError, match=expected) as caught:
            volumes(results, days=table(tmp_path / "d.csv", rows))
        assert "01.02.2020" not in str(caught.value)
    with pytest.raises(AutosegError, match="does not exist"):
        volumes(tmp_path / "nowhere")


def test_a_dicom_seg_names_its_structures_and_knows_its_day(tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    from autoseg.data.dicom_series import stack_at
    from autoseg.inference.formats.dicom_seg import write_dicom_seg
    from autoseg.inference.segments import Segment
    from tests.dicom_series import PATIENT_ID, SmallSeries, pydicom, write_series

    label = np.zeros((5, 6, 7), np.uint8)
    label[1, :2, :3] = 1
    label[2:4, :5, 2:4] = 2
    segments = [Segment("all", (1, 2), "#112233"), Segment("core", (2,), "#445566")]
    for name, day in (("later", "20200311"), ("first", "20200304")):
        paths = write_series(
            tmp_path / name, np.ones(label.shape), SmallSeries(study=f"1.2.3.{day}", series=f"1.2.4.{day}")
        )
        for path in paths:
            dataset = pydicom.dcmread(path)
            dataset.StudyDate = day
            dataset.save_as(path)
        (tmp_path / "results").mkdir(exist_ok=True)
        write_dicom_seg(tmp_path / "results" / f"{name}.dcm", label, segments, stack_at(tmp_path / name))
    found = volumes(tmp_path / "results", out=tmp_path / "out")
    voxel = 1.5 * 0.8 * 5 / 1000
    assert [(exam.case, exam.exam.patient, exam.exam.day) for exam in found.exams] == [
        ("first", "first", 0),
        ("later", "first", 7),
    ]
    assert found.exams[0].ml == {"all": pytest.approx(26 * voxel), "core": pytest.approx(20 * voxel)}
    results = tmp_path / "results"
    write_json(results / "predictions.json", {"cases": {}, "files": ["first.dcm"]})
    assert [exam.case for exam in volumes(results).exams] == ["later"]
    write_json(results / "predictions.json", {"cases": {}, "files": ["first.dcm", "later.dcm"]})
    with pytest.raises(AutosegError, match=r"holds nothing but results of which its predictions\.json says nothing"):
        volumes(results)
    written = "".join(path.read_text() for path in (tmp_path / "out").iterdir()) + json.dumps(found.to_json())
    assert not any(word in written for word in (PATIENT_ID, "Doe", "20200304", "20200311"))


def test_anonymized_results_are_one_patient_s_only_where_their_names_say_so(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    from tests.dicom_series import pydicom, write_series

    def patients(identifier: str, *cases: str) -> list[str]:
        files = {}
        for day, case in enumerate(cases, start=1):
            files[case] = write_series(tmp_path / identifier / case, np.zeros((1, 4, 4)))[0]
            found = pydicom.dcmread(files[case])
            found.PatientID, found.StudyDate = identifier, f"2020010{day}"
            found.save_as(files[case])
        return [exam.patient for exam in days_in_headers(files).values()]

    assert patients("ID-1", "a", "b") == ["a", "a"]
    for nobody in ("ANONYMOUS", "0", "REMOVED"):
        assert patients(nobody, "a", "b") == ["a", "b"]
    assert patients("anon", "TCGA-02-0003_1", "TCGA-02-0003_2", "c") == ["TCGA-02-0003_1", "TCGA-02-0003_1", "c"]
