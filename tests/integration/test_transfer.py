"""The example of a model on a cohort of one's own, run as a user runs it."""

import runpy
import sys
from pathlib import Path

import pytest

from autoseg.data.phantom import Cohort, generate
from autoseg.runs.run import Run
from tests.cli.test_plan_source import SMALL, invoke, pretend_trained

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "in_house_transfer.py"


@pytest.mark.usefixtures("one_core")
@pytest.mark.parametrize("test", [True, False])
def test_as_it_is_from_scratch_and_fine_tuned(
    test: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort = generate(tmp_path / "cohort", Cohort(cases=3, shape=(16, 20, 20), spacing=(8.0, 8.0, 8.0)))
    judging = generate(tmp_path / "judging", Cohort(cases=2, shape=(16, 20, 20), spacing=(8.0, 8.0, 8.0), seed=5))
    options = ["--set", SMALL, "--device", "cpu", "--workers", 1, "--out", tmp_path / "source"]
    assert invoke("plan", cohort, *options).exit_code == 0
    pretend_trained(Run.open(tmp_path / "source"))
    arguments = [tmp_path / "source", cohort, tmp_path / "out", "--max-time", "1s", "--device", "cpu"]
    arguments += ["--test", judging] if test else []
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *map(str, arguments)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    said = capsys.readouterr().out
    assert f"{2 if test else 3} cases, compared with fine_tuned" in said
    for name in ("as_is", "scratch", "fine_tuned"):
        assert name in said
    assert Run.open(tmp_path / "out" / "fine_tuned").plan.planner == "finetune"
    assert len(Run.open(tmp_path / "out" / "scratch").splits) == (1 if test else 3)
