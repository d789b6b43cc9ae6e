"""How a planner is found and asked."""

import pytest

from autoseg.errors import UsageError
from autoseg.planning import DEFAULT_GB, compute_memory, default_budget, find_planner, make_plan
from tests.planners.fingerprints import hippocampus


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
