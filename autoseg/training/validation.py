"""Validation during training: Dice and loss of whole validation images, without test-time augmentation."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from autoseg.inference.decoding import mean_of_answers, paint_scores
from autoseg.inference.sliding_window import SlidingWindow
from autoseg.networks import set_deep_supervision
from autoseg.plans.recipe import Augmentation
from autoseg.plans.stage import Stage
from autoseg.plans.target import Target
from autoseg.preprocessing.store import StoredCase
from autoseg.step.batch import Batch
from autoseg.step.losses import training_loss
from autoseg.training.batches import BatchMaker
from autoseg.training.case_cache import CaseCache, Room
from autoseg.training.fields import network_input
from autoseg.training.sampling import Patches, PatchLoader
from autoseg.training.training import Training
from autoseg.utils.device import has_room
from autoseg.utils.files import found_room
from autoseg.utils.progress import say

_T = TypeVar("_T")

#: Bytes that the terms of the loss take for each score: six arrays of 32 bits (logarithms and probabilities, and what a
#: term multiplies them by); an estimate.
LOSS_BYTES = 24

#: Scores of an image, all heads together, above which its loss is not computed: its terms would take over 6 GB.
LARGEST_LOSS = 1 << 28


@dataclass(frozen=True)
class ValidationScores:
    """What a network reaches on some validation images.

    Attributes:
        dice: output name → Dice of each case; NaN where both reference and prediction lack the output, or 1 by the
            plan's convention (``evaluation.empty``).
        losses: of each case; empty where the recipe takes the loss of patches, or none.
        regions: the same as ``dice`` for regions of several labels, which are no outputs of the network.
        with_structures: whether a reference has any output: else the Dice tells false alarms (0) from none (NaN) alone.
    """

    dice: dict[str, list[float]]
    losses: list[float]
    regions: dict[str, list[float]] = field(default_factory=dict)
    with_structures: bool = True


def evenly_chosen(cases: Sequence[_T], count: int) -> list[_T]:
    """At most ``count`` cases, evenly spaced in the list."""
    if len(cases) <= count:
        return list(cases)
    return [cases[i * len(cases) // count] for i in range(count)]


def has_structures(case: StoredCase, target: Target) -> bool:
    """Whether any output of a target occurs in a case."""
    return not case.foreground_values.isdisjoint(value for output in target.outputs for value in output.values)


def watched_cases(cases: Sequence[StoredCase], target: Target, count: int) -> list[StoredCase]:
    """At most ``count`` cases to validate on the way, in order: evenly spaced among those that have structures.

    Where these are too few, there are others among them, evenly spaced as well; a Dice needs a structure.
    """
    if len(cases) <= count:
        return list(cases)
    places: tuple[list[int], list[int]] = [], []
    for place, case in enumerate(cases):
        places[0 if has_structures(case, target) else 1].append(place)
    chosen = evenly_chosen(places[0], count)
    return [cases[place] for place in sorted(chosen + evenly_chosen(places[1], count - len(chosen)))]


def too_large_for_loss(cases: Sequence[StoredCase], stage: Stage) -> StoredCase | None:
    """A case of which the loss of the whole image takes too much memory, if there is one."""
    return next((case for case in cases if math.prod(case.shape) * stage.heads > LARGEST_LOSS), None)


def regions_of(regions: Mapping[str, Sequence[int]], target: Target) -> dict[str, frozenset[int]]:
    """The dataset's regions that unite labels which a network tells apart, by name.

    Papers show the Dice of regions also where a network segments labels (Wacker et al. 2019, figure 4).

    Args:
        regions: of the dataset: name → values.
        target: of the network.
    """
    if target.kind != "labels" or len(target.outputs) < 2:
        return {}
    names = {output.name for output in target.outputs}
    found = {}
    for name, values in regions.items():
        united = [output for output in target.outputs if set(output.values) <= set(values)]
        if name not in names and {value for output in united for value in output.values} == set(values):
            found[name] = frozenset(values)
    return found


def estimated_seconds(training: Training, cases: Sequence[StoredCase]) -> float:
    """About how long :func:`validate` takes: a tile half as long as a patch in a step, whose backward pass it lacks."""
    stage, state = training.stage, training.state
    window = SlidingWindow.of(stage, training.device, training.step.dtype, mirror=False)
    configuration = stage.configuration
    patches = sum(window.count(case.shape) for case in cases) * math.prod(configuration.tile_size)
    step = state.seconds / max(1, state.iteration)
    return step * patches / (2 * configuration.batch_size * math.prod(configuration.patch_size))


def validate(
    training: Training, cases: Sequence[StoredCase], regions: Mapping[str, frozenset[int]] | None = None
) -> None:
    """Add Dice and loss of some cases to the history; save the weights if the Dice is the best so far.

    A Dice that says nothing, as no case has a structure, is not noted, and nothing depends on it.

    Args:
        training: its weights are validated.
        cases: to validate on.
        regions: that get a Dice beside the outputs' (:func:`regions_of`), which nothing depends on.
    """
    started = time.monotonic()
    network, state, stage = training.weights, training.state, training.stage
    network.eval()
    set_deep_supervision(network, False)
    found = validation_scores(network, cases, stage, training.device, training.step.dtype, regions)
    if stage.recipe.validation_loss == "patches":
        loss = training.step.mean_loss(network, validation_patches(cases, stage, training.device))
        state.history[-1]["validation_loss"] = loss
    elif found.losses:
        state.history[-1]["validation_loss"] = float(np.mean(found.losses))
    means = {name: _mean(values) for name, values in found.dice.items()}
    shown = means | {name: _mean(values) for name, values in found.regions.items()}
    mean = _mean(list(means.values()))
    if not math.isnan(mean) and (found.with_structures or counts_absent(stage)):
        state.history[-1]["validation_dice"] = mean
        state.history[-1].update({f"validation_dice_{name}": value for name, value in shown.items()})
        _keep_best(training, network, mean)
    state.validation_seconds += time.monotonic() - started


def counts_absent(stage: Stage) -> bool:
    """Whether a case without a structure has a Dice of its own (``evaluation.empty=brats``)."""
    return stage.empty == "brats"


def _keep_best(training: Training, network: nn.Module, dice: float) -> None:
    """Save the weights if their Dice is the best so far; on a full disk only what the training depends on ends it."""
    state = training.state
    if dice <= state.best_dice:
        state.without_better += 1
        return
    save = partial(training.save_weights, network, "best")
    if training.recipe.early_stopping or training.stage.inference.checkpoint == "best":
        save()
    elif not found_room(save):
        say(f"No room for {training.fold.checkpoint('best')}: it stays what it was.")
        return
    state.best_dice, state.without_better = dice, 0


def _mean(values: Sequence[float]) -> float:
    return float(np.nanmean(values)) if np.any(np.isfinite(values)) else math.nan


def validation_scores(
    network: nn.Module,
    cases: Sequence[StoredCase],
    stage: Stage,
    device: torch.device,
    dtype: torch.dtype,
    regions: Mapping[str, frozenset[int]] | None = None,
) -> ValidationScores:
    """Dice and loss of whole preprocessed images, without test-time augmentation; several decoders are averaged."""
    target, window = stage.target, SlidingWindow.of(stage, device, dtype, mirror=False)
    dice: dict[str, list[float]] = {output.name: [] for output in target.outputs}
    united: dict[str, list[float]] = {name: [] for name in regions or {}}
    losses = []
    neither = 1.0 if counts_absent(stage) else math.nan
    with_structures = False
    takes_loss = stage.recipe.validation_loss == "images" and too_large_for_loss(cases, stage) is None
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
            with_structures = with_structures or bool(truth.any())
            dice[output.name].append(_dice(prediction, truth, neither))
        for name, values in (regions or {}).items():
            painted = [output.paint for output in target.outputs if set(output.values) <= values]
            prediction = np.isin(predicted, painted) & counts
            united[name].append(_dice(prediction, np.isin(reference, list(values)) & counts, neither))
        if takes_loss:
            losses.append(image_loss(scores, reference, stage))
    return ValidationScores(dice, losses, united, with_structures)


def _dice(prediction: np.ndarray, truth: np.ndarray, neither: float) -> float:
    """Of two masks; ``neither`` where both are empty."""
    size = int(prediction.sum()) + int(truth.sum())
    return 2 * int((prediction & truth).sum()) / size if size else neither


@torch.no_grad()
def image_loss(scores: torch.Tensor, label: np.ndarray, stage: Stage) -> float:
    """The loss of a whole image, as one sample.

    Args:
        scores: logits ``(heads, z, y, x)`` of one answer.
        label: values of the dataset ``(z, y, x)``.
        stage: whose loss.
    """
    if scores.device.type == "cuda" and not has_room(scores.device, LOSS_BYTES * scores.numel()):
        scores = scores.cpu()
    truth = torch.from_numpy(label.astype(np.int64)).to(scores.device)
    return float(training_loss(scores[None], truth[None], stage.recipe.loss, stage.target))


def validation_patches(cases: Sequence[StoredCase], stage: Stage, device: torch.device) -> Iterator[Batch]:
    """The fixed set of patches that the validation loss is taken of: always the same, as they are in the images.

    They are sampled as in training.

    Args:
        cases: to draw from.
        stage: patch, sampling and number of batches.
        device: of the training.
    """
    recipe = stage.recipe
    plain = recipe.model_copy(
        update={"augmentation": without_augmentation(recipe.augmentation), "channel_dropout": 0.0}
    )
    stage = replace(stage, configuration=stage.configuration.model_copy(update={"recipe": plain}))
    maker = BatchMaker(stage, device)
    cache = CaseCache(cases, stage, maker.made_on, Room(0, 0))
    loader = PatchLoader(cases, Patches.of(stage), cache, seed=0)
    for number in range(recipe.validation_batches):
        yield maker.make(loader.batch(number), cache.layout).batch


def without_augmentation(augmentation: Augmentation) -> Augmentation:
    """The same that changes nothing: every probability is 0, nothing is mirrored."""
    off = dict.fromkeys((name for name in type(augmentation).model_fields if name.endswith("_probability")), 0.0)
    return augmentation.model_copy(update={**off, "mirror_axes": [], "transforms": {}})
