"""``autoseg evaluate``: arguments, exit codes, what is printed and written."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from autoseg.cli.main import run
from autoseg.utils.files import write_json
from tests.report.fake import CASES, labels, make_run, save
from tests.study.test_channel_subsets import dropping, trained


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["autoseg", "evaluate", *(str(a) for a in arguments)])
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stopped:
        run()
    return int(stopped.value.code or 0)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for index, case in enumerate(CASES):
        save(tmp_path / "predictions" / f"{case}.nii.gz", labels(index))
        save(tmp_path / "references" / f"{case}.nii.gz", labels())
    return tmp_path / "predictions", tmp_path / "references"


def test_table_and_files(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    options = ("--labels", "whole=1+2,inner=2", "--tolerance", "1.5", "--workers", 2)
    assert call(monkeypatch, *folders, "--out", out, *options) == 0
    printed = capsys.readouterr().out
    assert "whole" in printed
    assert "NSD 1.5 mm" in printed
    lines = (out / "metrics.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * len(CASES)
    assert lines[0].startswith("case,target,dice,")
    assert json.loads((out / "summary.json").read_text())["tolerance_mm"] == 1.5


def test_json_is_all_that_is_printed(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert call(monkeypatch, *folders, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cases"] == 4
    assert list(found["targets"]) == ["label 1", "label 2"]


def test_references_of_another_edition_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The model's values would be taken for the references', whatever they are called there."""
    model = make_run(tmp_path, folds=(0,))
    other = model.dataset.model_copy(update={"labels": {"outer": 2, "inner": 1}})
    monkeypatch.setattr("autoseg.evaluation.folders.open_dataset", lambda _: other)
    arguments = (model.fold("3d_fullres", 0).validation, tmp_path / "data", "--partial")
    assert call(monkeypatch, *arguments, "--model", model.path) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "has the labels inner 1, outer 2 and the training data" in told
    assert call(monkeypatch, *arguments) == 0  # by the references' own


def test_predictions_with_other_values_than_the_models_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """As those that were written with the values of another challenge."""
    model = make_run(tmp_path, folds=(0,))
    predictions = model.fold("3d_fullres", 0).validation
    swapped = {"outer": 2, "inner": 1}
    structures = {name: [value] for name, value in swapped.items()}
    write_json(predictions / "predictions.json", {"structures": structures, "outputs": swapped})
    arguments = (predictions, tmp_path / "data" / "labels", "--partial")
    assert call(monkeypatch, *arguments, "--model", model.path) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "says that the predictions have outer 2, inner 1, and" in told
    assert call(monkeypatch, *arguments, "--labels", "outer=1") == 0


def test_a_layout_that_is_not_recognised_may_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Of one case alone nothing tells what recurs."""
    scan = np.random.default_rng(0).normal(0, 100, labels().shape).astype(np.float32)
    save(tmp_path / "data" / "p1" / "t1.nii.gz", scan)
    save(tmp_path / "data" / "p1" / "seg.nii.gz", labels())
    save(tmp_path / "predictions" / "p1.nii.gz", labels(1))
    arguments = (tmp_path / "predictions", tmp_path / "data", "--json")
    assert call(monkeypatch, *arguments) == 1
    capsys.readouterr()
    assert call(monkeypatch, *arguments, "--layout", "proposed") == 0
    assert json.loads(capsys.readouterr().out)["cases"] == 1


def test_a_model_says_what_to_evaluate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    model = make_run(tmp_path, folds=(0,))
    predictions = model.fold("3d_fullres", 0).validation
    arguments = (predictions, tmp_path / "data" / "labels", "--model", model.path, "--partial", "--json")
    assert call(monkeypatch, *arguments) == 0
    assert list(json.loads(capsys.readouterr().out)["targets"]) == ["outer", "inner"]


def test_missing_predictions_end_with_1(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (folders[0] / "case_2.nii.gz").unlink()
    assert call(monkeypatch, *folders) == 1
    assert "lacks predictions of 1 of 4 cases: case_2" in capsys.readouterr().err
    assert call(monkeypatch, *folders, "--partial") == 0
    assert "1 of 4 cases have no prediction, left out: case_2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--empty", "zero"), "--empty zero is unknown"),
        (("--tolerance", "-1"), "--tolerance -1.0 is no distance"),
        (("--labels", "tumor"), "'tumor' is not of the form"),
        (("--model", "x", "--labels", "a=1"), "give one of them"),
    ],
)
def test_wrong_usage_ends_with_2(
    folders: tuple[Path, Path],
    options: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    assert call(monkeypatch, *folders, *options) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_channel_subsets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    model, out = trained(tmp_path, dropping()), tmp_path / "out"
    options = ("--channel-subsets", "--device", "cpu", "--no-tta", "--folds", "0")
    assert call(monkeypatch, model.path, *options, "--subsets", "flair,t1+flair", "--out", out) == 0
    printed = capsys.readouterr()
    assert [line.split()[1] for line in printed.out.splitlines() if "flair" in line] == ["flair", "t1+flair"]
    assert (out / "t1+flair" / "metrics.csv").exists()
    assert str(out / "subsets.csv") in printed.err.replace("\n", "")
    assert call(monkeypatch, model.path, *options, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["subsets"]) == 7
    assert found["folds"] == [0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("RUN", "--channel-subsets", "--labels", "a=1"), "--labels does not go with --channel-subsets"),
        (("RUN", "--channel-subsets", "--subsets", "t9"), "--subsets: t9 is no channel of the run"),
        (("RUN", "RUN", "--subsets", "t1"), "--subsets goes with --channel-subsets only"),
        (("RUN", "RUN", "--no-tta"), "--tta/--no-tta goes with --channel-subsets only"),
        (("RUN", "RUN", "--folds", "0"), "--fold goes with --channel-subsets only"),
        (("RUN", "--channel-subsets", "--fold", "9"), "Error: fold 9 does not exist"),
        (("RUN", "--channel-subsets", "--layout", "bids"), "--layout bids says how a dataset is laid out"),
        (("RUN",), "give the references, too"),
    ],
)
def test_channel_subsets_wrongly_used(
    options: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    model = trained(tmp_path, dropping(), folds=1)
    assert call(monkeypatch, *(model.path if option == "RUN" else option for option in options)) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_a_challenge_says_what_is_measured_and_how(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    assert call(monkeypatch, *folders, "--brats", "gli2023", "--out", out) == 0
    assert "Lesion Dice" in capsys.readouterr().out
    header, *rows = (line.split(",") for line in (out / "metrics.csv").read_text().splitlines())
    assert header[2:6] == ["dice", "hd95", "lesion_dice", "lesion_hd95"]
    assert [row[1] for row in rows[:3]] == ["whole_tumor", "tumor_core", "enhancing_tumor"]
    # Nobody drew enhancing tumor: the challenge counts that as right.
    assert rows[2][2:6] == ["1", "0", "1", "0"]
    assert call(monkeypatch, *folders, "--brats", "gli2023", "--empty", "brats") == 2
    assert call(monkeypatch, *folders, "--brats", "gli1999") == 2
    save(folders[1] / f"{CASES[0]}.nii.gz", labels() * 4)
    assert call(monkeypatch, *folders, "--brats", "gli2023") == 1
    assert "has the label values 4, 8; those of the challenge are 1, 2, 3" in " ".join(capsys.readouterr().err.split())
