"""The training of one fold, top to bottom."""

import csv
import io
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel
from torch import nn

from autoseg.device import autocast, resolve_precision
from autoseg.errors import AutosegError
from autoseg.files import write_text
from autoseg.inference.decide import mean_of_raters, paint_scores
from autoseg.inference.sliding_window import predict_scores
from autoseg.networks import build, set_deep_supervision
from autoseg.networks.parts import depths
from autoseg.networks.weights import digest, save_weights, weights_identity
from autoseg.parallel import available_cpus
from autoseg.plan import Configuration, Plan, Target
from autoseg.preprocessing.store import StoredCase
from autoseg.recipe import Recipe
from autoseg.training.augmentation import loading_size
from autoseg.training.batches import Batch, BatchMaker, batch_loss
from autoseg.training.checkpoint import load_state, save_state
from autoseg.training.freezing import frozen_names, hold
from autoseg.training.interrupt import postponed_interrupt
from autoseg.training.keeping import keep, weights_of
from autoseg.training.optimization import (
    MovingAverage,
    Trained,
    build_optimizer,
    layer_groups,
    rate_factor,
    set_rate,
)
from autoseg.training.previous import network_input
from autoseg.training.sampling import AUGMENTATION, BatchStream, PatchLoader

#: Seconds between two saved states; an interruption loses at most these.
SAVE_INTERVAL = 30.0

#: Validation during training may take this share of the time so far.
VALIDATION_SHARE = 0.05

#: File in a fold's folder that says that it is trained and validated, and how long that was asked to take.
DONE = "done.json"

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


@dataclass
class State:
    """Where a training stands, apart from the tensors; ``kept`` is the source's share in a finished one's weights."""

    iteration: int = 0
    seconds: float = 0.0
    epoch_loss: float = 0.0
    epoch_steps: int = 0
    best_dice: float = -1.0
    without_better: int = 0
    validation_seconds: float = 0.0
    kept: float = 0.0
    finished: bool = False
    history: list[dict[str, float]] = field(default_factory=list)


Report = Callable[[float, str], None]


def train_fold(
    folder: Path,
    plan: Plan,
    configuration: Configuration,
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
        plan: channels and target.
        configuration: patch, batch, network and recipe.
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
    recipe, target = configuration.recipe, plan.target_of(configuration)
    started = time.monotonic()
    torch.manual_seed(seed)
    network = build(configuration.network, plan.in_channels(configuration), target.heads).to(device)
    state_path = folder / "training_state.pt"
    begun = resume and state_path.exists()
    share = recipe.initialization.keep
    if prepare is not None and (share or not begun):
        prepare(network)
    start = weights_of(network) if share else {}
    average = MovingAverage(network, recipe.ema_decay)
    in_channels = plan.in_channels(configuration)
    optimizer = build_optimizer(_trained(network, configuration, in_channels, target.heads), recipe.optimizer)
    frozen = frozen_names(recipe.freeze, configuration.network, network, in_channels, target.heads)
    dtype = resolve_precision(recipe.precision, device)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    identity = training_identity(plan, configuration, training, seed)
    metadata = {"identity": weights_identity(plan, configuration)}
    state = State()
    if begun:
        state = _restore(state_path, identity, network, average, optimizer, scaler)
    (folder / DONE).unlink(missing_ok=True)
    before = state.seconds

    if workers is None:
        # On a CPU the network wants every core and cutting patches takes a few per mille of the step.
        workers = 0 if device.type == "cpu" else max(1, min(available_cpus() - 1, 6))
    maker = BatchMaker(plan, configuration, device)
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
    watched = _spread(validation, recipe.validate_cases)
    network.train()
    with closing(stream), postponed_interrupt() as interrupted:
        while budget.progress(state.iteration, state.seconds) < 1 and not _stops_early(state, recipe.early_stopping):
            if interrupted():
                save_state(state_path, _pack(state, identity, network, average, optimizer, scaler))
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
                _end_epoch(folder, state, rate, recipe.iterations_per_epoch)
                due = len(state.history) % recipe.validate_every == 0
                if watched and (due or ends) and state.validation_seconds <= VALIDATION_SHARE * state.seconds:
                    _validate(folder, state, average.network, watched, plan, configuration, device, dtype, metadata)
                    network.train()
                    set_deep_supervision(network, configuration.network.supervised_levels)
                    state.seconds = before + time.monotonic() - started
                _write_history(folder, state)
            if report is not None:
                report(budget.progress(state.iteration, state.seconds), _note(state))
            if time.monotonic() - last_save > SAVE_INTERVAL:
                save_state(state_path, _pack(state, identity, network, average, optimizer, scaler))
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
    save_state(state_path, _pack(state, identity, network, average, optimizer, scaler))
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


def training_identity(plan: Plan, configuration: Configuration, cases: Sequence[StoredCase], seed: int) -> str:
    """A fingerprint of all that decides how a training goes on, except for how long and how it is watched."""
    return digest(
        {
            "weights": weights_identity(plan, configuration),
            "patch": configuration.patch_size,
            "batch": configuration.batch_size,
            "recipe": _deciding(configuration.recipe),
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


def _pack(
    state: State,
    identity: str,
    network: nn.Module,
    average: MovingAverage,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> dict[str, Any]:
    return {
        "identity": identity,
        "state": dict(vars(state)),
        "network": network.state_dict(),
        "average": {} if average.network is network else average.network.state_dict(),
        "average_steps": average.steps,
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
    }


def _restore(
    path: Path,
    identity: str,
    network: nn.Module,
    average: MovingAverage,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> State:
    saved = load_state(path)
    if saved["identity"] != identity:
        raise AutosegError(
            f"{path} was trained under another plan, seed or split; put the plan back, or start over with --restart."
        )
    network.load_state_dict(saved["network"])
    if saved["average"]:
        average.network.load_state_dict(saved["average"])
    average.steps = saved["average_steps"]
    optimizer.load_state_dict(saved["optimizer"])
    if scaler.is_enabled() and saved["scaler"]:  # empty where the training began on a device without 16-bit floats
        scaler.load_state_dict(saved["scaler"])
    return State(**{**saved["state"], "finished": False})


def _stops_early(state: State, patience: int) -> bool:
    return patience > 0 and state.without_better >= patience


def _spread(cases: Sequence[StoredCase], count: int) -> list[StoredCase]:
    """At most ``count`` cases, evenly from the whole list."""
    if len(cases) <= count:
        return list(cases)
    return [cases[i * len(cases) // count] for i in range(count)]


def _end_epoch(folder: Path, state: State, rate: float, iterations_per_epoch: int) -> None:
    row = {
        "epoch": float(math.ceil(state.iteration / iterations_per_epoch)),
        "iteration": float(state.iteration),
        "seconds": round(state.seconds, 3),
        "learning_rate": rate,
        "loss": state.epoch_loss / max(state.epoch_steps, 1) if state.epoch_steps else math.nan,
    }
    state.history.append(row)
    state.epoch_loss, state.epoch_steps = 0.0, 0
    folder.mkdir(parents=True, exist_ok=True)


def _validate(
    folder: Path,
    state: State,
    network: nn.Module,
    cases: Sequence[StoredCase],
    plan: Plan,
    configuration: Configuration,
    device: torch.device,
    dtype: torch.dtype,
    metadata: dict[str, str],
) -> None:
    started = time.monotonic()
    network.eval()
    set_deep_supervision(network, False)
    dice = validation_dice(network, cases, plan.target_of(configuration), configuration, device, dtype)
    means = {
        name: float(np.nanmean(values)) if np.any(np.isfinite(values)) else math.nan for name, values in dice.items()
    }
    mean = float(np.nanmean(list(means.values()))) if np.any(np.isfinite(list(means.values()))) else 0.0
    state.history[-1]["validation_dice"] = mean
    state.history[-1].update({f"validation_dice_{name}": value for name, value in means.items()})
    if mean > state.best_dice:
        state.best_dice, state.without_better = mean, 0
        save_weights(folder / "best.safetensors", network.state_dict(), metadata)
    else:
        state.without_better += 1
    state.validation_seconds += time.monotonic() - started


def validation_dice(
    network: nn.Module,
    cases: Sequence[StoredCase],
    target: Target,
    configuration: Configuration,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, list[float]]:
    """Dice of whole preprocessed images, without test-time augmentation; of several raters their mean counts.

    Returns:
        Output name → Dice a case; NaN where a case neither has nor is said to have the output.
    """
    dice: dict[str, list[float]] = {output.name: [] for output in target.outputs}
    for case in cases:
        scores = predict_scores(
            [network],
            network_input(case),
            configuration.tile_size,
            target.heads * configuration.network.raters,
            configuration.inference,
            device,
            dtype,
            mirror=False,
            context=configuration.tile_context,
        )
        scores = mean_of_raters(scores, target)
        predicted = paint_scores(scores, target).cpu().numpy()
        reference = case.label()
        counts = reference != target.ignore if target.ignore is not None else np.ones(reference.shape, bool)
        for index, output in enumerate(target.outputs):
            if target.kind == "regions":
                found = (scores[index] > 0).cpu().numpy() & counts
            else:
                found = (predicted == output.paint) & counts
            wanted = np.isin(reference, output.values) & counts
            size = int(found.sum()) + int(wanted.sum())
            dice[output.name].append(2 * int((found & wanted).sum()) / size if size else math.nan)
    return dice


def _write_history(folder: Path, state: State) -> None:
    columns = list(dict.fromkeys(key for row in state.history for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in state.history:
        writer.writerow({k: int(v) if k in ("epoch", "iteration") else f"{v:.6g}" for k, v in row.items()})
    write_text(folder / "history.csv", text.getvalue())


def _note(state: State) -> str:
    if not state.history:
        return f"iteration {state.iteration}"
    last = state.history[-1]
    validated = [row["validation_dice"] for row in state.history if "validation_dice" in row]
    dice = f", validation Dice {validated[-1]:.3f}" if validated else ""
    return f"epoch {int(last['epoch'])}, loss {last['loss']:.3f}{dice}"
