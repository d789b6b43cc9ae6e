"""The training loop: it learns, it ends when its budget does, and an interruption leaves no trace."""

import csv
import math
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from autoseg.inference.variant_choice import inference_variant
from autoseg.networks import build
from autoseg.networks.weights import load_network, load_weights, save_weights
from autoseg.plans.plan import Plan
from autoseg.plans.recipe import Optimizer, Schedule
from autoseg.runs.run import Run
from autoseg.runs.weight_files import read_metadata
from autoseg.step.training_step import TrainingStep
from autoseg.step.variant import Variant, record, recorded
from autoseg.training import batches, callbacks, training
from autoseg.training.checkpoint import load_state, save_state
from autoseg.training.state import State, begun_variant
from autoseg.training.training import Budget, training_identity
from autoseg.utils.errors import AutosegError
from tests.builders import (
    LABELS,
    REGIONS,
    FoldIn,
    make_configuration,
    make_network,
    make_plan,
    make_recipe,
    still,
    train_in,
)
from tests.plans.test_plan import example

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def can_be_interrupted() -> Iterator[None]:
    """A shell starts background jobs deaf to Ctrl-C; the tests must hear it there, too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def plan_with(network: dict[str, Any] | None = None, target=LABELS, **recipe: Any) -> Plan:
    return make_plan(
        make_configuration(recipe=make_recipe(**recipe), network=make_network(**(network or {}))), target=target
    )


def train(folder: Path, plan: Plan, cases: list, budget: Budget, **more: Any) -> State:
    return train_in(folder, plan.stage("small"), cases[:-1], cases[-1:], budget, **more)


def without_seconds(state: State) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in state.history]


def same_weights(first: Path, second: Path, name: str = "weights.safetensors") -> bool:
    a, b = load_weights(first / name), load_weights(second / name)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_learns(tmp_path: Path, cases: list) -> None:
    plan = plan_with(optimizer=Optimizer(learning_rate=0.05), iterations_per_epoch=50, ema_decay=0.9)
    state = train(tmp_path / "f", plan, cases, Budget(iterations=150))
    losses = [row["loss"] for row in state.history]
    assert losses[-1] < 0.3 * losses[0]
    assert state.best_dice > 0.9
    assert state.finished
    with open(tmp_path / "f" / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["iteration"] for row in rows] == ["50", "100", "150"]
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    for row, kept in zip(rows, state.history, strict=True):
        for key in ("loss", "validation_dice", "validation_dice_inner"):
            assert float(row[key]) == pytest.approx(kept[key], rel=1e-4)


WILD: dict[str, Any] = {
    "augmentation": dict.fromkeys(
        (
            "rotation_probability",
            "scaling_probability",
            "elastic_probability",
            "noise_probability",
            "blur_probability",
            "contrast_probability",
            "low_resolution_probability",
            "gamma_probability",
        ),
        0.7,
    )
}


class Stop(Exception):
    """The process dies here."""


@pytest.mark.parametrize("network", [{}, {"norm": "batch"}, {"dropout": 0.3}], ids=["instance", "batch", "dropout"])
@pytest.mark.parametrize("at", [1, 4, 5])
def test_interrupted_and_resumed_is_uninterrupted(tmp_path: Path, cases: list, network: dict, at: int) -> None:
    plan = plan_with(network, **WILD, ema_decay=0.9)
    budget = Budget(iterations=7)  # the last epoch is a half one
    whole = train(tmp_path / "whole", plan, cases, budget)

    def interrupt(progress: float, _: str) -> None:
        if progress == at / 7:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", plan, cases, budget, report=interrupt)
    assert not (tmp_path / "parts" / "weights.safetensors").exists()
    torch.rand(7)  # another process has another global state
    steps: list[float] = []
    parts = train(tmp_path / "parts", plan, cases, budget, report=lambda progress, _: steps.append(progress))
    assert steps[0] == (at + 1) / 7
    assert parts.iteration == 7
    assert without_seconds(parts) == without_seconds(whole)
    assert same_weights(tmp_path / "whole", tmp_path / "parts")
    assert same_weights(tmp_path / "whole", tmp_path / "parts", "best.safetensors")
    assert [row["seconds"] for row in parts.history] == sorted(row["seconds"] for row in parts.history)


@pytest.mark.parametrize("at", [3, 5, 9])
def test_ranger21_and_plateaus_go_on_exactly(tmp_path: Path, cases: list, at: int) -> None:
    """Moments, Lookahead and the rate that fell on the way are what they were."""
    plan = plan_with(
        # So large a rate that the loss does not fall.
        optimizer=Optimizer(name="ranger21", learning_rate=3.0),
        schedule=Schedule(name="plateau", warmup=0, patience=1, factor=2),
    )
    budget = Budget(iterations=12)
    whole = train(tmp_path / "whole", plan, cases, budget)
    rates = [row["learning_rate"] for row in whole.history]
    assert rates[0] == 3.0
    assert rates[-1] < 3.0
    # Half the rate from the epoch after one that was no better than the best before it.
    losses = [row["loss"] for row in whole.history]
    for epoch in range(1, 6):
        worse = epoch > 1 and losses[epoch - 1] >= min(losses[: epoch - 1])
        assert rates[epoch] == (rates[epoch - 1] / 2 if worse else rates[epoch - 1])

    def interrupt(progress: float, _: str) -> None:
        if progress == at / 12:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", plan, cases, budget, report=interrupt)
    parts = train(tmp_path / "parts", plan, cases, budget)
    assert without_seconds(parts) == without_seconds(whole)
    assert same_weights(tmp_path / "whole", tmp_path / "parts")


def test_killed_between_saves(tmp_path: Path, cases: list, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written on the way out: it goes on from the last saved state."""
    plan, budget = plan_with(), Budget(iterations=6)
    whole = train(tmp_path / "whole", plan, cases, budget)
    monkeypatch.setattr(callbacks, "SAVE_INTERVAL", -1.0)
    monkeypatch.setattr(callbacks, "SAVE_SHARE", math.inf)

    def die(progress: float, _: str) -> None:
        if progress >= 0.5:
            raise Stop

    with pytest.raises(Stop):
        train(tmp_path / "parts", plan, cases, budget, report=die)
    parts = train(tmp_path / "parts", plan, cases, budget)
    assert without_seconds(parts) == without_seconds(whole)
    assert same_weights(tmp_path / "whole", tmp_path / "parts")


def test_interrupted_within_a_step(tmp_path: Path, cases: list, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C right after the weights have moved: the step must not be done a second time."""
    plan, budget = plan_with(), Budget(iterations=5)
    whole = train(tmp_path / "whole", plan, cases, budget)
    real, calls = TrainingStep.__call__, []

    def interrupted(*arguments: Any) -> Any:
        result = real(*arguments)
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return result

    monkeypatch.setattr(TrainingStep, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", plan, cases, budget)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    parts = train(tmp_path / "parts", plan, cases, budget)
    assert len(calls) == 5
    assert without_seconds(parts) == without_seconds(whole)
    assert same_weights(tmp_path / "whole", tmp_path / "parts")


def test_second_interrupt_is_raised_at_once(tmp_path: Path, cases: list, monkeypatch: pytest.MonkeyPatch) -> None:
    """For those who can't wait for the end of a step; what was saved before stays."""

    def stuck(*_: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second was held back, too")

    monkeypatch.setattr(TrainingStep, "__call__", stuck)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "f", plan_with(), cases, Budget(iterations=5))
    assert not (tmp_path / "f" / "training_state.pt").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_same_seed_same_training(tmp_path: Path, cases: list) -> None:
    plan = plan_with(**WILD)
    first = train(tmp_path / "a", plan, cases, Budget(iterations=3))
    second = train(tmp_path / "b", plan, cases, Budget(iterations=3))
    other = train(tmp_path / "c", plan, cases, Budget(iterations=3), seed=1)
    assert without_seconds(first) == without_seconds(second) != without_seconds(other)
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert not same_weights(tmp_path / "a", tmp_path / "c")


def test_more_iterations_go_on(tmp_path: Path, cases: list) -> None:
    plan = plan_with()
    train(tmp_path / "f", plan, cases, Budget(iterations=2))
    again = train(tmp_path / "f", plan, cases, Budget(iterations=2))
    assert again.iteration == 2
    longer = train(tmp_path / "f", plan, cases, Budget(iterations=6))
    assert [row["iteration"] for row in longer.history] == [2, 4, 6]
    fresh = train(tmp_path / "f", plan, cases, Budget(iterations=2), resume=False)
    assert [row["iteration"] for row in fresh.history] == [2]


class Clock:
    """Each look at it takes a second."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        self.now += 1
        return self.now


def test_time_budget(tmp_path: Path, cases: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "time", Clock())
    rates = []
    real = TrainingStep.__call__

    def watched(step: TrainingStep, batch: Any) -> Any:
        rates.append(step.optimizer.param_groups[0]["lr"])
        return real(step, batch)

    monkeypatch.setattr(TrainingStep, "__call__", watched)
    plan = plan_with(
        optimizer=Optimizer(learning_rate=1.0), schedule=Schedule(name="cosine", warmup=0), iterations_per_epoch=10
    )
    progress: list[float] = []
    state = train(tmp_path / "f", plan, cases, Budget(seconds=100), report=lambda share, _: progress.append(share))
    assert 100 <= state.seconds < 110
    assert progress == sorted(progress)
    assert progress[-1] == 1
    assert rates[0] == pytest.approx(1, abs=0.01)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.01
    assert state.history[-1]["iteration"] == state.iteration == len(rates)


def test_time_goes_on_after_an_interruption(tmp_path: Path, cases: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "time", Clock())
    plan = plan_with()

    def interrupt(progress: float, _: str) -> None:
        if progress > 0.5:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "f", plan, cases, Budget(seconds=60), report=interrupt)
    first: list[float] = []
    state = train(tmp_path / "f", plan, cases, Budget(seconds=60), report=lambda share, _: first.append(share))
    assert first[0] > 0.5
    assert 60 <= state.seconds < 70


def test_another_plans_state_is_refused(tmp_path: Path, cases: list) -> None:
    train(tmp_path / "f", plan_with(), cases, Budget(iterations=1))
    others = [
        (plan_with(optimizer=Optimizer(learning_rate=0.5)), {}),
        (plan_with({"width": 8}), {}),
        (plan_with(target=REGIONS), {}),
        (plan_with(), {"seed": 1}),
    ]
    for plan, more in others:
        with pytest.raises(AutosegError, match=r"another plan, seed or split.*--restart"):
            train(tmp_path / "f", plan, cases, Budget(iterations=2), **more)
    with pytest.raises(AutosegError, match="--restart"):
        train(tmp_path / "f", plan_with(), cases[1:], Budget(iterations=2))


def test_identity() -> None:
    """What decides how a training goes on is part of it; how long it goes and what is said about it is not."""

    def identity(plan: Plan, cases: tuple = ("a", "b"), content: str = "1", name: str = "small") -> str:
        stored = [SimpleNamespace(id=case, content=content) for case in cases]
        return training_identity(plan.stage(name), stored, 0)

    # A newer key at its default must leave it: trainings that older versions began could not go on.
    assert identity(Plan.model_validate(example()), name="3d_fullres") == "d99c63c04863033a"
    plan = plan_with()
    assert identity(plan_with(epochs=77, validate_every=3, validate_cases=9, early_stopping=4)) == identity(plan)
    config = plan.configurations["small"]
    said = config.model_copy(update={"reasons": {"patch_size": "because"}})
    assert identity(plan.model_copy(update={"configurations": {"small": said}})) == identity(plan)
    spoken = plan_with(optimizer=Optimizer(reasons={"learning_rate": "because"}))
    assert identity(spoken) == identity(plan)
    assert identity(plan_with(optimizer=Optimizer(name="sgd"))) != identity(plan)
    assert identity(plan_with(augmentation=still(noise_probability=0.5))) != identity(plan)
    assert identity(plan, ("a",)) != identity(plan)
    assert identity(plan, content="2") != identity(plan)  # a corrected label
    assert identity(plan_with(ema_decay=0.5)) != identity(plan)
    finer = config.model_copy(update={"spacing": (0.5, 1.0, 1.0)})
    assert identity(plan.model_copy(update={"configurations": {"small": finer}})) != identity(plan)
    normalized = plan.channels[0].model_copy(
        update={"normalization": plan.channels[0].normalization.model_copy(update={"masked": True})}
    )
    assert identity(plan.model_copy(update={"channels": [normalized]})) != identity(plan)


def test_damaged_state_is_refused(tmp_path: Path, cases: list) -> None:
    train(tmp_path / "f", plan_with(), cases, Budget(iterations=1))
    (tmp_path / "f" / "training_state.pt").write_bytes(b"rubbish")
    with pytest.raises(AutosegError, match="--restart"):
        train(tmp_path / "f", plan_with(), cases, Budget(iterations=2))


def test_average_is_what_is_saved(tmp_path: Path, cases: list) -> None:
    """With a decay of 0 the saved weights are the network's own; with a long one they are not."""
    for decay, equal in ((0.0, True), (0.99, False)):
        folder = tmp_path / str(decay)
        train(folder, plan_with(ema_decay=decay), cases, Budget(iterations=3))
        saved = load_weights(folder / "weights.safetensors")
        network = torch.load(folder / "training_state.pt", weights_only=True)["network"]
        assert all(torch.equal(saved[key], network[key]) for key in saved) is equal


def test_gradient_is_clipped(tmp_path: Path, cases: list) -> None:
    """With plain SGD at rate 1 the weights move by no more than the clip."""
    plan = plan_with(
        optimizer=Optimizer(name="sgd", learning_rate=1.0, momentum=0.0, weight_decay=0.0),
        schedule=Schedule(name="constant", warmup=0),
        gradient_clip=0.01,
        ema_decay=0.0,
    )
    train(tmp_path / "f", plan, cases, Budget(iterations=1))
    torch.manual_seed(0)
    before = build(plan.configurations["small"].network, 1, 3)
    after = load_network(tmp_path / "f" / "weights.safetensors", plan.stage("small"), CPU)
    moved = sum(
        float(((a.detach() - b) ** 2).sum()) for a, b in zip(before.parameters(), after.parameters(), strict=True)
    )
    assert math.sqrt(moved) == pytest.approx(0.01, rel=1e-3)


def test_weights_that_do_not_fit(tmp_path: Path, cases: list) -> None:
    plan = plan_with()
    train(tmp_path / "f", plan, cases, Budget(iterations=1))
    # Without the note of what they were trained under, as weights from elsewhere are.
    save_weights(tmp_path / "w.safetensors", load_weights(tmp_path / "f" / "weights.safetensors"))
    wide = plan_with({"width": 8})
    with pytest.raises(AutosegError, match="does not fit the plan beside it") as caught:
        load_network(tmp_path / "w.safetensors", wide.stage("small"), CPU)
    assert "\n" not in str(caught.value)


def test_two_dimensional(tmp_path: Path, cases: list) -> None:
    config = make_configuration((8, 8), recipe=make_recipe())
    state = train(tmp_path / "f", make_plan(config), cases, Budget(iterations=2))
    assert math.isfinite(state.history[0]["validation_dice"])


def test_sixteen_bits(tmp_path: Path, cases: list) -> None:
    state = train(tmp_path / "f", plan_with(precision="bf16"), cases, Budget(iterations=2))
    assert math.isfinite(state.history[0]["loss"])
    saved = load_weights(tmp_path / "f" / "weights.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}


def test_loading_workers_change_nothing(tmp_path: Path, cases: list) -> None:
    plan = plan_with(**WILD)
    alone = train(tmp_path / "a", plan, cases, Budget(iterations=3), workers=0)
    helped = train(tmp_path / "b", plan, cases, Budget(iterations=3), workers=2)
    assert without_seconds(alone) == without_seconds(helped)
    assert same_weights(tmp_path / "a", tmp_path / "b")


def test_weights_of_another_plan_are_refused(tmp_path: Path, cases: list) -> None:
    """Shapes alone would fit: the same network, but other intensities in."""
    plan = plan_with()
    train(tmp_path / "f", plan, cases, Budget(iterations=1))
    path = tmp_path / "f" / "weights.safetensors"
    load_network(path, plan.stage("small"), torch.device("cpu"))
    masked = plan.channels[0].normalization.model_copy(update={"masked": True})
    other = plan.model_copy(update={"channels": [plan.channels[0].model_copy(update={"normalization": masked})]})
    with pytest.raises(AutosegError, match="another plan"):
        load_network(path, other.stage("small"), torch.device("cpu"))


def test_without_an_average_the_network_itself_is_saved_and_goes_on_training(tmp_path: Path, cases: list) -> None:
    """No copy of the weights is held, and a validation on the way changes nothing about the training."""
    watched = plan_with(ema_decay=0.0, iterations_per_epoch=1, validate_every=1)
    blind = plan_with(ema_decay=0.0, iterations_per_epoch=1, validate_every=9)
    train(tmp_path / "a", watched, cases, Budget(iterations=3))
    train(tmp_path / "b", blind, cases, Budget(iterations=3))
    a, b = (load_weights(tmp_path / name / "weights.safetensors") for name in "ab")
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_an_error_in_augmentation_ends_the_training(
    tmp_path: Path, cases: list, monkeypatch: pytest.MonkeyPatch
) -> None:

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("the device is full")

    monkeypatch.setattr(batches, "augment_intensities", full)
    with pytest.raises(torch.OutOfMemoryError, match="the device is full"):
        train(tmp_path / "f", plan_with(), cases, Budget(iterations=1))


def test_a_fold_keeps_the_variant_it_began_with(tmp_path: Path, cases: list) -> None:
    """A resumed training computes as before, whatever is found fastest then, and its weights say how."""
    began = Variant(channels_last=True)
    plan = plan_with(schedule=Schedule(name="constant", warmup=0))
    train(tmp_path / "f", plan, cases, Budget(iterations=2), variant=began)
    state = load_state(tmp_path / "f" / "training_state.pt")
    assert recorded(state["variant"], CPU) == began
    train(tmp_path / "f", plan, cases, Budget(iterations=4), variant=Variant(fused=True))
    train(tmp_path / "g", plan, cases, Budget(iterations=4), variant=began)
    assert same_weights(tmp_path / "f", tmp_path / "g")
    weights = tmp_path / "f" / "weights.safetensors"
    assert recorded(read_metadata(weights)["variant"], CPU) == began
    assert inference_variant(plan.stage("small"), CPU, [weights]) == began


@pytest.mark.parametrize("insists", [False, True])
def test_a_compiled_fold_goes_on_without_a_compiler(
    tmp_path: Path, cases: list, no_compiler: None, insists: bool
) -> None:
    """Uncompiled, but for a plan that insists on it."""
    plan = plan_with(schedule=Schedule(name="constant", warmup=0), compile="always" if insists else "auto")
    train(tmp_path / "f", plan, cases, Budget(iterations=2), variant=Variant(channels_last=True))
    path = tmp_path / "f" / "training_state.pt"
    save_state(path, {**load_state(path), "variant": record(Variant(channels_last=True, compiled=True), CPU)})
    if insists:
        with pytest.raises(AutosegError, match=r"recipe.compile is always, .*recipe.compile=never"):
            train(tmp_path / "f", plan, cases, Budget(iterations=4))
        with pytest.raises(AutosegError, match=r"recipe.compile is always"):
            train(tmp_path / "new", plan, cases, Budget(iterations=4))
        return
    kept = begun_variant(FoldIn(Run(tmp_path / "f"), plan.stage("small"), 0, tmp_path / "f"), CPU)
    assert kept is not None
    assert kept.reason.startswith("fp32 channels-last: the fold began compiled, which fails here (InvalidCxxCompiler")
    train(tmp_path / "f", plan, cases, Budget(iterations=4))
    assert recorded(load_state(path)["variant"], CPU) == Variant(channels_last=True)


def test_a_state_without_a_variant(tmp_path: Path, cases: list) -> None:
    """An earlier version's: computed by the rule there was."""
    train(tmp_path / "f", plan_with(), cases, Budget(iterations=2))
    path = tmp_path / "f" / "training_state.pt"
    state = load_state(path)
    del state["variant"]
    save_state(path, state)
    train(tmp_path / "f", plan_with(), cases, Budget(iterations=4), variant=Variant(channels_last=True))
    assert recorded(load_state(path)["variant"], CPU) == Variant()
