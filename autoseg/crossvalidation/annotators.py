"""Validation with several annotators: agreement of each decoder with each annotator, beside the mean's evaluation."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from autoseg.data.dataset import Case
from autoseg.evaluation.agreement import Agreement
from autoseg.evaluation.agreement_folders import dice_agreement
from autoseg.inference.formats.format import write_label
from autoseg.plans.recipe import ANNOTATORS_KEY
from autoseg.plans.stage import Stage
from autoseg.preprocessing.case import Trace, restore
from autoseg.preprocessing.resample import resample_label
from autoseg.preprocessing.store import StoredCase
from autoseg.runs.run import Run
from autoseg.runs.trained_folds import folds_of_plan


def drawn_label_maps(case: Case, stored: StoredCase, stage: Stage, references: Path, file: str) -> dict[str, Path]:
    """Annotator → label map of a case, of those who are learned separately and annotated it.

    Args:
        case: names the dataset's files.
        stored: the preprocessed case, whose label maps replace files that are gone.
        stage: names the annotators.
        references: folder for these replacements.
        file: name of a label map of the case.
    """
    label_maps = {}
    for index, (name, drew) in enumerate(zip(stage.annotators, stored.drawn, strict=True) if stage.annotators else ()):
        if drew and (path := case.raters[name]).exists():
            label_maps[name] = path
        elif drew:
            label_maps[name] = restored_label(stored.annotations()[index], stored.trace, references / name / file)
    return label_maps


def restored_label(label: np.ndarray, trace: Trace, path: Path) -> Path:
    """Resample a preprocessed label map to the grid of the scan, write it and return its path."""
    label = resample_label(label, trace.cropped_shape, trace.separate_axis, 1)
    write_label(path, restore(label, trace), trace.geometry)
    return path


def measure_decoders(
    out: Path, files: Mapping[str, str], drawn: Mapping[str, Mapping[str, Path]], stage: Stage
) -> None:
    """Write the agreement of each decoder, and of their mean, with each annotator in a fold.

    Args:
        out: folder of the validation, with the mean's label maps.
        files: case → name of its label map, there and in each decoder's folder.
        drawn: case → annotator → their label map.
        stage: names the annotators and outputs.
    """
    references = {name: {case: by[name] for case, by in drawn.items() if name in by} for name in stage.annotators}
    folders = {f"decoder {name}": out / ANNOTATORS_KEY / name for name in stage.annotators} | {"mean of decoders": out}
    models = {name: {case: folder / file for case, file in files.items()} for name, folder in folders.items()}
    dice_agreement(references, models, stage.result.outputs, ignore=stage.result.ignore).write(out / ANNOTATORS_KEY)


def annotators_agreement(run: Run, stage: Stage) -> Agreement | None:
    """Agreement of each decoder with each annotator in all validated folds; also written to ``crossval``.

    None where no annotators are learned separately, or no fold is validated; a table from an earlier plan is deleted
    then.
    """
    folders = [fold.validation / ANNOTATORS_KEY for fold in folds_of_plan(run, stage)]
    parts = [Agreement.read(folder) for folder in folders if (folder / "agreement.json").exists()]
    if not (stage.annotators and parts):
        shutil.rmtree(_agreement_folder(run, stage), ignore_errors=True)
        return None
    merged = replace(parts[0], rows=tuple(row for part in parts for row in part.rows))
    merged.write(_agreement_folder(run, stage))
    return merged


def read_agreement(run: Run, stage: Stage) -> Agreement | None:
    """The agreement that :func:`annotators_agreement` wrote, or None."""
    folder = _agreement_folder(run, stage)
    return Agreement.read(folder) if stage.annotators and (folder / "agreement.json").exists() else None


def _agreement_folder(run: Run, stage: Stage) -> Path:
    return run.path / stage.name / "crossval" / ANNOTATORS_KEY
