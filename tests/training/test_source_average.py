"""The average of weights before and after a training, and how much of the start the training cases bear."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from autoseg.networks import build
from autoseg.networks.parts import own_tensors
from autoseg.networks.weights import load_weights
from autoseg.plans.recipe import Initialization
from autoseg.training import callbacks
from autoseg.training.source_average import LEAST, TOLERANCE, average_with_source, blend, weights_of
from autoseg.training.training import Budget
from tests.builders import blob, make_configuration, make_network, make_plan, make_recipe, store, train_in

CPU = torch.device("cpu")


def networks(norm: str = "batch") -> tuple[nn.Module, nn.Module]:
    """One before and one after a training, with other weights and statistics."""
    torch.manual_seed(0)
    before = build(make_network(norm=norm), 1, 2)
    after = build(make_network(norm=norm), 1, 2).train()
    after(torch.rand(2, 1, 8, 8, 8))  # moves the statistics and counts a batch
    return before, after


def test_blend_by_hand() -> None:
    before, after = networks()
    kept = copy.deepcopy(after.state_dict())
    blended = own_tensors(blend(after, weights_of(before), 0.25))
    for name, tensor in own_tensors(after).items():
        if tensor.is_floating_point():
            torch.testing.assert_close(blended[name], 0.75 * tensor + 0.25 * own_tensors(before)[name])
        else:
            assert torch.equal(blended[name], tensor)
    # The trained network itself stays as it was.
    assert all(torch.equal(kept[name], tensor) for name, tensor in after.state_dict().items())


@settings(max_examples=30, deadline=None, derandomize=True)
@given(share=st.floats(0.1, 0.99), barrier=st.floats(0, 5))
def test_no_more_is_kept_than_the_cases_bear(share: float, barrier: float) -> None:
    """On a line of networks whose loss rises by ``barrier`` times the share of the start."""
    line = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(line.weight)
    start = {"weight": torch.ones(1, 1)}
    seen = []

    def loss(network: nn.Module) -> float:
        seen.append(network.weight.item())  # type: ignore[union-attr, operator]
        return 0.3 + barrier * seen[-1]

    result, kept = average_with_source(line, start, share, loss)
    assert result.weight.item() == pytest.approx(kept, abs=1e-6)  # type: ignore[union-attr, operator]
    assert barrier * kept <= TOLERANCE + 1e-6
    if kept == 0:
        assert result is line
        assert barrier * LEAST > TOLERANCE / 2
    elif kept < share * 0.99:
        assert barrier * 2 * kept > TOLERANCE - 1e-6  # twice as much would have been too much
        assert kept in [pytest.approx(share / 2**n) for n in range(1, 5)]


def test_only_a_model_is_kept() -> None:
    with pytest.raises(ValidationError, match=r"keep is 0\.5, but source is random; only weights of a model"):
        Initialization(keep=0.5)


def test_a_training_that_keeps_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved is the middle between the start and what the same training saves that keeps nothing, interrupted or not."""
    torch.manual_seed(5)
    source = weights_of(build(make_network(), 1, 3))
    cases = [store(tmp_path / "data", f"c{n}", blob()) for n in range(2)]

    def prepare(network: nn.Module) -> None:
        for name, tensor in own_tensors(network).items():
            tensor.data.copy_(source[name])

    def train(folder: str, share: float, **more: Any) -> tuple[dict[str, torch.Tensor], float]:
        start = Initialization(source="model", file="source.safetensors", keep=share)
        plan = make_plan(make_configuration(recipe=make_recipe(initialization=start, ema_decay=0.9)))
        budget = Budget(iterations=4)
        state = train_in(tmp_path / folder, plan.stage(), cases, [], budget, load=prepare, **more)
        return load_weights(tmp_path / folder / "weights.safetensors"), state.kept

    monkeypatch.setattr("autoseg.training.source_average.TOLERANCE", 10.0)
    (alone, none), (half, kept) = train("alone", 0.0), train("half", 0.5)
    assert (none, kept) == (0.0, 0.5)
    for name, tensor in source.items():
        torch.testing.assert_close(half[name], (tensor + alone[name]) / 2)
    monkeypatch.setattr(callbacks, "SAVE_INTERVAL", 0.0)
    monkeypatch.setattr(callbacks, "SAVE_SHARE", math.inf)

    def stop(progress: float, note: str) -> None:
        if progress >= 0.5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train("parts", 0.5, report=stop)
    parts, _ = train("parts", 0.5)
    assert all(torch.equal(half[name], parts[name]) for name in half)
    # Where the start is of no use to the training cases, nothing of it is kept.
    monkeypatch.setattr("autoseg.training.source_average.TOLERANCE", -10.0)
    nothing, kept = train("nothing", 0.5)
    assert kept == 0
    assert all(torch.equal(nothing[name], alone[name]) for name in alone)
