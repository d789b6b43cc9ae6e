import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from autoseg.cli.main import app
from autoseg.clinical.settings import ExamPreparation
from autoseg.runs.run import Run
from autoseg.utils.errors import AutosegError, UsageError
from tests.builders import make_run


@pytest.fixture
def exams(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        (tmp_path / "exams" / name).mkdir(parents=True)
        voxels = np.full((6, 8, 8), ord(name), np.float32)
        sitk.WriteImage(sitk.GetImageFromArray(voxels), str(tmp_path / "exams" / name / "t1.nii.gz"))
    return tmp_path / "exams"


def prepare(*arguments: object):
    return CliRunner().invoke(app, ["prepare", *map(str, arguments), "--workers", "1", "--skull-strip", "none"])


def test_json_and_exit_code(exams: Path, tmp_path: Path) -> None:
    (exams / "b" / "t1.nii.gz").write_bytes(b"")
    result = prepare(exams, "--out", tmp_path / "data", "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout[result.stdout.index("{") :])
    assert list(told["prepared"]) == ["P0001_1"]
    assert list(told["failed"]) == ["P0002_1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--interpolation", "cubic"], "choose spline or nearest"),
        (["--label-interpolation", "cubic"], "choose linear or nearest"),
        (["--spacing", "1", "0", "1"], "give three lengths"),
        (["--box", "10", "0", "10"], "give three numbers"),
        (["--atlas", "nowhere.nii.gz"], "does not exist"),
        (["--fill", "t1"], "NAME=OTHER"),
        (["--channel", "t1"], "NAME=SERIES"),
        (["--crop", "--box", "8", "8", "8"], "give one of them"),
        (["--brain-mask", "*mask*"], "--skull-strip none leaves it"),
        (["--atlas", __file__], "--skull-strip none leaves it"),
        (["--fill", "t1=t1"], "stand in for itself"),
    ],
)
def test_wrong_options_name_the_way_out(exams: Path, tmp_path: Path, options: list[str], message: str) -> None:
    result = prepare(exams, "--out", tmp_path / "data", *options)
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)
    assert not (tmp_path / "data").exists()


def test_a_template_beside_mask_files_is_used_or_refused(exams: Path, tmp_path: Path) -> None:
    call = ["prepare", str(exams), "--out", str(tmp_path / "data"), "--brain-mask", "*mask*", "--atlas", __file__]
    result = CliRunner().invoke(app, call)
    assert isinstance(result.exception, UsageError)
    assert "only with --skull-strip atlas" in str(result.exception)
    assert not (tmp_path / "data").exists()


def test_the_steps_of_a_run_are_taken_whole(exams: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "of")
    call = ["prepare", str(exams), "--out", str(tmp_path / "data"), "--like", str(run.path), "--workers", "1"]
    for options, message in ([], "not made by 'autoseg prepare'"), (["--n4"], "leave out the options"):
        result = CliRunner().invoke(app, [*call, *options])
        assert isinstance(result.exception, UsageError)
        assert message in str(result.exception)
    stored = ExamPreparation(skull_strip="none", spacing=(2.0, 2.0, 2.0)).model_dump(mode="json")
    Run.create(run.path, run.plan, run.fingerprint, run.dataset.model_copy(update={"preparation": stored}), run.splits)
    assert CliRunner().invoke(app, call).exit_code == 0
    assert ExamPreparation.read(tmp_path / "data").spacing == (2.0, 2.0, 2.0)


def test_a_folder_without_scans(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = prepare(tmp_path / "empty", "--out", tmp_path / "data")
    assert isinstance(result.exception, AutosegError)
    assert "holds no DICOM file and no image" in str(result.exception)
