"""Collecting a report's content from a run folder; missing parts are left out, with a note."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.crossvalidation.holdout import read_test
from autoseg.data.dataset import Case, load_case
from autoseg.evaluation.cases import read_labels
from autoseg.evaluation.summary import Evaluation
from autoseg.plans.plan import Plan
from autoseg.runs.run import Run
from autoseg.runs.trained_folds import folds_of_plan
from autoseg.utils.errors import AutosegError


@dataclass(frozen=True)
class Curve:
    """The history of one fold's training.

    Attributes:
        fold: number.
        columns: name → one value for each epoch, NaN where the file has none.
    """

    fold: int
    columns: dict[str, np.ndarray]

    def column(self, name: str) -> np.ndarray:
        """Values of a column, all NaN if the file lacks it."""
        length = max((len(values) for values in self.columns.values()), default=0)
        return self.columns.get(name, np.full(length, np.nan))

    @property
    def seconds(self) -> float:
        """Duration of the training so far, in seconds."""
        values = self.column("seconds")
        return float(np.nanmax(values)) if np.isfinite(values).any() else 0.0


@dataclass(frozen=True)
class Results:
    """One trained configuration.

    Attributes:
        name: of the configuration.
        folds: numbers of the folds with finished weights, trained under the plan and splits as they are.
        curves: training history of each fold with one.
        evaluation: of all validated cases, or None.
        fold_of: validated case → number of its fold.
        note: what is missing or could not be read, shown in the report.
        test: the evaluation of the hold-out test set, or None.
    """

    name: str
    folds: tuple[int, ...]
    curves: tuple[Curve, ...]
    evaluation: Evaluation | None
    fold_of: dict[str, int]
    note: str = ""
    test: Evaluation | None = None


@dataclass(frozen=True)
class Picture:
    """The voxels of one validated case.

    Attributes:
        image: one channel ``(z, y, x)``, or None.
        channel: its name.
        prediction: label values ``(z, y, x)``.
        reference: label values, or None.
        spacing: mm ``(z, y, x)``.
        note: why image or reference is missing.
    """

    image: np.ndarray | None
    channel: str
    prediction: np.ndarray
    reference: np.ndarray | None
    spacing: tuple[float, float, float]
    note: str = ""


def collect(run: Run, name: str, expected_folds: int) -> Results | None:
    """The results of one configuration, or None where no fold was begun."""
    stage = run.plan.stage(name)
    folders = {
        int(folder.name.removeprefix("fold_")): folder
        for folder in (run.path / name).glob("fold_*")
        if folder.name.removeprefix("fold_").isdigit()
    }
    curves, notes = [], []
    current = {fold.number for fold in folds_of_plan(run, stage)}
    others = sorted(set(run.trained_folds(name)) - current)
    if others:
        notes.append(f"Fold {', '.join(map(str, others))} was trained under another plan or split, and is left out.")
        folders = {number: folder for number, folder in folders.items() if number not in others}
    parts: dict[int, Evaluation] = {}
    for fold, folder in sorted(folders.items()):
        try:
            if (folder / "history.csv").is_file():
                curves.append(Curve(fold, read_history(folder / "history.csv")))
            # A fold without weights is trained anew: what lies there was scored before.
            if fold in current and (folder / "validation" / "summary.json").is_file():
                parts[fold] = Evaluation.read(folder / "validation").counting_absent(stage.empty)
        except AutosegError as error:
            notes.append(str(error))
    if not (curves or parts or run.trained_folds(name)):
        return None
    evaluation = None
    if parts:
        try:
            evaluation = Evaluation.merge(parts.values())
        except AutosegError as error:
            notes.append(str(error))
    if len(parts) < expected_folds:
        notes.append(
            f"{len(parts)} of {expected_folds} folds are validated"
            + ("; the figures below are theirs." if parts else ".")
        )
    test = None
    try:
        found = read_test(run, stage)
        test = None if found is None else found.counting_absent(stage.empty)
    except AutosegError as error:
        notes.append(str(error))
    if test is None and run.test_cases:
        notes.append(f"{len(run.test_cases)} test cases are held out, and scored when all folds are trained.")
    fold_of = {case: fold for fold, part in parts.items() for case in part.cases}
    return Results(name, tuple(sorted(current)), tuple(curves), evaluation, fold_of, " ".join(notes), test)


def read_history(path: Path) -> dict[str, np.ndarray]:
    """Read a training history: column → values; empty or non-numeric cells become NaN.

    Raises:
        AutosegError: the file can't be read.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            names = list(reader.fieldnames or [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AutosegError(f"{path} can't be read ({error}); train the fold again.") from None
    return {name: np.array([_number(row.get(name)) for row in rows], dtype=np.float64) for name in names}


def _number(text: str | None) -> float:
    try:
        return float(text) if text else float("nan")
    except ValueError:
        return float("nan")


def load_picture(plan: Plan, case: Case | None, prediction: Path) -> Picture:
    """The voxels of a validated case; image and reference are None where their files are gone.

    Raises:
        AutosegError: the prediction can't be read.
    """
    labels, file = read_labels(prediction)
    gone = Picture(
        None, "", labels, None, file.spacing, "The dataset's files are not at hand: the prediction is shown alone."
    )
    if case is None:
        return gone
    channel = next((name for name in plan.channel_names if name in case.channels), None)
    if channel is None:
        return gone
    try:
        loaded = load_case(case, [channel], with_label=True)
    except AutosegError:
        return gone
    if loaded.image.shape[1:] != labels.shape:
        return gone
    return Picture(loaded.image[0], channel, labels, loaded.label, file.spacing)


def pick_cases(evaluation: Evaluation) -> list[tuple[str, str]]:
    """The best, the median and the worst case by mean Dice over its structures: (``best`` …, case)."""
    scores = {case: evaluation.case_mean(case) for case in evaluation.cases}
    ranked = sorted((case for case in scores if not np.isnan(scores[case])), key=lambda case: -scores[case])
    if not ranked:
        return []
    picked = {
        "Best": ranked[0],
        "Median": ranked[len(ranked) // 2],
        "Worst": ranked[-1],
    }
    if len(ranked) < 3:
        picked.pop("Median")
    if len(ranked) < 2:
        picked.pop("Worst")
    return list(picked.items())


def median_and_range(values: Sequence[float], digits: int = 1) -> str:
    """Median and range of some values, or the one value they all have."""
    low, high = min(values), max(values)
    if low == high:
        return f"{low:.{digits}f}"
    return f"{np.median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
