"""How a model is fitted to a small cohort: rates, what is frozen, how long. Every number of that stands here."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from autoseg.plans.configuration import Configuration
from autoseg.plans.recipe import Augmentation, Freeze, Initialization, Optimizer, Recipe, Schedule
from autoseg.plans.stage import Stage
from autoseg.transfer.source import SourceModel
from autoseg.utils.errors import UsageError
from planners.rules.recipe import (
    CPU_ITERATIONS_PER_EPOCH,
    CPU_RATE,
    ITERATIONS_PER_EPOCH,
    LONE_RATE,
    Data,
    optimizer,
    sampling,
    steps,
)
from planners.rules.task import Task

#: A fine-tuning takes this share of the steps that a training from scratch on the same cases would take. An estimate.
_SHORT = 0.25

#: Share of the budget over which the rate rises: the optimizer's moments must settle before it moves good weights far.
_WARMUP = 0.1

#: Share of the source's weights in the result, of a stage of several and with separate annotators (half, as Wortsman et
#: al. 2022): few cases show little of what there is, and the source has seen more. Else it is chosen on held-out cases.
_KEEP = 0.5

#: Decay of the weights' moving average; a few hundred steps on a CPU, thousands elsewhere.
_DECAY = {"cpu": 0.995}
_USUAL_DECAY = 0.999


@dataclass(frozen=True)
class Tuning:
    """One way to fine-tune.

    Attributes:
        rate: share of the learning rate of a training from scratch.
        short: the same on a CPU, where a training has hundreds of steps and not thousands; 0 for ``rate``.
        layer_decay: rate of the first layer as a share of the last's.
        part: that is frozen at first.
        until: share of the budget that it is frozen for; 1 for all of it.
        keeps: whether the result may keep a share of the source's weights, where the source does without training.
        pull: strength of :attr:`autoseg.plans.recipe.Initialization.pull`.
        rank: largest of what is added to each kernel; 0 for any.
        louder: factor on the probabilities of all changes of intensity and resolution.
        why: in words.
    """

    rate: float
    short: float = 0.0
    layer_decay: float = 1.0
    part: Literal["none", "encoder", "body", "kernels"] = "none"
    until: float = 1.0
    keeps: bool = True
    pull: float = 0.0
    rank: int = 0
    louder: float = 1.0
    why: str = ""


#: What scanners differ in, as the augmentation names it. Bias fields, which differ as well, were no gain: beside these
#: they were screened at +0.004, +0.005, +0.009 and, on sarcomas, −0.039 (benchmarks/results/cohort_rows.md).
_LOOKS = ("noise", "blur", "brightness", "contrast", "low_resolution")

#: Ways to fine-tune by name.
TUNINGS = {
    "all": Tuning(
        0.25,
        keeps=False,
        why="all layers from the first step on (Rahimpour et al., section 2.6); rate and schedule are ours",
    ),
    "layerwise": Tuning(
        0.5,
        short=1.0,
        layer_decay=0.1,
        why="all layers, the first ones at a tenth of the last's rate: what they see is general",
    ),
    "unfreeze": Tuning(
        0.25, short=1.0, part="body", until=0.2, why="the heads alone for a fifth of the budget, then all layers"
    ),
    "encoder": Tuning(0.5, part="encoder", why="the decoder alone; the encoder stays the source's"),
    "norms": Tuning(
        2.0, part="kernels", why="scales, shifts and biases alone: looks change between scanners, structures do not"
    ),
    "pulled": Tuning(
        0.25, short=1.0, pull=20.0, why="all layers, drawn back to the source's weights (L2-SP, Li et al. 2018)"
    ),
    "lowrank": Tuning(
        0.5,
        short=1.0,
        rank=4,
        why="all layers, what is added to a kernel being of rank 4 (low rank adaptation, Hu et al. 2022)",
    ),
    "augmented": Tuning(
        0.25,
        short=1.0,
        louder=2.5,
        why="all layers, with more changes of what differs: contrast, brightness, noise, resolution",
    ),
    "heads": Tuning(1.0, part="body", why="the heads alone; everything else stays the source's"),
}

#: What is taken where nothing is asked for: in general, and on a CPU where the source can do as it is. At a quarter of
#: the rate the ways hardly differed (one run each on the hippocampus, 10 cases, 3 minutes: a Dice of 0.874 to 0.880,
#: ``unfreeze`` the best; the source as it is 0.875, from scratch 0.859; benchmarks/results/transfer_tuning.md), and
#: trainings of thousands of steps were not compared; so a GPU keeps that. In trainings as short as a CPU's the rate
#: matters more: at the full one ways were screened on 20 cases of three kinds and 8 of a fourth, 100 steps of two
#: volumes a fold, one seed; on two of the kinds the source lost nothing. ``augmented`` was the best on each, 0.004 to
#: 0.060 above ``unfreeze``; and 0.031, 0.003 and 0.000 above it in 200 steps of one volume on three cohorts, two of
#: them with a gap that costs the source 0.2 (benchmarks/results/cohort_rows.md).
#: What the full rate forgets, the share of the source's weights gives back. Heads that are new learn first, alone.
GENERAL, ON_CPU = "unfreeze", "augmented"


def chosen_tuning(asked: str, device: str, whole: bool) -> str:
    """The name of the way to tune.

    Args:
        asked: by the user; empty for the usual one.
        device: that is planned for.
        whole: whether the source can do as it is (:func:`autoseg.transfer.as_it_is.why_not_as_it_is`).

    Raises:
        UsageError: it is unknown.
    """
    name = asked or (ON_CPU if device == "cpu" and whole else GENERAL)
    if name not in TUNINGS:
        raise UsageError(f"--tuning {name} is unknown; choose one of {', '.join(TUNINGS)}.")
    return name


def tuned(task: Task, model: SourceModel, stage: Stage, name: str) -> Recipe:
    """The recipe to fine-tune a stage of a source with: the source's, but for its length and rates.

    Args:
        task: the data.
        model: the source.
        stage: of it.
        name: of the way to tune.

    Raises:
        UsageError: the network has no encoder.
    """
    asked, way = model.asked.tuning, TUNINGS[name]
    before = stage.configuration
    if way.part == "encoder" and not before.network.encoder_prefixes:
        raise UsageError(f"--tuning {name}: a network of the family {before.network.family} has no encoder; use heads.")
    device = task.request.device
    usual, _, _ = optimizer(device, before.batch_size)
    base: Optimizer = before.recipe.optimizer if model.plan.device == device else usual
    rate, rate_reason = _rate(way, before.recipe, base, usual, device)
    reason = "as asked" if asked else "the default"
    per_epoch = CPU_ITERATIONS_PER_EPOCH if device == "cpu" else ITERATIONS_PER_EPOCH
    total, _ = steps(_data(task, model, before))
    epochs = max(1, math.ceil(_SHORT * total / per_epoch))
    return before.recipe.model_copy(
        update={
            "epochs": epochs,
            "distillation": None,  # the source's teacher knows its own cases
            "source_cases": None,  # and what was mixed into its batches is its own, too
            "epoch_length": "iterations",
            "iterations_per_epoch": per_epoch,
            "optimizer": base.model_copy(
                update={
                    "learning_rate": rate,
                    "layer_decay": way.layer_decay,
                    "reasons": {
                        "name": "the source's" if base is before.recipe.optimizer else f"the usual one on {device}",
                        "learning_rate": rate_reason,
                        **({"layer_decay": f"tuning {name}, {reason}: {way.why}"} if way.layer_decay < 1 else {}),
                    },
                }
            ),
            "schedule": Schedule(
                name="cosine",
                warmup=_WARMUP,
                reasons={"warmup": "the moments must settle before the rate may move good weights far"},
            ),
            "freeze": Freeze(part=way.part, until=way.until, reasons={"part": f"tuning {name}, {reason}: {way.why}"}),
            "ema_decay": _DECAY.get(device, _USUAL_DECAY),
            "reasons": {
                "epochs": f"{epochs * per_epoch} steps, {_SHORT:g} of those that a training from scratch would take",
                "ema_decay": "averaged weights: with few cases single steps go far astray",
            },
        }
    )


def _rate(way: Tuning, before: Recipe, base: Optimizer, usual: Optimizer, device: str) -> tuple[float, str]:
    """The learning rate, and why; a source that was itself fine-tuned must not lower it a second time."""
    lowered = base is before.optimizer and before.initialization.source == "model"
    if lowered and base.name != usual.name:
        return base.learning_rate, "the source's, which was fine-tuned itself: no longer the rate from scratch"
    scratch = usual.learning_rate if lowered else base.learning_rate
    share = way.short if way.short and device == "cpu" else way.rate
    told = "the rate from scratch" if share == 1 else f"{share:g} of the rate from scratch"
    return share * scratch, f"{told} ({scratch:g})"


def lone(recipe: Recipe, device: str) -> Recipe:
    """A recipe for several patches a step, where but one fits: as this project plans for one.

    Args:
        recipe: of the tuning.
        device: that is planned for.
    """
    chosen, positions, only = recipe.optimizer, recipe.sampling, sampling(batch=1)
    if device == "cpu":
        why = "; three quarters of it, as one patch a step fits"
        reasons = {**chosen.reasons, "learning_rate": chosen.reasons.get("learning_rate", "the source's") + why}
        rate = chosen.learning_rate * LONE_RATE / CPU_RATE
        chosen = chosen.model_copy(update={"learning_rate": rate, "reasons": reasons})
    if 0 < positions.foreground_share < only.foreground_share:
        positions = positions.model_copy(
            update={
                "foreground_share": only.foreground_share,
                "reasons": {**positions.reasons, **only.reasons},
            }
        )
    return recipe.model_copy(update={"optimizer": chosen, "sampling": positions})


def keeping(start: Initialization, whole: bool, separate: bool, tuning: str) -> Initialization:
    """Where the weights come from, and how much of them is kept: something where the source can do as it is.

    Args:
        start: of the recipe.
        whole: whether it can (:func:`autoseg.transfer.as_it_is.why_not_as_it_is`).
        separate: whether it has several stages, or annotators that are learned separately.
        tuning: name of the way to tune.
    """
    way = TUNINGS[tuning]
    if way.pull or way.rank:
        reasons = {**start.reasons, "pull" if way.pull else "rank": way.why}
        start = start.model_copy(update={"pull": way.pull, "rank": way.rank, "reasons": reasons})
    if not whole and (way.pull or way.rank or way.part == "kernels"):
        raise UsageError(
            f"--tuning {tuning}: the source can't be used as it is on these channels, outputs or annotators, and what "
            "is new could not be learned so; use unfreeze."
        )
    if not whole:
        why = "the source can't be used as it is on these channels, outputs or annotators"
        reasons = {name: reason for name, reason in start.reasons.items() if name != "postprocessing"}
        nothing: dict[str, object] = {"ensemble": [], "postprocessing": [], "untouched": None}
        return start.model_copy(update={**nothing, "reasons": {**reasons, "keep": why}})
    if not way.keeps:
        return start.model_copy(update={"reasons": {**start.reasons, "keep": "this way of tuning keeps nothing"}})
    if separate:
        why = "few cases show little of what there is, and the source has seen more (Wortsman et al. 2022)"
        return start.model_copy(update={"keep": _KEEP, "reasons": {**start.reasons, "keep": why}})
    why = "on cases that were not trained on; all of it where no tuning is better than the source as it is"
    return start.model_copy(update={"keep": "auto", "reasons": {**start.reasons, "keep": why}})


def unseen(recipe: Recipe) -> Recipe:
    """A recipe that does not end early by the cases that choose how much of the source is kept.

    Args:
        recipe: of the tuning, with its initial weights.
    """
    if not (recipe.initialization.is_chosen and recipe.early_stopping):
        return recipe
    why = "off: validation cases choose how much of the source is kept, so that they may not end the tuning"
    return recipe.model_copy(update={"early_stopping": 0, "reasons": {**recipe.reasons, "early_stopping": why}})


def beginning(start: Initialization, model: SourceModel) -> Initialization:
    """Where the training begins: with the best of the source's folds, where it has several and none is asked for."""
    if start.keep != "auto" or model.asked.fold is not None or len(start.ensemble) < 2:
        return start
    why = f"of the source's {len(start.ensemble)} folds, or the average of their weights, on a fold's training cases"
    return start.model_copy(update={"begin": "best", "reasons": {**start.reasons, "begin": why}})


def louder(augmentation: Augmentation, tuning: str) -> Augmentation:
    """The augmentation of a way to tune: more changes of what differs between scanners, where the way has that."""
    way = TUNINGS[tuning]
    if way.louder == 1:
        return augmentation
    names = [f"{name}_probability" for name in (*_LOOKS, "gamma", "gamma_invert")]
    why = f"{way.louder:g} times the source's: {way.why}"
    if all(augmentation.reasons.get(name) == why for name in names):
        return augmentation  # of a source that was tuned so itself
    raised = {name: min(1.0, round(way.louder * getattr(augmentation, name), 3)) for name in names}
    return augmentation.model_copy(update={**raised, "reasons": {**augmentation.reasons, **dict.fromkeys(names, why)}})


def _data(task: Task, model: SourceModel, before: Configuration) -> Data:
    """The new images as the source's configuration sees them."""
    order = model.plan.preprocessing.transpose
    shapes = [
        [
            case.cropped_shape[axis] * (1.0 if mm is None else case.spacing[axis] / mm)
            for axis, mm in zip(order, before.spacing, strict=True)
        ]
        for case in task.fingerprint.cases
    ]
    return Data(
        task.request.device,
        len(task.fingerprint.cases),
        [float(side) for side in np.median(np.array(shapes), axis=0)],
        before.patch_size,
        before.batch_size,
        before.recipe.loss.batch_dice,
        before.recipe.augmentation.mirror_axes,
        "",
    )
