"""The run folder: everything a later command needs, movable to a machine that never saw the data.

RUN/plan.json  fingerprint.json  splits.json  dataset.json
RUN/preprocessed/<data>/…          can be deleted and rebuilt
RUN/<configuration>/fold_<k>/      weights.safetensors  best.safetensors  training_state.pt
                                   history.csv  log.txt  validation/…
RUN/<configuration>/crossval/      metrics.csv  summary.json
RUN/report/index.html
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from autoseg.dataset import Dataset
from autoseg.errors import AutosegError, UsageError
from autoseg.files import read_json, write_json
from autoseg.fingerprint import Fingerprint
from autoseg.plan import Plan, load_plan, save_plan

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
        """Write a new run folder (or update the plan of one)."""
        path = Path(path)
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
        """One ``{"train": [...], "validation": [...]}`` of case names a fold."""
        splits: list[Split] = read_json(self.path / "splits.json")
        return splits

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
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise AutosegError(f"{path} is damaged ({where}: {first['msg']}); plan the run again.") from None


def make_splits(dataset: Dataset, folds: int = FOLDS, seed: int = 0) -> list[Split]:
    """Deal cases to folds at random, whole groups (patients) at a time, folds of about equal size.

    Fewer groups than ``folds`` give as many folds as there are groups.

    Raises:
        AutosegError: fewer than two groups: nothing could be validated.
    """
    groups: dict[str, list[str]] = {}
    for case in dataset.cases:
        groups.setdefault(case.group or case.id, []).append(case.id)
    if len(groups) < 2:
        raise AutosegError(
            f"{dataset.root} has {len(groups)} labelled patient(s); training with validation needs at least 2."
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


def keep_or_make_splits(path: str | Path, dataset: Dataset, seed: int = 0) -> list[Split]:
    """The splits of the run folder where it has some for the same cases; else new ones.

    Planning again thus leaves what was trained comparable with what will be.
    """
    stored = Path(path) / "splits.json"
    if stored.exists():
        splits: list[Split] = read_json(stored)
        cases = {case.id for case in dataset.cases}
        if splits and all({*fold["train"], *fold["validation"]} == cases for fold in splits):
            return splits
    return make_splits(dataset, seed=seed)
