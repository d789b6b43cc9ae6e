"""Halves of a cohort: where a fold learns from all cases, two tunings on a half each choose the source's share."""

from dataclasses import dataclass
from pathlib import Path

from autoseg.data.dataset import Dataset
from autoseg.plans.stage import Stage
from autoseg.runs.fold import Fold
from autoseg.runs.splits import make_splits


@dataclass(frozen=True)
class Half(Fold):
    """Training on one half of a cohort and validating on the other, where a fold learns from all cases.

    Attributes:
        half: 0 or 1.
    """

    half: int = 0

    def __str__(self) -> str:
        """``half 1 of fold 0 of 3d_fullres``."""
        return f"half {self.half} of {super().__str__()}"

    @property
    def folder(self) -> Path:
        """Inside the fold's."""
        return super().folder / f"half_{self.half}"

    @property
    def trained(self) -> bool:
        """Whether its tuning has ended; nothing predicts with it, so that it has no weights of its own."""
        return self.checkpoint("tuned").exists()

    @property
    def training_cases(self) -> list[str]:
        """Those of the other half."""
        return self._split["train"]

    @property
    def validation_cases(self) -> list[str]:
        """Of its own half."""
        return self._split["validation"]

    @property
    def _split(self) -> dict[str, list[str]]:
        return make_splits(_cohort(self), 2, seed=self.number)[self.half]


def halves(fold: Fold) -> list[Half]:
    """The two halves on which the share for a fold without validation cases is chosen; none for a single patient."""
    if not chooses(fold.stage) or fold.validation_cases or isinstance(fold, Half):
        return []
    if len({case.patient for case in _cohort(fold).cases}) < 2:
        return []
    return [Half(fold.run, fold.stage, fold.number, half) for half in (0, 1)]


def _cohort(fold: Fold) -> Dataset:
    """The cases that a fold learns from."""
    learned = set(fold.run.split(fold.number)["train"])
    dataset = fold.run.dataset
    return dataset.model_copy(update={"cases": tuple(case for case in dataset.cases if case.id in learned)})


def chooses(stage: Stage) -> bool:
    """Whether the share of the source's weights is chosen on held-out cases."""
    return stage.recipe.initialization.is_chosen
