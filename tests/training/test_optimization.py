"""Optimizer, schedules and the moving average, by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from autoseg.networks import build
from autoseg.recipe import Optimizer, Schedule
from autoseg.training.optimization import MovingAverage, build_optimizer, rate_factor
from tests.builders import make_network


def test_optimizers() -> None:
    parameter = [nn.Parameter(torch.zeros(1))]
    sgd = build_optimizer(parameter, Optimizer(name="sgd", learning_rate=0.01, momentum=0.9, weight_decay=3e-5))
    assert isinstance(sgd, torch.optim.SGD)
    group = sgd.param_groups[0]
    assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (0.01, 0.9, True, 3e-5)
    adam = build_optimizer(parameter, Optimizer(name="adam", learning_rate=0.1, weight_decay=0))
    assert type(adam) is torch.optim.Adam
    adamw = build_optimizer(parameter, Optimizer(name="adamw", learning_rate=0.1, weight_decay=0.5))
    assert type(adamw) is torch.optim.AdamW
    assert adamw.param_groups[0]["weight_decay"] == 0.5


def test_sgd_without_momentum() -> None:
    """Nesterov's momentum is undefined at 0, which the plan allows."""
    parameter = nn.Parameter(torch.ones(1))
    optimizer = build_optimizer([parameter], Optimizer(name="sgd", learning_rate=0.1, momentum=0, weight_decay=0))
    (2 * parameter).sum().backward()
    optimizer.step()
    assert parameter.item() == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("name", "progress", "expected"),
    [
        ("cosine", 0.1, 1),  # the end of the warm-up
        ("cosine", 0.55, 0.5 + 0.5 * 0.2),  # half of the rest: floor and rate in equal parts
        ("cosine", 1.0, 0.2),
        ("cosine", 7.0, 0.2),
        ("poly", 0.1, 1),
        ("poly", 0.55, math.sqrt(0.5)),
        ("poly", 1.0, 0),
        ("constant", 0.7, 1),
        ("constant", 0.05, 0.5),
        ("cosine", 0.05, 0.5),
        ("cosine", 0.0, 0.01),
    ],
)
def test_schedule(name: str, progress: float, expected: float) -> None:
    schedule = Schedule.model_validate({"name": name, "warmup": 0.1, "power": 0.5, "floor": 0.2})
    assert rate_factor(schedule, progress) == pytest.approx(expected, abs=1e-12)


@given(
    name=st.sampled_from(["cosine", "poly", "constant"]),
    warmup=st.floats(0, 0.9),
    steps=st.lists(st.floats(0, 1), min_size=2, max_size=2),
)
def test_schedule_rises_then_falls(name: str, warmup: float, steps: list[float]) -> None:
    schedule = Schedule.model_validate({"name": name, "warmup": warmup})
    early, late = sorted(steps)
    first, second = rate_factor(schedule, early), rate_factor(schedule, late)
    assert 0 <= first <= 1
    if late < warmup:
        assert first <= second
    elif early >= warmup:
        assert first >= second


def move(network: nn.Module, value: float) -> None:
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.fill_(value)


def test_average_by_hand() -> None:
    network = nn.Linear(1, 1)
    move(network, 1.0)
    average = MovingAverage(network, 0.5)
    move(network, 2.0)
    average.update(network)  # decay 2 / 11
    first = 1 * 2 / 11 + 2 * 9 / 11
    assert average.network.weight.item() == pytest.approx(first)
    average.update(network)  # decay 3 / 12
    assert average.network.weight.item() == pytest.approx(first * 3 / 12 + 2 * 9 / 12)
    for _ in range(20):
        average.update(network)
    move(network, 4.0)
    before = average.network.weight.item()
    average.update(network)  # min(0.5, 24 / 33)
    assert average.network.weight.item() == pytest.approx(0.5 * before + 0.5 * 4)
    assert network.weight.item() == 4


def test_no_average_follows_the_network() -> None:
    network = nn.Linear(2, 2)
    average = MovingAverage(network, 0.0)
    move(network, 3.0)
    average.update(network)
    assert torch.equal(average.network.weight, network.weight)


def test_average_takes_part_in_nothing() -> None:
    average = MovingAverage(nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5)), 0.9)
    assert not average.network.training
    assert not any(parameter.requires_grad for parameter in average.network.parameters())


def test_average_of_statistics() -> None:
    network = nn.BatchNorm1d(1)
    average = MovingAverage(network, 0.0)
    network(torch.tensor([[3.0], [5.0]]))
    average.update(network)
    assert average.network.running_mean.item() == pytest.approx(network.running_mean.item())
    assert average.network.num_batches_tracked.item() == 1


def test_average_of_a_unet_is_even() -> None:
    """Every weight is averaged once a step, though a U-Net lists some of its tensors under several names."""
    network = build(make_network(), 1, 2)
    average = MovingAverage(network, 0.999)
    move(average.network, 0.0)
    move(network, 1.0)
    average.update(network)
    for name, tensor in average.network.named_parameters():
        assert tensor.mean().item() == pytest.approx(9 / 11, rel=1e-5), name
