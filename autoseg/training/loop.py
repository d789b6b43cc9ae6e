"""The training of one fold, top to bottom."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel
from torch import nn

from autoseg.networks import build, set_deep_supervision
from autoseg.networks.parts import depths
from autoseg.networks.weights import identity_of, save_weights
from autoseg.plans.configuration import Configuration
from autoseg.plans.recipe import Recipe
from autoseg.plans.stage import Stage
from autoseg.plans.target import Target
from autoseg.preprocessing.store import StoredCase
from autoseg.runs.fold import DONE
from autoseg.step.averaging import MovingAverage
from autoseg.step.lr_schedule import rate_factor
from autoseg.step.optimizer import Trained, build_optimizer, layer_groups, set_rate
from autoseg.step.precision import autocast, resolve_precision
from autoseg.training.augmentation import loading_size
from autoseg.training.batches import Batch, BatchMaker, batch_loss
from autoseg.training.checkpoint import save_state
from autoseg.training.freezing import frozen_names, hold
from autoseg.training.interrupt import postponed_interrupt
from autoseg.training.keeping import keep, weights_of
from autoseg.training.sampling import AUGMENTATION, BatchStream, PatchLoader
from autoseg.training.state import State, end_epoch, note, pack, restore, stops_early, write_history
from autoseg.training.watching import spread, validate
from autoseg.utils.digest import digest
from autoseg.utils.errors import AutosegError
from autoseg.utils.parallel import available_cpus

#: Seconds between two saved states; an interruption loses at most these.
SAVE_INTERVAL = 30.0

#: Validation during training may take this share of the time so far.
VALIDATION_SHARE = 0.05


#: So many steps in a row without a finite gradient end the training.
PATIENCE_NOT_FINITE = 30

#: Batches of training cases that decide how much of its start a network may keep.
KEPT_BATCHES = 8

#: Parts of a recipe that say how long a training goes and how it is watched, not what it does.
WATCHING = {"epochs", "validate_every", "validate_cases", "early_stopping", "reasons"}


@dataclass(frozen=True)
class Budget:
    """How long to train: iterations, or seconds, whichever is set.

    Attributes:
        iterations: optimizer steps; 0 where time decides.
        seconds: wall-clock seconds of the fold, validation included; 0 where iterations decide.
    """

    iterations: int = 0
    seconds: float = 0.0

    def progress(self, iteration: int, seconds: float) -> float:
        """Share that is spent, 0 to 1."""
        return min(seconds / self.seconds if self.seconds else iteration / self.iterations, 1.0)


Report = Callable[[float, str], None]


def train_fold(
    folder: Path,
    stage: Stage,
    training: Sequence[StoredCase],
    validation: Sequence[StoredCase],
    budget: Budget,
    device: torch.device,
    seed: int = 0,
    workers: int | None = None,
    resume: bool = True,
    report: Report | None = None,
    prepare: Callable[[nn.Module], None] | None = None,
) -> State:
    """Train one fold until its budget is spent; goes on where an interrupted one stopped.

    Args:
        folder: of the fold; gets weights, state, history and log.
        stage: that is trained: channels, target, patch, batch, network and recipe.
        training: preprocessed cases to learn from; with what the teacher says, where the recipe has one.
        validation: preprocessed cases to watch.
        budget: how long.
        device: to compute on.
        seed: of initialisation, patches and augmentation.
        workers: processes that load patches; chosen for the device where None, 0 for none.
        resume: take up the state in ``folder``, if there is one.
        report: called with the progress (0 to 1) and a note after each step.
        prepare: called with the new network of a training that starts, to give it the weights it starts from.

    Raises:
        AutosegError: the saved state belongs to another plan, or the loss stays not finite.
    """
    configuration, recipe, target = stage.configuration, stage.recipe, stage.target
    started = time.monotonic()
    torch.manual_seed(seed)
    network = build(stage.network, stage.in_channels, target.heads).to(device)
    state_path = folder / "training_state.pt"
    begun = resume and state_path.exists()
    share = recipe.initialization.keep
    if prepare is not None and (share or not begun):
        prepare(network)
    start = weights_of(network) if share else {}
    average = MovingAverage(network, recipe.ema_decay)
    in_channels = stage.in_channels
    optimizer = build_optimizer(_trained(network, configuration, in_channels, target.heads), recipe.optimizer)
    frozen = frozen_names(recipe.freeze, configuration.network, network, in_channels, target.heads)
    dtype = resolve_precision(recipe.precision, device)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    identity = training_identity(stage, training, seed)
    metadata = identity_of(stage)
    state = State()
    if begun:
        state = restore(state_path, identity, network, average, optimizer, scaler)
    (folder / DONE).unlink(missing_ok=True)
    before = state.seconds

    if workers is None:
        # On a CPU the network wants every core and cutting patches takes a few per mille of the step.
        workers = 0 if device.type == "cpu" else max(1, min(available_cpus() - 1, 6))
    maker = BatchMaker(stage, device)
    loader = PatchLoader(
        training,
        configuration.batch_size,
        maker.spoken_of,
        target,
        recipe.sampling,
        seed,
        state.iteration,
        max(workers, 1),
        loading_size(maker.given, recipe.augmentation),
    )
    stream = BatchStream(loader, workers)
    last_save = time.monotonic()
    not_finite = 0
    watched = spread(validation, recipe.validate_cases)
    network.train()
    with closing(stream), postponed_interrupt() as interrupted:
        while budget.progress(state.iteration, state.seconds) < 1 and not stops_early(state, recipe.early_stopping):
            if interrupted():
                save_state(state_path, pack(state, identity, network, average, optimizer, scaler))
                raise KeyboardInterrupt
            progress = budget.progress(state.iteration, state.seconds)
            rate = recipe.optimizer.learning_rate * rate_factor(
                recipe.schedule, progress, [row["loss"] for row in state.history]
            )
            set_rate(optimizer, rate)
            if frozen:
                hold(network, frozen, progress < recipe.freeze.until or recipe.freeze.until == 1)
            try:
                loaded = next(stream)
            except RuntimeError:
                if interrupted():  # Ctrl-C ends the loading workers, too
                    continue
                raise AutosegError(
                    f"a process that loads patches for {folder} died, most likely for lack of memory or because of a "
                    "damaged file; give the command again with --workers 0 to go on without such processes and to see "
                    "which."
                ) from None
            rng = np.random.default_rng([seed, AUGMENTATION, state.iteration])
            batch = maker.make(loaded, rng)
            # Only dropout draws from the global generator; it, too, must be the same after a resume.
            torch.manual_seed(int(rng.integers(2**62)))
            loss, finite = train_step(network, optimizer, scaler, batch, configuration, target, device, dtype)
            not_finite = 0 if finite else not_finite + 1
            if not_finite > PATIENCE_NOT_FINITE:
                raise AutosegError(
                    f"the loss of {folder} is not a number since {not_finite} steps; lower the learning rate "
                    "(--set recipe.optimizer.learning_rate=…) and start over with --restart."
                )
            average.update(network)
            state.iteration += 1
            if finite:
                state.epoch_loss += loss
                state.epoch_steps += 1
            state.seconds = before + time.monotonic() - started
            ends = budget.progress(state.iteration, state.seconds) >= 1
            if state.iteration % recipe.iterations_per_epoch == 0 or ends:
                end_epoch(folder, state, rate, recipe.iterations_per_epoch)
                due = len(state.history) % recipe.validate_every == 0
                if watched and (due or ends) and state.validation_seconds <= VALIDATION_SHARE * state.seconds:
                    validate(folder, state, average.network, watched, stage, device, dtype, metadata)
                    network.train()
                    set_deep_supervision(network, configuration.network.supervised_levels)
                    state.seconds = before + time.monotonic() - started
                write_history(folder, state)
            if report is not None:
                report(budget.progress(state.iteration, state.seconds), note(state))
            if time.monotonic() - last_save > SAVE_INTERVAL:
                save_state(state_path, pack(state, identity, network, average, optimizer, scaler))
                last_save = time.monotonic()
    state.finished = True
    result = average.network
    if share:
        first = state.iteration

        def on_training_cases(network: nn.Module) -> float:
            numbers = range(first, first + KEPT_BATCHES)
            batches = (maker.make(loader.batch(n), np.random.default_rng([seed, AUGMENTATION, n])) for n in numbers)
            return mean_loss(network, batches, configuration, target, device, dtype)

        result, state.kept = keep(result, start, share, on_training_cases)
    save_weights(folder / "weights.safetensors", result.state_dict(), metadata)
    save_state(state_path, pack(state, identity, network, average, optimizer, scaler))
    if interrupted():
        raise KeyboardInterrupt
    return state


def _trained(network: nn.Module, configuration: Configuration, in_channels: int, heads: int) -> Trained:
    """What the optimizer is given: all parameters alike, or layer by layer."""
    decay = configuration.recipe.optimizer.layer_decay
    if decay == 1:
        return network.parameters()
    places = depths(configuration.network, in_channels, heads, configuration.patch_size)
    return layer_groups(network, places, decay)


def train_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    batch: Batch,
    configuration: Configuration,
    target: Target,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[float, bool]:
    """One optimizer step.

    Returns:
        The loss, and whether loss and gradient were finite (the step is left out where not).
    """
    recipe = configuration.recipe
    optimizer.zero_grad(set_to_none=True)
    with autocast(device, dtype):
        outputs = network(batch.image)
    loss = batch_loss(outputs, batch, recipe, target)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(network.parameters(), recipe.gradient_clip or math.inf)
    value = float(loss.detach())
    if not scaler.is_enabled():
        finite = math.isfinite(value) and bool(torch.isfinite(norm))
        if finite:
            optimizer.step()
        return value, finite
    # The scaler leaves out a step whose gradients overflowed 16 bits, and halves the scale.
    scale = scaler.get_scale()
    if math.isfinite(value):
        scaler.step(optimizer)
    scaler.update()
    return value, math.isfinite(value) and scaler.get_scale() >= scale


@torch.no_grad()
def mean_loss(
    network: nn.Module,
    batches: Iterable[Batch],
    configuration: Configuration,
    target: Target,
    device: torch.device,
    dtype: torch.dtype,
) -> float:
    """The mean of what a training makes small, of a network that is not trained any further."""
    network.eval()
    set_deep_supervision(network, False)
    losses = []
    for batch in batches:
        with autocast(device, dtype):
            outputs = network(batch.image)
        losses.append(float(batch_loss(outputs, batch, configuration.recipe, target)))
    return float(np.mean(losses))


def training_identity(stage: Stage, cases: Sequence[StoredCase], seed: int) -> str:
    """A fingerprint of all that decides how a training goes on, except for how long and how it is watched."""
    return digest(
        {
            "weights": stage.identity,
            "patch": stage.configuration.patch_size,
            "batch": stage.configuration.batch_size,
            "recipe": _deciding(stage.recipe),
            "cases": [[case.id, case.content] for case in cases],
            "seed": seed,
        }
    )


def _deciding(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe decides the numbers; defaults left out, so that a later version's keys leave states valid."""

    def plain(recipe: Recipe) -> dict[str, Any]:
        parts = {name: value for name, value in recipe if name not in WATCHING}
        return {
            name: value.model_dump(exclude_defaults=True, exclude={"reasons"})
            if isinstance(value, BaseModel)
            else value
            for name, value in parts.items()
        }

    defaults = plain(Recipe())
    return {name: value for name, value in plain(recipe).items() if value != defaults[name]}
