"""Splits: training and validation cases of each fold of a cross-validation, and the test cases that are held out."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from autoseg.data.dataset import Dataset
from autoseg.plans.evaluation import EvaluationRules
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import read_json
from autoseg.utils.progress import say

#: Folds of a cross-validation where there are enough cases (nnU-Net: 5).
FOLDS = 5

Split = dict[str, list[str]]

#: Second number of the seed of the test cases and of a single fold's validation cases, so that the folds of a
#: cross-validation without them stay as they are.
_HELD_OUT, _VALIDATED = 1, 2


def read_splits(path: Path) -> list[Split]:
    """For each fold one ``{"train": [...], "validation": [...]}`` of case names, from a file that users may edit.

    Where there is a hold-out test set, each fold has it, too: ``"test": [...]``, the same in all of them.

    Raises:
        AutosegError: the file is missing or is no such list.
    """
    data = read_json(path)
    if not (isinstance(data, list) and data and all(_is_split(fold) for fold in data)):
        raise AutosegError(
            f'{path} must be a list of {{"train": [names], "validation": [names]}}, one a fold (and "test": [names] '
            "in each, where cases are held out); "
            "correct it, or delete it and plan the run again."
        )
    splits: list[Split] = data
    return splits


def _is_split(fold: object) -> bool:
    return (
        isinstance(fold, dict)
        and {"train", "validation"} <= set(fold) <= {"train", "validation", "test"}
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
    groups = {case.id: case.patient for case in dataset.cases}
    if not groups:
        return
    of_all = groups | {case.id: case.patient for case in dataset.labelled_test_cases}
    shared_test = sorted(splits[0].get("test", []))
    for number, fold in enumerate(splits):
        train, validation, test = fold["train"], fold["validation"], fold.get("test", [])
        tested = set(test)
        for case in (*train, *validation, *test):
            if case not in (of_all if case in tested else groups):
                raise AutosegError(f"{path}: fold {number} names {case}, which is no labelled case of {dataset.name}.")
        if sorted(test) != shared_test:
            raise AutosegError(
                f'{path}: folds 0 and {number} have different cases in "test"; all folds share one list.'
            )
        if seen := sorted(tested & {*train, *validation}):
            raise AutosegError(
                f'{path}: fold {number} has {seen[0]} in "test" and elsewhere; a test case must never be trained on or '
                "validated, so take it out of one."
            )
        if not train:
            raise AutosegError(f'{path}: fold {number} has no case in "train"; give it some.')
        if both := sorted(set(train) & set(validation)):
            raise AutosegError(
                f'{path}: fold {number} has {both[0]} in "train" and in "validation"; a case that was trained on '
                "measures nothing, so take it out of one."
            )
        for part in (train, validation, test):
            if twice := sorted(case for case, times in Counter(part).items() if times > 1):
                raise AutosegError(f"{path}: fold {number} names {twice[0]} twice; take one out.")
        patients = {groups[case] for case in train}
        if parted := [case for case in validation if groups[case] in patients]:
            say(
                f"{path}: fold {number} validates {parted[0]}, of whose patient ({groups[parted[0]]}) it trains on "
                "another exam; its results will look better than they are."
            )
        patients |= {groups[case] for case in validation}
        if parted := [case for case in test if of_all[case] in patients]:
            say(
                f'{path}: fold {number} has {parted[0]} in "test", and sees another exam of its patient '
                f"({of_all[parted[0]]}); its results will look better than they are."
            )


def make_splits(
    dataset: Dataset, folds: int | None = None, seed: int = 0, rules: EvaluationRules = EvaluationRules()
) -> list[Split]:
    """Distribute cases to folds at random, whole groups (patients) at a time, in folds of about equal size.

    Fewer groups than ``folds`` give as many folds as there are groups. A single fold is trained on all cases.

    Args:
        dataset: whose labelled cases are split. Its own labelled test cases are held out, where it has some.
        folds: of the cross-validation. Where None, :data:`FOLDS`, or a single one with the rules' validation share.
        seed: of all choices.
        rules: shares of a hold-out test set, and of a single fold's validation.

    Raises:
        AutosegError: fewer than two groups: nothing could be validated; or the test set leaves none.
        UsageError: no fold at all.
    """
    if folds is not None and folds < 1:
        raise UsageError(f"--folds {folds} is too few; give 1 (train on all cases) or more.")
    test = [case.id for case in dataset.labelled_test_cases]
    if not test and rules.test_share:
        test = _drawn(dataset, set(), rules.test_share, np.random.default_rng([seed, _HELD_OUT]))
    held_out = {"test": test} if test else {}
    tested = set(test)
    everyone = [case.id for case in dataset.cases if case.id not in tested]
    groups = _by_patient(dataset, tested)
    if folds == 1 and groups:
        return [{"train": everyone, "validation": [], **held_out}]
    if len(groups) < 2:
        left = f" beside {len(test)} test case(s)" if rules.test_share and test else ""
        raise AutosegError(
            f"{dataset.root} has {len(groups)} labelled patient(s){left}; training with validation needs at least 2, "
            "training without (--folds 1) at least 1."
        )
    if folds is None and rules.validation_share:
        validation = _drawn(dataset, tested, rules.validation_share, np.random.default_rng([seed, _VALIDATED]))
        return [_split(everyone, validation, held_out)]
    names = sorted(groups)
    np.random.default_rng(seed).shuffle(names)
    names.sort(key=lambda name: -len(groups[name]))  # stable: big groups first keep the folds even
    parts: list[list[str]] = [[] for _ in range(min(folds or FOLDS, len(names)))]
    for name in names:
        min(parts, key=len).extend(groups[name])
    return [_split(everyone, part, held_out) for part in parts]


def _split(everyone: Sequence[str], validated: Collection[str], held_out: Split) -> Split:
    """A fold that validates some cases and trains on the others, both in the dataset's order."""
    validated = set(validated)
    train, validation = [c for c in everyone if c not in validated], [c for c in everyone if c in validated]
    return {"train": train, "validation": validation, **held_out}


def _by_patient(dataset: Dataset, taken: Collection[str]) -> dict[str, list[str]]:
    """Patient → cases, of those not taken."""
    groups: dict[str, list[str]] = {}
    for case in dataset.cases:
        if case.id not in taken:
            groups.setdefault(case.patient, []).append(case.id)
    return groups


def _drawn(dataset: Dataset, taken: Collection[str], share: float, rng: np.random.Generator) -> list[str]:
    """A share of all cases, to the next case, drawn a patient at a time from those not taken; at least one patient."""
    groups = _by_patient(dataset, taken)
    wanted = round(share * len(dataset.cases))
    names = sorted(groups)
    rng.shuffle(names)
    chosen: set[str] = set()
    for name in names:
        if not chosen or len(chosen) + len(groups[name]) <= wanted:
            chosen.update(groups[name])
    return [case.id for case in dataset.cases if case.id in chosen]


def keep_or_make_splits(
    path: str | Path,
    dataset: Dataset,
    seed: int = 0,
    folds: int | None = None,
    rules: EvaluationRules = EvaluationRules(),
) -> list[Split]:
    """The splits of the run folder if they fit the cases and patients; else new ones.

    Results from before and after planning again thus stay comparable.

    Args:
        path: of the run folder.
        dataset: whose cases are split.
        seed: of new splits.
        folds: number of folds; stored splits of another number (as far as there are patients for it) are replaced, as
            is a single fold that validates where 1 is asked for. None keeps those stored, or makes the
            default number.
        rules: shares of a test set and of a single fold's validation; stored splits with as many cases in them are
            kept, whichever these are.

    Raises:
        AutosegError: the stored ones (which users may edit) are damaged; or nothing could be validated.
    """
    stored = Path(path) / "splits.json"
    if stored.exists():
        splits = read_splits(stored)
        groups = {case.id: case.patient for case in (*dataset.cases, *dataset.labelled_test_cases)}
        made = make_splits(dataset, folds, seed, rules)
        if folds is not None and len(made) != len(splits):
            return made
        single = len(made) == len(splits) == 1
        if (
            len(made[0].get("test", ())) != len(splits[0].get("test", ()))
            or (folds is None and rules.validation_share and len(splits) > 1)
            or (single and bool(made[0]["validation"]) != bool(splits[0]["validation"]))
        ):
            say(f"{stored} holds out other cases than the plan says; new splits are made.")
            return made
        if all(
            {*fold["train"], *fold["validation"], *fold.get("test", ())} == set(groups)
            and fold["train"]
            and _apart([fold["train"], fold["validation"], fold.get("test", [])], groups)
            for fold in splits
        ):
            return splits
        say(f"{stored} does not fit the dataset's cases and patients any more; new splits are made.")
    return make_splits(dataset, folds, seed, rules)


def _apart(parts: Sequence[Sequence[str]], groups: Mapping[str, str]) -> bool:
    """Whether no two parts have cases of one patient."""
    patients = [{groups[name] for name in part} for part in parts]
    return sum(map(len, patients)) == len(set().union(*patients))
