"""What becomes of a step that is no longer needed."""

import weakref

import pytest
import torch

from autoseg.networks import build
from autoseg.step.training_step import TrainingStep
from autoseg.step.variant import Variant
from tests.builders import make_network, step_setup


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("variant", [Variant(), Variant(torch.bfloat16, True, fused=True)], ids=str)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_its_memory_is_given_back_at_once(variant: Variant, optimizer: str) -> None:
    setup = step_setup(make_network(3, norm="batch"), (1, 2, [8, 8, 8], 2), optimizer, ema_decay=0.9)
    step = TrainingStep(build(setup.network, 1, 2), setup.recipe, setup.target, variant)
    outcome = step(setup.batch("cpu", random=True))
    parts = [weakref.ref(part) for part in (step, step.network, step.average.network, step.optimizer, outcome)]
    del step, outcome
    assert [part() for part in parts] == [None] * 5


@pytest.mark.usefixtures("without_collector")
def test_a_graph_does_not_keep_it() -> None:
    setup = step_setup(make_network(3), (1, 2, [8, 8, 8], 2))
    step = TrainingStep(build(setup.network, 1, 2), setup.recipe, setup.target, Variant(graphs=True))
    parts = [weakref.ref(part) for part in (step, step.network)]
    del step
    assert [part() for part in parts] == [None] * 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("variant", [Variant(), Variant(torch.float16, graphs=True)], ids=str)
def test_the_device_is_as_free_as_before(variant: Variant) -> None:
    setup = step_setup(make_network(3), (1, 2, [16, 16, 16], 2))
    held = []
    for _ in range(3):  # libraries keep a workspace from the first on
        step = TrainingStep(build(setup.network, 1, 2).cuda(), setup.recipe, setup.target, variant)
        step(setup.batch("cuda", random=True))
        step(setup.batch("cuda", random=True))
        del step
        torch.cuda.synchronize()
        held.append(torch.cuda.memory_allocated())
    assert held[2] == held[1]
