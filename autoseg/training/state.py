"""Where a training stands: what is kept of it between two steps, written to disk and shown."""

import csv
import io
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoseg.step.averaging import MovingAverage
from autoseg.training.checkpoint import load_state
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import write_text


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


def pack(
    state: State,
    identity: str,
    network: nn.Module,
    average: MovingAverage,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> dict[str, Any]:
    """All that a training needs to go on exactly: tensors and plain values, for a file."""
    return {
        "identity": identity,
        "state": dict(vars(state)),
        "network": network.state_dict(),
        "average": {} if average.network is network else average.network.state_dict(),
        "average_steps": average.steps,
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
    }


def restore(
    path: Path,
    identity: str,
    network: nn.Module,
    average: MovingAverage,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> State:
    """Put a saved training back into its parts.

    Raises:
        AutosegError: the file is damaged, or is of another plan, seed or split.
    """
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


def stops_early(state: State, patience: int) -> bool:
    """Whether so many validations in a row were no better; never with a patience of 0."""
    return patience > 0 and state.without_better >= patience


def end_epoch(folder: Path, state: State, rate: float, iterations_per_epoch: int) -> None:
    """Add a row to the history, and make the fold's folder."""
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


def write_history(folder: Path, state: State) -> None:
    """Write ``history.csv``: a row an epoch, a column a value."""
    columns = list(dict.fromkeys(key for row in state.history for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in state.history:
        writer.writerow({k: int(v) if k in ("epoch", "iteration") else f"{v:.6g}" for k, v in row.items()})
    write_text(folder / "history.csv", text.getvalue())


def note(state: State) -> str:
    """Where the training stands, in a few words."""
    if not state.history:
        return f"iteration {state.iteration}"
    last = state.history[-1]
    validated = [row["validation_dice"] for row in state.history if "validation_dice" in row]
    dice = f", validation Dice {validated[-1]:.3f}" if validated else ""
    return f"epoch {int(last['epoch'])}, loss {last['loss']:.3f}{dice}"
