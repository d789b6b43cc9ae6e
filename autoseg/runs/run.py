"""The run folder: everything a later command needs, movable to a machine that never saw the data.

RUN/plan.json  fingerprint.json  splits.json  dataset.json
RUN/initial_weights.safetensors    where a planned --weights FILE was given
RUN/source_<configuration>.safetensors  transfer.json    where a model is fine-tuned
RUN/teacher/…                      a run folder, where a planned --teacher was given
RUN/preprocessed/<data>/…          can be deleted and rebuilt
RUN/<configuration>/fold_<k>/      weights.safetensors  best.safetensors  training_state.pt
                                   history.csv  log.txt  validation/…
RUN/<configuration>/crossval/      metrics.csv  summary.json
RUN/<configuration>/               postprocessing.json
RUN/report/index.html
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from autoseg.data.dataset import Dataset
from autoseg.data.fingerprint import Fingerprint
from autoseg.plans.files import load_plan, save_plan
from autoseg.plans.plan import Plan
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import first_fault, read_json, write_json
from autoseg.utils.progress import say

#: Folds of a cross-validation where there are enough cases (nnU-Net: 5).
FOLDS = 5

Split = dict[str, list[str]]


@dataclass(frozen=True)
class Run:
    """A run folder and where things lie in it."""

    path: Path

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """An existing run folder.

        Raises:
            AutosegError: there is no ``plan.json`` in it.
        """
        path = Path(path)
        if not (path / "plan.json").is_file():
            raise AutosegError(
                f"{path} is no run folder (it has no plan.json); make one with 'autoseg plan DATASET --out {path}'."
            )
        return cls(path)

    @classmethod
    def create(
        cls, path: str | Path, plan: Plan, fingerprint: Fingerprint, dataset: Dataset, splits: list[Split]
    ) -> "Run":
        """Write a new run folder (or update the plan of one).

        Raises:
            UsageError: the folder holds a dataset.
        """
        path = Path(path)
        refuse_dataset_folder(path, dataset)
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / "fingerprint.json", fingerprint.model_dump(mode="json"))
        write_json(path / "dataset.json", dataset.model_dump(mode="json"))
        write_json(path / "splits.json", splits)
        save_plan(plan, path / "plan.json")
        return cls(path)

    @property
    def plan(self) -> Plan:
        """The plan, validated."""
        return load_plan(self.path / "plan.json")

    @property
    def fingerprint(self) -> Fingerprint:
        """What the planner knew."""
        return _load(Fingerprint, self.path / "fingerprint.json")

    @property
    def dataset(self) -> Dataset:
        """The dataset the run was planned for (its files may be elsewhere by now)."""
        return _load(Dataset, self.path / "dataset.json")

    @property
    def splits(self) -> list[Split]:
        """One ``{"train": [...], "validation": [...]}`` of case names a fold.

        Raises:
            AutosegError: the file (which users may edit) is missing or is no such list.
        """
        return _read_splits(self.path / "splits.json")

    def preprocessed(self, data: str) -> Path:
        """Folder of the preprocessed cases called ``data``."""
        return self.path / "preprocessed" / data

    def fold(self, configuration: str, fold: int) -> Path:
        """Folder of one trained fold."""
        return self.path / configuration / f"fold_{fold}"

    def trained_folds(self, configuration: str) -> list[int]:
        """Folds of a configuration that have finished weights."""
        found = (self.path / configuration).glob("fold_*/weights.safetensors")
        numbers = [path.parent.name.removeprefix("fold_") for path in found]
        return sorted(int(number) for number in numbers if number.isdecimal())  # fold_0_copy is none

    def usual_configuration(self) -> str:
        """The recommended configuration; where it is not trained, the first trained one that segments as much."""
        plan = self.plan
        trained = [c for c in plan.configurations if self.trained_folds(c) and plan.result_of(c) == plan.target]
        return plan.recommended if plan.recommended in trained or not trained else trained[0]

    @property
    def how_to_validate(self) -> str:
        """What to do where nothing of the run is validated, for messages."""
        if any(split["validation"] for split in self.splits):
            return f"train it with 'autoseg train {self.path}'"
        return "it learns from all cases (--folds 1), so plan its dataset with --folds 2 or more and train that"

    def split(self, fold: int) -> Split:
        """The training and validation cases of a fold.

        Raises:
            UsageError: there is no such fold.
        """
        splits = self.splits
        if not 0 <= fold < len(splits):
            raise UsageError(
                f"--fold {fold} does not exist; {self.path / 'splits.json'} has folds 0 to {len(splits) - 1}."
            )
        return splits[fold]


def _load(model: type, path: Path):  # type: ignore[no-untyped-def]
    data = read_json(path)
    try:
        return model.model_validate(data)  # type: ignore[attr-defined]
    except ValidationError as error:
        raise AutosegError(f"{path} is damaged ({first_fault(error)}); plan the run again.") from None


def _read_splits(path: Path) -> list[Split]:
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


def refuse_dataset_folder(path: str | Path, dataset: Dataset) -> None:
    """Refuse to make a run folder of a folder that holds a dataset, whose ``dataset.json`` it would replace.

    Raises:
        UsageError: names ``--out``.
    """
    path = Path(path)
    root = dataset.root if dataset.root.is_dir() else dataset.root.parent
    if path.resolve() == root.resolve():
        raise UsageError(f"--out {path} is the dataset's own folder; choose another one for the run.")
    # The fingerprint is written first: with it, this is a run folder whose making was stopped.
    begun = any((path / name).exists() for name in ("plan.json", "fingerprint.json"))
    if (path / "dataset.json").exists() and not begun:
        raise UsageError(f"--out {path} holds a dataset.json of something else; choose another folder for the run.")


def make_splits(dataset: Dataset, folds: int = FOLDS, seed: int = 0) -> list[Split]:
    """Deal cases to folds at random, whole groups (patients) at a time, folds of about equal size.

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
    """The splits of the run folder where it has some for the same cases and patients; else new ones.

    Planning again thus leaves what was trained comparable with what will be.

    Args:
        path: of the run folder.
        dataset: whose cases are split.
        seed: of new splits.
        folds: number of new ones; stored ones of another number are given up. None for the usual number, or those
            stored.

    Raises:
        AutosegError: the stored ones (which users may edit) are damaged; or nothing could be validated.
    """
    stored = Path(path) / "splits.json"
    if stored.exists():
        splits = _read_splits(stored)
        groups = {case.id: case.group or case.id for case in dataset.cases}
        if folds is not None and folds != len(splits):
            return make_splits(dataset, folds, seed)
        if all(
            {*fold["train"], *fold["validation"]} == set(groups)
            and {groups[name] for name in fold["train"]}.isdisjoint(groups[name] for name in fold["validation"])
            for fold in splits
        ):
            return splits
        say(f"{stored} does not fit the dataset's cases and patients any more; new splits are made.")
    return make_splits(dataset, FOLDS if folds is None else folds, seed)
