"""State: the progress of a training between two steps, as it is saved and shown."""

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from autoseg.runs.fold import Fold
from autoseg.step.training_step import TrainingStep
from autoseg.step.tune import VariantChoice
from autoseg.step.variant import VARIANT, Variant, compile_error, record, recorded, runnable
from autoseg.training.checkpoint import load_state, save_state
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import write_text


@dataclass
class State:
    """Progress of a training, without tensors; ``kept`` is the share of the initial weights in the final ones."""

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


@dataclass(frozen=True)
class TrainingIdentity:
    """What determines the weights of a training, but for its length.

    Attributes:
        digest: a fingerprint of all of it.
        cases: fingerprint of what is stored of each case that it learns from, by name.
    """

    digest: str
    cases: Mapping[str, str]


def save_training(path: Path, state: State, identity: TrainingIdentity, step: TrainingStep) -> None:
    """Write everything that a training needs to resume exactly."""
    variant = record(step.variant, step.device)
    told = {"identity": identity.digest, "cases": dict(identity.cases), VARIANT: variant}
    save_state(path, {**told, "state": dict(vars(state)), **step.state_dict()})


def resume_training(path: Path, identity: TrainingIdentity, step: TrainingStep) -> State:
    """Load a saved training into its step, and return its state.

    Raises:
        AutosegError: the file is damaged, or is of another plan, seed, split or of other data.
    """
    saved = load_state(path)
    if saved["identity"] != identity.digest:
        before = saved.get("cases", {})
        changed = [name for name, content in identity.cases.items() if before.get(name, content) != content]
        if changed and set(before) == set(identity.cases) and len(changed) < len(before):
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise AutosegError(
                f"{changed[0]}{more} changed since {path} was begun; put the files back, or start over with --restart."
            )
        raise AutosegError(
            f"{path} was trained under another plan, seed or split, or on other data; put them back, or start over "
            "with --restart."
        )
    step.load_state_dict(saved)
    return State(**{**saved["state"], "finished": False})


def begun_variant(fold: Fold, device: torch.device) -> VariantChoice | None:
    """The variant that a saved training was computed in; None if that was on another kind of device, or on one
    with a precision that this one lacks.

    It goes on without compiling where that fails on this machine. A training that an earlier version saved has no
    variant: it was computed as :meth:`Variant.untimed` says.

    Raises:
        AutosegError: the file is damaged, or the recipe insists on compiling, which fails.
    """
    saved, recipe = load_state(fold.state, mapped=True), fold.stage.recipe
    began = recorded(saved[VARIANT], device) if VARIANT in saved else Variant.untimed(recipe, device)
    if began is None:
        return None
    variant = runnable(began, recipe, device)
    if variant == began:
        return VariantChoice(variant, f"{variant}, as the fold began")
    return VariantChoice(variant, f"{variant}: the fold began compiled, which fails here ({compile_error(device)})")


def end_epoch(folder: Path, state: State, rate: float, steps: int) -> None:
    """Add a row to the history of a training whose epochs have so many steps, and make the fold's folder."""
    row = {
        "epoch": float(math.ceil(state.iteration / steps)),
        "iteration": float(state.iteration),
        "seconds": round(state.seconds, 3),
        "learning_rate": rate,
        "loss": state.epoch_loss / max(state.epoch_steps, 1) if state.epoch_steps else math.nan,
    }
    state.history.append(row)
    state.epoch_loss, state.epoch_steps = 0.0, 0
    folder.mkdir(parents=True, exist_ok=True)


def write_history(path: Path, state: State) -> None:
    """Write ``history.csv``: one row for each epoch, one column for each value."""
    columns = list(dict.fromkeys(key for row in state.history for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in state.history:
        writer.writerow({k: int(v) if k in ("epoch", "iteration") else f"{v:.6g}" for k, v in row.items()})
    write_text(path, text.getvalue())


def note(state: State) -> str:
    """Progress in a few words, for the progress bar."""
    if not state.history:
        return f"iteration {state.iteration}"
    last = state.history[-1]
    validated = [row["validation_dice"] for row in state.history if "validation_dice" in row]
    dice = f", validation Dice {validated[-1]:.3f}" if validated else ""
    return f"epoch {int(last['epoch'])}, loss {last['loss']:.3f}{dice}"
