"""Preprocess all cases of a run: parallel, resumable, and only what a changed plan touches."""

import hashlib
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from autoseg.dataset import Case, load_case
from autoseg.errors import AutosegError
from autoseg.plan import Configuration, Plan
from autoseg.preprocessing.case import preprocess_case
from autoseg.preprocessing.store import is_current, save
from autoseg.progress import Steps
from autoseg.run import Run

#: Version of what is stored; raise it when the same plan would store other numbers.
_STORE_VERSION = 1


def case_key(case: Case, plan: Plan, configuration: Configuration) -> str:
    """A fingerprint of all that a preprocessed case depends on: the parts of the plan, and the source files."""
    files = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in case.files if path.exists()]
    parts = {
        "version": _STORE_VERSION,
        "channels": [
            [channel.name, channel.normalization.model_dump(exclude={"reasons"})] for channel in plan.channels
        ],
        "preprocessing": plan.preprocessing.model_dump(exclude={"reasons"}),
        "spacing": configuration.spacing,
        "resampling": configuration.resampling.model_dump(exclude={"reasons"}),
        "files": files,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _one(case: Case, plan: Plan, configuration: Configuration, folder: Path, key: str) -> str:
    loaded = load_case(case, plan.channel_names)
    if not all(loaded.present) and not plan.allow_missing_channels:
        missing = [n for n, present in zip(plan.channel_names, loaded.present, strict=True) if not present]
        raise AutosegError(
            f"case {case.id} lacks the channel {', '.join(missing)}; plan without it (--channels), allow it "
            "(--set allow_missing_channels=true) or take the case out."
        )
    if loaded.label is None:
        raise AutosegError(f"case {case.id} has no label.")
    patch = tuple(configuration.patch_size)
    save(folder, case.id, preprocess_case(loaded, plan, configuration), (1,) * (3 - len(patch)) + patch, key)
    return case.id


def preprocess(run: Run, configuration: str | None = None, workers: int | None = None) -> Path:
    """Preprocess the labelled cases of a run for one configuration; finished cases are kept.

    Args:
        run: with its plan and dataset.
        configuration: name; the recommended one where None.
        workers: processes; as many as there are processors (at most 8) where None, in this process where 1.

    Returns:
        The folder of the preprocessed cases.

    Raises:
        AutosegError: a case can't be read.
    """
    plan = run.plan
    _, chosen = plan.configuration(configuration)
    folder = run.preprocessed(chosen.data)
    folder.mkdir(parents=True, exist_ok=True)
    dataset = run.dataset
    due = []
    for case in dataset.cases:
        key = case_key(case, plan, chosen)
        # A run folder that was moved to a machine without the data keeps what was preprocessed before.
        gone = not any(path.exists() for path in case.files)
        if not (is_current(folder, case.id, key) or (gone and (folder / f"{case.id}.json").exists())):
            due.append((case, key))
    if not due:
        return folder
    workers = min(workers or min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2, 8), len(due))
    with Steps(f"Preprocessing for {chosen.data}", len(due)) as steps:
        if workers == 1:
            for case, key in due:
                _one(case, plan, chosen, folder, key)
                steps.advance()
            return folder
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            jobs = [pool.submit(_one, case, plan, chosen, folder, key) for case, key in due]
            try:
                for job in jobs:
                    job.result()
                    steps.advance()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return folder
