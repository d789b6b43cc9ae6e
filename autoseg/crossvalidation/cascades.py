"""Cascades: which folds of each stage to train, for how long, and on which cases."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.crossvalidation.job import Job, Length
from autoseg.data.boxes import box_around
from autoseg.data.file_names import result_ending
from autoseg.evaluation.cases import read_labels
from autoseg.plans.stage import Stage
from autoseg.preprocessing.boxed_case import BoxedCase
from autoseg.preprocessing.case import PreprocessedCase
from autoseg.preprocessing.dataset import pool_size
from autoseg.preprocessing.fields import PREVIOUS, StoredField
from autoseg.preprocessing.resample import resample_label
from autoseg.preprocessing.store import StoredCase, save, stored_key
from autoseg.runs.run import Run
from autoseg.utils.errors import AutosegError
from autoseg.utils.integers import whole_numbers
from autoseg.utils.lock import do_once
from autoseg.utils.parallel import each
from autoseg.utils.shell import quoted


def schedule(run: Run, last: Stage, folds: Sequence[int], length: Length) -> list[Job]:
    """The jobs needed for some folds of a stage, in order.

    A stage whose predictions are further input of the next is needed with all its folds: each case is predicted by the
    fold that was not trained on it. A stage in whose box the next one works is needed with the same folds.

    Args:
        run: gives the number of folds.
        last: the requested stage.
        folds: its requested folds.
        length: of each; seconds are for each of ``folds`` with all stages, which share them equally.
    """
    chain = last.chain
    needed = {last.name: list(folds)}
    for stage, before in zip(reversed(chain), reversed(chain[:-1]), strict=False):
        needed[before.name] = list(range(len(run.splits))) if stage.input_target is not None else needed[stage.name]
    jobs = []
    for stage in chain:
        share = length
        if length.seconds is not None:
            share = Length(seconds=length.seconds * (len(folds) / len(needed[stage.name])) / len(chain))
        jobs += [Job(run.fold(stage, n), share, n in folds, stage == last) for n in needed[stage.name]]
    return jobs


def stage_cases(run: Run, stage: Stage, names: Sequence[str]) -> list[StoredCase]:
    """Preprocessed cases for the training of a stage.

    Predictions of the previous stage must have been fetched (:func:`fetch_previous`). A stage that works inside the box
    of a structure is trained in the reference's box; cases without the structure are left out.

    Args:
        run: with preprocessed cases.
        stage: that is trained.
        names: of the cases.
    """
    data = run.preprocessed(stage.configuration.data)
    if stage.before is None or stage.previous is None:
        return [StoredCase(data, case) for case in names]
    if stage.input_target is not None:
        predictions = [StoredCase(_folder(run, stage), case) for case in names]
        return [StoredCase(data, one.id, (StoredField(PREVIOUS, one, one.content),)) for one in predictions]
    previous = stage.previous
    values = next(output.values for output in stage.before.target.outputs if output.name == previous.output)
    cases: list[StoredCase] = []
    for case in names:
        box = box_around(np.isin(StoredCase(data, case).label(), values), previous.margin)
        if box is not None:
            cases.append(BoxedCase(data, case, box=box))
    return cases


def refuse_unpredicted(run: Run, last: Stage) -> None:
    """Check before training that every stage of a chain can get the predictions that it is trained on.

    Args:
        run: whose splits determine which fold predicts which case.
        last: of the chain.

    Raises:
        AutosegError: a stage works on predictions of cases that no fold validates.
    """
    for stage in last.chain:
        if stage.before is not None and stage.input_target is not None:
            _out_of_fold(run, stage.before)


def fetch_previous(run: Run, stage: Stage, workers: int | None = None) -> None:
    """Resample the previous stage's prediction of every case to a stage's grid; finished cases are kept.

    Args:
        run: whose previous stage is trained and validated in all folds.
        stage: that has the predictions as further input.
        workers: processes; one a core (at most :data:`autoseg.preprocessing.dataset.LARGEST_POOL`) where None.

    Raises:
        AutosegError: a case has no prediction by a fold that was not trained on it.
    """
    before = stage.before
    assert before is not None
    folder = _folder(run, stage)

    def work(due: Sequence[_Prediction]) -> None:
        for _ in each(_fetch, due, pool_size(workers), f"Predictions of {before.name}"):
            pass

    what = f"Another process fetches what {before.name} predicts into {folder}"
    do_once(folder, what, lambda: _due(run, stage, before, folder), work)


def _due(run: Run, stage: Stage, before: Stage, folder: Path) -> "list[_Prediction]":
    """The predictions that are to be fetched."""
    due = []
    for case, number in _out_of_fold(run, before).items():
        path = run.fold(before, number).validation / f"{case}{result_ending(stage.file_ending)}"
        if not path.exists():
            raise AutosegError(
                f"{path} is missing, which {stage.name} works on; train fold {number} of {before.name} again with "
                f"'autoseg train {quoted(run.path)} --config {before.name} --fold {number} --restart'."
            )
        stored = StoredCase(run.preprocessed(stage.configuration.data), case)
        key = f"{zlib.crc32(path.read_bytes()):08x}-{stored.content}-{stage.configuration.resampling.label_order}"
        if stored_key(folder, case) != key:
            due.append(_Prediction(path, stored, stage, folder, key))
    return due


def _folder(run: Run, stage: Stage) -> Path:
    return run.path / stage.name / "previous"


def _out_of_fold(run: Run, before: Stage) -> dict[str, int]:
    """Case → a fold that validates it and was not trained on it."""
    splits = run.splits
    if not any(split["validation"] for split in splits):
        raise AutosegError(
            f"{run.path} is to be trained on all cases (--folds 1): {before.name} has no prediction of a case that it "
            "was not trained on, which the next stage learns from; plan the dataset again with --folds 2 or more."
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
            f"{lacking[0]} is validated in no fold of {run.path / 'splits.json'}: {before.name} has no prediction of "
            "it that the next stage could learn from. Give every case to the validation of one fold."
        )
    return folds


@dataclass(frozen=True)
class _Prediction:
    """One prediction to fetch, sent to a worker."""

    path: Path
    case: StoredCase
    stage: Stage
    folder: Path
    key: str


def _fetch(job: _Prediction) -> None:
    labels, _ = read_labels(job.path)
    trace, shape = job.case.trace, job.case.shape
    cropped = trace.crop(whole_numbers(labels))
    moved = resample_label(cropped, shape, trace.separate_axis, job.stage.configuration.resampling.label_order)
    # Only the label matters; it is stored like a case, so that patches of it can be read.
    prediction = PreprocessedCase(np.zeros((0, *shape), np.float32), moved, trace)
    save(job.folder, job.case.id, prediction, job.key)
