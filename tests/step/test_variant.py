"""Steps in several variants: the same numbers to within rounding, and no waiting for the device."""

import copy

import pytest
import torch

from autoseg.networks import build
from autoseg.step import variant as variant_module
from autoseg.step.batch import Batch
from autoseg.step.setup import StepSetup
from autoseg.step.training_step import TrainingStep
from autoseg.step.variant import Variant, in_format, record, recorded
from tests.builders import make_network, step_setup
from tests.devices import Waits

CPU = torch.device("cpu")
LAST = Variant(channels_last=True)
FUSED = Variant(fused=True)


def setup_of(dimensions: int = 3, optimizer: str = "adamw") -> StepSetup:
    return step_setup(make_network(dimensions), (1, 2, [8] * dimensions, 2), optimizer, ema_decay=0.9)


def made(variant: Variant, setup: StepSetup) -> tuple[TrainingStep, Batch]:
    torch.manual_seed(0)
    network = build(setup.network, setup.in_channels, setup.target.heads)
    return TrainingStep(network, setup.recipe, setup.target, variant), setup.batch(CPU, random=True)


def weights(step: TrainingStep) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in step.network.parameters()]


@pytest.mark.parametrize(
    ("variant", "text"),
    [
        (Variant(), "fp32"),
        (Variant(torch.bfloat16, True, fused=True), "bf16 channels-last, fused optimizer"),
        (Variant(torch.float16, compiled=True, graphs=True), "fp16 compiled with CUDA graphs"),
    ],
)
def test_in_words_and_in_a_file(variant: Variant, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variant_module, "emulates_bfloat16", lambda dimensions: False)
    assert str(variant) == text
    assert recorded(record(variant, CPU), CPU) == variant
    assert recorded(record(variant, torch.device("cuda")), CPU) is None


@pytest.mark.parametrize(
    ("capability", "hip", "dtype", "taken"),
    [
        ((7, 5), None, torch.bfloat16, False),
        ((7, 5), None, torch.float16, True),
        ((8, 0), None, torch.bfloat16, True),
        ((7, 0), "6.4", torch.bfloat16, True),  # AMD's are numbered otherwise
    ],
)
def test_an_older_gpu_does_not_take_the_precision_of_a_newer_one(
    capability: tuple[int, int], hip: str | None, dtype: torch.dtype, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    device, variant = torch.device("cuda:1"), Variant(dtype, channels_last=True)
    assert recorded(record(variant, device), device) == (variant if taken else None)


@pytest.mark.parametrize("emulated", [True, False])
def test_a_cpu_that_emulates_a_precision_is_without_it(emulated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained where bfloat16 is fast, predicted where it takes 18 times as long as float32."""
    monkeypatch.setattr(variant_module, "emulates_bfloat16", lambda dimensions: emulated)
    half = Variant(torch.bfloat16)
    assert recorded(record(half, CPU), CPU) == (None if emulated else half)
    assert recorded(record(Variant(), CPU), CPU) == Variant()


def test_a_macs_gpu_computes_in_32_bits() -> None:
    device = torch.device("mps")
    assert recorded(record(Variant(), device), device) == Variant()
    assert recorded(record(Variant(torch.float16), device), device) is None


@pytest.mark.parametrize("text", ["", "[]", '{"device": "cpu", "dtype": "fp8"}', '{"dtype": "fp32"}'])
def test_a_record_that_is_none(text: str) -> None:
    assert recorded(text, CPU) is None


@pytest.mark.parametrize("shape", [(2, 1, 4, 5, 6), (2, 3, 4, 5, 6), (4, 3, 1, 1, 1), (2, 3, 5, 6)])
def test_a_format_that_can_not_be_mistaken(shape: tuple[int, ...]) -> None:
    """A single channel, too, has the strides by which a convolution knows the format."""
    wanted = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    tensor = torch.randn(shape)
    laid = in_format(tensor, wanted)
    assert torch.equal(laid, tensor)
    assert laid.stride() == torch.empty(shape, memory_format=wanted).stride()
    assert in_format(laid, wanted) is laid


@pytest.mark.parametrize("variant", [LAST, FUSED, Variant(channels_last=True, fused=True)])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_variants_agree(variant: Variant, dimensions: int) -> None:
    """SGD: Adam's division would blow rounding up."""
    setup = setup_of(dimensions, "sgd")
    results = []
    for each in (Variant(), variant):
        step, batch = made(each, setup)
        losses = torch.stack([step(batch).loss for _ in range(3)])
        results.append((losses, weights(step), [p.clone() for p in step.average.network.parameters()]))
    torch.testing.assert_close(results[1], results[0], atol=2e-5, rtol=1e-4)


def test_weights_and_average_lie_as_the_variant_says() -> None:
    step, _ = made(LAST, setup_of())
    for network in (step.network, step.average.network):
        volumes = [parameter for parameter in network.parameters() if parameter.ndim == 5]
        assert all(p.is_contiguous(memory_format=torch.channels_last_3d) for p in volumes)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("variant", [Variant(), FUSED])
def test_a_step_that_is_not_finite_changes_nothing(optimizer: str, variant: Variant) -> None:
    """Also the first one, after which the next is as if it had not been."""
    setup = setup_of(optimizer=optimizer)
    step, batch = made(variant, setup)
    undisturbed, _ = made(variant, setup)
    before = weights(step)
    outcome = step(Batch(torch.full_like(batch.image, torch.inf), batch.label))
    assert not bool(outcome.finite)
    assert all(torch.equal(a, b) for a, b in zip(weights(step), before, strict=True))
    assert bool(step(batch).finite)
    undisturbed(batch)
    assert all(torch.equal(a, b) for a, b in zip(weights(step), weights(undisturbed), strict=True))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_step_never_waits(optimizer: str) -> None:
    step, batch = made(Variant(channels_last=True, fused=True), setup_of(optimizer=optimizer))
    step(batch)
    with Waits() as waits:
        step(batch)
    assert waits.found == []


def test_the_plain_optimizer_waits_once() -> None:
    step, batch = made(Variant(), setup_of(optimizer="sgd"))
    with Waits() as waits:
        step(batch)
    assert waits.found == ["aten._local_scalar_dense.default"]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_state_moves_between_variants(optimizer: str) -> None:
    """A training that goes on with another optimizer's kernel and another format goes on from the same state."""
    setup = setup_of(optimizer=optimizer)
    step, batch = made(Variant(), setup)
    step(batch)
    saved = copy.deepcopy(step.state_dict())
    other, _ = made(Variant(channels_last=True, fused=True), setup)
    other.load_state_dict(saved)
    assert other.optimizer.param_groups[0]["fused"] is True
    for parameter, state in other.optimizer.state.items():
        moments = [value for value in state.values() if value.shape == parameter.shape]
        assert moments
        assert all(value.stride() == parameter.stride() for value in moments)
    step(batch)
    other(batch)
    # Moments, not weights: Adam divides the rounding of a gradient that is zero by itself.
    moments = [
        [state["momentum_buffer" if optimizer == "sgd" else "exp_avg"] for state in one.optimizer.state.values()]
        for one in (step, other)
    ]
    torch.testing.assert_close(moments[1], moments[0], atol=1e-5, rtol=1e-4)
