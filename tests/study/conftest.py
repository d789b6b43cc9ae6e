"""A dataset of blobs, a planner whose plan is made by hand, and trainings that take no time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoseg.data.dataset import Dataset
from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.files import load_plan
from autoseg.plans.plan import Plan
from autoseg.runs.run import Run
from autoseg.utils.files import write_json
from tests.builders import blob, make_dataset, make_plan, picture_of, write


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Four blobs whose noise differs: the same scan twice is an error of a dataset."""
    dataset = make_dataset(tmp_path / "data")
    for number, case in enumerate(dataset.cases):
        write(case.channels["mr"].path, picture_of(blob(shift=number % 2), seed=number))
    return dataset


@pytest.fixture
def grid(tmp_path: Path) -> Callable[[str], Path]:
    def grid(text: str) -> Path:
        path = tmp_path / "study.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return grid


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let every planner make the plan of ``tests.builders``; the names of those asked, as they are."""
    asked: list[str] = []

    def plan(fingerprint: Fingerprint, request: ResolvedRequest) -> Plan:
        asked.append(str(request.planner))
        channels = request.channels or fingerprint.channels
        return make_plan(channels=channels, planner=request.planner, device=request.device)

    monkeypatch.setattr("autoseg.study.preparation.make_plan", plan)
    return asked


@dataclass
class Trainings:
    """What was trained: (setting, seed, fold); ``wrong`` says what goes wrong with some of it."""

    done: list[tuple[str, int, int]] = field(default_factory=list)
    wrong: dict[tuple[str, int, int], BaseException] = field(default_factory=dict)

    def names(self) -> list[str]:
        """And forget."""
        names = [f"{name} {seed} {fold}" for name, seed, fold in self.done]
        self.done.clear()
        return names


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    """Instead of training, write a fold whose label maps are the truth, shifted by the setting's ``batch_size`` − 1."""
    trainings = Trainings()

    def train(run: Run, folds: Sequence[int], seed: int, **options: Any) -> None:
        plan = load_plan(run.path / "plan.json")
        shift = plan.configurations[plan.recommended].batch_size - 1
        for fold in folds:
            job = (run.path.parent.name, seed, fold)
            folder = run.fold(plan.recommended, fold).folder
            if (folder / "done.json").exists():
                continue
            if job in trainings.wrong:
                raise trainings.wrong[job]
            for case in run.splits[fold]["validation"]:
                label = blob(shift=int(case[-1]) % 2)
                write(folder / "validation" / f"{case}.nii.gz", np.roll(label, shift, axis=0))
            write_json(folder / "done.json", {"iterations": 10, "seconds": 5.0 * (1 + seed)})
            trainings.done.append(job)

    monkeypatch.setattr("autoseg.study.running.train", train)
    # The stand-in measures nothing itself.
    monkeypatch.setattr("autoseg.study.results._measured_by_training", lambda *_: False)
    return trainings
