"""The folds of a cross-validation that are trained."""

from autoseg.networks.weights import is_of
from autoseg.plans.stage import Stage
from autoseg.runs.fold import Fold
from autoseg.runs.run import Run


def folds_of_plan(run: Run, stage: Stage) -> list[Fold]:
    """Folds that are trained under the plan as it is now."""
    return [fold for fold in run.folds(stage) if is_of(stage, fold.weights)]
