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
from autoseg.study.grid import Grid, Setting, read_grid
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


def grid_of(name: str) -> tuple[Grid, list[Setting]]:
    return read_grid(next(path for path in GRIDS if path.stem == name))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("rahimpour_losses", 60),  # 4 ω, 4 × 4 ω × γ, soft Dice, 9 α; both models
        ("rahimpour_optimizers", 12),
        ("rahimpour_normalization", 12),
        ("rahimpour_table2", 20),  # 7 + 3 combinations
        ("rahimpour_model_size", 8),
        ("rahimpour_initialisations", 2),
        ("rahimpour_sampling", 4),
        ("rahimpour_batch_size", 5),
        ("yildiz_table4", 2),
        ("wacker_tables", 5),
        ("wacker_figure4", 2),
    ],
)
def test_studies_of_the_papers(name: str, settings: int) -> None:
    """As many settings as the paper has, each another plan; every table has a value for each of its cells."""
    grid, found = grid_of(name)
    assert len(found) == settings
    plans = []
    for setting in found:
        plan = planned(setting.planner)
        changed = override(plan, overrides_of(plan, setting)) if setting.values else plan
        dumped = changed.model_dump(mode="json", exclude={"autoseg_version"})
        plans.append([dumped, setting.channels, setting.regions])
    assert all(plans.count(plan) == 1 for plan in plans)
    assert grid.table
    known = {*grid.structures} or {*TUMOURS.regions}
    assert {measure.partition(" ")[2] for table in grid.table for measure in table.measures} - {""} <= known
    assert {*grid.structures} <= {*TUMOURS.regions, *TUMOURS.labels}
    assert grid.epochs is None is grid.max_time  # the plan's length, which is the paper's


def test_the_ranges_of_rahimpours_losses() -> None:
    """Section 2.3: ω, ω × γ, and α from 0.1 to 0.9, with cross-entropy weighing the rest."""
    found = grid_of("rahimpour_losses")[1]
    of = {name: [setting for setting in found if setting.place["setting"] == name] for name in ("wce", "focal", "comb")}
    assert {setting.values["recipe.loss.omega"] for setting in of["wce"]} == {0.25, 0.5, 0.75, 1}
    pairs = {(one.values["recipe.loss.omega"], one.values["recipe.loss.focal_gamma"]) for one in of["focal"]}
    assert pairs == {(omega, gamma) for omega in (0.25, 0.5, 0.75, 1) for gamma in (1, 1.5, 2, 2.5)}
    weights = {(one.values["recipe.loss.dice_weight"], one.values["recipe.loss.ce_weight"]) for one in of["comb"]}
    assert {alpha for alpha, _ in weights} == {n / 10 for n in range(1, 10)}
    assert all(alpha + rest == pytest.approx(1) for alpha, rest in weights)
    assert {setting.regions for setting in found} == {("whole_tumor",)}
    assert grid_of("rahimpour_initialisations")[0].seeds == list(range(10))


def test_the_rows_of_rahimpours_table_2() -> None:
    found = grid_of("rahimpour_table2")[1]
    rows = [(one.place["setting"], one.place["channels"]) for one in found if one.planner == "deepmedic"]
    assert rows == [
        *(("whole_tumor", which) for which in ("t1", "t2", "flair", "t1+t2", "t1+flair", "t2+flair", "t1+t2+flair")),
        *(("tumor_core", which) for which in ("t1", "t1c", "t1+t1c")),
    ]


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
