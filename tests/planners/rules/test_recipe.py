"""How long a CPU trains, and where its patches are, with one patch a step and with two."""

import pytest

from planners.rules.compute import CPU_STEPS, step_seconds
from planners.rules.recipe import CPU_MIN_STEPS, Data, recipe, steps


def data(cases: int, batch: int, device: str = "cpu", paced: bool = True) -> Data:
    return Data(device, cases, (40, 56, 40), (40, 56, 40), batch, False, (0, 1, 2), "", paced)


@pytest.mark.parametrize(("cases", "one"), [(1, 2 * CPU_MIN_STEPS), (100, 30_000), (5000, 2 * CPU_STEPS)])
def test_one_patch_a_step_takes_twice_the_steps(cases: int, one: int) -> None:
    """100 cases of one patch, each seen 300 times, are 30,000 steps of one; the bounds are twice those of two."""
    found = steps(data(cases, batch=1))[0]
    assert found == one
    assert steps(data(cases, batch=2))[0] == one // 2
    assert found * step_seconds(1) == pytest.approx(one // 2 * step_seconds(2))


def test_a_published_system_of_one_patch_is_not_trained_longer() -> None:
    """Its step may take as long with one patch as with two."""
    assert steps(data(5000, batch=1, paced=False))[0] == steps(data(5000, batch=2))[0] == CPU_STEPS


def test_one_patch_a_step_sees_background_too() -> None:
    one, two = recipe(data(20, batch=1)), recipe(data(20, batch=2))
    assert (one.sampling.foreground_share, two.sampling.foreground_share) == (0.5, 0.33)
    assert "foreground_share" in one.sampling.reasons
    assert one.optimizer.learning_rate < two.optimizer.learning_rate
    assert recipe(data(20, batch=1, device="cuda")).sampling.foreground_share == 0.5
    assert one.validation_batches == 2 * two.validation_batches
