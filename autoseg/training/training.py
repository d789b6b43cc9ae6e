"""Training: the running training of one fold, with its data, step and state."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel
from torch import nn

from autoseg.networks import build
from autoseg.networks.parts import depths
from autoseg.networks.weights import identity_of, save_weights
from autoseg.plans.reasons import without_reasons
from autoseg.plans.recipe import ABOUT_MODEL, Recipe
from autoseg.plans.stage import Stage
from autoseg.preprocessing.store import StoredCase
from autoseg.runs.fold import Fold
from autoseg.step.batch import Batch
from autoseg.step.lr_schedule import rate_factor
from autoseg.step.optimizer import TrainedParameters, layer_groups, set_rate
from autoseg.step.training_step import StepOutcome, TrainingStep
from autoseg.step.variant import VARIANT, Variant, record, runnable
from autoseg.training.batch_stream import BatchStream
from autoseg.training.batches import BatchMaker
from autoseg.training.cache_size import room_for_cases
from autoseg.training.callback import Callback
from autoseg.training.case_cache import CaseCache, Room
from autoseg.training.sampling import Patches, PatchLoader
from autoseg.training.state import State, TrainingIdentity, begun_variant, end_epoch, resume_training, save_training
from autoseg.training.transfers import Fetched
from autoseg.training.turns import Turns
from autoseg.utils.digest import digest
from autoseg.utils.parallel import available_cpus

#: Steps after which their losses are fetched from the device, while it computes the next ones.
GATHER = 10

#: Threads that read patches for a GPU, at most; each patch is one read.
READING_THREADS = 4

#: Parts of a recipe that set the length of a training, but do not change its steps.
LASTING = {"epochs", "early_stopping", "early_stopping_follows", "reasons"}

#: Parts that set its validation, which change its steps only where the schedule follows the validation.
WATCHING = {"validate_every", "validate_cases", "validate_always", "validation_loss", "validation_batches"}


@dataclass(frozen=True)
class Budget:
    """Length of a training: iterations or seconds, whichever is set.

    Attributes:
        iterations: optimizer steps; 0 where time decides.
        seconds: wall-clock seconds of the fold, validation included; 0 where iterations decide.
    """

    iterations: int = 0
    seconds: float = 0.0

    def progress(self, iteration: int, seconds: float) -> float:
        """Share that is spent, 0 to 1."""
        return min(seconds / self.seconds if self.seconds else iteration / self.iterations, 1.0)


@dataclass(frozen=True)
class MixedCases:
    """Preprocessed cases from elsewhere.

    Attributes:
        cases: with labels in the plan's values.
        share: of the samples that come from them.
    """

    cases: Sequence[StoredCase]
    share: float


@dataclass(frozen=True)
class Cases:
    """Preprocessed cases of a fold.

    Attributes:
        training: to train on, with their fields.
        validation: to validate with.
        mixed: groups of cases from elsewhere, to train on as well.
    """

    training: Sequence[StoredCase]
    validation: Sequence[StoredCase] = ()
    mixed: Sequence[MixedCases] = ()

    @property
    def learned(self) -> list[StoredCase]:
        """All cases to train on, the fold's own first."""
        return [*self.training, *(case for group in self.mixed for case in group.cases)]

    @property
    def turns(self) -> Turns:
        """Which of them comes when."""
        counts = [len(self.training), *(len(group.cases) for group in self.mixed)]
        return Turns(counts, [group.share for group in self.mixed])


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of a training that are not in the plan.

    Attributes:
        device: to compute on.
        seed: of initialisation, patches and augmentation.
        workers: threads that read patches; chosen for the device where None, 0 for none.
        resume: continue from the saved state of the fold, if there is one.
        room: memory for whole cases; what is free where None.
        variant: how to compute the step, in a training that begins; a guess for the device where None. A training that
            is continued on the same kind of device keeps its own, but for compiling where that fails.
    """

    device: torch.device
    seed: int = 0
    workers: int | None = None
    resume: bool = True
    room: Room | None = None
    variant: Variant | None = None


class Training(AbstractContextManager["Training"]):
    """A fold's training; closing it ends the threads that make batches.

    Args:
        fold: paths, and the stage that is trained.
        cases: of the fold.
        budget: iterations or seconds.
        settings: device, seed, threads.
        callbacks: whose ``on_build`` is called.
    """

    def __init__(
        self, fold: Fold, cases: Cases, budget: Budget, settings: TrainingSettings, callbacks: Sequence[Callback]
    ) -> None:
        self.started = time.monotonic()
        self.fold, self.cases, self.budget, self.settings = fold, cases, budget, settings
        self.callbacks = list(callbacks)
        self.stage = stage = fold.stage
        self.device = settings.device
        self.stopped = False
        #: Optimizer steps of an epoch.
        self.epoch_steps = stage.recipe.steps_of_epoch(len(cases.training), stage.configuration.batch_size)
        begun = settings.resume and fold.begun
        torch.manual_seed(settings.seed)
        network = build(stage.network, stage.in_channels, stage.heads).to(self.device)
        for callback in self.callbacks:
            callback.on_build(self, network, fresh=not begun)
        kept = begun_variant(fold, self.device) if begun else None
        variant = settings.variant if kept is None else kept.variant
        if variant is None:
            variant = runnable(Variant.untimed(stage.recipe, self.device), stage.recipe, self.device)
        self.step = TrainingStep(network, stage.recipe, stage.target.indexed, variant, _parameters(network, stage))
        contents = {case.id: case.content for case in cases.learned}
        self.identity = TrainingIdentity(training_identity(stage, cases.learned, settings.seed), contents)
        self.state = resume_training(fold.state, self.identity, self.step) if begun else State()
        self.seconds_before = self.state.seconds
        workers = settings.workers
        if workers is None:
            # On a CPU the network needs every core, and reading patches takes a few per mille of the step.
            workers = 0 if self.device.type == "cpu" else min(available_cpus(), READING_THREADS)
        self.maker = BatchMaker(stage, self.device)
        room = room_for_cases(stage, self.device, variant) if settings.room is None else settings.room
        learned, begin = cases.learned, self.state.iteration
        self.cache = CaseCache(learned, stage, self.maker.made_on, room)
        self.loader = PatchLoader(learned, Patches.of(stage), self.cache, settings.seed, begin, cases.turns)
        self.stream = BatchStream(self.loader, self.maker, workers)
        self._outcomes: list[StepOutcome] = []
        self._fetched = Fetched()
        #: Steps in a row whose loss or gradient was not finite, as far as they are known.
        self.without_gradient = 0
        network.train()

    def __exit__(self, *details: object) -> None:
        self.stream.close()

    @property
    def recipe(self) -> Recipe:
        """Training settings of the stage."""
        return self.stage.recipe

    @property
    def progress(self) -> float:
        """Share of the budget that is spent, 0 to 1."""
        return self.budget.progress(self.state.iteration, self.state.seconds)

    @property
    def finished(self) -> bool:
        """Whether the budget is spent, or a callback ended the training."""
        return self.stopped or self.progress >= 1

    @property
    def rate(self) -> float:
        """Learning rate at the current progress."""
        schedule = self.recipe.schedule
        followed = "validation_loss" if schedule.follows_validation else "loss"
        losses = [row[followed] for row in self.state.history if followed in row]
        return self.recipe.optimizer.learning_rate * rate_factor(schedule, self.progress, losses)

    @property
    def weights(self) -> nn.Module:
        """The network whose weights are validated and saved: the moving average, where there is one."""
        return self.step.average.network

    def set_rate(self) -> float:
        """Set the optimizer's learning rate to the current one, and return it."""
        rate = self.rate
        set_rate(self.step.optimizer, rate)
        return rate

    def next_batch(self) -> Batch:
        """The next batch; from here on, the step's random numbers are the iteration's."""
        made = next(self.stream)
        # Only dropout uses the global generator; it, too, must be the same after a resume.
        torch.manual_seed(made.seed)
        return made.batch

    def batch(self, number: int) -> Batch:
        """Batch ``number``, independent of the progress."""
        return self.stream.make(number).batch

    def count(self, outcome: StepOutcome) -> None:
        """Count a step; its loss is fetched from the device with those of others."""
        self.state.iteration += 1
        self._outcomes.append(outcome)
        if len(self._outcomes) >= GATHER:
            self._fetch()
        self.tick()

    def gather(self) -> None:
        """Note the losses of all steps until now; waits for the device."""
        self._fetch()
        self._fetch()

    def _fetch(self) -> None:
        """Let the device send the losses that it was not asked for yet, and note those that it was asked for before."""
        outcomes, self._outcomes = self._outcomes, []
        pairs = [torch.stack([outcome.loss.float(), outcome.finite.float()]) for outcome in outcomes]
        before, self._fetched = self._fetched, Fetched.of(pairs)
        for loss, finite in before.values():
            self.without_gradient = 0 if finite else self.without_gradient + 1
            if finite:
                self.state.epoch_loss += loss
                self.state.epoch_steps += 1

    def tick(self) -> None:
        """Update the time spent."""
        self.state.seconds = self.seconds_before + time.monotonic() - self.started

    @property
    def ends_epoch(self) -> bool:
        """Whether the last step ended an epoch, or the budget."""
        return self.state.iteration % self.epoch_steps == 0 or self.progress >= 1

    def end_epoch(self, rate: float) -> None:
        """Add a row to the history."""
        self.gather()
        end_epoch(self.fold.folder, self.state, rate, self.epoch_steps)

    def save(self) -> None:
        """Write the state that an interrupted training resumes from."""
        self.gather()
        save_training(self.fold.state, self.state, self.identity, self.step)

    def save_weights(self, network: nn.Module, checkpoint: str) -> None:
        """Write weights into the fold's folder."""
        recorded = {VARIANT: record(self.step.variant, self.device)}
        save_weights(self.fold.checkpoint(checkpoint), network.state_dict(), identity_of(self.stage) | recorded)


def _parameters(network: nn.Module, stage: Stage) -> TrainedParameters:
    """The optimizer's argument: all parameters alike, or in groups by layer."""
    decay = stage.recipe.optimizer.layer_decay
    if decay == 1:
        return network.parameters()
    places = depths(stage.network, stage.in_channels, stage.heads, stage.configuration.patch_size)
    return layer_groups(network, places, decay)


def training_identity(stage: Stage, cases: Sequence[StoredCase], seed: int) -> str:
    """A fingerprint of all that determines the weights of a training, but for its length."""
    checkpoint = stage.inference.checkpoint
    return digest(
        without_reasons(
            {
                "weights": stage.identity,
                "patch": stage.configuration.patch_size,
                "batch": stage.configuration.batch_size,
                "recipe": _deciding(stage.recipe),
                "cases": [[case.id, case.content] for case in cases],
                "seed": seed,
                **({} if checkpoint == "weights" else {"checkpoint": checkpoint}),
            }
        )
    )


def _deciding(recipe: Recipe) -> dict[str, Any]:
    """The parts of a recipe that determine the steps; without defaults, so that new keys leave saved states valid."""
    schedule = recipe.schedule
    # A schedule that follows no loss may name the validation's all the same; states of it that were saved stay valid.
    followed = schedule.follows_validation or schedule.follows == "validation_loss"

    def plain(recipe: Recipe) -> dict[str, Any]:
        left_out = LASTING if followed else LASTING | WATCHING
        parts = {name: value for name, value in recipe if name not in left_out}
        return {
            name: value.model_dump(exclude_defaults=True, exclude={"reasons", *ABOUT_MODEL})
            if isinstance(value, BaseModel)
            else value
            for name, value in parts.items()
        }

    defaults = plain(Recipe())
    return {name: value for name, value in plain(recipe).items() if value != defaults[name]}
