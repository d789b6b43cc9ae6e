import gc

import pytest

from autoseg.planning import memory
from autoseg.planning.memory import trace_step
from autoseg.plans.families import UNet
from autoseg.plans.recipe import Optimizer, Recipe
from autoseg.step.setup import StepSetup, stand_in


def life(setup: StepSetup, precision: str) -> tuple[list[tuple[object, ...]], list[float]]:
    trace = trace_step(setup, precision)
    return sorted((s.born, s.died, s.size, s.kind) for s in trace.storages), trace.workspace


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("family", ["unet", "resenc"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_step_is_walked_through_as_torch_does(
    monkeypatch: pytest.MonkeyPatch, family: str, optimizer: str, precision: str
) -> None:
    network = UNet(
        family=family,
        features=[4, 8, 8],
        strides=[[1, 1, 1], [2, 2, 2], [1, 2, 2]],
        kernel_sizes=[[3, 3, 3]] * 3,
        encoder_blocks=[1, 1, 1],
        decoder_convs=[1, 1],
    )
    recipe = Recipe(optimizer=Optimizer(name=optimizer), ema_decay=0.99)
    setup = StepSetup(network, 2, stand_in("labels", 3), [8, 16, 16], 2, recipe)
    quick = life(setup, precision)
    monkeypatch.setattr(memory, "meta_result", lambda func, args, kwargs: func(*args, **kwargs))
    assert quick == life(setup, precision)


def test_a_trace_does_not_depend_on_when_garbage_is_collected() -> None:
    levels = {"strides": [[1, 1, 1], [2, 2, 2]], "encoder_blocks": [1, 1], "decoder_convs": [1]}
    network = UNet(features=[4, 8], kernel_sizes=[[3, 3, 3]] * 2, **levels)
    setup = StepSetup(network, 1, stand_in("labels", 2), [8, 8, 8], 2, Recipe(optimizer=Optimizer(name="sgd")))
    gc.disable()
    try:
        late = life(setup, "fp32")
    finally:
        gc.enable()
    before = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        assert life(setup, "fp32") == late
    finally:
        gc.set_threshold(*before)
