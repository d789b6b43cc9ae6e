"""The computed memory of a step against real tensors."""

import itertools
import math

import numpy as np
import pytest
import torch

from autoseg.networks import build, count_parameters
from autoseg.planning import verification
from autoseg.planning.memory import scaling, step_memory, trace_step
from autoseg.planning.verification import check_memory
from autoseg.plans.families import UNet
from autoseg.plans.recipe import Distillation
from autoseg.utils.errors import AutosegError
from tests.builders import make_configuration, make_plan, step_setup

CUBE = {"strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]], "kernel_sizes": [[3, 3, 3]] * 3}
FLAT = {"strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]], "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]]}
SLICE = {"strides": [[1, 1], [2, 2], [2, 2]], "kernel_sizes": [[3, 3]] * 3}


def network(family: str, shape: dict[str, list[list[int]]], **changes: object) -> UNet:
    values = {
        "family": family,
        "features": [4, 8, 12],
        "encoder_blocks": [2, 2, 2] if family == "unet" else [1, 2, 2],
        "decoder_convs": [2, 2] if family == "unet" else [1, 1],
    }
    return UNet.model_validate({**values, **shape, **changes})


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("topology", "patch", "kind"),
    [
        (network("unet", CUBE), (16, 16, 16), "labels"),
        (network("unet", FLAT), (8, 24, 16), "regions"),
        (network("unet", SLICE), (32, 24), "labels"),
        (network("unet", CUBE, norm="batch", activation="relu"), (8, 8, 16), "labels"),
        (network("unet", CUBE, deep_supervision=False), (8, 8, 8), "regions"),
        (network("resenc", CUBE), (16, 8, 8), "labels"),
        (network("unet", CUBE, decoders=3), (16, 8, 8), "labels"),
        (network("resenc", SLICE, decoders=2), (32, 32), "regions"),
        (network("resenc", FLAT), (8, 16, 16), "regions"),
        (network("resenc", SLICE), (32, 32), "regions"),
    ],
)
def test_saved_bytes_are_measured_ones(topology: UNet, patch: tuple[int, ...], kind: str, precision: str) -> None:
    found = check_memory(step_setup(topology, (2, 3, patch, 2), kind=kind), precision, torch.device("cpu"))
    assert found.what == "saved"
    assert found.computed == found.measured


def test_convolutions_are_chosen_as_in_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which decides how much room they need: by cuDNN's rules, without a search."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)

    def built(*_: object) -> torch.nn.Module:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(verification, "build", built)
    with pytest.raises(torch.OutOfMemoryError):
        check_memory(step_setup(network("unet", CUBE), (1, 2, (8, 8, 8), 2)), "fp16", torch.device("cuda"))
    assert torch.backends.cudnn.benchmark is False


def test_memory_that_lacks_for_a_step_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the words, too, of a card that another program fills."""

    def lacks(*_: object) -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(verification, "check_memory", lacks)
    said = r"^cpu ran out of memory while computing a step with patch .* and batch 2; .* a smaller --gpu-memory\.$"
    with pytest.raises(AutosegError, match=said):
        verification.confirm(make_plan(make_configuration(batch_size=2)).stage(), torch.device("cpu"))


@pytest.mark.parametrize("kind", ["labels", "regions"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_saved_bytes_with_a_teacher(kind: str, precision: str) -> None:
    sizes = (2, 3, (16, 16, 16), 2)
    alone = step_setup(network("unet", CUBE), sizes, kind=kind)
    taught = step_setup(network("unet", CUBE), sizes, kind=kind, distillation=Distillation(teacher="any"))
    found = check_memory(taught, precision, torch.device("cpu"))
    assert found.computed == found.measured
    # At least the scores of three heads and where they count, 4 bytes each.
    more = step_memory(taught, precision).total - step_memory(alone, precision).total
    assert more >= 2 * 16**3 * 4 * 4


@pytest.mark.parametrize("name", ["sgd", "adamw", "ranger21"])
@pytest.mark.parametrize("ema", [False, True])
def test_parameters_and_optimizer_by_arithmetic(name: str, ema: bool) -> None:
    topology = network("unet", CUBE)
    number, _ = count_parameters(build(topology, 1, 2))
    memory = step_memory(step_setup(topology, (1, 2, (16, 16, 16), 2), name, ema_decay=0.999 if ema else 0.0), "fp32")
    assert memory.parameters == 4 * number * (2 if ema else 1)
    assert memory.optimizer == 4 * number * {"sgd": 1, "adamw": 2, "ranger21": 5}[name]


def test_parts_sum_to_the_peak() -> None:
    topology = network("unet", CUBE)
    trace = trace_step(step_setup(topology, (1, 2, (16, 16, 16), 2)), "fp16")
    memory = step_memory(step_setup(topology, (1, 2, (16, 16, 16), 2)), "fp16")
    assert memory.total == round(float(trace.alive().max()))
    assert memory.total > trace.saved + memory.parameters + memory.optimizer


def test_all_gradients_are_there_when_the_step_ends() -> None:
    topology = network("unet", CUBE)
    module = build(topology, 1, 2)
    number, _ = count_parameters(module)
    # The lowest resolution has no weight in the loss, so its output layer gets no gradient.
    unused = sum(parameter.numel() for parameter in module.decoder.seg_layers[0].parameters())
    trace = trace_step(step_setup(topology, (1, 2, (16, 16, 16), 2)), "fp32")
    assert trace.at(len(trace.workspace) - 1, "gradients") == 4 * (number - unused)


def test_another_decoder_takes_what_the_first_did() -> None:
    """Weights and what is saved for the backward pass: the encoder is there once, each decoder adds as much."""
    traces = [
        trace_step(step_setup(network("unet", CUBE, decoders=count), (1, 2, (16, 16, 16), 2)), "fp32")
        for count in (1, 2, 3)
    ]
    first, second = (b.saved - a.saved for a, b in itertools.pairwise(traces))
    assert first == pytest.approx(second, rel=0.01)
    assert 0.3 * traces[0].saved < second < traces[0].saved
    single = build(network("unet", CUBE), 1, 2)
    added = sum(p.numel() for name, p in single.named_parameters() if name.startswith("decoder"))
    more = [trace.at(trace.backward, "parameters") for trace in traces]
    assert [b - a for a, b in itertools.pairwise(more)] == [4 * added] * 2


def test_sixteen_bits_take_about_half() -> None:
    topology = network("unet", CUBE)
    full = trace_step(step_setup(topology, (1, 2, (32, 32, 32), 2)), "fp32").saved
    half = trace_step(step_setup(topology, (1, 2, (32, 32, 32), 2)), "fp16").saved
    assert 0.45 < half / full < 0.7


@pytest.mark.parametrize(
    "topology", [network("unet", FLAT), network("resenc", SLICE), network("unet", CUBE, decoders=2)]
)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_scaling_agrees_with_a_direct_computation(topology: UNet, precision: str) -> None:
    patch = [24 * int(f) for f in np.prod(topology.strides, axis=0)]
    direct = step_memory(step_setup(topology, (2, 3, patch, 3), "sgd"), precision).total
    scaled = scaling(step_setup(topology, (2, 3, patch, 3), "sgd"), precision).peak(3 * math.prod(patch))
    assert scaled == pytest.approx(direct, rel=1e-3)


def test_computing_leaves_the_random_state_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    step_memory(step_setup(network("unet", CUBE), (1, 2, (8, 8, 8), 2)), "fp32")
    assert torch.equal(torch.rand(1), expected)
