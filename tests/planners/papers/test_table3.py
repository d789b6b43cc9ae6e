"""``examples/rahimpour_table3.py``: what segments the cohort as it is, is what is then tuned."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import autoseg

ROOT = Path(__file__).parents[3]


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rahimpour_table3", ROOT / "examples/rahimpour_table3.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_network_before_and_after(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Rahimpour et al., section 2.6: the pre-trained model as such, then all of its layers tuned."""
    module = example()
    used: dict[str, Sequence[int] | None] = {}
    source = SimpleNamespace(path=tmp_path / "source")
    tuned = SimpleNamespace(test_cases=["a"], plan=SimpleNamespace(stage=lambda: None), test=lambda _: tmp_path)

    def plan(dataset: object, out: Path, request: autoseg.Request) -> SimpleNamespace:
        for carried in request.carried:
            assert isinstance(carried, autoseg.Source)
            assert carried.fold is not None
            assert carried.tuning == "all"
            used["tuned"] = [carried.fold]
        return tuned if request.carried else source

    def train(run: SimpleNamespace, folds: Sequence[int] | None = None, **_: object) -> None:
        used["trained" if run is source else "tuned further"] = folds

    def load(path: Path, folds: Sequence[int] | None = None, **_: object) -> SimpleNamespace:
        used["as it is"] = folds
        return SimpleNamespace(predict=lambda *_: None)

    faked = SimpleNamespace(
        **{name: getattr(autoseg, name) for name in ("Compute", "Request", "Source")},
        plan=plan,
        train=train,
        Predictor=SimpleNamespace(load=load),
    )
    monkeypatch.setattr(module, "autoseg", faked)
    monkeypatch.setattr(module.Study, "scored", lambda *_: {})
    there = SimpleNamespace(case=lambda name: name)
    study = module.Study(SimpleNamespace(), there, tmp_path, None, 3, "cpu")
    cases, _ = study.row("whole_tumor", "t1+flair")
    assert cases == ["a"]
    assert used == {"trained": [3], "tuned": [3], "as it is": [3], "tuned further": None}
