"""Validation where raters are learned separately: each decoder against each rater, beside the mean's usual table."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from autoseg.crossvalidation.cascades import folds_of_plan
from autoseg.data.dataset import Case
from autoseg.evaluation.agreement import Agreement
from autoseg.evaluation.raters import measure
from autoseg.inference.results.writer import write_label
from autoseg.plans.plan import Plan
from autoseg.plans.target import Target
from autoseg.preprocessing.case import Trace, restore
from autoseg.preprocessing.resample import resample_label
from autoseg.preprocessing.store import StoredCase
from autoseg.runs.run import Run

#: Folder beside the validation's label maps with those of each rater, and with the table of whom they agree with.
FOLDER = "raters"


def what_was_drawn(case: Case, stored: StoredCase, plan: Plan, references: Path, file: str) -> dict[str, Path]:
    """The label maps of those who are learned separately and drew a case.

    Args:
        case: names the dataset's files.
        stored: the case preprocessed; what it holds takes the place of files that are gone.
        plan: names the raters.
        references: folder for these.
        file: name of a label map of the case.
    """
    found = {}
    for index, (name, drew) in enumerate(zip(plan.raters, stored.drawn, strict=True) if plan.raters else ()):
        if drew and (path := case.raters[name]).exists():
            found[name] = path
        elif drew:
            found[name] = restored_label(stored.raters()[index], stored.trace, references / name / file)
    return found


def restored_label(label: np.ndarray, trace: Trace, path: Path) -> Path:
    """Write a preprocessed label map, put back on the grid of the scan; return its path."""
    label = resample_label(label, trace.cropped_shape, trace.separate_axis, 1)
    write_label(path, restore(label, trace).astype(np.int16), trace.geometry)
    return path


def measure_decoders(
    out: Path, files: Mapping[str, str], drawn: Mapping[str, Mapping[str, Path]], plan: Plan, target: Target
) -> None:
    """Write how far each decoder, and their mean, agree with each rater in a fold.

    Args:
        out: folder of the validation, with the mean's label maps.
        files: case → name of its label map, there and in each rater's folder.
        drawn: case → rater → what they drew.
        plan: names the raters.
        target: what to measure.
    """
    raters = {name: {case: by[name] for case, by in drawn.items() if name in by} for name in plan.raters}
    folders = {f"decoder {name}": out / FOLDER / name for name in plan.raters} | {"mean of decoders": out}
    models = {name: {case: folder / file for case, file in files.items()} for name, folder in folders.items()}
    measure(raters, models, target.outputs, ignore=target.ignore).write(out / FOLDER)


def raters_agreement(run: Run, name: str) -> Agreement | None:
    """How far each decoder agrees with each rater in all validated folds; written to ``crossval/raters``, too.

    None where no raters are learned separately.
    """
    if not run.plan.raters:
        return None
    folders = [run.fold(name, fold).validation / FOLDER for fold in folds_of_plan(run, name)]
    parts = [Agreement.read(folder) for folder in folders if (folder / "agreement.json").exists()]
    if not parts:
        return None
    merged = replace(parts[0], rows=tuple(row for part in parts for row in part.rows))
    merged.write(run.path / name / "crossval" / FOLDER)
    return merged
