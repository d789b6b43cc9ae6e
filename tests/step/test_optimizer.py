"""Optimizer, schedules and the moving average, by hand."""

import math
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from autoseg.networks import build
from autoseg.plans.recipe import Optimizer, Schedule
from autoseg.step.averaging import MovingAverage
from autoseg.step.lr_schedule import plateaus, rate_factor
from autoseg.step.optimizer import build_optimizer
from autoseg.training.checkpoint import load_state, save_state
from autoseg.utils.errors import AutosegError
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


RANGER = Optimizer(name="ranger21", learning_rate=0.05, weight_decay=1e-4)


def mistake(network: nn.Module, data: torch.Tensor) -> torch.Tensor:
    return (network(data) - data[:, :1] + data[:, 1:2]).square().mean()


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_eps_by_hand(name: str) -> None:
    """Adam's first step from a gradient g is rate · g / (|g| + ε): half of the rate where ε is as large as g."""
    parameter = torch.zeros(1, requires_grad=True)
    parameter.grad = torch.tensor([1e-3])
    build_optimizer([parameter], Optimizer(name=name, learning_rate=0.1, weight_decay=0, eps=1e-3)).step()
    assert parameter.item() == pytest.approx(-0.05, rel=1e-4)
    parameter = torch.zeros(1, requires_grad=True)
    parameter.grad = torch.tensor([1e-3])
    build_optimizer([parameter], Optimizer(name=name, learning_rate=0.1, weight_decay=0)).step()
    assert parameter.item() == pytest.approx(-0.1, rel=1e-4)


def steps(optimizer: torch.optim.Optimizer, network: nn.Module, first: int, last: int) -> None:
    """Fit a line; step ``n`` has data of its own."""
    for number in range(first, last):
        data = torch.randn(8, 3, generator=torch.Generator().manual_seed(number))
        optimizer.zero_grad(set_to_none=True)
        mistake(network, data).backward()
        optimizer.step()


def linear() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))


def test_ranger21_learns() -> None:
    network = linear()
    steps(build_optimizer(network.parameters(), RANGER), network, 0, 200)
    data = torch.randn(64, 3)
    assert mistake(network, data).item() < 0.02 * mistake(linear(), data).item()


def test_ranger21_leaves_the_rate_to_the_schedule() -> None:
    """Without warm-up of its own the first step is a full one, and nothing moves at rate 0 however late it is."""
    network = linear()
    optimizer = build_optimizer(network.parameters(), RANGER)
    before = network[0].weight.detach().clone()
    steps(optimizer, network, 0, 1)
    first = (network[0].weight - before).abs().max().item()
    assert first > 0.1 * RANGER.learning_rate
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    # Lookahead goes halfway back at the fifth step.
    steps(optimizer, network, 1, 5)
    still = network[0].weight.detach().clone()
    steps(optimizer, network, 5, 9)
    assert torch.equal(network[0].weight, still)


@pytest.mark.parametrize("at", [1, 4, 5, 8])
@pytest.mark.parametrize("name", ["sgd", "adamw", "ranger21"])
def test_state_goes_on_exactly(tmp_path: Path, name: str, at: int) -> None:
    """Saved and loaded as plain tensors and numbers, in the middle of a Lookahead cycle or at its end."""
    chosen = RANGER.model_copy(update={"name": name, "learning_rate": 0.01})
    whole = linear()
    steps(build_optimizer(whole.parameters(), chosen), whole, 0, 12)
    first = linear()
    optimizer = build_optimizer(first.parameters(), chosen)
    steps(optimizer, first, 0, at)
    save_state(tmp_path / "state.pt", {"network": first.state_dict(), "optimizer": optimizer.state_dict()})
    saved = load_state(tmp_path / "state.pt")
    second = linear()
    second.load_state_dict(saved["network"])
    optimizer = build_optimizer(second.parameters(), chosen)
    optimizer.load_state_dict(saved["optimizer"])
    steps(optimizer, second, at, 12)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))


def test_ranger21_passes_over_what_has_no_gradient() -> None:
    """The output layer of the lowest resolution never gets one."""
    network, unused = linear(), nn.Parameter(torch.ones(2))
    steps(build_optimizer([*network.parameters(), unused], RANGER), network, 0, 6)
    assert unused.tolist() == [1, 1]


def test_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(AutosegError, match=r"pip install '\.\[ranger21\]'.*recipe\.optimizer\.name"):
        build_optimizer(linear().parameters(), RANGER)


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
        ("one_cycle", 0.0, 1 / 25),
        ("one_cycle", 0.15, 0.52),  # halfway up from 1/25
        ("one_cycle", 0.3, 1),
        ("one_cycle", 0.65, 0.6),  # halfway down to the floor
        ("one_cycle", 1.0, 0.2),
        ("explore_exploit", 0.05, 0.5),
        ("explore_exploit", 0.1, 1),
        ("explore_exploit", 0.72, 1),
        ("explore_exploit", 0.86, 0.6),
        ("explore_exploit", 1.0, 0.2),
        ("plateau", 0.05, 0.5),
        ("plateau", 1.0, 1),  # no epoch yet, no plateau
    ],
)
def test_schedule(name: str, progress: float, expected: float) -> None:
    schedule = Schedule.model_validate({"name": name, "warmup": 0.1, "power": 0.5, "floor": 0.2})
    assert rate_factor(schedule, progress) == pytest.approx(expected, abs=1e-12)


@given(
    name=st.sampled_from(["cosine", "poly", "constant", "explore_exploit"]),
    warmup=st.floats(0, 0.7),
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


def test_one_cycle_as_torch() -> None:
    """Within the step that torch reaches the top too early by."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=2001, final_div_factor=1e12)
    schedule = Schedule(name="one_cycle")
    for step in range(2001):
        assert rate_factor(schedule, step / 2000) == pytest.approx(optimizer.param_groups[0]["lr"], abs=2e-3)
        optimizer.step()
        if step < 2000:
            reference.step()


def test_explore_exploit_without_a_fall() -> None:
    assert rate_factor(Schedule(name="explore_exploit", explore=1), 1.0) == 1


def test_plateaus_by_hand() -> None:
    """Three epochs of patience: the fourth to sixth are no better than the third; then the waiting begins anew."""
    losses = [3, 2, 1, 1, 1.5, 1, 1, 0.5, 0.6, math.nan]
    assert [plateaus(losses[:n], 3) for n in range(len(losses) + 1)] == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert plateaus([*losses, 0.5], 3) == 2
    schedule = Schedule(name="plateau", warmup=0, patience=3, factor=5, floor=0.01)
    assert rate_factor(schedule, 0.5, losses) == pytest.approx(1 / 5)
    assert rate_factor(schedule, 0.5, [1] * 7) == pytest.approx(1 / 25)
    assert rate_factor(schedule, 0.5, [1] * 99) == 0.01


@given(
    losses=st.lists(st.floats(0.01, 3), max_size=40),
    patience=st.integers(1, 5),
)
def test_plateau_as_torch(losses: list[float], patience: int) -> None:
    """torch reduces after one epoch more than its patience."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.2, patience=patience - 1, min_lr=0.001)
    schedule = Schedule(name="plateau", warmup=0, patience=patience, factor=5, floor=0.001)
    for number, loss in enumerate(losses, start=1):
        reference.step(loss)
        assert rate_factor(schedule, 0.5, losses[:number]) == pytest.approx(optimizer.param_groups[0]["lr"])


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
