"""The grids in ``examples/``: every planner, path and value in them is valid for a brain-tumour dataset."""

from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from autoseg.planning.making import make_plan
from autoseg.planning.planners import default_planner
from autoseg.planning.request import Request
from autoseg.plans.overrides import override
from autoseg.plans.plan import Plan
from autoseg.study.grid import read_grid
from autoseg.study.preparation import overrides_of
from tests.planners.fingerprints import fingerprint

GRIDS = sorted((Path(__file__).parents[2] / "examples").glob("*.toml"))

#: A small tumour dataset, so that planning is quick.
TUMOURS = fingerprint(
    (32, 32, 32),
    cases=20,
    channels=("t1", "t1c", "t2", "flair"),
    labels={"necrosis": 1, "edema": 2, "enhancing": 4},
    regions={"enhancing_tumor": [4], "whole_tumor": [1, 2, 4], "tumor_core": [1, 4]},
)


@cache
def planned(planner: str) -> Plan:
    return make_plan(TUMOURS, Request(planner=planner or None, device="cuda", gpu_memory_gb=8.0))


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_every_value_is_valid(path: Path) -> None:
    for setting in read_grid(path)[1]:
        assert set(setting.channels) <= set(TUMOURS.channels)
        if setting.values or setting.width is not None:
            plan = planned(setting.planner)
            override(plan, overrides_of(plan, setting))


def test_each_loss_is_another_one() -> None:
    path = next(path for path in GRIDS if path.stem == "losses")
    losses = []
    for setting in read_grid(path)[1]:
        plan = override(planned("unet"), overrides_of(planned("unet"), setting))
        losses.append(plan.configurations[plan.recommended].recipe.loss.model_dump(exclude={"reasons"}))
    assert len(losses) == 14
    assert all(losses.count(loss) == 1 for loss in losses)


def test_there_are_the_papers_studies() -> None:
    names = {path.stem for path in GRIDS}
    assert names >= {
        "losses",
        "model_size",
        "normalization",
        "optimizers",
        "reinitialisations",
        "sequence_combinations",
        "systems",
    }


def test_systems_names_every_planner_installed_with_this_project() -> None:
    ours = {point.name for point in entry_points(group="autoseg.planners") if point.value.startswith("planners.")}
    path = next(path for path in GRIDS if path.stem == "systems")
    # Fine-tuning is no system of its own: it needs a model to start from.
    assert {setting.planner for setting in read_grid(path)[1]} == ours - {default_planner("model")}
