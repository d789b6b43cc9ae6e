"""Validation during training: Dice of whole validation images, without test-time augmentation."""

import math
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from autoseg.inference.decoding import mean_of_answers, paint_scores
from autoseg.inference.sliding_window import SlidingWindow
from autoseg.networks import set_deep_supervision
from autoseg.plans.stage import Stage
from autoseg.preprocessing.store import StoredCase
from autoseg.training.fields import network_input
from autoseg.training.training import Training


def evenly_chosen(cases: Sequence[StoredCase], count: int) -> list[StoredCase]:
    """At most ``count`` cases, evenly spaced in the list."""
    if len(cases) <= count:
        return list(cases)
    return [cases[i * len(cases) // count] for i in range(count)]


def validate(training: Training, cases: Sequence[StoredCase]) -> None:
    """Add the Dice of some cases to the history; save the weights if it is the best so far."""
    started = time.monotonic()
    network, state = training.weights, training.state
    network.eval()
    set_deep_supervision(network, False)
    dice = validation_dice(network, cases, training.stage, training.device, training.step.dtype)
    means = {
        name: float(np.nanmean(values)) if np.any(np.isfinite(values)) else math.nan for name, values in dice.items()
    }
    mean = float(np.nanmean(list(means.values()))) if np.any(np.isfinite(list(means.values()))) else 0.0
    state.history[-1]["validation_dice"] = mean
    state.history[-1].update({f"validation_dice_{name}": value for name, value in means.items()})
    if mean > state.best_dice:
        state.best_dice, state.without_better = mean, 0
        training.save_weights(network, "best")
    else:
        state.without_better += 1
    state.validation_seconds += time.monotonic() - started


def validation_dice(
    network: nn.Module,
    cases: Sequence[StoredCase],
    stage: Stage,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, list[float]]:
    """Dice of whole preprocessed images, without test-time augmentation; several decoders are averaged.

    Returns:
        Output name → Dice of each case; NaN where both reference and prediction lack the output.
    """
    target, window = stage.target, SlidingWindow.of(stage, device, dtype, mirror=False)
    dice: dict[str, list[float]] = {output.name: [] for output in target.outputs}
    for case in cases:
        scores = mean_of_answers(window.scores([network], network_input(case, stage)), target)
        predicted = paint_scores(scores, target).cpu().numpy()
        reference = case.label()
        counts = reference != target.ignore if target.ignore is not None else np.ones(reference.shape, bool)
        for index, output in enumerate(target.outputs):
            if target.kind == "regions":
                prediction = (scores[index] > 0).cpu().numpy() & counts
            else:
                prediction = (predicted == output.paint) & counts
            truth = np.isin(reference, output.values) & counts
            size = int(prediction.sum()) + int(truth.sum())
            dice[output.name].append(2 * int((prediction & truth).sum()) / size if size else math.nan)
    return dice
