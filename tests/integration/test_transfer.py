"""The example of a model on a cohort of one's own, run as a user runs it."""

import runpy
import shutil
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.crossvalidation.job import Length
from autoseg.data.dataset import Dataset
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


def test_before_and_after_against_each_radiologist(tmp_path: Path) -> None:
    """What the table of ``rahimpour_table3.py`` is made of, against plain counting."""
    script = runpy.run_path(str(EXAMPLE.with_name("rahimpour_table3.py")), run_name="imported")
    cohort = Cohort(cases=3, shape=(16, 20, 20), spacing=(8.0, 8.0, 8.0), raters=2)
    there = Dataset.open(generate(tmp_path / "there", cohort))
    study = script["Study"](there, there, tmp_path, Length(), None, "cpu")
    first, second = study.radiologists
    names = [case.id for case in there.cases]
    for case in there.cases:  # what the model says is what the first one says
        path = case.raters[first]
        (tmp_path / "said").mkdir(exist_ok=True)
        shutil.copyfile(path, tmp_path / "said" / f"{case.id}.nii.gz")
    scored = study.scored(tmp_path / "said", names, "tumor_core")
    assert set(scored[first].values()) == {1.0}
    for case in there.cases:
        one, other = (
            np.isin(sitk.GetArrayFromImage(sitk.ReadImage(str(case.raters[name]))), there.regions["tumor_core"])
            for name in (first, second)
        )
        expected = 2 * (one & other).sum() / (one.sum() + other.sum())
        assert scored[second][case.id] == pytest.approx(expected)
        assert study.agreement(names, "tumor_core")[case.id] == pytest.approx(expected)
    assert script["shown"]({"a": 0.5, "b": 0.7}) == "60.00 ± 14.14"
    assert [len(rows) for rows in script["ROWS"].values()] == [7, 3]
    assert round(script["TESTED"] * 37) == 19


def test_the_four_subsets_of_three_sequences() -> None:
    script = runpy.run_path(str(EXAMPLE.with_name("wacker_outlook.py")), run_name="imported")
    assert {frozenset(subset) for subset in script["SUBSETS"]} == {
        frozenset(subset) for subset in combinations(("t1", "t1c", "t2", "flair"), 3)
    }
