"""Training one fold of a run: skip, resume or start over; initial weights; budget."""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoseg import __version__
from autoseg.crossvalidation.cascades import stage_cases
from autoseg.crossvalidation.fold_ending import FoldLog, go_on_validating, validate_again, validate_trained
from autoseg.crossvalidation.fold_validation import prediction_seconds
from autoseg.crossvalidation.halves import chooses, halves
from autoseg.crossvalidation.job import Job, Length
from autoseg.crossvalidation.source_share import (
    choosing,
    forget_shares,
    score_source,
)
from autoseg.plans.stage import Stage
from autoseg.preprocessing.fields import PREVIOUS
from autoseg.preprocessing.store import StoredCase
from autoseg.runs.fold import Fold
from autoseg.runs.trained_folds import SPLIT, split_of
from autoseg.step.setup import StepSetup
from autoseg.step.tune import Extent, VariantChoice, choose_variant
from autoseg.training.callback import Callback
from autoseg.training.callbacks import LoadWeights, Progress, SourceAverage
from autoseg.training.checkpoint import load_state
from autoseg.training.loop import train_fold
from autoseg.training.near_source import LowRank, PullToSource
from autoseg.training.state import State, begun_variant
from autoseg.training.training import Budget, Cases, Training, TrainingSettings, training_identity
from autoseg.training.validation import evenly_chosen
from autoseg.transfer.as_it_is import why_not_scored
from autoseg.transfer.initialization import load_initial_weights
from autoseg.transfer.learned_cases import told_of_learned
from autoseg.transfer.mixed_cases import mixed_cases
from autoseg.transfer.share_choice import TRIED_SHARES
from autoseg.transfer.source_start import START, candidates, choose_start
from autoseg.transfer.teacher_scores import teacher_scores
from autoseg.utils.cpu_sharing import waits_asleep
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import read_json, read_json_table, write_json
from autoseg.utils.lock import held
from autoseg.utils.progress import Steps, say
from autoseg.utils.text import capital

#: Largest share of a time budget that is reserved for predicting the validation cases at the end.
LARGEST_RESERVE = 0.3

#: Largest share of it for scoring the source as it is, beyond which fewer of its folds are scored and no tuning is
#: taken; and for comparing its folds on training cases, beyond which fewer cases are predicted.
LARGEST_SCORING, LARGEST_COMPARING = 0.35, 0.1

#: Share of a time budget that a tuning gets at least, whatever the rest takes.
LEAST_TUNING = 0.25

#: File in a fold's folder with fingerprints of the predictions that it was trained on.
_PREVIOUS_FILE = "previous.json"

#: File in a fold's folder from the end of its training to that of its validation: what its ``done.json`` will say.
_ENDED = "trained.json"


def train_job(job: Job, settings: TrainingSettings) -> None:
    """Train a fold and validate it, unless that is done already.

    Raises:
        NotValidatedError: a validation case could not be predicted or evaluated.
        AutosegError: no training case has the structure in whose box the stage works, another process trains the fold,
            or training fails.
    """
    with held(job.fold.folder, f"{job.fold} in {job.fold.run.path}"):
        _train(job, settings)


def _train(job: Job, settings: TrainingSettings) -> None:
    fold, stage, recipe = job.fold, job.fold.stage, job.fold.stage.recipe
    training = stage_cases(fold.run, stage, fold.training_cases)
    validation = stage_cases(fold.run, stage, fold.validation_cases)
    if not training:
        assert stage.previous is not None
        raise AutosegError(
            f"{stage.name} works inside the box of {stage.previous.output}, which no training case of fold "
            f"{fold.number} has; plan without that stage."
        )
    teacher = teacher_scores(fold)
    if teacher is not None:
        training = [teacher.of(case) for case in training]
    cases = Cases(training, validation, mixed_cases(fold))
    identity = training_identity(stage, [*cases.learned, *validation], settings.seed)
    begun_as = training_identity(stage, cases.learned, settings.seed)
    starts_over = not settings.resume and (job.asked or not _goes_on(fold, identity, begun_as))
    is_done = not starts_over and _is_done(fold, job.request, identity, at_least=not job.last)
    if not is_done and (told := recipe.looks_at_judges):
        raise AutosegError(f"{fold.run.path / 'plan.json'}: {told}.")
    if starts_over:
        start_over(fold)
    settings = replace(settings, resume=not starts_over)
    if is_done:
        say(f"{capital(str(fold))} is trained already ({job.request}); --restart trains it anew.")
        validate_again(fold, settings.device)
        return
    _start_over_after_another(fold, training)
    _refuse_without_state(fold)
    for path in _files(fold):
        for stale in fold.folder.glob(f".{path.name}.*"):  # half-written by a process that was killed
            stale.unlink(missing_ok=True)
    if teacher is not None:
        teacher.predict(fold.run, training, str(settings.device))
    request, job = job.request, _after_halves(job, settings)
    if (ended := _ended(fold, request, identity)) is not None:
        _finish(job, settings.device, ended)
        return
    started = time.monotonic()
    per_epoch = recipe.steps_of_epoch(len(training), stage.configuration.batch_size)
    choice = _variant(job, settings, per_epoch)
    settings = replace(settings, variant=choice.variant)
    log = FoldLog(fold.log)
    seconds = _prediction_seconds(job, settings.device)
    as_it_is = score_source(fold, settings.device, _scored_folds(job, seconds))
    begins = choose_start(fold, training, _compared_cases(job, training, settings.device), settings.device)
    # What an interrupted training took is part of the time.
    started -= sum(score.seconds for score in as_it_is if score.before)
    started -= begins.seconds if begins is not None and begins.before else 0.0
    tries = _tries(job, seconds)
    budget, length = _budget(job, per_epoch, tries * seconds, started)
    log(
        f"autoseg {__version__}, {stage.name}, fold {fold.number}: {len(training)} training and {len(validation)} "
        f"validation cases, {length}, on {settings.device}"
    )
    log(f"computing in {choice.reason}")
    for score in as_it_is:
        log(str(score))
    if chooses(stage) and any(scored < of for scored, of in (score.folds for score in as_it_is)):
        log("all of the source's folds may be better than those that were scored: no tuning will be taken in this time")
    if as_it_is and (steps_as_it_is := recipe.initialization.steps_as_it_is):
        log(f"its post-processing is a part of it: {'; '.join(map(str, steps_as_it_is))}")
    if told := told_of_learned(recipe.initialization, fold.validation_cases):
        log(told)
    if recipe.initialization.source == "model" and not recipe.initialization.ensemble:
        log(f"the source as it is can't be scored: {why_not_scored(stage)}")
    if chooses(stage) and tries < len(TRIED_SHARES):
        log(f"time is too short for more than {tries} of {len(TRIED_SHARES)} shares of the source's weights")
    if begins is not None:
        log(str(begins))
    for group in cases.mixed:
        log(f"{group.share:.0%} of the samples come from {len(group.cases)} cases from elsewhere")
    if waits_asleep():
        log("threads sleep while they wait for each other (OMP_WAIT_POLICY=passive), since others use this CPU")
    if teacher is not None:
        log(str(teacher))
    (fold.folder / _ENDED).unlink(missing_ok=True)
    with Steps(f"Training {stage.name}, fold {fold.number}", 1) as steps:
        callbacks = [_ForgetsScores(), *_starts(fold, log), _SaysWhereCasesLie(log), Progress(steps.at)]
        state = train_fold(fold, cases, budget, settings, callbacks)
    log(f"trained {state.iteration} iterations in {state.seconds:.0f} s{_best(state, stage)}")
    if recipe.initialization.averaged:
        log(f"the weights are {1 - state.kept:.0%} trained and {state.kept:.0%} the source's")
    ended = {"request": request, "identity": identity, "iterations": state.iteration, "seconds": state.seconds}
    write_json(fold.folder / _ENDED, ended)
    validate_trained(fold, settings.device, tries, log)
    _done(fold, ended)


def _ended(fold: Fold, request: str, identity: str) -> dict[str, Any] | None:
    """What is known of a training that ended with this request and was not validated; None where there is none."""
    found = read_json_table(fold.folder / _ENDED)
    same = (found.get("request"), found.get("identity")) == (request, identity)
    return found if same and fold.checkpoint(fold.end_checkpoint).exists() else None


def _finish(job: Job, device: torch.device, ended: dict[str, Any]) -> None:
    """Validate a fold whose training ended before its validation was interrupted."""
    fold, seconds, log = job.fold, _prediction_seconds(job, device), FoldLog(job.fold.log)
    log(f"{fold} is trained; its validation was interrupted, and goes on")
    go_on_validating(fold, device, _scored_folds(job, seconds), _tries(job, seconds), log)
    _done(fold, ended)


def _done(fold: Fold, ended: dict[str, Any]) -> None:
    write_json(fold.done, {**ended, SPLIT: split_of(fold)})
    (fold.folder / _ENDED).unlink(missing_ok=True)


def _after_halves(job: Job, settings: TrainingSettings) -> Job:
    """Fine-tune on each half of a cohort first, where all of its cases are learned, to choose how much is kept.

    Each half takes a quarter of the time, and what is left is a half; where epochs set the length, a half takes half as
    many, and the rest all of them.
    """
    found, length = halves(job.fold), job.length
    if not found:
        return job
    epochs = job.fold.stage.recipe.epochs if length.epochs is None else length.epochs
    shorter = Length(epochs=max(1, epochs // 2)) if length.seconds is None else Length(seconds=length.seconds / 4)
    for half in found:
        train_job(replace(job, fold=half, length=shorter), settings)
    return job if length.seconds is None else replace(job, length=Length(seconds=length.seconds / 2))


def _starts(fold: Fold, log: FoldLog) -> list[Callback]:
    """Callbacks for the recipe's initial weights: loading them, and averaging with them at the end."""
    initialization = fold.stage.recipe.initialization
    if initialization.source == "random":
        return []
    share, pull, rank = initialization.averaged, initialization.pull, initialization.rank
    load = LoadWeights(partial(load_initial_weights, fold=fold, log=log), always=bool(share or pull or rank))
    near: list[Callback] = [*([PullToSource(pull)] if pull else []), *([LowRank(rank)] if rank else [])]
    return [load, *near, *([SourceAverage(share)] if share else [])]


class _ForgetsScores(Callback):
    """Removes the scores of an earlier, shorter training, whose weights count until this one replaces them."""

    def on_end(self, training: Training, network: nn.Module) -> nn.Module:
        """Remove those of its validation, and of shares of a source."""
        with choosing(training.fold):
            _forget_scores(training.fold)
        return network


class _SaysWhereCasesLie(Callback):
    """Logs where the training cases are read from."""

    def __init__(self, log: FoldLog) -> None:
        self._log = log

    def on_start(self, training: Training) -> None:
        """Log it."""
        self._log(f"training cases are read from {training.cache}")


def _variant(job: Job, settings: TrainingSettings, per_epoch: int) -> VariantChoice:
    """How to compute the step: as the fold began, or in the fastest variant for so many epochs of so many steps."""
    fold, recipe, device = job.fold, job.fold.stage.recipe, settings.device
    kept = begun_variant(fold, device) if settings.resume and fold.begun else None
    if kept is not None:
        return kept
    rounds = recipe.epochs if job.length.epochs is None else job.length.epochs
    steps = 0 if job.length.seconds else rounds * per_epoch
    return choose_variant(StepSetup.of(fold.stage), device, Extent(steps, job.length.seconds or 0.0))


def _prediction_seconds(job: Job, device: torch.device) -> float:
    """Seconds to predict the validation cases once, estimated where a time budget needs to know."""
    if job.length.seconds is None:
        return 0.0
    fold = job.fold
    return sum(
        prediction_seconds(stage_cases(fold.run, stage, fold.validation_cases), stage, device)
        for stage in fold.stage.chain
    )


def _scored_folds(job: Job, seconds: float) -> int:
    """How many of the source's folds are scored as it is: as many as a share of the time allows, at least one.

    Args:
        job: asks for the length.
        seconds: of one network for the validation cases.
    """
    stage = job.fold.stage
    folds = len(stage.recipe.initialization.ensemble)
    if job.length.seconds is None or not seconds:
        return folds
    times = 2 if stage.differs_for_source else 1
    return max(1, min(folds, int(LARGEST_SCORING * job.length.seconds / (times * seconds))))


def _compared_cases(job: Job, training: Sequence[StoredCase], device: torch.device) -> int:
    """How many training cases the source's folds are compared on: as many as a share of the time allows."""
    stage, count = job.fold.stage, candidates(job.fold.stage)
    most = evenly_chosen(training, stage.recipe.validate_cases)
    if count == 1 or job.length.seconds is None:
        return len(most)
    mirrorings = 2 ** len(stage.inference.mirror_axes)  # of which none is used here
    each = count * prediction_seconds(most, stage, device) / (mirrorings * len(most))
    return min(len(most), int(LARGEST_COMPARING * job.length.seconds / each)) if each else len(most)


def _tries(job: Job, seconds: float) -> int:
    """How often the validation cases are predicted at the end: once, or for each share of the source that is tried."""
    if not chooses(job.fold.stage):
        return 1
    if job.length.seconds is None or not seconds:
        return len(TRIED_SHARES)
    return max(1, min(len(TRIED_SHARES), int(LARGEST_RESERVE * job.length.seconds / seconds)))


def _budget(job: Job, per_epoch: int, at_end: float, started: float) -> tuple[Budget, str]:
    """Budget of the training without the final validation, and the whole length in words.

    Args:
        job: asks for the length.
        per_epoch: steps of an epoch.
        at_end: estimated seconds of the final validation.
        started: when the time began.
    """
    recipe, seconds = job.fold.stage.recipe, job.length.seconds
    if seconds is None:
        rounds = recipe.epochs if job.length.epochs is None else job.length.epochs
        return Budget(iterations=rounds * per_epoch), f"{rounds} epochs of {per_epoch} iterations"
    reserve = min(at_end, LARGEST_RESERVE * seconds)
    least = LEAST_TUNING * seconds if recipe.initialization.source == "model" else 1.0
    budget = Budget(seconds=max(seconds - reserve - (time.monotonic() - started), least))
    over = at_end - reserve
    later = f", which takes about {at_end:.0f} s: the fold will end {over:.0f} s later" if over > 1 else ""
    return budget, f"{seconds / 60:.3g} minutes, {reserve:.0f} s of them for the final validation{later}"


def _is_done(fold: Fold, request: str, identity: str, at_least: bool) -> bool:
    """Whether a fold is trained and validated with this request; with ``at_least``, or a longer one."""
    if not (fold.done.exists() and fold.trained):
        return False
    done = read_json(fold.done)
    if done["identity"] != identity:
        return False
    return bool(done["request"] == request or (at_least and _no_longer(request, str(done["request"]))))


def _goes_on(fold: Fold, identity: str, begun_as: str) -> bool:
    """Whether a fold is trained with an identity, or was begun with one, which the validation cases are not part of."""
    if _is_done(fold, "", identity, at_least=True):
        return True
    return fold.begun and bool(load_state(fold.state, mapped=True)["identity"] == begun_as)


def _no_longer(request: str, other: str) -> bool:
    """Whether a request (``9 seconds``, ``20 epochs``) is at most another one of its unit; True where empty."""
    if not request:
        return True
    (length, unit), (other_length, other_unit) = request.split(), other.split()
    return unit == other_unit and float(length) <= float(other_length)


def _start_over_after_another(fold: Fold, training: Sequence[StoredCase]) -> None:
    """Start over if the previous stage has been trained again since: its predictions have changed.

    Fingerprints of the predictions are in ``previous.json``.
    """
    contents = {case.id: one.content for case in training for one in case.extra if one.field == PREVIOUS}
    if not contents:
        return
    path = fold.folder / _PREVIOUS_FILE
    before = read_json_table(path)
    if any(before.get(case, content) != content for case, content in contents.items()):
        say(f"The stage before {fold.stage.name} has been trained further: fold {fold.number} starts over.")
        start_over(fold)
    write_json(path, contents)


def _refuse_without_state(fold: Fold) -> None:
    """Refuse to replace finished weights by those of a training that would begin again from nothing."""
    if fold.trained and not fold.begun:
        raise AutosegError(
            f"{fold} in {fold.run.path} is trained, and cannot go on or be trained otherwise without {fold.state}, "
            "which is gone; --restart trains it anew and replaces its weights."
        )


def start_over(fold: Fold) -> None:
    """Remove the files of an earlier training of a fold."""
    with choosing(fold):
        for path in _files(fold):
            path.unlink(missing_ok=True)
        for one in (fold, *halves(fold)):
            _forget_scores(one)


def _forget_scores(fold: Fold) -> None:
    """Remove the scores of a fold's validation, and of shares of a source: weights that are gone got them."""
    forget_shares(fold)
    (fold.validation / "summary.json").unlink(missing_ok=True)


def _files(fold: Fold) -> list[Path]:
    """Files that a fold's training writes."""
    return [
        fold.done,
        fold.state,
        *(fold.checkpoint(name) for name in ("weights", "tuned", "best")),
        fold.history,
        fold.log,
        fold.folder / START,
        fold.folder / _PREVIOUS_FILE,
        fold.folder / _ENDED,
        *(path for half in halves(fold) for path in _files(half)),
    ]


def _best(state: State, stage: Stage) -> str:
    if state.best_dice < 0:
        return ""
    taken = ", whose weights are taken" if stage.inference.checkpoint == "best" else ""
    return f"; best validation Dice {state.best_dice:.4f}{taken}"
