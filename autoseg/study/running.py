"""Run a study: every setting, seed and fold, one after the other; an interrupted study is resumed."""

import os
import shutil
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from autoseg.crossvalidation.holdout import MADE_OF, inference_values, read_test, score_test_cases
from autoseg.crossvalidation.job import Length
from autoseg.crossvalidation.jobs import train
from autoseg.data.dataset import Dataset
from autoseg.data.result_files import results_in
from autoseg.inference.inputs import by_other_names
from autoseg.inference.predictor import Predictor
from autoseg.planning.making import planned_run
from autoseg.planning.request import Request
from autoseg.plans.plan import Plan
from autoseg.preprocessing.dataset import case_key, preprocess_cases
from autoseg.runs.run import Run
from autoseg.study.grid import Setting
from autoseg.study.options import StudyOptions
from autoseg.study.preparation import FAILED, MADE_FROM, TRACEBACK, Study, prepare
from autoseg.study.results import TESTED, UNTESTED, StudyTable, asked_of_test, folder_of_test, tested_cases
from autoseg.study.tables import tabulate
from autoseg.utils.device import Compute, free_device_memory, lacks_memory, select_device
from autoseg.utils.digest import digest, file_digest
from autoseg.utils.durations import say_duration
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import read_json, write_changed_json, write_json, write_text
from autoseg.utils.lock import held
from autoseg.utils.progress import say


def sweep(
    dataset: Dataset,
    grid: str | Path,
    out: str | Path,
    request: Request | None = None,
    options: StudyOptions = StudyOptions(),
) -> StudyTable:
    """Train and evaluate every setting of a study, and compare them.

    The same call resumes an interrupted study and trains only what is missing. A setting whose plan, data or length of
    training has changed is trained again; its earlier run moves to ``OUT/replaced``.

    Args:
        dataset: to train on.
        grid: the grid file (``docs/sweep.md``).
        out: the study's folder.
        request: common options, see :func:`autoseg.study.preparation.prepare`; ``device`` and
            ``workers`` are those of the trainings, too.
        options: a test set of another dataset, and folds, seeds and length in place of the file's.

    Returns:
        The table, which is also written to ``out``. Settings that failed are in it with the reason.

    Raises:
        UsageError: the grid file is invalid.
        AutosegError: the dataset has errors, or another process trains a run that has changed since.
    """
    request = request or Request()
    study = prepare(dataset, grid, out, request, options)
    run_study(study, request.device, request.workers)
    return tabulate(study)


@dataclass(frozen=True)
class _Job:
    """A run: one setting with one seed, and how many of its folds are missing.

    Its folds are trained by one call, as a stage that uses another one's predictions needs all folds of that one.
    """

    setting: Setting
    seed: int
    missing: int


def run_study(study: Study, device: str = "auto", workers: int | None = None) -> None:
    """Train all missing folds; a failure is written to its run folder and does not stop the other runs.

    Raises:
        AutosegError: another process trains a run that has changed since.
    """
    _set_aside_changed(study)
    jobs = []
    for setting in study.settings:
        for seed in study.grid.seeds:
            missing = sum(not study.is_trained(setting, seed, fold) for fold in study.folds)
            if missing:
                jobs.append(_Job(setting, seed, missing))
    whole = len(study.settings) * len(study.grid.seeds) * len(study.folds)
    there = whole - sum(job.missing for job in jobs)
    say(
        f"{study.grid.name}: {len(study.settings)} settings × {len(study.grid.seeds)} seeds × {len(study.folds)} folds"
        f", {study.grid.length}; {there} of {whole} trainings are there already"
    )
    _say_strangers(study)
    clock = _Clock(sum(job.missing for job in jobs), study.grid.max_seconds)
    for number, job in enumerate(jobs, start=1):
        left = clock.left()
        say(
            f"\n[{number} of {len(jobs)}] {job.setting.name}, seed {job.seed}, "
            f"{job.missing} fold{'s' if job.missing > 1 else ''}{f'; about {left} left for all' if left else ''}"
        )
        with clock.timed(job.missing):
            _train_one(study, job, device, workers)
    _test_all(study, device)


def _train_one(study: Study, job: _Job, device: str, workers: int | None) -> None:
    folder = study.run_folder(job.setting, job.seed)
    plan = study.plans[job.setting.name]
    try:
        write_json(folder / MADE_FROM, {"identity": study.identity(job.setting, job.seed)})
        run = planned_run(folder, plan, study.fingerprint, study.dataset, study.splits, study.request.carried)
        (folder / FAILED).unlink(missing_ok=True)
        (folder / TRACEBACK).unlink(missing_ok=True)
        share_preprocessed(run, plan, study.dataset, study.out / "preprocessed")
        train(
            run,
            folds=study.folds,
            length=Length(study.grid.epochs, study.grid.max_seconds),
            compute=Compute(device, workers),
            seed=job.seed,
        )
        return
    except Exception as error:  # whatever it is, the other settings are still trained
        reason = _reason(error, folder)
    free_device_memory()  # for the next setting
    write_json(folder / FAILED, {"reason": reason})
    say(f"{job.setting.name}, seed {job.seed} failed: {reason}")


def _test_all(study: Study, device: str) -> None:
    """Score the trained settings on the test cases, those that were not scored yet; a failure stops no other."""
    if not study.test_cases:
        return
    for setting in study.settings:
        for seed in study.grid.seeds:
            if all(study.is_trained(setting, seed, fold) for fold in study.folds):
                _test_one(study, setting, seed, device)


def _test_one(study: Study, setting: Setting, seed: int, device: str) -> None:
    run = Run(study.run_folder(setting, seed))
    untested = folder_of_test(study, run) / UNTESTED
    try:
        predict_test_cases(study, run, device)
        for told in (untested, run.path / FAILED, run.path / TRACEBACK):  # all folds are trained: nothing failed
            told.unlink(missing_ok=True)
        return
    except Exception as error:  # whatever it is, the other settings are still tested
        reason = _reason(error, run.path)
    free_device_memory()  # for the next setting
    write_json(untested, {**asked_of_test(study), "reason": reason})
    say(f"{setting.name}, seed {seed} can't be tested: {reason}")


def predict_test_cases(study: Study, run: Run, device: str) -> None:
    """Predict the test cases as a run does, by the study's folds together, where that was not done with these weights.

    Held out cases are preprocessed first, where their files have changed or what was preprocessed is gone. A run that
    keeps its source as it is predicts with all folds of that. Label maps of held out cases go to the run's
    ``<configuration>/test``, others to ``test_<dataset>`` beside it.

    Raises:
        AutosegError: a case can't be predicted, as it lacks a channel.
    """
    if study.test is None:
        _score_held_out(study, run, device)
        return
    stage, out, asked = run.plan.stage(), folder_of_test(study, run), asked_of_test(study)
    weights = {one.name: [run.fold(one, fold).weights for fold in study.folds] for one in stage.chain}
    if kept := run.kept_source(stage):
        weights[stage.name] = kept
    made_of = {
        **asked,
        "weights": [file_digest(file) for files in weights.values() for file in files],
        "inference": inference_values([run.used(one) for one in stage.chain]),
    }
    if kept:  # it may see images as they are
        made_of["source"] = run.kept_share(stage)
    if steps := run.kept_steps(stage):
        made_of["postprocessing"] = [step.model_dump() for step in steps]
    if (out / TESTED).exists() and read_json(out / TESTED) == made_of:
        return
    (out / TESTED).unlink(missing_ok=True)
    for earlier in results_in(out):  # perhaps of other scans, which a prediction would not replace
        earlier.unlink()
    cases = by_other_names(study.test_cases, study.test.channels, [run.plan], [run.dataset])
    folds = None if kept else study.folds
    predictor = Predictor.load(run.path, stage.name, folds, device, postprocessing=False)
    predictor.postprocessing, predictor.translation = steps, predictor.members[0].translation
    outcome = predictor.predict(cases, out)
    if outcome.failed:
        case, reason = next(iter(outcome.failed.items()))
        raise AutosegError(f"{case}: {reason}")
    write_json(out / TESTED, made_of)


def _score_held_out(study: Study, run: Run, device: str) -> None:
    stage, out = run.plan.stage(), folder_of_test(study, run)
    if tested_cases(study, run) is not None and read_test(run, stage, study.folds) is not None:
        return
    share_preprocessed(run, run.plan, study.dataset, study.out / "preprocessed")
    for one in stage.chain:
        preprocess_cases(study.test_cases, one, run.preprocessed(one.configuration.data), study.request.workers)
    if score_test_cases(run, stage, select_device(device), study.folds) is not None:
        write_changed_json(out / TESTED, {**asked_of_test(study), "made_of": read_json(out / MADE_OF)})


def _reason(error: Exception, folder: Path) -> str:
    """Why something failed; of what no user can cause, the traceback goes to the run folder."""
    if isinstance(error, AutosegError):
        return str(error)
    write_text(folder / TRACEBACK, traceback.format_exc())
    say(f"The traceback is in {folder / TRACEBACK}.")
    return _in_one_sentence(error)


def _in_one_sentence(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if lacks_memory(error):
        return f"out of memory ({first})"
    return f"{type(error).__name__}: {first}"


def share_preprocessed(run: Run, plan: Plan, dataset: Dataset, pool: Path) -> None:
    """Link a run's folders of preprocessed cases to folders shared by runs with the same preprocessing.

    The name of a shared folder is a digest of all that :func:`autoseg.preprocessing.dataset.case_key` depends on, so
    that different preprocessing is never mixed. Existing folders that are no links are kept, and where links can't be
    made each run preprocesses for itself.
    """
    keys: dict[str, list[str]] = {}
    for stage in plan.stages:
        found = {case_key(case, stage).split("-")[0] for case in dataset.cases}
        keys.setdefault(stage.configuration.data, []).extend(found)
    for data, found_keys in keys.items():
        link = run.preprocessed(data)
        shared = pool / digest({"keys": sorted(set(found_keys))})
        shared.mkdir(parents=True, exist_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.is_symlink():
            if link.resolve() == shared.resolve():
                continue
            link.unlink()
        elif link.exists():
            continue
        try:
            link.symlink_to(os.path.relpath(shared.resolve(), link.parent.resolve()), target_is_directory=True)
        except OSError:
            say(f"{link.parent} can't hold links; {run.path} preprocesses for itself.")


def _set_aside_changed(study: Study) -> None:
    """Move runs that were made from another plan, data or length to ``OUT/replaced``; all of them, or none."""
    changed = [
        (setting, seed)
        for setting in study.settings
        for seed in study.grid.seeds
        if (study.run_folder(setting, seed) / "plan.json").exists() and not study.is_begun(setting, seed)
    ]
    for setting, seed in changed:
        _refuse_if_trained_now(study.run_folder(setting, seed))
    for setting, seed in changed:
        _set_aside(study, setting, seed)


def _refuse_if_trained_now(folder: Path) -> None:
    """Refuse to move a run that is being trained: its process would save into a new folder of its name, unlocked."""
    for fold in sorted(folder.glob("*/fold_*")):
        with held(fold, f"{fold.name.replace('_', ' ')} of {fold.parent.name} in {folder}"):
            pass  # not held while it is moved: Windows moves no folder with an open file in it


def _set_aside(study: Study, setting: Setting, seed: int) -> None:
    folder = study.run_folder(setting, seed)
    number = 1
    while (aside := study.out / "replaced" / f"{setting.name}_seed_{seed}_{number}").exists():
        number += 1
    aside.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(folder, aside)
    # Its links to preprocessed cases are relative and would break; nothing else in it depends on its path.
    for link in (aside / "preprocessed").glob("*"):
        if link.is_symlink():
            link.unlink()
    say(
        f"{setting.name}, seed {seed} has changed since it was trained, and is trained anew; what there was is in "
        f"{aside} and may be deleted."
    )


def _say_strangers(study: Study) -> None:
    known = {setting.name for setting in study.settings}
    runs = [folder for folder in study.out.iterdir() if any(folder.glob("seed_*/plan.json"))]
    strangers = sorted(folder.name for folder in runs if folder.name not in known)
    if strangers:
        say(f"Not in {study.source} any more, and left alone: {', '.join(strangers)}.")


class _Clock:
    """Estimate of the remaining time, from the trainings so far or from the grid file's ``max_time``."""

    def __init__(self, trainings: int, expected: float | None) -> None:
        self._due = trainings
        self._expected = expected
        self._done = 0
        self._seconds = 0.0

    def left(self) -> str:
        """Remaining time in words; empty where unknown."""
        each = self._seconds / self._done if self._done else self._expected
        return "" if each is None else say_duration(each * self._due)

    @contextmanager
    def timed(self, trainings: int) -> Iterator[None]:
        """Measure this block as the time of this number of trainings."""
        started = time.monotonic()
        yield
        self._seconds += time.monotonic() - started
        self._done += trainings
        self._due -= trainings
