"""``autoseg sweep``: a whole small study, what is said of wrong usage, exit codes."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autoseg.cli.main import run as main
from autoseg.crossvalidation.jobs import train
from autoseg.data.dataset import Dataset
from autoseg.data.phantom import Cohort, generate
from autoseg.planning.making import plan_dataset
from autoseg.planning.request import Request
from autoseg.plans.files import load_plan
from autoseg.runs.run import Run
from autoseg.utils.errors import AutosegError
from tests.cli.test_plan_source import pretend_trained

pytestmark = pytest.mark.usefixtures("one_core")

Call = Callable[..., tuple[int, str, str]]

GRID = """
baseline = "both"
folds = [0, 1]
epochs = 1
width = 4
channels = ["flair"]
set = { recipe.iterations_per_epoch = 2, recipe.validate_cases = 1, recipe.precision = "fp32", batch_size = 2 }
structures = ["whole_tumor", "edema"]

[[setting]]
name = "both"

[[setting]]
name = "ce"
set = { recipe.loss.dice_weight = 0 }
"""


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("phantoms"), Cohort(cases=4, shape=(18, 20, 16), spacing=(8.0, 8.0, 8.0)))


@pytest.fixture
def call(phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Call:
    (tmp_path / "study.toml").write_text(GRID)

    def call(*options: object) -> tuple[int, str, str]:
        """Exit code, standard output and standard error of the command on the phantoms."""
        arguments = ["sweep", phantoms, "--grid", tmp_path / "study.toml", "--out", tmp_path / "out"]
        arguments += ["--device", "cpu", "--workers", 1, *options]
        monkeypatch.setattr(sys, "argv", ["autoseg", *(str(argument) for argument in arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return int(stopped.value.code or 0), printed.out, printed.err

    return call


def test_a_study_from_dry_run_to_table(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    code, printed, err = call("--dry-run")
    assert code == 0, err
    assert "2 settings" in printed
    assert not (out / "both").exists()

    code, printed, err = call()
    assert code == 0, err
    assert "[2 of 2] ce, seed 0, 2 folds; about" in err
    assert "compared with both" in printed
    assert "Wilcoxon signed-rank, Holm-corrected over" in printed
    with open(out / "cases.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert {(line["setting"], line["fold"]) for line in lines} == {(s, f) for s in ("both", "ce") for f in "01"}
    assert {line["target"] for line in lines} == {"whole_tumor", "edema"}
    plans = [json.loads((out / name / "seed_0" / "plan.json").read_text()) for name in ("both", "ce")]
    weights = [plan["configurations"][plan["recommended"]]["recipe"]["loss"]["dice_weight"] for plan in plans]
    assert weights == [1, 0]
    # The two share the preprocessed cases, and a case's Dice in the table is the label maps'.
    folders = [next((out / name / "seed_0" / "preprocessed").iterdir()).resolve() for name in ("both", "ce")]
    assert folders[0] == folders[1]
    region = next(x for x in lines if (x["setting"], x["fold"], x["target"]) == ("ce", "1", "whole_tumor"))
    name = plans[1]["recommended"]
    (own,) = (out / "ce" / "seed_0" / name / "fold_1" / "validation").glob("metrics.csv")
    with open(own, newline="") as file:
        measured = {(line["case"], line["target"]): line["dice"] for line in csv.DictReader(file)}
    assert region["dice"] == measured[region["case"], "whole_tumor"]

    # Nothing is trained again, and the table alone needs no training either.
    monkeypatch.setattr("autoseg.study.running.train", lambda *_, **__: pytest.fail("trained again"))
    before = (out / "table.csv").read_text()
    code, printed, err = call("--json")
    assert (code, err) == (0, "")
    found = json.loads(printed)
    assert [setting["status"] for setting in found["settings"]] == ["done", "done"]
    assert (out / "table.csv").read_text() == before
    row = found["comparison"]["rows"][1]
    dice = {
        name: np.mean([float(x["dice"]) for x in lines if (x["setting"], x["target"]) == (name, "whole_tumor")])
        for name in ("both", "ce")
    }
    assert (row["name"], row["column"]) == ("ce", "whole_tumor")
    assert row["difference"] == pytest.approx(dice["ce"] - dice["both"])
    (out / "table.md").unlink()
    assert call("--table")[0] == 0
    assert "| both (baseline) | unet |" in (out / "table.md").read_text()


def test_a_failed_setting_ends_with_1(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(run: object, **options: object) -> object:
        if "ce" in str(run):
            raise AutosegError("the loss is not a number.")
        return train(run, **options)  # type: ignore[arg-type]

    (tmp_path / "study.toml").write_text(GRID.replace("[0, 1]", "[0]"))
    monkeypatch.setattr("autoseg.study.running.train", fail)
    code, printed, err = call()
    assert code == 1
    assert "failed" in printed
    assert "ce failed: seed 0: the loss is not a number." in err
    assert "Nothing is compared: only both is finished." in err


@pytest.mark.parametrize(
    ("grid", "options", "message"),
    [
        (GRID + "sets = { recipe.epochs = 3 }\n", (), "setting.1.sets: this key is unknown (did you mean set?)"),
        (GRID.replace("recipe.loss.dice_weight = 0", "recipe.loss.dice = 0"), (), "there is no key dice in"),
        (GRID, ("--dry-run", "--table"), "--dry-run and --table"),
        (GRID, ("--dry-run", "--json"), "--json prints results"),
        (GRID, ("--table",), "out holds no study yet"),
        (GRID, ("--fold", "all"), "--fold all: give numbers with commas"),
        (GRID, ("--seeds", "x"), "--seeds x: give numbers with commas"),
        (GRID, ("--raters", ","), "--raters names nothing"),
        (GRID, ("--test-layout", "bids"), "--test-layout bids goes with --test"),
        (GRID, ("--test", ".", "--test-layout", "none"), "layout none is unknown"),
    ],
)
def test_wrong_usage_ends_with_2(call: Call, tmp_path: Path, grid: str, options: tuple[str, ...], message: str) -> None:
    (tmp_path / "study.toml").write_text(grid)
    code, _, err = call(*options)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_settings_start_from_a_source_and_learn_from_a_teacher(call: Call, phantoms: Path, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(GRID.replace("width = 4\n", ""))
    plan_dataset(Dataset.open(phantoms), tmp_path / "before", Request(device="cuda", workers=1, folds=2))
    before = pretend_trained(Run.open(tmp_path / "before"), folds=(0, 1))
    code, _, err = call("--dry-run", "--source", before.path, "--teacher", before.path)
    assert code == 0, err
    plans = [load_plan(path) for path in (tmp_path / "out" / "plans").rglob("*.json")]
    assert plans
    for plan in plans:
        assert plan.stage().recipe.initialization.source == "model"
        assert plan.stage().recipe.distillation is not None
    code, _, err = call("--dry-run", "--raters", "all")
    assert (code, "names no raters of its cases" in err) == (2, True)
