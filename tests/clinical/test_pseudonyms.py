"""The table of pseudonyms: private from the first moment, and one name an exam."""

import stat
from pathlib import Path

import pytest

from autoseg.clinical.exams import Exam
from autoseg.clinical.pseudonyms import Pseudonyms, assign_names
from autoseg.clinical.series import NO_GRID, Identity, Series
from autoseg.utils.errors import AutosegError


def exam(folder: Path, study: str = "", patient: str = "ID") -> Exam:
    one = Series("series 1", (), NO_GRID, identity=Identity(patient_id=patient, study=study), dicom=True)
    return Exam(folder, patient, (one,))


def test_no_one_else_can_open_the_file_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    real = Path.chmod
    monkeypatch.setattr(Path, "chmod", lambda path, mode: (modes.append(mode), real(path, mode))[1])
    table = Pseudonyms.beside(tmp_path / "data")
    (tmp_path / "data_pseudonyms.csv").write_text("old")
    (tmp_path / "data_pseudonyms.csv").chmod(0o644)
    modes.clear()
    assign_names([exam(tmp_path / "a")], table, keep=False)
    table.write()
    assert modes == []  # nothing is opened to others and closed again
    assert stat.S_IMODE((tmp_path / "data_pseudonyms.csv").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["data_pseudonyms.csv"]


def test_an_exam_that_was_moved_keeps_its_name_and_a_copy_gets_its_own(tmp_path: Path) -> None:
    table = Pseudonyms(tmp_path / "t.csv")
    assert assign_names([exam(tmp_path / "a", "1.2")], table, keep=False) == [("P0001_1", "P0001")]
    assert assign_names([exam(tmp_path / "b", "1.2")], table, keep=False) == [("P0001_1", "P0001")]
    both = [exam(tmp_path / "b", "1.2"), exam(tmp_path / "c", "1.2")]
    assert assign_names(both, table, keep=False) == [("P0001_1", "P0001"), ("P0001_2", "P0001")]


def test_numbers_go_on_where_rows_were_taken_out(tmp_path: Path) -> None:
    table = Pseudonyms(tmp_path / "t.csv")
    assign_names([exam(tmp_path / name, patient=name) for name in "abc"], table, keep=False)
    del table.rows[0]
    assert table.name(exam(tmp_path / "d", patient="d"), keep=False) == ("P0004_1", "P0004")


def test_another_file_of_that_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data_pseudonyms.csv").write_text("a,b\n1,2\n")
    with pytest.raises(AutosegError, match="no table of pseudonyms"):
        Pseudonyms.beside(tmp_path / "data")
