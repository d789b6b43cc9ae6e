"""The folds of a stage that are trained under plan and splits as they are now."""

from autoseg.plans.stage import Stage
from autoseg.runs.fold import Fold
from autoseg.runs.run import Run
from autoseg.runs.weight_files import is_of
from autoseg.utils.digest import digest
from autoseg.utils.files import read_json

#: Key of ``done.json``: a fingerprint of the cases that a fold was trained and validated on.
SPLIT = "split"


def folds_of_plan(run: Run, stage: Stage) -> list[Fold]:
    """Folds that are trained under the plan and the splits as they are now.

    Other folds were trained with another network, or on cases that are now held out.
    """
    count = len(run.splits)
    return [
        fold for fold in run.folds(stage) if fold.number < count and is_of(stage, fold.weights) and _is_of_split(fold)
    ]


def split_of(fold: Fold) -> str:
    """A fingerprint of a fold's training and validation cases."""
    return digest([sorted(fold.training_cases), sorted(fold.validation_cases)])


def _is_of_split(fold: Fold) -> bool:
    """Whether it was trained on its cases of now; True where that was not noted, or is not done."""
    now = split_of(fold)
    return not fold.done.exists() or bool(read_json(fold.done).get(SPLIT, now) == now)
