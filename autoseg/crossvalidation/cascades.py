"""Stages of a run that follow each other: which folds of each to train, for how long, and the cases each works on."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.data.boxes import box_around
from autoseg.data.image import result_ending
from autoseg.evaluation.cases import read_labels
from autoseg.networks.weights import is_of
from autoseg.plans.configuration import Configuration
from autoseg.plans.plan import Plan
from autoseg.preprocessing.case import PreprocessedCase
from autoseg.preprocessing.dataset import LARGEST_POOL
from autoseg.preprocessing.resample import resample_label
from autoseg.preprocessing.store import StoredCase, save, stored_key
from autoseg.runs.run import Run
from autoseg.training.previous import BoxedCase, CascadeCase
from autoseg.utils.errors import AutosegError
from autoseg.utils.parallel import available_cpus, each


@dataclass(frozen=True)
class Part:
    """One fold of one stage.

    Attributes:
        name: of the configuration.
        fold: number.
        seconds: to train and validate it; None where epochs decide.
    """

    name: str
    fold: int
    seconds: float | None


def schedule(plan: Plan, name: str, folds: Sequence[int], count: int, max_seconds: float | None) -> list[Part]:
    """What has to be trained for some folds of a configuration, in order.

    A stage whose predictions are further input of the next is needed with all its folds: each case's come from the fold
    that was not trained on it. A stage in whose box the next one works is needed with the same folds.

    Args:
        plan: of the run.
        name: configuration.
        folds: of it.
        count: number of folds that the run has.
        max_seconds: that each of ``folds`` may take with all it needs; the stages share the sum of it equally.
    """
    chain = plan.stages(name)
    needed = {name: list(folds)}
    for stage in reversed(chain[1:]):
        previous = plan.configurations[stage].previous
        assert previous is not None
        needed[previous.configuration] = list(range(count)) if previous.use == "channels" else needed[stage]
    parts = []
    for stage in chain:
        share = None if max_seconds is None else max_seconds * (len(folds) / len(needed[stage])) / len(chain)
        parts += [Part(stage, fold, share) for fold in needed[stage]]
    return parts


def folds_of_plan(run: Run, name: str) -> list[int]:
    """Folds that are trained under the plan as it is now."""
    return [fold.number for fold in run.folds(name) if is_of(fold.stage, fold.weights)]


def stage_cases(run: Run, plan: Plan, name: str, names: Sequence[str]) -> list[StoredCase]:
    """Preprocessed cases as a stage is trained on them.

    Where it works on predictions of the stage before, :func:`hand_on` has to have fetched them. Where it works inside
    the box of a structure, the reference's box is taken, and cases without the structure are left out.

    Args:
        run: with preprocessed cases.
        plan: of the run.
        name: configuration.
        names: of the cases.
    """
    configuration = plan.configurations[name]
    data = run.preprocessed(configuration.data)
    previous = configuration.previous
    if previous is None:
        return [StoredCase(data, case) for case in names]
    handed = plan.stage(name).input_target
    if handed is not None:
        return [CascadeCase(data, case, StoredCase(_folder(run, name), case), handed) for case in names]
    outputs = plan.target_of(plan.configurations[previous.configuration]).outputs
    values = next(output.values for output in outputs if output.name == previous.output)
    cases: list[StoredCase] = []
    for case in names:
        box = box_around(np.isin(StoredCase(data, case).label(), values), previous.margin)
        if box is not None:
            cases.append(BoxedCase(data, case, box))
    return cases


def refuse_unpredicted(run: Run, plan: Plan, name: str) -> None:
    """Before hours of training: can every stage of a configuration be given what it is to learn from?

    Args:
        run: whose splits say which fold predicts which case.
        plan: of the run.
        name: configuration.

    Raises:
        AutosegError: a stage works on predictions of cases that no fold validates.
    """
    for stage in plan.stages(name):
        previous = plan.configurations[stage].previous
        if previous is not None and previous.use == "channels":
            _out_of_fold(run, previous.configuration)


def hand_on(run: Run, plan: Plan, name: str, workers: int | None = None) -> None:
    """Bring what the stage before predicted of every case to a stage's grid; what is there already is kept.

    Args:
        run: whose stage before is trained and validated in all folds.
        plan: of the run.
        name: of the stage that is given the predictions as further input.
        workers: processes; one a core (at most :data:`autoseg.preprocessing.dataset.LARGEST_POOL`) where None.

    Raises:
        AutosegError: a case has no prediction of a fold that was not trained on it.
    """
    configuration = plan.configurations[name]
    previous = configuration.previous
    assert previous is not None
    folder = _folder(run, name)
    folder.mkdir(parents=True, exist_ok=True)
    due = []
    for case, fold in _out_of_fold(run, previous.configuration).items():
        path = run.fold(previous.configuration, fold).validation / f"{case}{result_ending(plan.file_ending)}"
        if not path.exists():
            raise AutosegError(
                f"{path} is missing, which {name} works on; train fold {fold} of {previous.configuration} again with "
                f"'autoseg train {run.path} --config {previous.configuration} --fold {fold} --restart'."
            )
        stored = StoredCase(run.preprocessed(configuration.data), case)
        key = f"{zlib.crc32(path.read_bytes()):08x}-{stored.content}-{configuration.resampling.label_order}"
        if stored_key(folder, case) != key:
            due.append(_Job(path, stored, configuration, folder, key))
    processes = min(available_cpus(), LARGEST_POOL) if workers is None else max(workers, 1)
    for _ in each(_fetch, due, processes, f"Predictions of {previous.configuration}"):
        pass


def _folder(run: Run, name: str) -> Path:
    return run.path / name / "previous"


def _out_of_fold(run: Run, previous: str) -> dict[str, int]:
    """Case → a fold that was not trained on it and has predicted it."""
    splits = run.splits
    if not any(split["validation"] for split in splits):
        raise AutosegError(
            f"{run.path} is to be trained on all cases (--folds 1): {previous} has no prediction of a case that it was "
            "not trained on, which the next stage learns from; plan the dataset again with --folds 2 or more."
        )
    folds = {
        case: fold
        for fold, split in reversed(list(enumerate(splits)))
        for case in split["validation"]
        if case not in split["train"]
    }
    lacking = sorted({case for split in splits for case in split["train"]} - set(folds))
    if lacking:
        raise AutosegError(
            f"{lacking[0]} is validated in no fold of {run.path / 'splits.json'}: {previous} has no prediction of it "
            "that the next stage could learn from. Give every case to the validation of one fold."
        )
    return folds


@dataclass(frozen=True)
class _Job:
    """One prediction to fetch, sent to a worker."""

    path: Path
    case: StoredCase
    configuration: Configuration
    folder: Path
    key: str


def _fetch(job: _Job) -> None:
    labels, _ = read_labels(job.path)
    trace, shape = job.case.trace, job.case.shape
    cropped = trace.crop(labels.astype(np.int16))
    moved = resample_label(cropped, shape, trace.separate_axis, job.configuration.resampling.label_order)
    patch = tuple(job.configuration.patch_size)
    # Only the label matters; it is stored as a case's so that patches of it are read as a label's are.
    found = PreprocessedCase(np.zeros((1, *shape), np.float32), moved, trace)
    save(job.folder, job.case.id, found, (1,) * (3 - len(patch)) + patch, job.key)
