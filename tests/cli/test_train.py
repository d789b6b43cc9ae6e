"""``autoseg train``: exit codes, one sentence an error, the table and the JSON."""

import json
import sys
from pathlib import Path

import pytest

from autoseg.cli.main import run as main
from autoseg.preprocessing.dataset import preprocess
from autoseg.runs.run import Run
from tests.builders import make_run

pytestmark = pytest.mark.usefixtures("one_core")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = make_run(tmp_path)
    preprocess(run, workers=1)
    return run


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    def call(*arguments: object) -> tuple[int, str, str]:
        """Exit code, standard output, standard error on one line."""
        monkeypatch.setattr(sys, "argv", ["autoseg", "train", *(str(a) for a in arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return int(stopped.value.code or 0), printed.out, printed.err

    return call


def test_table(run: Run, call) -> None:
    code, out, err = call(run.path, "--fold", "0", "--epochs", 1, "--device", "cpu")
    assert code == 0
    for word in ("Cross-validation", "outer", "inner", "Dice"):
        assert word in out
    assert f"autoseg predict {run.path}" in err
    assert "Traceback" not in err


def test_json(run: Run, call) -> None:
    code, out, _ = call(run.path, "--fold", "0,1", "--epochs", 1, "--device", "cpu", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["cases"] == 4
    assert set(found["targets"]) == {"outer", "inner"}


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--fold", "9"], 2, "Error: fold 9 does not exist"),
        (["--fold", "x"], 2, "--fold x is no fold"),
        (["--max-time", "soon"], 2, "--max-time soon is no duration"),
        (["--max-time", "0m"], 2, "--max-time"),
        (["--max-time", "5m", "--epochs", "3"], 2, "--epochs and --max-time"),
        (["--device", "abacus"], 2, "--device abacus is unknown"),
        (["--config", "huge"], 2, "--config huge is not in the plan"),
        (["--resume"], 2, "--resume: fold 0"),
    ],
)
def test_wrong_usage(run: Run, call, options: list[str], code: int, sentence: str) -> None:
    found, out, err = call(run.path, *options)
    assert found == code
    assert out == ""
    assert err.startswith("Error: ")
    assert sentence in err
    assert err.count("\n") == 1


def test_failures(run: Run, call, tmp_path: Path) -> None:
    code, _, err = call(tmp_path / "nowhere")
    assert code == 1
    assert err == (
        f"Error: {tmp_path / 'nowhere'} is no run folder (it has no plan.json); make one with 'autoseg plan DATASET "
        f"--out {tmp_path / 'nowhere'}'.\n"
    )
    (run.path / "plan.json").write_text('{"planner": 3}')
    code, _, err = call(run.path)
    assert code == 1
    assert "plan.json is not a valid plan" in err
    assert err.count("\n") == 1


def test_unknown_option(run: Run, call) -> None:
    code, _, err = call(run.path, "--colour", "blue")
    assert code == 2
    assert "--colour" in err
