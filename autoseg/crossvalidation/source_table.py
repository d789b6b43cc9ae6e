"""The table of a fine-tuning: the source as it is, the tuned networks, and what was chosen, on the same cases."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from autoseg.crossvalidation.compared import compared, of_patients, patients
from autoseg.crossvalidation.halves import chooses, halves
from autoseg.crossvalidation.source_share import (
    another_source_scored,
    as_planned,
    fewer_folds_scored,
    of_share,
    sources,
)
from autoseg.data.dataset import Dataset
from autoseg.evaluation.paired import paired_interval
from autoseg.evaluation.summary import Evaluation
from autoseg.plans.stage import Stage
from autoseg.runs.fold import Fold
from autoseg.runs.run import SOURCE, UNTOUCHED, Run
from autoseg.runs.trained_folds import folds_of_plan
from autoseg.transfer.as_it_is import why_not_scored
from autoseg.transfer.learned_cases import learned_patients, told_of_learned
from autoseg.transfer.share_choice import FEWEST, TRIED_SHARES, too_few, with_a_say
from autoseg.utils.files import read_json, write_json

#: File in the folder of the cross-validation.
SOURCE_TABLE = "source.json"


@dataclass(frozen=True)
class SourceRow:
    """One way to segment the held-out cases.

    Attributes:
        name: in words.
        cases: how many, of those that have a Dice.
        dice: mean over patients of the mean over their exams' outputs.
        difference: mean over patients of the paired differences to the source as it is; None for the source itself.
        low: end of its 95 % interval, over patients; None where there is none, as where all are the source's own.
        high: likewise.
    """

    name: str
    cases: int
    dice: float
    difference: float | None = None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(
        cls, name: str, dice: Mapping[str, float], source: Mapping[str, float] | None, dataset: Dataset
    ) -> "SourceRow":
        """The row of some scores.

        Args:
            name: in words.
            dice: case → Dice, NaN where it is undefined.
            source: the same of the source as it is; None for a row without a difference.
            dataset: says whose exams the cases are.
        """
        cases = len(_finite(dice))
        known = _finite(of_patients({name: dice}, dataset)[name])
        mean = sum(known) / len(known) if known else math.nan
        if source is None:
            return cls(name, cases, mean)
        paired = {case: value - source[case] for case, value in dice.items()}
        differences = _finite(of_patients({name: paired}, dataset)[name])
        if not differences:
            return cls(name, cases, mean)
        low, high = paired_interval(differences)
        interval = (low, high) if math.isfinite(low) and any(differences) else (None, None)
        return cls(name, cases, mean, sum(differences) / len(differences), *interval)


@dataclass(frozen=True)
class SourceTable:
    """The rows, the source as it is first, and a remark; a remark alone where there is nothing to compare."""

    rows: Sequence[SourceRow]
    note: str = ""

    @classmethod
    def of(cls, run: Run, stage: Stage) -> "SourceTable | None":
        """The table of a fine-tuned stage, of the folds that are done; None for a run that starts from no model."""
        initialization = stage.recipe.initialization
        if initialization.source != "model":
            return None
        trained = folds_of_plan(run, stage)
        if trained and not any(fold.validation_cases for fold in trained) and not halves(trained[0]):
            note = _not_held_out(run, stage)
            return cls([], note) if note else None
        folds: list[Fold] = []
        for fold in trained:
            folds += halves(fold) or [fold]
        # One that is being trained further has its old validation, and no scores of tuned weights.
        folds = [fold for fold in folds if fold.validated]
        folds = [fold for fold in folds if not chooses(stage) or (of_share(fold, 0.0) / "summary.json").exists()]
        folds = [fold for fold in folds if not another_source_scored(fold)]
        if not folds:
            return None
        last = "chosen for each case by the others" if chooses(stage) else "tuned"
        names = [name for name in sources(folds[0]) if all(_is_scored(fold, name) for fold in folds)]
        if not initialization.ensemble or not names:
            alone = compared({last: _read([fold.validation for fold in folds])}, stage.empty)
            return cls([SourceRow.of(last, alone[last], None, run.dataset)], _not_scored(stage))
        parts = {name: _read([sources(fold)[name] for fold in folds]) for name in names}
        if chooses(stage):
            parts["tuned"] = _read([of_share(fold, 0.0) for fold in folds])
        parts[last] = _read([fold.validation for fold in folds])
        parts |= _passed_over(run, stage, folds)
        found = compared(parts, stage.empty)
        source = found[names[0]]
        rows = [
            SourceRow.of(name, dice, None if dice is source else source, run.dataset) for name, dice in found.items()
        ]
        fewer = [scored for fold in folds if (scored := fewer_folds_scored(fold)) is not None]
        note = _kept(run, stage, all_scored=not fewer) if chooses(stage) else _taken(rows[-1])
        if stage.harmonizes_for_source and len(names) == 1:
            note += " The scans are missing, so the source could not be scored without harmonization."
        if fewer:
            of = len(initialization.ensemble)
            note += f" Time was too short to score all of the source's {of} folds: {min(fewer)} of them stand for it."
        note += _fewer_shares(run, stage) + _learned(run, stage, list(source)) + _exams(run.dataset, source)
        return cls(rows, note.strip())

    def write(self, folder: Path) -> None:
        """Write ``source.json``."""
        write_json(folder / SOURCE_TABLE, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"rows": [asdict(row) for row in self.rows], "note": self.note}

    @classmethod
    def read(cls, folder: Path) -> "SourceTable | None":
        """What :meth:`write` wrote; None where there is none."""
        path = folder / SOURCE_TABLE
        if not path.exists():
            return None
        found = read_json(path)
        return cls([SourceRow(**row) for row in found["rows"]], found["note"])

    def cells(self) -> list[list[str]]:
        """The rows as text: name, cases, mean Dice, difference to the source with its interval."""
        return [[row.name, str(row.cases), f"{row.dice:.3f}", _told(row)] for row in self.rows]

    def table(self) -> Table | str:
        """For a terminal; the note where there are no rows."""
        if not self.rows:
            return self.note
        found = Table("validation cases", "n", "mean Dice", "to the source (95 %)", title="Fine-tuning")
        for cells in self.cells():
            found.add_row(*cells)
        found.caption = self.note or None
        return found


def _passed_over(run: Run, stage: Stage, folds: Sequence[Fold]) -> dict[str, list[Evaluation]]:
    """The share of the source's weights with the best mean, in words, where the source is kept all the same.

    All of the source, and none of it, have rows of their own.
    """
    found = run.source_choice(stage)
    best = float(found.get("best", SOURCE))
    if float(found.get("share", 0.0)) < SOURCE or not 0 < best < SOURCE:
        return {}
    folders = [of_share(fold, best) for fold in folds]
    if not all((folder / "summary.json").exists() for folder in folders):
        return {}
    return {f"best mix ({best:.0%} source); optimistic: chosen on these same cases": _read(folders)}


def _not_scored(stage: Stage) -> str:
    return f"The source as it is can't be scored: {why_not_scored(stage)}."


def _kept(run: Run, stage: Stage, all_scored: bool) -> str:
    found = run.source_choice(stage)
    if not found:
        return ""
    share = float(found["share"])
    why = "" if all_scored else "no tuning is taken where time is too short to score all of its folds: give more"
    why = why or too_few(found.get("decided", len(found["cases"])))
    why = why or "no tuning was better by more than one standard error"
    cleaned = " with its post-processing" if run.source_steps(stage) else ""
    if share == UNTOUCHED or (share == SOURCE and not stage.differs_for_source):
        return f"Kept: the source as it is{cleaned}; {why}."
    if share == SOURCE:
        return f"Kept: the source, {as_planned(stage)}{cleaned}; {why}."
    told = f"Kept: {1 - share:.0%} of the tuned weights and {share:.0%} of the source's, as all of these cases chose."
    by_source = sum(int(count) for by, count in found.get("scored_by", {}).items() if float(by) >= SOURCE)
    if not by_source:
        return told
    return f"{told} {by_source} of them are scored with the source, as the others alone did not choose a tuning."


def _taken(tuned: SourceRow) -> str:
    """What predicts where nothing is chosen, and whether the source did better on the same cases."""
    if tuned.difference is None or tuned.difference >= 0:
        return ""
    return "The tuned weights are taken, which were not chosen; on these cases the source as it is did better."


def _not_held_out(run: Run, stage: Stage) -> str:
    """Why there is nothing to compare: no case was held out."""
    initialization = stage.recipe.initialization
    if not initialization.ensemble:
        return _not_scored(stage)
    if not chooses(stage):
        return "No case is held out, so that the source as it is can't be compared with what was tuned."
    return _kept(run, stage, all_scored=True)


def _fewer_shares(run: Run, stage: Stage) -> str:
    """Which shares of the source's weights were compared, where time was too short for all."""
    means = run.source_choice(stage).get("mean_dice", {})
    compared_ones = [share for share in TRIED_SHARES if f"{share:g}" in means]
    if not compared_ones or len(compared_ones) == len(TRIED_SHARES):
        return ""
    shares = ", ".join(f"{share:.0%}" for share in compared_ones)
    return f" Time was too short for all shares of the source's weights: {shares} was compared with all of it."


def _learned(run: Run, stage: Stage, cases: Sequence[str]) -> str:
    """Which of the cases the source was trained on, and whether others are left to choose by."""
    told = told_of_learned(stage.recipe.initialization, cases)
    if not told or not chooses(stage):
        return f" {told}." if told else ""
    patient_of, learned = patients(run.dataset), learned_patients(stage, run.dataset)
    if learned.isdisjoint(with_a_say(list(dict.fromkeys(patient_of[case] for case in cases)), learned)):
        return f" {told}; they are not used to choose the weights."
    return f" {told}; fewer than {FEWEST} other patients are left to choose by, so that it can't be trusted."


def _exams(dataset: Dataset, scored: Mapping[str, float]) -> str:
    """That exams of a patient count as one, where a patient has several."""
    patient_of = patients(dataset)
    own = {patient_of[case] for case, value in scored.items() if math.isfinite(value)}
    if len(own) == len(_finite(scored)):
        return ""
    return f" Means are over {len(own)} patients, whose exams count together as one."


def _finite(values: Mapping[str, float]) -> list[float]:
    return [value for value in values.values() if math.isfinite(value)]


def _is_scored(fold: Fold, source: str) -> bool:
    folder = sources(fold).get(source)
    return folder is not None and (folder / "summary.json").exists()


def _read(folders: Sequence[Path]) -> list[Evaluation]:
    return [Evaluation.read(folder) for folder in folders]


def _told(row: SourceRow) -> str:
    if row.difference is None:
        return ""
    return f"{row.difference:+.3f}" + ("" if row.low is None else f" ({row.low:+.3f} to {row.high:+.3f})")
