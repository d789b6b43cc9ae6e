"""The loss of validation images, and what follows it: the learning rate, and the end of a training."""

import csv
import signal
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

from autoseg.inference.sliding_window import SlidingWindow
from autoseg.plans.recipe import SCHEDULES, Loss, Optimizer, Schedule
from autoseg.step.lr_schedule import RATE_FACTORS, without_improvement
from autoseg.training import validation
from autoseg.training.training import Budget, training_identity
from autoseg.training.validation import (
    ValidationScores,
    estimated_seconds,
    image_loss,
    validation_patches,
    validation_scores,
)
from autoseg.utils.errors import AutosegError
from tests.builders import LABELS, REGIONS, Perfect, make_configuration, make_plan, make_recipe, store, train_in
from tests.training.test_loop import CPU, can_be_interrupted, plan_with, same_weights, train, without_seconds

__all__ = ["can_be_interrupted"]

FOLLOWING = {"schedule": Schedule(name="plateau", warmup=0, follows="validation_loss", patience=1, factor=2)}


class Halved(Schedule):
    """A schedule of another package: half the rate after each validation."""

    name: Literal["halved"] = "halved"
    follows: Literal["validation_loss"] = "validation_loss"


class Watching(Schedule):
    """The same, which says by a key of its own that it needs validations."""

    name: Literal["watching"] = "watching"
    watches: bool = True

    @property
    def follows_validation(self) -> bool:
        return self.watches


def halved(schedule: Schedule, progress: float, losses: Sequence[float]) -> float:
    return float(0.5 ** len(losses))


def install(monkeypatch: pytest.MonkeyPatch, kind: type[Schedule]) -> Schedule:
    """Register a schedule for one test, as its package does."""
    name = kind.model_fields["name"].default
    monkeypatch.setitem(SCHEDULES._things, name, kind)
    monkeypatch.setitem(RATE_FACTORS._things, name, halved)
    return kind()


class Constant(nn.Module):
    """The same logits in every voxel."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.logits[None, :, None, None, None].expand(len(image), -1, *image.shape[2:]).clone()


def test_loss_of_an_image_by_hand(tmp_path: Path) -> None:
    """Cross-entropy of a whole image from constant probabilities: the mean of −log p over its voxels."""
    label = np.zeros((4, 5, 6), np.int16)
    label[:2] = 1
    case = store(tmp_path, "c", label)
    recipe = make_recipe(loss=Loss(dice_weight=0, ce_weight=1))
    plan = make_plan(make_configuration(recipe=recipe))
    logits = np.log([0.7, 0.2, 0.1])
    found = validation_scores(Constant(*logits), [case], plan.stage(), CPU, torch.float32)
    assert found.losses == [pytest.approx(-(np.log(0.7) + np.log(0.2)) / 2, rel=1e-5)]


@pytest.mark.parametrize("target", [LABELS, REGIONS])
def test_loss_of_the_truth_is_none(cases: list, target) -> None:
    """Soft Dice of nearly certain scores of the truth; ignored voxels would not count."""
    plan = make_plan(make_configuration(recipe=make_recipe(loss=Loss(ce_weight=0))), target=target)

    class Certain(Perfect):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return 1e3 * super().forward(image)

    found = validation_scores(Certain(target), cases, plan.stage(), CPU, torch.float32)
    assert found.losses == pytest.approx([0.0] * 3, abs=1e-4)


def test_values_of_labels_are_the_datasets() -> None:
    """A label map of values far apart is encoded by them, not by their number."""
    outputs = [one.model_copy(update={"values": [value]}) for one, value in zip(LABELS.outputs, (7, 300), strict=True)]
    stage = make_plan(target=LABELS.model_copy(update={"outputs": outputs})).stage()
    label = np.zeros((2, 2, 2), np.int32)
    label[0, 0, 0], label[1, 1, 1] = 7, 300
    truth = torch.from_numpy(np.searchsorted([0, 7, 300], label))
    scores = 30 * torch.nn.functional.one_hot(truth, 3).movedim(-1, 0).float()
    assert image_loss(scores, label, stage) == pytest.approx(0, abs=1e-5)


def test_patches_are_fixed_and_bare(cases: list) -> None:
    """The same patches each time, although training would augment them and drop channels; they are in the images."""
    recipe = make_recipe(augmentation={"noise_probability": 1.0}, validation_loss="patches", validation_batches=3)
    stage = make_plan(make_configuration(recipe=recipe)).stage()
    first, again = (list(validation_patches(cases, stage, CPU)) for _ in range(2))
    assert len(first) == 3
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.label, other.label)
        # As stored: 100 times the label and less than 1 of noise (within the 16 bits of the store).
        assert (one.image[:, 0] - 100 * one.label).abs().max() < 1.1
    assert not torch.equal(first[0].image, first[1].image)


def test_patches_give_the_loss_of_the_history(tmp_path: Path, cases: list) -> None:
    state = train(
        tmp_path / "f", plan_with(validation_loss="patches", validation_batches=2), cases, Budget(iterations=4)
    )
    found = [row["validation_loss"] for row in state.history]
    assert all(np.isfinite(found))
    with open(tmp_path / "f" / "history.csv", newline="") as file:
        assert [float(row["validation_loss"]) for row in csv.DictReader(file)] == pytest.approx(found, rel=1e-5)
    state = train(tmp_path / "none", plan_with(validation_loss="none"), cases, Budget(iterations=4))
    assert all("validation_loss" not in row for row in state.history)


def test_it_changes_no_step_unless_it_is_followed(tmp_path: Path, cases: list) -> None:
    for name in ("images", "patches", "none"):
        train(tmp_path / name, plan_with(validation_loss=name), cases, Budget(iterations=6))
    assert same_weights(tmp_path / "images", tmp_path / "none")
    assert same_weights(tmp_path / "patches", tmp_path / "none")


def test_identity_counts_the_validation_where_it_is_followed(cases: list) -> None:
    def identity(**recipe: Any) -> str:
        return training_identity(plan_with(**recipe).stage("small"), cases, 0)

    assert identity(validate_every=3, validation_loss="patches") == identity()
    assert identity(**FOLLOWING, validate_every=3) != identity(**FOLLOWING)
    assert identity(**FOLLOWING, epochs=7, early_stopping=3) == identity(**FOLLOWING)


def losses_of(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    found = iter(losses)
    monkeypatch.setattr(validation, "validation_scores", lambda *_: ValidationScores({"outer": [0.5]}, [next(found)]))


def test_plateau_follows_the_validation_loss(tmp_path: Path, cases: list, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience counts validations, of which there is one every second epoch; worked by hand."""
    losses_of(monkeypatch, [1.0, 0.9, 0.95, 0.8, 0.81, 0.82])
    schedule = Schedule(name="plateau", warmup=0, follows="validation_loss", patience=1, factor=5, floor=0.05)
    plan = plan_with(schedule=schedule, validate_every=2, optimizer=Optimizer(name="sgd", learning_rate=1e-3))
    state = train(tmp_path / "f", plan, cases, Budget(iterations=24))
    rates = [row["learning_rate"] / 1e-3 for row in state.history]
    assert rates == pytest.approx([1, 1, 1, 1, 1, 1, 0.2, 0.2, 0.2, 0.2, 0.05, 0.05])


@pytest.mark.parametrize("kind", [Halved, Watching])
def test_a_schedule_of_another_package_gets_the_validation_losses(
    tmp_path: Path, cases: list, monkeypatch: pytest.MonkeyPatch, kind: type[Schedule]
) -> None:
    """No validation is skipped for time, and their losses are what the schedule is given; worked by hand."""
    monkeypatch.setattr("autoseg.training.callbacks.VALIDATION_SHARE", -1.0)
    plan = plan_with(schedule=install(monkeypatch, kind), optimizer=Optimizer(name="sgd", learning_rate=1e-3))
    state = train(tmp_path / "f", plan, cases, Budget(iterations=8))
    assert ["validation_loss" in row for row in state.history] == [True] * 4
    assert [row["learning_rate"] / 1e-3 for row in state.history] == pytest.approx([1, 0.5, 0.25, 0.125])


@pytest.mark.parametrize("kind", [Halved, Watching])
def test_a_schedule_of_another_package_is_never_without_validations(
    tmp_path: Path, cases: list, monkeypatch: pytest.MonkeyPatch, kind: type[Schedule]
) -> None:
    schedule = install(monkeypatch, kind)
    with pytest.raises(ValueError, match="follows the validation loss, and validation_loss is none"):
        plan_with(schedule=schedule, validation_loss="none")
    with pytest.raises(AutosegError, match="validates no case, and its learning rate falls only by the validation"):
        train_in(tmp_path / "f", plan_with(schedule=schedule).stage("small"), cases, (), Budget(iterations=2))
    plans = [plan_with(schedule=schedule, validate_every=every) for every in (2, 3)]
    assert len({training_identity(plan.stage("small"), cases, 0) for plan in plans}) == 2


def test_a_schedule_of_progress_alone_needs_no_validation(cases: list) -> None:
    """Though it names their loss; what was saved under such a plan stays its training's."""
    cosine = Schedule(follows="validation_loss")
    assert not cosine.follows_validation
    plan_with(schedule=cosine, validation_loss="none")
    plans = [plan_with(schedule=cosine, validate_every=every) for every in (2, 3)]
    assert len({training_identity(plan.stage("small"), cases, 0) for plan in plans}) == 2


def test_without_validation_cases(tmp_path: Path, cases: list, capsys: pytest.CaptureFixture[str]) -> None:
    """A rate that would never fall is refused; what was begun so by an earlier version goes on, and is told."""
    plan = plan_with(**FOLLOWING, early_stopping=1)
    with pytest.raises(AutosegError, match=r"fold 0 of small validates no case.*splits.json.*schedule.name=cosine"):
        train_in(tmp_path / "f", plan.stage("small"), cases, (), Budget(iterations=2))
    train(tmp_path / "f", plan, cases, Budget(iterations=2))
    capsys.readouterr()
    train_in(tmp_path / "f", plan.stage("small"), cases[:-1], (), Budget(iterations=4))
    assert "trains without recipe.schedule and recipe.early_stopping" in capsys.readouterr().err
    idle = plan_with(early_stopping=1).stage("small")
    train_in(tmp_path / "g", idle, cases, (), Budget(iterations=2))
    assert "fold 0 of small validates no case: it trains without recipe.early_stopping." in capsys.readouterr().err


@pytest.mark.parametrize("at", [3, 5, 9])
def test_it_goes_on_exactly(tmp_path: Path, cases: list, at: int) -> None:
    """What was validated before an interruption decides after it, bit for bit."""
    plan = plan_with(
        **FOLLOWING,
        optimizer=Optimizer(name="adam", learning_rate=3.0),  # so large a rate that the loss does not fall
        early_stopping=5,
        early_stopping_follows="validation_loss",
    )
    budget = Budget(iterations=12)
    whole = train(tmp_path / "whole", plan, cases, budget)
    assert whole.history[-1]["learning_rate"] < 3.0

    def interrupt(progress: float, _: str) -> None:
        if progress == at / 12:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", plan, cases, budget, report=interrupt)
    parts = train(tmp_path / "parts", plan, cases, budget)
    assert without_seconds(parts) == without_seconds(whole)
    assert same_weights(tmp_path / "whole", tmp_path / "parts")
    assert same_weights(tmp_path / "whole", tmp_path / "parts", "best.safetensors")


def test_training_stops_when_the_validation_loss_rises(
    tmp_path: Path, cases: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses_of(monkeypatch, [1.0, 0.8, 0.9, 0.79, 0.85, 0.9, 0.7])
    plan = plan_with(early_stopping=2, early_stopping_follows="validation_loss")
    state = train(tmp_path / "f", plan, cases, Budget(iterations=100))
    assert [row["validation_loss"] for row in state.history] == [1.0, 0.8, 0.9, 0.79, 0.85, 0.9]
    assert state.finished
    # Stopped again at once where it is resumed.
    again = train(tmp_path / "f", plan, cases, Budget(iterations=100))
    assert again.iteration == state.iteration


def test_without_improvement_by_hand() -> None:
    assert [without_improvement([3, 2, 2.5, float("nan"), 1][:n]) for n in range(6)] == [0, 0, 0, 1, 2, 0]


def test_time_does_not_decide_what_is_followed(tmp_path: Path, cases: list, monkeypatch: pytest.MonkeyPatch) -> None:
    """A validation that takes an hour is skipped the next time, unless the training depends on it."""

    def slow(training: Any, *_: Any) -> None:
        training.state.validation_seconds += 3600
        training.state.history[-1]["validation_loss"] = 1.0 / len(training.state.history)

    monkeypatch.setattr("autoseg.training.callbacks.validate", slow)
    monkeypatch.setattr("autoseg.training.callbacks.VALIDATION_SHARE", 0.05)
    budget = Budget(iterations=8)
    some = train(tmp_path / "some", plan_with(), cases, budget)
    every = train(tmp_path / "all", plan_with(**FOLLOWING), cases, budget)
    asked = train(tmp_path / "asked", plan_with(validate_always=True), cases, budget)
    assert ["validation_loss" in row for row in asked.history] == [True] * 4
    assert ["validation_loss" in row for row in some.history] == [True, False, False, False]
    assert ["validation_loss" in row for row in every.history] == [True] * 4


@pytest.mark.parametrize(("seconds", "made"), [(0.0, True), (1e6, False)])
def test_no_time_is_kept_for_the_last_validation(
    tmp_path: Path, cases: list, monkeypatch: pytest.MonkeyPatch, seconds: float, made: bool
) -> None:
    """With a time budget one that would take longer than its share is left out: the whole fold is predicted next."""
    monkeypatch.setattr("autoseg.training.callbacks.VALIDATION_SHARE", 0.05)
    monkeypatch.setattr("autoseg.training.callbacks.estimated_seconds", lambda *_: seconds)
    state = train(tmp_path / "f", plan_with(validate_every=1000), cases, Budget(seconds=0.2))
    assert ("validation_dice" in state.history[-1]) == made
    # What the training depends on is made in any case.
    following = train(tmp_path / "g", plan_with(**FOLLOWING, validate_every=1000), cases, Budget(seconds=0.2))
    assert "validation_loss" in following.history[-1]


def test_about_how_long_a_validation_takes(tmp_path: Path, cases: list) -> None:
    """A tile takes half of its share of a step, here of 4 s: it has no backward pass."""
    training = SimpleNamespace(
        stage=make_plan(make_configuration((8, 8, 8))).stage(),
        device=CPU,
        step=SimpleNamespace(dtype=torch.float32),
        state=SimpleNamespace(seconds=40.0, iteration=10),
    )
    tiles = sum(SlidingWindow.of(training.stage, CPU, torch.float32, mirror=False).count(c.shape) for c in cases)
    batch = training.stage.configuration.batch_size
    assert estimated_seconds(training, cases) == pytest.approx(tiles * 4 / (2 * batch))  # type: ignore[arg-type]


def test_a_loss_that_is_followed_is_there(tmp_path: Path, cases: list, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="follows the validation loss, and validation_loss is none"):
        plan_with(**FOLLOWING, validation_loss="none")
    monkeypatch.setattr(validation, "LARGEST_LOSS", 100)
    with pytest.raises(AutosegError, match=r"too large .* --set recipe.validation_loss=patches"):
        train(tmp_path / "f", plan_with(**FOLLOWING), cases, Budget(iterations=2))
    state = train(tmp_path / "free", plan_with(), cases, Budget(iterations=2))
    assert "validation_loss" not in state.history[0]


def test_an_epoch_is_a_pass_over_the_training_cases(tmp_path: Path, cases: list) -> None:
    """Two training cases: one step draws from both, unless all patches of a step are of one case."""
    state = train(tmp_path / "both", plan_with(epoch_length="pass"), cases, Budget(iterations=4))
    assert [row["iteration"] for row in state.history] == [1, 2, 3, 4]
    plan = plan_with(epoch_length="pass", sampling={"cases_per_batch": 1})
    state = train(tmp_path / "one", plan, cases, Budget(iterations=4))
    assert [row["iteration"] for row in state.history] == [2, 4]
    recipe = make_recipe(epoch_length="pass", sampling={"cases_per_batch": 10})
    assert recipe.steps_of_epoch(182, 60) == 19  # DeepMedic's: 60 patches from at most 10 subjects
    assert make_recipe(epoch_length="pass").steps_of_epoch(182, 4) == 46
