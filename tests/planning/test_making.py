"""How a planner is found and asked."""

from functools import partial

import pytest

from autoseg.planning.making import (
    DEFAULT_GB,
    Request,
    _learn_from,
    _within_budget,
    compute_memory,
    default_budget,
    find_planner,
    make_plan,
    refresh,
)
from autoseg.plans.overrides import assignment, override
from autoseg.plans.plan import Plan
from autoseg.plans.recipe import Distillation
from autoseg.utils.errors import AutosegError, UsageError
from tests.builders import make_configuration
from tests.builders import make_plan as by_hand
from tests.planners.fingerprints import abdomen, hippocampus
from tests.plans.test_plan import example


def test_planners_are_found_by_name() -> None:
    assert callable(find_planner("unet"))
    with pytest.raises(UsageError, match="installed planners"):
        find_planner("oracle")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"gpu_memory_gb": 0.0}, "--gpu-memory 0"), ({"device": "tpu"}, "--device tpu is unknown")],
)
def test_impossible_requests(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_plan(hippocampus(), **options)  # type: ignore[arg-type]


def test_a_plan_can_be_made_for_another_machine() -> None:
    plan = make_plan(hippocampus(), device="cuda", gpu_memory_gb=5)
    assert (plan.device, plan.gpu_memory_gb) == ("cuda", 5)


def test_the_default_budget_off_the_gpu() -> None:
    assert default_budget("cpu") == DEFAULT_GB


def test_memory_is_computed_anew_after_an_override() -> None:
    plan = make_plan(hippocampus(), device="cuda", overrides=["configurations.3d_fullres.batch_size=2"])
    configuration = plan.configurations["3d_fullres"]
    assert configuration.memory == compute_memory(plan, configuration)
    assert "set by the user" in configuration.reasons["batch_size"]


def test_a_network_of_another_family_has_its_memory_and_parameters() -> None:
    vnet = {"family": "vnet", "features": [4, 8], "convolutions": [1, 1], "kernel_size": 3, "norm": "none"}
    plan = refresh(override(Plan.model_validate(example()), [assignment("network", vnet)]))
    slices, volumes = plan.configurations["2d"], plan.configurations["3d_fullres"]
    assert (slices.network.family, volumes.network.family) == ("unet", "vnet")
    assert volumes.memory == compute_memory(plan, volumes)
    # By hand: 3×3×3 convolutions of 4 and 8 channels and 8 on the way out, 2×2×2 ones in between, each with a bias
    # and a slope a channel; then the classification.
    channels, heads = len(plan.channels), plan.target.heads
    blocks = (27 * channels * 4 + 8) + (27 * 8 * 8 + 16) + (27 * 8 * 8 + 16)
    between = (8 * 4 * 8 + 16) + (8 * 8 * 4 + 8)
    assert volumes.parameters == blocks + between + 8 * heads + heads


def test_a_teacher_is_in_every_configuration_and_within_the_budget() -> None:
    teacher = Distillation(teacher="any")
    alone = make_plan(hippocampus(), device="cuda", gpu_memory_gb=2)
    taught = make_plan(hippocampus(), device="cuda", gpu_memory_gb=2, distillation=teacher)
    assert taught.gpu_memory_gb == 2
    for name, configuration in taught.configurations.items():
        assert configuration.recipe.distillation == teacher
        assert configuration.memory == compute_memory(taught, configuration)
        assert configuration.memory.total <= 2e9
        assert alone.configurations[name].recipe.distillation is None


def test_a_teachers_term_that_would_not_fit_is_planned_for() -> None:
    """With a planner that fills its budget to the last byte."""

    def planner(request: Request) -> Plan:
        return refresh(by_hand(make_configuration(batch_size=4 if request.gpu_memory_gb >= full else 2)))

    full = compute_memory(by_hand(), make_configuration(batch_size=4)).total / 1e9
    request = Request(gpu_memory_gb=full)
    change = partial(_learn_from, Distillation(teacher="any"))
    assert compute_memory(by_hand(), change(planner(request)).configurations["small"]).total > full * 1e9
    plan = _within_budget(planner, request, change, planner(request))
    configuration = plan.configurations["small"]
    assert configuration.batch_size == 2
    assert configuration.memory is not None
    assert configuration.memory.total <= full * 1e9
    assert plan.gpu_memory_gb == full
    assert "teacher" in plan.reasons["gpu_memory_gb"]


def test_no_teacher_before_the_second_of_two_stages() -> None:
    with pytest.raises(AutosegError, match=r"planner cascade makes .* a stage after another one"):
        make_plan(abdomen(), "cascade", device="cuda", distillation=Distillation(teacher="any"))


def test_a_teachers_numbers_are_set_like_any() -> None:
    overrides = ["recipe.distillation.weight=0.5", "configurations.2d.recipe.distillation.temperature=4"]
    plan = make_plan(hippocampus(), device="cuda", overrides=overrides, distillation=Distillation(teacher="any"))
    found = {name: c.recipe.distillation for name, c in plan.configurations.items()}
    assert all(each is not None and each.weight == 0.5 for each in found.values())
    assert found["2d"] is not None
    assert found["2d"].temperature == 4
    for wrong in ("recipe.distillation.weight=-1", "recipe.distillation.temperature=0"):
        with pytest.raises(UsageError, match=r"recipe\.distillation"):
            make_plan(hippocampus(), overrides=[wrong], distillation=Distillation(teacher="any"))
    with pytest.raises(UsageError, match="distillation"):
        make_plan(hippocampus(), overrides=["recipe.distillation.weight=1"])
