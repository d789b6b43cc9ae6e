"""Validation where several annotators are learned: each decoder against each of them, beside the mean's usual table."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from autoseg.data.dataset import Case
from autoseg.evaluation.agreement import Agreement
from autoseg.evaluation.agreement_folders import dice_agreement
from autoseg.inference.results.writer import write_label
from autoseg.networks.weights import is_of
from autoseg.plans.recipe import ANNOTATORS_KEY
from autoseg.plans.stage import Stage
from autoseg.preprocessing.case import Trace, restore
from autoseg.preprocessing.resample import resample_label
from autoseg.preprocessing.store import StoredCase
from autoseg.runs.run import Run

#: Folder beside the validation's label maps with those of each rater, and with the table of whom they agree with.
DECODERS = ANNOTATORS_KEY


def drawn_label_maps(case: Case, stored: StoredCase, stage: Stage, references: Path, file: str) -> dict[str, Path]:
    """The label maps of those who are learned separately and drew a case.

    Args:
        case: names the dataset's files.
        stored: the case preprocessed; what it holds takes the place of files that are gone.
        stage: names the annotators.
        references: folder for these.
        file: name of a label map of the case.
    """
    found = {}
    for index, (name, drew) in enumerate(zip(stage.annotators, stored.drawn, strict=True) if stage.annotators else ()):
        if drew and (path := case.annotations[name]).exists():
            found[name] = path
        elif drew:
            found[name] = restored_label(stored.annotations()[index], stored.trace, references / name / file)
    return found


def restored_label(label: np.ndarray, trace: Trace, path: Path) -> Path:
    """Write a preprocessed label map, put back on the grid of the scan; return its path."""
    label = resample_label(label, trace.cropped_shape, trace.separate_axis, 1)
    write_label(path, restore(label, trace).astype(np.int16), trace.geometry)
    return path


def measure_decoders(
    out: Path, files: Mapping[str, str], drawn: Mapping[str, Mapping[str, Path]], stage: Stage
) -> None:
    """Write how far each decoder, and their mean, agree with each rater in a fold.

    Args:
        out: folder of the validation, with the mean's label maps.
        files: case → name of its label map, there and in each rater's folder.
        drawn: case → rater → what they drew.
        stage: names the annotators, and what to measure.
    """
    references = {name: {case: by[name] for case, by in drawn.items() if name in by} for name in stage.annotators}
    folders = {f"decoder {name}": out / DECODERS / name for name in stage.annotators} | {"mean of decoders": out}
    models = {name: {case: folder / file for case, file in files.items()} for name, folder in folders.items()}
    dice_agreement(references, models, stage.result.outputs, ignore=stage.result.ignore).write(out / DECODERS)


def annotators_agreement(run: Run, stage: Stage) -> Agreement | None:
    """How far each decoder agrees with each annotator in all validated folds; written beside the cross-validation.

    None where no annotators are learned separately, or no fold is validated; the table of an earlier plan goes then.
    """
    folders = [fold.validation / DECODERS for fold in run.folds(stage) if is_of(stage, fold.weights)]
    parts = [Agreement.read(folder) for folder in folders if (folder / "agreement.json").exists()]
    if not (stage.annotators and parts):
        shutil.rmtree(_agreement_folder(run, stage), ignore_errors=True)
        return None
    merged = replace(parts[0], rows=tuple(row for part in parts for row in part.rows))
    merged.write(_agreement_folder(run, stage))
    return merged


def read_agreement(run: Run, stage: Stage) -> Agreement | None:
    """What :func:`annotators_agreement` wrote; None where it had nothing to write."""
    folder = _agreement_folder(run, stage)
    return Agreement.read(folder) if stage.annotators and (folder / "agreement.json").exists() else None


def _agreement_folder(run: Run, stage: Stage) -> Path:
    return run.path / stage.name / "crossval" / DECODERS
