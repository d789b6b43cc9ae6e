import json

import numpy as np
import pytest
from typer.testing import CliRunner

from autoseg.cli.main import app
from autoseg.data.phantom import Cohort, generate
from autoseg.utils.errors import AutosegError, UsageError


@pytest.fixture
def inspect():
    def run(*arguments):
        return CliRunner().invoke(app, ["inspect", *map(str, arguments), "--workers", "1"])

    return run


@pytest.fixture
def phantoms(tmp_path):
    return generate(tmp_path / "heads", Cohort(cases=2, shape=(20, 20, 20), spacing=(8.0, 8.0, 8.0)))


def test_a_summary_of_a_healthy_dataset(inspect, phantoms):
    result = inspect(phantoms)
    assert result.exit_code == 0, result.output
    for words in (
        "manifest",
        "2 labelled, 0 without label",
        "t1, t1c, t2, flair",
        "20×20×20",
        "8×8×8 mm",
        "whole_tumor",
    ):
        assert words in result.output
    assert "No problems found" in result.output


def test_all_problems_in_one_table_and_exit_code_1(inspect, phantoms, write_volume):
    write_volume(phantoms / "phantom_001" / "t1.nii.gz", np.zeros((20, 20, 20), np.int16), spacing=(8.0, 8.0, 8.0))
    write_volume(phantoms / "phantom_002" / "t2.nii.gz", np.ones((9, 9, 9), np.int16), spacing=(8.0, 8.0, 8.0))
    result = inspect(phantoms)
    assert result.exit_code == 1
    assert "t1 is empty" in result.output
    assert "not on the grid of t1.nii.gz" in result.output
    assert "3 error(s)" in result.output, "the constant image of phantom_002, too"


def test_json(inspect, phantoms):
    data = json.loads(inspect(phantoms, "--json").stdout)
    assert data["layout"] == "manifest"
    assert data["regions"]["tumor_core"] == [1, 3]
    assert data["problems"] == []
    assert [case["id"] for case in data["fingerprint"]["cases"]] == ["phantom_001", "phantom_002"]
    assert data["proposal"] is None


def test_a_proposal_for_an_undescribed_folder(inspect, phantoms):
    (phantoms / "autoseg.toml").unlink()
    result = inspect(phantoms)
    assert result.exit_code == 0, result.output
    assert "[channels]" in result.output
    assert not (phantoms / "autoseg.toml").exists()
    assert inspect(phantoms, "--write").exit_code == 0
    assert json.loads(inspect(phantoms, "--json").stdout)["channels"] == ["flair", "t1", "t1c", "t2"]
    again = inspect(phantoms, "--write")
    assert isinstance(again.exception, UsageError)


def test_wrong_paths_and_layouts(inspect, phantoms, tmp_path):
    assert isinstance(inspect(tmp_path / "gone").exception, AutosegError)
    assert isinstance(inspect(phantoms, "--layout", "excel").exception, UsageError)
    assert isinstance(inspect(phantoms, "--layout", "msd").exception, AutosegError)


def test_several_datasets_are_listed(inspect, tmp_path, write_volume):
    scan = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    for name in ("sub-1", "sub-2"):
        write_volume(tmp_path / "spine" / name / "anat" / f"{name}_T2w.nii.gz", scan)
        write_volume(tmp_path / "brain" / f"BraTS2021_0000{name[-1]}" / f"BraTS2021_0000{name[-1]}_t1.nii.gz", scan)
    result = inspect(tmp_path)
    assert isinstance(result.exception, AutosegError)
    assert "brain (brats), spine (bids)" in str(result.exception)


def test_a_draft_that_does_not_fit_is_shown_with_the_reason(inspect, tmp_path, write_volume):
    scan = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    for name in ("p1/x1", "p1/y7", "p2/z3", "p2/w", "p3/v"):
        write_volume(tmp_path / f"{name}.nii.gz", scan)
    result = inspect(tmp_path)
    assert isinstance(result.exception, AutosegError)
    for words in ("a pattern must find one file a case", "save it as autoseg.toml", "[channels]"):
        assert words in str(result.exception)


def test_patients_are_shown_and_set(inspect, tmp_path, write_volume):
    rng = np.random.default_rng(0)
    for name in ("a7_visit1", "a7_visit2", "b2_visit1"):
        write_volume(tmp_path / name / "t1.nii.gz", rng.normal(size=(3, 4, 5)).astype(np.float32))
        write_volume(tmp_path / name / "seg.nii.gz", rng.integers(0, 2, (3, 4, 5)).astype(np.uint8))
    result = inspect(tmp_path)
    assert "3 labelled, 0 without label, of 2 patients" in result.output
    assert "subject and session in one name" in result.output
    data = json.loads(inspect(tmp_path, "--json", "--patients", r"(visit\d)").stdout)
    assert data["patients"] == {"a7_visit1": "visit1", "a7_visit2": "visit2", "b2_visit1": "visit1"}


def test_the_label_map_is_chosen(inspect, tmp_path, write_volume):
    rng = np.random.default_rng(0)
    for name in ("p1", "p2"):
        write_volume(tmp_path / name / "ct.nii.gz", rng.normal(size=(3, 4, 5)).astype(np.float32))
        write_volume(tmp_path / name / "seg.nii.gz", rng.integers(0, 2, (3, 4, 5)).astype(np.uint8))
        write_volume(tmp_path / name / "ptv.nii.gz", rng.integers(0, 4, (3, 4, 5)).astype(np.uint8))
    assert json.loads(inspect(tmp_path, "--json").stdout)["labels"] == {"foreground": 1}
    chosen = json.loads(inspect(tmp_path, "--json", "--label", "ptv").stdout)
    assert chosen["labels"] == {"label_1": 1, "label_2": 2, "label_3": 3}
    assert chosen["channels"] == ["ct"]
    assert isinstance(inspect(tmp_path, "--label", "x").exception, UsageError)


def test_dicom_files_that_cannot_be_read_are_named(inspect, tmp_path):
    (tmp_path / "series").mkdir()
    for name in ("IM0001", "2.dcm"):
        (tmp_path / "series" / name).write_bytes(bytes(128) + b"DICM")
    result = inspect(tmp_path)
    assert result.exit_code == 1
    assert "2.dcm" in result.stdout
    assert "incomplete or damaged" in " ".join(result.stdout.split())
