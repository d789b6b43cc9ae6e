"""A step that is replayed from a CUDA graph against the same step without."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from autoseg.networks import build
from autoseg.step.batch import Batch
from autoseg.step.graphs import GraphedGradients
from autoseg.step.setup import StepSetup
from autoseg.step.training_step import TrainingStep
from autoseg.step.variant import Variant
from tests.builders import make_network, step_setup
from tests.devices import DEVICES, NO_GPU

NO_SECOND_GPU = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no second CUDA device here")
GRAPHS = [Variant(graphs=True), pytest.param(Variant(graphs=True, compiled=True), id="compiled")]


def batches(setup: StepSetup, count: int, device: str = "cuda") -> list[Batch]:
    drawn = []
    for number in range(count):
        torch.manual_seed(number)
        batch = setup.batch(device, random=True)
        drawn.append(replace(batch, label=(batch.image[:, 0] > 0.5).to(batch.label.dtype)))
    return drawn


def trained(
    setup: StepSetup, variant: Variant, given: Sequence[Batch], freeze: bool
) -> tuple[list[float], TrainingStep]:
    torch.manual_seed(0)
    network = build(setup.network, setup.in_channels, 2).to(given[0].image.device).train()
    step = TrainingStep(network, setup.recipe, setup.target, variant)
    losses = []
    for number, batch in enumerate(given):
        if freeze:
            next(step.network.parameters()).requires_grad_(number >= len(given) // 2)
        torch.manual_seed(number)
        losses.append(step(batch).loss)
    return [float(loss) for loss in losses], step


@pytest.mark.gpu
@NO_GPU
@pytest.mark.parametrize("variant", GRAPHS, ids=str)
@pytest.mark.parametrize("freeze", [False, True], ids=["", "frozen"])
def test_the_same_losses_weights_and_statistics(variant: Variant, freeze: bool) -> None:
    setup = step_setup(make_network(3, norm="batch"), (2, 2, [16, 16, 16], 2), optimizer="sgd")
    given = batches(setup, 6)
    plain, step = trained(setup, Variant(), given, freeze)
    losses, graphed = trained(setup, variant, given, freeze)
    assert losses == pytest.approx(plain, rel=1e-3)
    assert len(set(losses)) == 6  # each batch was read
    wanted = step.network.state_dict()
    for name, tensor in graphed.network.state_dict().items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-2, atol=1e-3)


@pytest.mark.gpu
@NO_SECOND_GPU
def test_on_a_device_that_is_not_the_current_one() -> None:
    setup = step_setup(make_network(3), (2, 2, [16, 16, 16], 2), optimizer="sgd")
    given = batches(setup, 3, "cuda:1")
    losses, _ = trained(setup, Variant(graphs=True), given, False)
    plain, _ = trained(setup, Variant(), given, False)
    assert losses == pytest.approx(plain, rel=1e-3)
    assert len(set(losses)) == 3  # each batch was read
    assert torch.cuda.current_device() == 0


@pytest.mark.gpu
@NO_GPU
def test_dropout_follows_the_seed() -> None:
    setup = step_setup(make_network(3, dropout=0.5), (1, 2, [16, 16, 16], 2))
    (batch,) = batches(setup, 1)
    given = [batch] * 4
    once, _ = trained(setup, Variant(graphs=True), given, False)
    again, _ = trained(setup, Variant(graphs=True), given, False)
    plain, _ = trained(setup, Variant(), given, False)
    assert once == pytest.approx(again, rel=1e-5)  # torch sums some gradients in no fixed order
    assert once == pytest.approx(plain, rel=1e-3)


@pytest.mark.gpu
@NO_GPU
def test_a_gradient_that_overflows_is_skipped() -> None:
    setup = step_setup(make_network(3), (1, 2, [16, 16, 16], 2))
    first, second = batches(setup, 2)
    bad = replace(first, image=torch.full_like(first.image, float("inf")))
    torch.manual_seed(0)
    step = TrainingStep(
        build(setup.network, 1, 2).cuda().train(), setup.recipe, setup.target, Variant(torch.float16, graphs=True)
    )
    step(first)
    before = [parameter.clone() for parameter in step.network.parameters()]
    assert not step(bad).finite
    for parameter, value in zip(step.network.parameters(), before, strict=True):
        assert torch.equal(parameter, value)
    assert step(second).finite


@pytest.mark.parametrize("device", DEVICES)
def test_raters_who_all_drew_are_computed_with_a_graph(device: str) -> None:
    """On a CPU, too, nothing else is computed than where it is said of each that they did."""
    setup = step_setup(make_network(3, decoders=2), (2, 2, [16, 16, 16], 2), optimizer="sgd")
    given = [replace(one, label=torch.stack([one.label, one.label], dim=1)) for one in batches(setup, 4, device)]
    told, _ = trained(setup, Variant(), [replace(one, drawn=np.ones((2, 2), bool)) for one in given], False)
    losses, step = trained(setup, Variant(graphs=device == "cuda"), given, False)
    assert losses == pytest.approx(told, rel=0 if device == "cpu" else 1e-3, abs=0)
    assert len(set(losses)) == 4  # each batch was read
    assert device == "cpu" or step._graphed._recording is not None


def test_missing_annotations_are_computed_without_a_graph() -> None:
    network = torch.nn.Conv3d(1, 2, 1)
    network.weight.grad = torch.ones_like(network.weight)
    label = torch.zeros(1, 2, 4, 4, 4, dtype=torch.int16)
    batch = Batch(torch.ones(1, 1, 4, 4, 4), label, np.array([[True, False]]))

    def compute(given: Batch) -> torch.Tensor:
        assert network.weight.grad is None
        loss = network(given.image).sum()
        loss.backward()
        return loss.detach()

    loss = GraphedGradients(network)(batch, compute)
    assert float(loss) == pytest.approx(float(network(batch.image).sum().detach()))
    assert torch.equal(network.weight.grad, torch.full_like(network.weight, 64.0))


def test_a_graph_is_recorded_on_the_device_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever device is the current one; a recording that fails does not stay the current stream."""
    current: list[Any] = [SimpleNamespace(device="the current one")]
    recorded = []

    @contextmanager
    def entered(stream: Any) -> Iterator[None]:
        before = list(current)
        current.append(stream)
        try:
            yield
        finally:
            current[:] = before

    @contextmanager
    def graph(_: object, stream: Any = None, **more: Any) -> Iterator[None]:
        recorded.append(((stream or current[0]).device, current[-1].device))
        current.append(stream)  # torch leaves it in place where recording fails
        yield
        current.pop()

    def stream(device: Any = None) -> Any:
        return SimpleNamespace(device=device or current[0].device, wait_stream=lambda other: None)

    fakes: dict[str, Any] = {"Stream": stream, "stream": entered, "graph": graph, "current_stream": stream}
    for name, fake in {**fakes, "CUDAGraph": lambda: SimpleNamespace(replay=lambda: None)}.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: nullcontext())
    network = torch.nn.Conv3d(1, 2, 1)
    batch = Batch(torch.ones(1, 1, 4, 4, 4), torch.zeros(1, 4, 4, 4, dtype=torch.int16))
    calls = []

    def compute(given: Batch) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 6:  # of the second recording, after two to warm up
            raise RuntimeError("operation not permitted when stream is capturing")
        return network(given.image).sum().detach()

    gradients = GraphedGradients(network)
    gradients(batch, compute)
    assert recorded == [(batch.image.device, batch.image.device)]
    with pytest.raises(RuntimeError, match="capturing"):
        gradients(replace(batch, image=torch.ones(2, 1, 4, 4, 4)), compute)
    assert len(current) == 1
