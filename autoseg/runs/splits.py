"""Splits: training and validation cases of each fold of a cross-validation."""

from pathlib import Path

import numpy as np

from autoseg.data.dataset import Dataset
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import read_json
from autoseg.utils.progress import say

#: Folds of a cross-validation where there are enough cases (nnU-Net: 5).
FOLDS = 5

Split = dict[str, list[str]]


def read_splits(path: Path) -> list[Split]:
    """For each fold one ``{"train": [...], "validation": [...]}`` of case names, from a file that users may edit.

    Raises:
        AutosegError: the file is missing or is no such list.
    """
    data = read_json(path)
    if not (isinstance(data, list) and data and all(_is_split(fold) for fold in data)):
        raise AutosegError(
            f'{path} must be a list of {{"train": [names], "validation": [names]}}, one a fold; '
            "correct it, or delete it and plan the run again."
        )
    splits: list[Split] = data
    return splits


def _is_split(fold: object) -> bool:
    return (
        isinstance(fold, dict)
        and set(fold) == {"train", "validation"}
        and all(isinstance(part, list) and all(isinstance(name, str) for name in part) for part in fold.values())
    )


def check_splits(splits: list[Split], dataset: Dataset, path: Path) -> None:
    """Refuse splits that can't be trained with or would validate on training cases; say where they part a patient.

    Args:
        splits: of ``dataset``'s cases.
        dataset: without cases, as of an imported model, nothing is checked.
        path: of the file, for messages.

    Raises:
        AutosegError: names the file, the fold and the case.
    """
    groups = {case.id: case.group or case.id for case in dataset.cases}
    if not groups:
        return
    for number, fold in enumerate(splits):
        train, validation = fold["train"], fold["validation"]
        for case in (*train, *validation):
            if case not in groups:
                raise AutosegError(f"{path}: fold {number} names {case}, which is no labelled case of {dataset.name}.")
        if not train:
            raise AutosegError(f'{path}: fold {number} has no case in "train"; give it some.')
        if both := sorted(set(train) & set(validation)):
            raise AutosegError(
                f'{path}: fold {number} has {both[0]} in "train" and in "validation"; a case that was trained on '
                "measures nothing, so take it out of one."
            )
        for part in (train, validation):
            if twice := sorted({case for case in part if part.count(case) > 1}):
                raise AutosegError(f"{path}: fold {number} names {twice[0]} twice; take one out.")
        patients = {groups[case] for case in train}
        if parted := [case for case in validation if groups[case] in patients]:
            say(
                f"{path}: fold {number} validates {parted[0]}, of whose patient ({groups[parted[0]]}) it trains on "
                "another exam; its results will look better than they are."
            )


def make_splits(dataset: Dataset, folds: int = FOLDS, seed: int = 0) -> list[Split]:
    """Distribute cases to folds at random, whole groups (patients) at a time, in folds of about equal size.

    Fewer groups than ``folds`` give as many folds as there are groups. A single fold is trained on all cases.

    Raises:
        AutosegError: fewer than two groups: nothing could be validated.
        UsageError: no fold at all.
    """
    if folds < 1:
        raise UsageError(f"--folds {folds} is too few; give 1 (train on all cases) or more.")
    if folds == 1:
        return [{"train": [case.id for case in dataset.cases], "validation": []}]
    groups: dict[str, list[str]] = {}
    for case in dataset.cases:
        groups.setdefault(case.group or case.id, []).append(case.id)
    if len(groups) < 2:
        raise AutosegError(
            f"{dataset.root} has {len(groups)} labelled patient(s); training with validation needs at least 2, "
            "training without (--folds 1) at least 1."
        )
    names = sorted(groups)
    np.random.default_rng(seed).shuffle(names)
    names.sort(key=lambda name: -len(groups[name]))  # stable: big groups first keep the folds even
    parts: list[list[str]] = [[] for _ in range(min(folds, len(names)))]
    for name in names:
        min(parts, key=len).extend(groups[name])
    everyone = [case.id for case in dataset.cases]
    return [
        {
            "train": [c for c in everyone if c not in set(part)],
            "validation": [c for c in everyone if c in set(part)],
        }
        for part in parts
    ]


def keep_or_make_splits(path: str | Path, dataset: Dataset, seed: int = 0, folds: int | None = None) -> list[Split]:
    """The splits of the run folder if they fit the cases and patients; else new ones.

    Results from before and after planning again thus stay comparable.

    Args:
        path: of the run folder.
        dataset: whose cases are split.
        seed: of new splits.
        folds: number of folds; stored splits of another number are replaced. None keeps those stored, or makes the
            default number.

    Raises:
        AutosegError: the stored ones (which users may edit) are damaged; or nothing could be validated.
    """
    stored = Path(path) / "splits.json"
    if stored.exists():
        splits = read_splits(stored)
        groups = {case.id: case.group or case.id for case in dataset.cases}
        if folds is not None and folds != len(splits):
            return make_splits(dataset, folds, seed)
        if all(
            {*fold["train"], *fold["validation"]} == set(groups)
            and fold["train"]
            and {groups[name] for name in fold["train"]}.isdisjoint(groups[name] for name in fold["validation"])
            for fold in splits
        ):
            return splits
        say(f"{stored} does not fit the dataset's cases and patients any more; new splits are made.")
    return make_splits(dataset, FOLDS if folds is None else folds, seed)
