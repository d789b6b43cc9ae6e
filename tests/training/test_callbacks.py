"""Callbacks: validation on the way, early stopping, losses that are no numbers, and one of a user's own."""

import csv
import errno
import math
import os
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from autoseg.networks.weights import load_weights
from autoseg.plans.evaluation import EvaluationRules
from autoseg.runs.fold import Fold
from autoseg.runs.run import Run
from autoseg.training import batches, callbacks, validation
from autoseg.training.callback import Callback
from autoseg.training.loop import train_fold
from autoseg.training.training import Budget, Cases, Training, TrainingSettings
from autoseg.training.validation import ValidationScores, evenly_chosen, regions_of, validation_scores, watched_cases
from autoseg.utils.errors import AutosegError
from tests.builders import LABELS, REGIONS, Perfect, make_plan, store, train_in
from tests.training.test_loop import CPU, plan_with, same_weights, train, without_seconds


def test_early_stopping(tmp_path: Path, cases: list, monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([0.1, 0.5, 0.4, 0.5, 0.3, 0.9, 0.9])

    def dice(*_: Any) -> ValidationScores:
        return ValidationScores({"outer": [next(found)]}, [])

    monkeypatch.setattr(validation, "validation_scores", dice)
    plan = plan_with(early_stopping=3)
    state = train(tmp_path / "f", plan, cases, Budget(iterations=100))
    # Better at the second, not at the third, fourth (equal) and fifth.
    assert [row["validation_dice"] for row in state.history] == [0.1, 0.5, 0.4, 0.5, 0.3]
    assert state.best_dice == 0.5
    assert state.finished
    assert (tmp_path / "f" / "weights.safetensors").exists()


def test_best_is_the_best(tmp_path: Path, cases: list, monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([0.2, 0.8, 0.4])
    copies = []

    def dice(network: torch.nn.Module, *_: Any) -> ValidationScores:
        copies.append({k: v.clone() for k, v in network.state_dict().items()})
        return ValidationScores({"outer": [next(found), math.nan], "inner": [math.nan]}, [])

    monkeypatch.setattr(validation, "validation_scores", dice)
    state = train(tmp_path / "f", plan_with(), cases, Budget(iterations=6))
    best, last = load_weights(tmp_path / "f" / "best.safetensors"), load_weights(tmp_path / "f" / "weights.safetensors")
    assert all(torch.equal(best[key], copies[1][key]) for key in best)
    assert all(torch.equal(last[key], copies[2][key]) for key in last)
    assert state.history[0]["validation_dice"] == 0.2
    assert math.isnan(state.history[0]["validation_dice_inner"])


def test_the_best_are_the_folds_weights(tmp_path: Path, cases: list, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the plan says so; without a validation they are those at the end."""
    configuration = plan_with().configurations["small"]
    best = configuration.model_copy(
        update={"inference": configuration.inference.model_copy(update={"checkpoint": "best"})}
    )
    plan = make_plan(best)
    found = iter([0.2, 0.8, 0.4] * 2)
    monkeypatch.setattr(validation, "validation_scores", lambda *_: ValidationScores({"outer": [next(found)]}, []))
    train(tmp_path / "last", plan_with(), cases, Budget(iterations=6))
    train(tmp_path / "best", plan, cases, Budget(iterations=6))
    assert same_weights(tmp_path / "best", tmp_path / "last", "best.safetensors")
    chosen = load_weights(tmp_path / "best" / "weights.safetensors")
    expected = load_weights(tmp_path / "best" / "best.safetensors")
    assert all(torch.equal(chosen[key], expected[key]) for key in expected)
    assert not same_weights(tmp_path / "best", tmp_path / "last")
    # It goes on from the end, not from the best.
    monkeypatch.setattr(validation, "validation_scores", lambda *_: ValidationScores({"outer": [0.9]}, []))
    train(tmp_path / "last", plan_with(), cases, Budget(iterations=8))
    train(tmp_path / "best", plan, cases, Budget(iterations=8))
    assert same_weights(tmp_path / "best", tmp_path / "last")
    # Weights that were chosen otherwise are another training's.
    with pytest.raises(AutosegError, match="under another plan"):
        train(tmp_path / "last", plan, cases, Budget(iterations=8))
    no_validation = train_in(tmp_path / "none", plan.stage("small"), cases, (), Budget(iterations=2))
    assert no_validation.best_dice < 0
    assert (tmp_path / "none" / "weights.safetensors").exists()


def test_one_bad_batch_is_left_out(tmp_path: Path, cases: list, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def poisoned(image: torch.Tensor, *_: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            image.mul_(math.nan)

    monkeypatch.setattr(batches, "augment_intensities", poisoned)
    state = train(tmp_path / "f", plan_with(), cases, Budget(iterations=4))
    assert all(math.isfinite(row["loss"]) for row in state.history)
    assert all(torch.isfinite(t).all() for t in load_weights(tmp_path / "f" / "weights.safetensors").values())


def test_only_bad_batches_end_the_training(tmp_path: Path, cases: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks, "PATIENCE_NOT_FINITE", 3)
    monkeypatch.setattr(batches, "augment_intensities", lambda image, *_: image.mul_(math.nan))
    with pytest.raises(AutosegError, match="not a number since 4 steps; lower the learning rate"):
        train(tmp_path / "f", plan_with(), cases, Budget(iterations=50))


@pytest.mark.parametrize("target", [LABELS, REGIONS])
def test_validation_dice_of_the_truth(cases: list, target) -> None:
    found = validation_scores(Perfect(target), cases, make_plan(target=target).stage(), CPU, torch.float32)
    assert found.dice == {output.name: [1.0] * 3 for output in target.outputs}


def test_validation_dice_by_hand(tmp_path: Path) -> None:
    """The network sees label 2 nowhere and one voxel of label 1 too many; ignored voxels don't count."""
    label = np.zeros((4, 4, 4), np.int16)
    label[0, 0, :3] = 1
    label[1, 1, 1] = 9
    image = 100.0 * (label == 1) + 0.5
    image[2, 2, 2] = image[1, 1, 1] = 100.5
    case = store(tmp_path, "c", label, image)
    ignoring = LABELS.model_copy(update={"ignore": 9})
    found = validation_scores(Perfect(), [case], make_plan(target=ignoring).stage(), CPU, torch.float32)
    assert found.dice["outer"] == [pytest.approx(2 * 3 / (3 + 4))]
    assert math.isnan(found.dice["inner"][0])
    found = validation_scores(Perfect(), [case], make_plan().stage(), CPU, torch.float32)
    assert found.dice["outer"] == [pytest.approx(2 * 3 / (3 + 5))]


def test_an_absent_structure_counts_by_the_plans_convention(tmp_path: Path) -> None:
    label = np.zeros((4, 4, 4), np.int16)
    label[0] = 1
    case = store(tmp_path, "c", label)
    for empty in ("skip", "brats"):
        plan = make_plan(evaluation={"empty": empty})
        found = validation_scores(Perfect(), [case], plan.stage(), CPU, torch.float32).dice
        assert found["outer"] == [1.0]
        assert found["inner"] == [1.0] if empty == "brats" else math.isnan(found["inner"][0])


def test_only_some_cases_are_watched() -> None:
    names = [SimpleNamespace(id=n) for n in range(10)]
    assert [c.id for c in evenly_chosen(names, 3)] == [0, 3, 6]
    assert [c.id for c in evenly_chosen(names, 20)] == list(range(10))


def test_cases_with_structures_are_watched_first() -> None:
    def watched(having: set[int], count: int) -> list[int]:
        cases = [SimpleNamespace(id=n, foreground_values={1, 9} if n in having else {9}) for n in range(10)]
        return [case.id for case in watched_cases(cast(Any, cases), LABELS, count)]

    assert watched(set(range(10)), 3) == watched(set(), 3) == [0, 3, 6]  # as without looking at them
    assert watched({1, 2, 7, 8}, 2) == [1, 7]
    assert watched({7, 8}, 4) == [0, 4, 7, 8]
    assert watched({7, 8}, 10) == list(range(10))


@pytest.mark.parametrize("checkpoint", ["weights", "best"])
def test_a_dice_without_structures_decides_nothing(
    tmp_path: Path, cases: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoint: str
) -> None:
    """Neither false alarms (0) nor none (undefined): no early stop, and the weights are those at the end."""
    blank = store(tmp_path / "data", "blank", np.zeros((10, 12, 14), np.int16))
    configuration = plan_with(early_stopping=1).configurations["small"]
    inference = configuration.inference.model_copy(update={"checkpoint": checkpoint})
    plan = make_plan(configuration.model_copy(update={"inference": inference}))
    found = iter([[0.0], [math.nan], [0.0]])
    real = validation.validation_scores

    def scores(*given: Any) -> ValidationScores:
        scored = real(*given)
        assert not scored.with_structures
        return ValidationScores({"outer": next(found)}, scored.losses, with_structures=scored.with_structures)

    monkeypatch.setattr(validation, "validation_scores", scores)
    state = train_in(tmp_path / "f", plan.stage("small"), cases, [blank], Budget(iterations=6))
    assert state.iteration == 6
    assert (state.best_dice, state.without_better) == (-1.0, 0)
    assert all("validation_loss" in row and "validation_dice" not in row for row in state.history)
    assert not (tmp_path / "f" / "best.safetensors").exists()
    assert (tmp_path / "f" / "weights.safetensors").exists()
    told = "recipe.early_stopping and inference.checkpoint=best" if checkpoint == "best" else "recipe.early_stopping"
    said = " ".join(capsys.readouterr().err.split())
    assert said.count(f"has a structure: no Dice of theirs is noted on the way; it trains without {told}.") == 1


def test_absent_structures_that_count_are_watched(tmp_path: Path, cases: list) -> None:
    blank = store(tmp_path / "data", "blank", np.zeros((10, 12, 14), np.int16))
    plan = plan_with().model_copy(update={"evaluation": EvaluationRules(empty="brats")})
    state = train_in(tmp_path / "f", plan.stage("small"), cases, [blank], Budget(iterations=2))
    assert "validation_dice" in state.history[-1]
    assert state.best_dice >= 0


@pytest.mark.parametrize(("took", "gap"), [(0.01, 30), (0.5, 30), (2.0, 100)])
def test_saving_takes_a_fiftieth_of_the_time_at_most(took: float, gap: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quick state is saved each half minute, one that goes to a slow file system less often; by steps of a second."""
    now, saved = [0.0], []

    def save() -> None:
        saved.append(now[0])
        now[0] += took

    monkeypatch.setattr(callbacks, "time", SimpleNamespace(monotonic=lambda: now[0]))
    hook, training = callbacks.SavedState(), cast(Training, SimpleNamespace(save=save))
    hook.on_start(training)
    while now[0] < 1000:
        now[0] += 1
        hook.after_iteration(training)
    assert saved[0] == 31
    pauses = [after - before - took for before, after in pairwise(saved)]
    assert len(pauses) > 5
    assert all(gap - 0.1 < pause < gap + 2 for pause in pauses)
    assert (len(saved) - 1) * took <= 0.02 * now[0]


def test_a_disk_that_is_full_for_a_moment(
    tmp_path: Path, cases: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is not needed is written later, which is said once, and the training is the one that was left alone."""
    plan = plan_with(iterations_per_epoch=1)
    alone = train(tmp_path / "alone", plan, cases, Budget(iterations=4))
    full, until = [True], [0.0]
    real_save, real_weights, real_history = Training.save, Training.save_weights, callbacks.write_history

    def save(training: Training) -> None:
        refuse(training.fold.state)
        real_save(training)

    def save_weights(training: Training, network: torch.nn.Module, checkpoint: str) -> None:
        refuse(training.fold.checkpoint(checkpoint))
        real_weights(training, network, checkpoint)

    def write_history(path: Path, state: Any) -> None:
        refuse(path)
        real_history(path, state)

    def refuse(path: Path) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def clean_up(progress: float, _: str) -> None:
        full[0] = progress < until[0]

    monkeypatch.setattr(callbacks, "SAVE_INTERVAL", 0.0)
    monkeypatch.setattr(callbacks, "SAVE_SHARE", math.inf)
    monkeypatch.setattr(Training, "save", save)
    monkeypatch.setattr(Training, "save_weights", save_weights)
    monkeypatch.setattr(callbacks, "write_history", write_history)
    for name, free_at in (("during", 0.75), ("at_the_end", 1.0)):
        full[0], until[0] = True, free_at
        capsys.readouterr()
        state = train(tmp_path / name, plan, cases, Budget(iterations=4), report=clean_up)
        assert without_seconds(state) == without_seconds(alone)
        assert same_weights(tmp_path / name, tmp_path / "alone")
        assert (tmp_path / name / "training_state.pt").exists()
        assert (tmp_path / name / "best.safetensors").exists() == (name == "during")
        with open(tmp_path / name / "history.csv") as file:
            assert len(list(csv.DictReader(file))) == 4
        assert capsys.readouterr().err.count("training_state.pt: the training goes on") == 1
    full[0], until[0] = True, math.inf
    stopping = plan_with(iterations_per_epoch=1, early_stopping=3)
    with pytest.raises(OSError, match="No space left"):
        train(tmp_path / "followed", stopping, cases, Budget(iterations=4))


def test_other_errors_of_a_write_end_the_training(tmp_path: Path, cases: list, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(training: Training) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(training.fold.state))

    monkeypatch.setattr(callbacks, "SAVE_INTERVAL", 0.0)
    monkeypatch.setattr(Training, "save", save)
    with pytest.raises(PermissionError):
        train(tmp_path / "f", plan_with(), cases, Budget(iterations=4))


class Counts(Callback):
    """Adds a number to each row of the history."""

    def on_epoch_end(self, training: Training) -> None:
        training.state.history[-1]["count"] = float(len(training.state.history))


def test_what_a_callback_adds_to_the_last_row_is_written(tmp_path: Path, cases: list) -> None:
    fold = Fold(Run(tmp_path), plan_with(iterations_per_epoch=1).stage("small"), 0)
    train_fold(fold, Cases(cases[:-1], cases[-1:]), Budget(iterations=2), TrainingSettings(CPU), [Counts()])
    with open(fold.history) as file:
        assert [row["count"] for row in csv.DictReader(file)] == ["1", "2"]


def test_regions_that_unite_labels(tmp_path: Path) -> None:
    """Regions of what the network tells apart; a Dice of theirs beside the labels', which the mean leaves out."""
    given = {"whole": [1, 2], "core": [2], "more": [1, 2, 3], "outer": [1, 2], "other": [3]}
    regions = regions_of(given, LABELS)
    assert regions == {"whole": {1, 2}, "core": {2}}  # "outer" is the name of an output
    assert regions_of(given, REGIONS) == {}
    label = np.zeros((4, 4, 4), np.int16)
    label[0, 0, :3] = 1
    label[1, 1, :2] = 2
    case = store(tmp_path, "c", label, 100.0 * np.where(label == 2, 1, label) + 0.5)
    found = validation_scores(Perfect(), [case], make_plan(target=LABELS).stage(), CPU, torch.float32, regions)
    # All five voxels are taken for label 1.
    assert found.dice == {"outer": [pytest.approx(2 * 3 / (5 + 3))], "inner": [0.0]}
    assert found.regions == {"whole": [1.0], "core": [0.0]}
    assert validation_scores(Perfect(), [case], make_plan(target=LABELS).stage(), CPU, torch.float32).regions == {}


def test_regions_are_in_the_history(tmp_path: Path, cases: list, monkeypatch: pytest.MonkeyPatch) -> None:
    found = ValidationScores({"outer": [0.5]}, [], {"whole": [0.75]})
    monkeypatch.setattr(validation, "validation_scores", lambda *_: found)
    state = train(tmp_path / "f", plan_with(), cases, Budget(iterations=2))
    row = state.history[-1]
    assert (row["validation_dice"], row["validation_dice_whole"], state.best_dice) == (0.5, 0.75, 0.5)
