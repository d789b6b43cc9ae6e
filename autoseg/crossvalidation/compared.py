"""Dice of the same held-out cases segmented in several ways, made comparable."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from autoseg.data.dataset import Dataset
from autoseg.evaluation.protocol import Empty
from autoseg.evaluation.summary import Evaluation
from autoseg.runs.run import Run

Way = TypeVar("Way", bound=Hashable)


def compared(ways: Mapping[Way, Sequence[Evaluation]], empty: Empty) -> dict[Way, dict[str, float]]:
    """Mean Dice over a case's structures, for each way to segment it.

    A structure that a case lacks has no Dice where a way finds none of it, and 0 where a way does. Left out, the former
    would count less than the mistake of the latter; so it counts 1 as soon as another way makes that mistake. Where
    none does, the structure tells nothing about the ways, and is left out unless ``empty`` counts it.

    Args:
        ways: the evaluations of all parts (folds) of the same cases.
        empty: convention for absent structures.

    Returns:
        Way → case → Dice; NaN, for all ways alike, where no structure of a case is defined.
    """
    dice: dict[Way, dict[tuple[str, str], float]] = {
        way: {(row.case, row.target): row.values["dice"] for part in parts for row in part.counting_absent(empty).rows}
        for way, parts in ways.items()
    }
    defined = {key for found in dice.values() for key, value in found.items() if math.isfinite(value)}
    means: dict[Way, dict[str, float]] = {}
    for way, found in dice.items():
        of_case: dict[str, list[float]] = {case: [] for case, _ in found}
        for key, value in found.items():
            if key in defined:
                of_case[key[0]].append(value if math.isfinite(value) else 1.0)
        means[way] = {case: sum(own) / len(own) if own else math.nan for case, own in of_case.items()}
    return means


def of_patients(scores: Mapping[Way, Mapping[str, float]], dataset: Dataset) -> dict[Way, dict[str, float]]:
    """Mean scores over each patient's exams; exams whose score is undefined are left out.

    Exams of a patient are alike: together they tell no more of other patients than one.

    Args:
        scores: way → case → score.
        dataset: says whose cases are.
    """
    patient = patients(dataset)
    means = {}
    for way, found in scores.items():
        own: dict[str, list[float]] = {patient[case]: [] for case in found}
        for case, value in found.items():
            if math.isfinite(value):
                own[patient[case]].append(value)
        means[way] = {name: sum(values) / len(values) if values else math.nan for name, values in own.items()}
    return means


def patients(dataset: Dataset) -> dict[str, str]:
    """Case → patient."""
    return {case.id: case.patient for case in dataset.cases}


def held_out_patients(run: Run) -> set[str]:
    """The patients that the folds of a run validate; where none does, those that all learn from, halves of whom do."""
    patient_of = patients(run.dataset)
    held = {patient_of[case] for split in run.splits for case in split["validation"]}
    return held or {patient_of[case] for split in run.splits for case in split["train"]}
