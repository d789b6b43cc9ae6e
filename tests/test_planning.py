"""How a planner is found and asked."""

import pytest

from autoseg.errors import UsageError
from autoseg.overrides import assignment, override
from autoseg.plan import Plan
from autoseg.planning import DEFAULT_GB, compute_memory, default_budget, find_planner, make_plan, refresh
from tests.planners.fingerprints import hippocampus
from tests.test_plan import example


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
