"""Callbacks: initial weights, non-finite losses, freezing, validation, early stopping, history, saved states."""

import copy
import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from autoseg.networks import set_deep_supervision
from autoseg.networks.weights import load_weights
from autoseg.plans.recipe import Recipe
from autoseg.preprocessing.store import StoredCase
from autoseg.step.lr_schedule import without_improvement
from autoseg.training.callback import Callback
from autoseg.training.freezing import frozen_names, set_frozen
from autoseg.training.source_average import average_with_source, weights_of
from autoseg.training.state import note, write_history
from autoseg.training.training import Training
from autoseg.training.validation import (
    counts_absent,
    estimated_seconds,
    has_structures,
    regions_of,
    too_large_for_loss,
    validate,
    watched_cases,
)
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import found_room
from autoseg.utils.progress import say

#: Seconds between two saved states, or more where saving is slow (:data:`SAVE_SHARE`); a kill loses what came after the
#: last one.
SAVE_INTERVAL = 30.0

#: Largest share of the time that saving may take: the steps wait for it, and where a state of gigabytes goes to a slow
#: file system it is saved less often.
SAVE_SHARE = 0.02

#: Largest share of the time so far that validation during training may take.
VALIDATION_SHARE = 0.05

#: The same where a time budget sets the length, and the training depends on its validations.
NEEDED_SHARE = 0.25

#: Consecutive steps without a finite gradient that end the training.
PATIENCE_NOT_FINITE = 30

#: Training batches on which the loss of averages with the initial weights is compared.
KEPT_BATCHES = 8


class LoadWeights(Callback):
    """Loads the initial weights.

    Args:
        load: loads them into a network.
        always: also in a resumed training, for callbacks that need the initial weights.
    """

    def __init__(self, load: Callable[[nn.Module], None], always: bool = False) -> None:
        self._load, self._always = load, always

    def on_build(self, training: Training, network: nn.Module, fresh: bool) -> None:
        """Load the weights."""
        if fresh or self._always:
            self._load(network)


class SourceAverage(Callback):
    """Averages the final weights with the initial ones (:mod:`autoseg.training.source_average`)."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._start: dict[str, torch.Tensor] = {}

    def on_build(self, training: Training, network: nn.Module, fresh: bool) -> None:
        """Copy the initial weights."""
        self._start = weights_of(network)

    def on_end(self, training: Training, network: nn.Module) -> nn.Module:
        """Average with them, as long as the loss on training batches allows."""
        first = training.state.iteration
        numbers = range(first, first + KEPT_BATCHES)

        def loss(candidate: nn.Module) -> float:
            return training.step.mean_loss(candidate, (training.batch(number) for number in numbers))

        network, training.state.kept = average_with_source(network, self._start, self._share, loss)
        return network


class NotFinite(Callback):
    """Ends a training whose loss stays non-finite."""

    def after_iteration(self, training: Training) -> None:
        """Look at the steps in a row without a finite gradient."""
        if training.without_gradient > PATIENCE_NOT_FINITE:
            raise AutosegError(
                f"the loss of {training.fold.folder} is not a number since {training.without_gradient} steps; lower "
                "the learning rate (--set recipe.optimizer.learning_rate=…) and start over with --restart."
            )


class Freezing(Callback):
    """Freezes a part of the network for a share of the training."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def on_start(self, training: Training) -> None:
        """Determine the frozen parameters."""
        stage = training.stage
        self._names = frozen_names(
            training.recipe.freeze, stage.network, training.step.network, stage.in_channels, stage.heads
        )

    def before_step(self, training: Training) -> None:
        """Freeze or unfreeze them."""
        if self._names:
            until = training.recipe.freeze.until
            set_frozen(training.step.network, self._names, training.progress < until or until == 1)


class Validation(Callback):
    """Adds Dice and loss of some whole validation images to the history; saves the best weights so far."""

    def __init__(self) -> None:
        self._cases: Sequence[StoredCase] = ()
        self._regions: dict[str, frozenset[int]] = {}

    def on_start(self, training: Training) -> None:
        """Choose the cases.

        Raises:
            AutosegError: validations are needed, and there is no case; or the loss of the whole images is, and they are
                too large for it.
        """
        recipe = training.recipe
        target = training.stage.target
        self._cases = watched_cases(training.cases.validation, target, recipe.validate_cases)
        if not self._cases:
            _check_without_cases(training)
        elif not (counts_absent(training.stage) or any(has_structures(case, target) for case in self._cases)):
            _say_without_structures(training)
        self._regions = regions_of(training.fold.run.regions, target)
        large = too_large_for_loss(self._cases, training.stage) if recipe.validation_loss == "images" else None
        if large is None:
            return
        why = f"the image {large.id} is too large for a validation loss of the whole image"
        if follows_loss(recipe):
            raise AutosegError(f"{why}, which the plan follows; plan with --set recipe.validation_loss=patches.")
        say(f"No validation loss: {why}; --set recipe.validation_loss=patches takes that of patches.")

    def on_epoch_end(self, training: Training) -> None:
        """Validate, if it is due and there is time; where the steps depend on it, time does not decide."""
        state, recipe = training.state, training.recipe
        due = len(state.history) % recipe.validate_every == 0 or training.progress >= 1
        share = VALIDATION_SHARE
        if recipe.early_stopping or follows_loss(recipe) or training.stage.inference.checkpoint == "best":
            share = NEEDED_SHARE if training.budget.seconds else math.inf
        share = math.inf if recipe.validate_always else share
        if not (self._cases and due):
            return
        seconds = state.validation_seconds
        if training.budget.seconds and training.progress >= 1 and share == VALIDATION_SHARE:
            # No time was kept for it, and all of the fold's cases are predicted next.
            seconds += estimated_seconds(training, self._cases)
        if not seconds <= share * state.seconds:
            return
        validate(training, self._cases, self._regions)
        network = training.step.network
        network.train()
        set_deep_supervision(network, training.stage.network.supervised_levels)
        training.tick()


def follows_loss(recipe: Recipe) -> bool:
    """Whether the learning rate or the end of a training depends on the validation loss."""
    stops = recipe.early_stopping > 0 and recipe.early_stopping_follows == "validation_loss"
    return stops or recipe.schedule.follows_validation


def _check_without_cases(training: Training) -> None:
    """Refuse to begin a training whose rate would never fall, and tell what changes nothing without validations."""
    fold, idle = training.fold, training.stage.idle_without_validation
    if training.recipe.schedule.follows_validation:
        if training.state.iteration == 0:
            raise AutosegError(
                f"{fold} validates no case, and its learning rate falls only by the validation loss; give it cases in "
                f"{fold.run.path / 'splits.json'}, or plan with --set recipe.schedule.name=cosine."
            )
        idle = ["recipe.schedule", *idle]
    if idle:
        say(f"{fold} validates no case: it trains without {' and '.join(idle)}.")


def _say_without_structures(training: Training) -> None:
    """Tell that the Dice on the way says nothing, and what changes nothing without it."""
    recipe, idle = training.recipe, training.stage.idle_without_validation
    if recipe.early_stopping_follows == "validation_loss":
        idle = [name for name in idle if name != "recipe.early_stopping"]
    without = f"; it trains without {' and '.join(idle)}" if idle else ""
    say(f"No validation case of {training.fold} has a structure: no Dice of theirs is noted on the way{without}.")


class BestWeights(Callback):
    """Makes the weights of the best validation those of the fold, where the plan says so (``inference.checkpoint``)."""

    def on_end(self, training: Training, network: nn.Module) -> nn.Module:
        """Load them; without a validation, the weights at the end stay."""
        best = training.fold.checkpoint("best")
        if training.stage.inference.checkpoint != "best" or training.state.best_dice < 0 or not best.exists():
            return network
        chosen = copy.deepcopy(network)
        chosen.load_state_dict(load_weights(best))
        return chosen


class EarlyStopping(Callback):
    """Ends a training after ``recipe.early_stopping`` validations in a row without improvement."""

    def on_start(self, training: Training) -> None:
        """Stop again where a stopped training is resumed."""
        _stop_without_improvement(training)

    def on_epoch_end(self, training: Training) -> None:
        """Stop if there were too many validations without improvement."""
        _stop_without_improvement(training)


def _stop_without_improvement(training: Training) -> None:
    recipe, waited = training.recipe, training.state.without_better
    if recipe.early_stopping_follows == "validation_loss":
        rows = training.state.history
        waited = without_improvement([row["validation_loss"] for row in rows if "validation_loss" in row])
    if 0 < recipe.early_stopping <= waited:
        training.stopped = True


class History(Callback):
    """Writes ``history.csv``; on a full disk after a later epoch, or at the end."""

    def __init__(self) -> None:
        self._lacking = False

    def on_epoch_end(self, training: Training) -> None:
        """Write all rows, if there is room."""
        self._lacking = not found_room(lambda: write_history(training.fold.history, training.state))

    def on_end(self, training: Training, network: nn.Module) -> nn.Module:
        """Write the rows for which there was no room."""
        if self._lacking:
            write_history(training.fold.history, training.state)
        return network


class Progress(Callback):
    """Reports the progress of the training.

    Args:
        report: called with the progress (0 to 1) and a note after each step.
    """

    def __init__(self, report: Callable[[float, str], None]) -> None:
        self._report = report

    def after_iteration(self, training: Training) -> None:
        """Report."""
        self._report(training.progress, note(training.state))


class SavedState(Callback):
    """Saves the state that an interrupted training resumes from; on a full disk it stays what it was until later."""

    def __init__(self) -> None:
        self._last, self._took = time.monotonic(), 0.0
        self._lacking = False

    def on_start(self, training: Training) -> None:
        """Start the clock."""
        self._last = time.monotonic()

    def after_iteration(self, training: Training) -> None:
        """Save every :data:`SAVE_INTERVAL` seconds, or as seldom as :data:`SAVE_SHARE` asks for after the last save."""
        started = time.monotonic()
        if started - self._last > max(SAVE_INTERVAL, self._took / SAVE_SHARE):
            told, self._lacking = self._lacking, not found_room(training.save)
            if self._lacking and not told:
                say(
                    f"No room for {training.fold.state}: the training goes on, and it is saved when there is. Free "
                    "some before the end, when the weights are written."
                )
            self._last = time.monotonic()
            self._took = self._last - started


def with_usual_callbacks(callbacks: Sequence[Callback]) -> list[Callback]:
    """The callbacks of every training, in order; further ones come before what writes the history and the state."""
    first = [NotFinite(), Freezing(), Validation(), BestWeights(), EarlyStopping()]
    return [*first, *callbacks, History(), SavedState()]
