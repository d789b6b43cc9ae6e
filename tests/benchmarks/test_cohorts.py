"""What a benchmark finds in its folder is taken only where it was made with the same options."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from autoseg import Request
from tests.builders import make_run


@pytest.fixture
def cohorts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program, which plans by hand and trains nothing."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import cohorts

    def plan(dataset: Any, out: Path, request: Request) -> None:
        make_run(out.parent)

    dataset = SimpleNamespace(open=lambda path: path)
    monkeypatch.setattr(cohorts, "autoseg", SimpleNamespace(plan=plan, Dataset=dataset))
    monkeypatch.setattr(cohorts, "train", lambda *_: None)
    return cohorts


def test_a_plan_made_with_other_options_is_refused(
    tmp_path: Path, cohorts: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    out, request = tmp_path / "run", Request(device="cpu", folds=2)

    def train(request: Request, data: Path = tmp_path / "data") -> None:
        cohorts.trained(data, out, request, 1, None, "cpu")

    train(request)
    train(request)
    for other in (replace(request, folds=3), replace(request, overrides=("recipe.epochs=3",))):
        with pytest.raises(SystemExit, match="run was planned with other options; give another OUT"):
            train(other)
    with pytest.raises(SystemExit, match="other options"):
        train(request, tmp_path / "other data")
    assert "it is taken" not in capsys.readouterr().out
    (out / "asked.json").unlink()  # as an earlier version left it
    train(replace(request, folds=3))
    assert "it is taken" in capsys.readouterr().out
