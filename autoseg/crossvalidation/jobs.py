"""``autoseg.train``: preprocess → train each fold → predict its validation cases → one cross-validated table → test.

Earlier stages of a cascade are trained first, with the folds that are needed
(:mod:`autoseg.crossvalidation.cascades`).
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from autoseg.crossvalidation.annotators import annotators_agreement
from autoseg.crossvalidation.cascades import fetch_previous, refuse_unpredicted, schedule
from autoseg.crossvalidation.fold_ending import NotValidatedError
from autoseg.crossvalidation.fold_training import train_job
from autoseg.crossvalidation.halves import halves
from autoseg.crossvalidation.holdout import score_test_cases
from autoseg.crossvalidation.job import Length
from autoseg.crossvalidation.source_table import SOURCE_TABLE, SourceTable
from autoseg.crossvalidation.table import cross_validated
from autoseg.evaluation.summary import Evaluation
from autoseg.plans.stage import Stage
from autoseg.preprocessing.dataset import preprocess, refuse_lacking
from autoseg.runs.run import Run
from autoseg.training.training import TrainingSettings
from autoseg.transfer.mixed_cases import preprocess_mixed
from autoseg.utils.device import Compute, keep_large_blocks, saying_what_lacks_memory, select_device
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.parallel import available_cpus
from autoseg.utils.progress import say
from autoseg.utils.shell import quoted

_AGAIN = "give the command again when nothing else uses its memory, and it"


def train(
    run: Run | str | Path,
    configuration: str | None = None,
    folds: Sequence[int] | None = None,
    length: Length | None = None,
    compute: Compute | None = None,
    seed: int = 0,
    resume: bool | None = None,
) -> Evaluation:
    """Train folds of a cross-validation and validate them; resumes interrupted trainings.

    Args:
        run: the run folder.
        configuration: name; the recommended one where None. The stages before it are trained first, with all folds
            where their predictions are its input, else with the same ones.
        folds: numbers; all where None.
        length: of each fold's training; the plan's where None.
        compute: device and processes; chosen for the machine where None.
        seed: of initialisation, patches and augmentation.
        resume: None continues folds that were begun and starts others; True requires that there is one to continue;
            False starts these folds over, in every stage, and keeps other folds of earlier stages, of which only
            predictions are needed.

    Returns:
        The evaluation of every fold of the configuration that is trained by now, these and earlier ones; written to
        ``<configuration>/crossval``, with the agreement of annotators who are learned separately. Where cases are held
        out and all folds are trained, these predict them together; that is written to ``<configuration>/test``
        (:func:`autoseg.crossvalidation.holdout.read_test`).

    Raises:
        AutosegError: the data can't be read, a saved training belongs to another plan, or the device runs out of
            memory.
        UsageError: options that contradict each other or name what does not exist.
    """
    length, compute = length or Length(), compute or Compute()
    _refuse_invalid(length)
    run = Run.open(run.path if isinstance(run, Run) else run)
    if not run.dataset.cases:
        raise AutosegError(f"{run.path} has no cases to train on: {run.how_to_fine_tune}.")
    settings = TrainingSettings(_prepared(compute.device), seed, compute.workers, resume is not False)
    last = run.plan.stage(configuration)
    refuse_lacking(run.dataset, last)  # before hours of training an earlier stage
    refuse_unpredicted(run, last)
    numbers = list(range(len(run.splits))) if folds is None else list(folds)
    for number in numbers:
        run.split(number)
        begun = [run.fold(stage, number) for stage in last.chain]
        if resume is True and not any(one.begun for fold in begun for one in (fold, *halves(fold))):
            raise UsageError(
                f"--resume: fold {number} of {last.name} in {run.path} was never begun; leave the option out."
            )
    if compute.device == "auto" and settings.device.type != run.plan.device:
        _say_other_device(run, settings.device)
    jobs = schedule(run, last, numbers, length)
    for place, stage in enumerate(last.chain, start=1):
        mine = [job for job in jobs if job.fold.stage == stage]
        if len(last.chain) > 1:
            count = f"fold{'s' if len(mine) > 1 else ''} {', '.join(str(job.fold.number) for job in mine)}"
            say(f"Stage {place} of {len(last.chain)}: {stage.name}, {count}.")
        preprocess(run, stage.name, compute.workers)
        preprocess_mixed(run, stage, compute.workers)
        if stage.input_target is not None:
            fetch_previous(run, stage, compute.workers)
        left: list[AutosegError] = []
        for job in mine:
            part = job.fold.stage.configuration
            doing = f"training {job.fold.folder} (patch {part.patch_size}, batch {part.batch_size})"
            way_out = f"{_AGAIN} goes on from the last saved state, or plan with a smaller --gpu-memory"
            try:
                with saying_what_lacks_memory(settings.device, doing, way_out):
                    train_job(job, settings)
            except NotValidatedError as error:
                if len(mine) == 1:
                    raise
                say(f"{job.fold} is not validated: {error}")
                left.append(error)
        if left:
            with suppress(AutosegError):  # no fold may be validated
                _write_tables(run, stage)
            raise left[0]
        evaluation = _write_tables(run, stage)
    annotators_agreement(run, last)
    doing = f"predicting the test cases with {run.path / last.name}"
    with saying_what_lacks_memory(settings.device, doing, f"{_AGAIN} predicts them; the folds are trained"):
        score_test_cases(run, last, settings.device)
    return evaluation


def _write_tables(run: Run, stage: Stage) -> Evaluation:
    """Write the tables of all folds of a stage that are validated: the cross-validated one, and that of a source."""
    evaluation = cross_validated(run, stage)
    table = SourceTable.of(run, stage)
    if table is not None:
        table.write(run.path / stage.name / "crossval")
    else:
        (run.path / stage.name / "crossval" / SOURCE_TABLE).unlink(missing_ok=True)
    return evaluation


def _say_other_device(run: Run, device: torch.device) -> None:
    say(
        f"{run.path} was planned for {run.plan.device}, and is trained on {device.type} with the patches, batches and "
        f"length that are good there. 'autoseg plan DATASET --out {quoted(run.path)} --device {device.type}' plans it "
        f"for this device; give --device {device.type} if you mean it as it is."
    )


def _refuse_invalid(length: Length) -> None:
    if length.epochs is not None and length.seconds is not None:
        raise UsageError("--epochs and --max-time can't both set the length of the training; give one.")
    if length.epochs is not None and length.epochs < 1:
        raise UsageError(f"--epochs {length.epochs} is too few; give 1 or more.")
    if length.seconds is not None and length.seconds <= 0:
        raise UsageError("--max-time must be more than 0.")


def _prepared(name: str) -> torch.device:
    """The device, set up for a long training."""
    device = select_device(name)
    if device.type == "cpu":
        keep_large_blocks()
        torch.set_num_threads(available_cpus())
    return device
