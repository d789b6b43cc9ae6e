"""docs/papers.md, claim by claim, against the plans that its planners make."""

import json
import math
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from autoseg.planning.request import ResolvedRequest
from autoseg.plans.overrides import override
from autoseg.plans.plan import Plan
from autoseg.plans.reasons import explanations, without_reasons
from autoseg.plans.recipe import Recipe
from tests.planners.fingerprints import fingerprint

ROOT = Path(__file__).parents[3]

#: Columns of a table of claims: what is stated, where, planners, the plan's value, and how it compares.
COLUMNS = 5

#: How a claim may be met.
HOW = ("same", "shrunk", "differs")

#: BraTS 2020 as its layout is read.
GLIOMAS = fingerprint(
    (155, 240, 240),
    cases=369,
    channels=("t1", "t1c", "t2", "flair"),
    labels={"necrosis": 1, "edema": 2, "enhancing": 4},
    regions={"enhancing_tumor": [4], "whole_tumor": [1, 2, 4], "tumor_core": [1, 4]},
    volumes={1: 20_000, 2: 60_000, 4: 25_000},
    cropped=(138, 170, 138),
)

#: Values that this project's own rules give, which come to the paper's for such a dataset.
OWN_RULES = ("spacing",)

#: Values of a recipe that are this project's where a planner sets none.
HOUSE = (
    "gradient_clip",
    "sampling.foreground_share",
    *(
        f"augmentation.{name}_probability"
        for name in ("rotation", "scaling", "noise", "blur", "brightness", "contrast", "low_resolution", "gamma")
    ),
    "augmentation.gamma_invert_probability",
)

#: Planners that make networks of timm.
OF_TIMM = ("albunet2d", "albunet3d")


@dataclass(frozen=True)
class Claim:
    """A row of a table: what is stated, where, by which planners, and the plan's value or a command."""

    line: int
    stated: str
    where: str
    planners: tuple[str, ...]
    plan: str
    how: str


def claims() -> Iterator[Claim]:
    for number, line in enumerate((ROOT / "docs/papers.md").read_text(encoding="utf-8").splitlines(), start=1):
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if not line.startswith("|") or line.startswith("| ---") or cells[:2] == ["the paper states", "where"]:
            continue
        if len(cells) == COLUMNS and cells[1] != "where":
            stated, where, planners, plan, how = cells
            yield Claim(number, stated, where, tuple(re.findall(r"`(\w+)`", planners)), plan.strip("`"), how)


CLAIMS = list(claims())

#: Every planner that the tables name.
PLANNERS = sorted({planner for claim in CLAIMS for planner in claim.planners})


@cache
def planned(planner: str) -> Plan:
    if planner in OF_TIMM:
        pytest.importorskip("timm")
    plan: Plan = import_module(f"planners.papers.{planner}").plan(
        GLIOMAS, ResolvedRequest(device="cuda", gpu_memory_gb=24.0)
    )
    return plan


def at(node: Any, keys: list[str]) -> Any:
    """The value at a path; a list of values where ``*`` stands for the entries of a list."""
    for depth, key in enumerate(keys):
        if key == "*":
            return [at(entry, keys[depth + 1 :]) for entry in node]
        node = node[key]
    return node


def found(plan: Plan, path: str) -> Any:
    data = plan.model_dump(mode="json")
    keys = path.split(".")
    if keys[0] not in data:
        keys = ["configurations", plan.recommended, *keys]
    return at(data, keys)


def given(plan: Plan, path: str) -> str:
    """The reasons of a value and of what it is a part of, of the first entry that ``*`` stands for; empty for none."""
    keys = path.split(".")
    if keys[0] not in Plan.model_fields:
        keys = ["configurations", plan.recommended, *keys]
    first = plan.channels[0].name if keys[0] == "channels" else plan.target.outputs[0].name
    wanted = ".".join(keys).replace("*", first)
    return "; ".join(why for where, _, why in explanations(plan) if f"{wanted}.".startswith(f"{where}."))


def test_there_are_claims_of_all_four_papers() -> None:
    for planner in ("deepmedic", "fullimage_unet", "region_unet", *OF_TIMM, "region_cascade", "cropped_unet", "vnet"):
        assert sum(planner in claim.planners for claim in CLAIMS) >= 4, planner
    assert len(CLAIMS) > 150


@pytest.mark.parametrize("planner", PLANNERS)
def test_every_plan_has_what_its_table_says(planner: str) -> None:
    plan = planned(planner)
    wrong = []
    for claim in CLAIMS:
        if planner not in claim.planners:
            continue
        path, _, value = claim.plan.partition(" = ")
        expected = json.loads(value)
        actual = found(plan, path)
        if "*" in path and not isinstance(expected, list):
            expected = [expected] * len(actual)
        if actual != expected:
            wrong.append(f"line {claim.line}, {path}: the plan has {actual}, the table {expected}")
    assert wrong == []


@pytest.mark.parametrize("planner", PLANNERS)
def test_reasons_name_the_place_in_the_paper(planner: str) -> None:
    """Of every value that is the paper's."""
    plan = planned(planner)
    wrong = []
    for claim in CLAIMS:
        if planner not in claim.planners or not claim.how.startswith("same"):
            continue
        path = claim.plan.partition(" = ")[0]
        why = given(plan, path)
        if path not in OWN_RULES and claim.where.lower() not in why.lower():
            wrong.append(f"line {claim.line}, {claim.stated} ({claim.where}), {path}: {why or 'no reason'}")
    assert wrong == []


@pytest.mark.parametrize("planner", PLANNERS)
def test_what_differs_says_whose_it_is(planner: str) -> None:
    """Either ours, or of another place in the paper."""
    plan = planned(planner)
    for claim in CLAIMS:
        if planner in claim.planners and not claim.how.startswith("same"):
            why = given(plan, claim.plan.partition(" = ")[0])
            assert any(word in why for word in ("ours", "section", claim.where)), claim


@pytest.mark.parametrize("planner", PLANNERS)
def test_what_is_this_projects_own_says_so(planner: str) -> None:
    """No value of a recipe goes for the paper's because nobody set it."""
    plan = planned(planner)
    usual = Recipe().model_dump(mode="json")
    silent = []
    for configuration in plan.configurations:
        for path in HOUSE:
            whole = f"configurations.{configuration}.recipe.{path}"
            if found(plan, whole) == at(usual, path.split(".")) and "ours" not in given(plan, whole):
                silent.append(f"{whole}: {given(plan, whole) or 'no reason'}")
    assert silent == []


def settings_of(claim: Claim) -> Iterator[list[str]]:
    """What each command in a row sets, as ``--set`` is given it."""
    for command in re.findall(r"`([^`]*--set [^`]*)`", claim.how):
        words = shlex.split(command)
        yield [value for option, value in pairwise(words) if option == "--set"]


@pytest.mark.parametrize("planner", PLANNERS)
def test_every_way_out_that_a_row_names_is_a_valid_plan(planner: str) -> None:
    plan = planned(planner)
    values = without_reasons(plan.model_dump(mode="json"))
    for claim in CLAIMS:
        for settings in settings_of(claim) if planner in claim.planners else ():
            assert settings, claim
            assert without_reasons(override(plan, settings).model_dump(mode="json")) != values, claim


def test_the_whole_box_at_2_mm() -> None:
    """Rahimpour et al., section 4: half as many voxels along each axis, and still no image is cut to tiles."""
    (claim,) = [one for one in CLAIMS if one.stated.startswith("2 mm") and one.planners == ("fullimage_unet",)]
    (settings,) = settings_of(claim)
    plan = override(planned("fullimage_unet"), settings)
    configuration = plan.configurations[plan.recommended]
    assert plan.preprocessing.box is not None
    assert configuration.spacing == (2, 2, 2)
    assert configuration.patch_size == [math.ceil(side / 2) for side in plan.preprocessing.box]


def test_every_row_is_whole() -> None:
    for claim in CLAIMS:
        assert claim.stated, claim
        assert claim.where, claim
        assert claim.how.startswith(HOW), claim
        assert bool(claim.planners) == (" = " in claim.plan), claim
        if claim.plan.startswith("examples/"):
            assert (ROOT / claim.plan).exists(), claim
        elif not claim.planners:
            assert claim.plan.startswith("autoseg "), claim
