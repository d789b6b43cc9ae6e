"""Cases of a cohort that a source was trained on, as where a cohort grows: it scores better on them than on others.

They are told by their scans. Of cases whose scans are gone, as where a model comes from another machine, there is the
name, and the grid that the fingerprint knows.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import numpy as np

from autoseg.data.dataset import Case, Dataset
from autoseg.data.fingerprint import CaseFingerprint
from autoseg.data.image import read_geometry
from autoseg.plans.recipe import Initialization
from autoseg.plans.stage import Stage
from autoseg.runs.run import Run
from autoseg.transfer.mixed_cases import mixed_dataset, same_cases
from autoseg.utils.errors import AutosegError


def learned_by(run: Run, stage: Stage, folds: Collection[int]) -> list[Case]:
    """The cases that folds of a model were trained on, as far as its run folder knows; an imported one knows none.

    Among them are cases that were mixed in, and those of its dataset that its own source was trained on.

    Args:
        run: folder of the model.
        stage: of it, with the stages before.
        folds: numbers.
    """
    known = (*run.dataset.cases, *run.dataset.labelled_test_cases)
    splits = run.splits if known else []
    names = {name for fold in folds if fold < len(splits) for name in splits[fold]["train"]}
    found: list[Case] = []
    for one in stage.chain:
        names |= one.recipe.initialization.learned.keys()
        mixed = one.recipe.source_cases
        if mixed is not None and mixed.share and (run.path / mixed.file).is_file():
            found += mixed_dataset(run, mixed.file).dataset.cases
    return [*(case for case in known if case.id in names), *found]


def learned_cases(
    cohort: Sequence[Case], learned: Sequence[Case], grids: Mapping[str, CaseFingerprint]
) -> dict[str, Literal["file", "name"]]:
    """The cases of a cohort that are among those that a model was trained on.

    Args:
        cohort: its cases.
        learned: the model's.
        grids: name of a case of the model → its fingerprint, as far as there is one.

    Returns:
        Name → what tells: a ``file`` that both have; or the ``name``, where the model's files are gone.
    """
    found: dict[str, Literal["file", "name"]] = {case.id: "file" for case, _ in same_cases(cohort, learned)}
    gone = {case.id for case in learned if not case.has_scans}
    for case in cohort:
        if case.id in gone and case.id not in found and _may_be(case, grids.get(case.id)):
            found[case.id] = "name"
    return found


def _may_be(case: Case, known: CaseFingerprint | None) -> bool:
    """Whether a case lies on the grid of one of its name, in whatever order of axes; many cohorts have a ``case_1``."""
    if known is None:
        return True
    try:
        geometry = read_geometry(next(iter(case.channels.values())).path).geometry
    except AutosegError:  # told with all other problems of the dataset
        return True
    axes = len(geometry.size)  # two of a picture, which a fingerprint knows as a single slice
    if sorted(geometry.size) != sorted(known.shape[-axes:]):
        return False
    return np.allclose(sorted(geometry.spacing), sorted(known.spacing[-axes:]), rtol=1e-3)


def learned_patients(stage: Stage, dataset: Dataset) -> set[str]:
    """Patients of whom the source that a stage starts from was trained on an exam."""
    return {case.patient for case in dataset.cases if case.id in stage.recipe.initialization.learned}


def told_of_learned(start: Initialization, cases: Collection[str]) -> str:
    """That a source was trained on some of these cases, as a sentence without its end; empty where it was on none."""
    known = [start.learned[case] for case in cases if case in start.learned]
    if not known:
        return ""
    by_name = known.count("name")
    aside = f" ({by_name} by name: its files are gone)" if by_name else ""
    return (
        f"The source was trained on {len(known)} of these {len(cases)} cases{aside}, and its score on them is better "
        "than on new ones"
    )
