"""What all settings of a study have in common: the rules of their evaluation, and the splits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autoseg.data.dataset import Dataset
from autoseg.plans.evaluation import EvaluationRules
from autoseg.plans.plan import Plan
from autoseg.runs.splits import Split, keep_or_make_splits, make_splits, read_splits
from autoseg.study.grid import Grid
from autoseg.utils.errors import UsageError
from autoseg.utils.progress import say


def common_rules(source: Path, grid: Grid, plans: Mapping[str, Plan]) -> EvaluationRules:
    """What is held out, and how absent structures count: as the grid file says, or as all plans say.

    Raises:
        UsageError: what both say can't be together, as shares that leave nothing to train on.
    """
    found: dict[str, Any] = {}
    for name, own in (("test_share", grid.test_share), ("empty", grid.empty), ("validation_share", None)):
        values = {getattr(plan.evaluation, name) for plan in plans.values()}
        if own is not None:
            found[name] = own
        elif len(values) == 1:
            found[name] = values.pop()
        elif name != "validation_share":
            default = EvaluationRules.model_fields[name].default
            told = ", ".join(sorted(map(str, values)))
            say(
                f"The settings' plans differ in evaluation.{name} ({told}); {default} is taken, as {name} is not given."
            )
    if _several_folds(grid):
        found.pop("validation_share", None)
    try:
        return EvaluationRules(**found)
    except ValidationError as error:
        fault = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UsageError(f"{source}: {fault}; give smaller ones in the file or in the plans.") from None


def _several_folds(grid: Grid) -> bool:
    """Whether a file names folds of a cross-validation."""
    return grid.folds is not None and max(grid.folds) > 0


def study_splits(stored: Path | None, dataset: Dataset, grid: Grid, rules: EvaluationRules) -> list[Split]:
    """The splits of a study: the stored ones as long as they fit cases, test set and the folds that the file names.

    Args:
        stored: folder with them; None for new ones.
        dataset: whose cases are split.
        grid: the file's content.
        rules: of new ones.
    """
    made = make_splits(dataset, seed=grid.split_seed, rules=rules)
    if stored is None or not (stored / "splits.json").exists():
        return made
    before = read_splits(stored / "splits.json")
    if len(before) == 1 and _several_folds(grid):
        say(f"{stored / 'splits.json'} has one fold, and several are asked for; new splits are made.")
        return made
    # A cross-validation stays where the plans validate a share by now, and a share where they no longer do.
    without_share = rules.model_copy(update={"validation_share": 0.0})
    kept = keep_or_make_splits(stored, dataset, grid.split_seed, rules=without_share)
    return kept if kept == before else made


def with_rules(plan: Plan, rules: EvaluationRules) -> Plan:
    """The plan with a study's rules; itself where it has them."""
    changed = {name: value for name, value in rules if name != "reasons" and value != getattr(plan.evaluation, name)}
    if not changed:
        return plan
    reasons = {**plan.evaluation.reasons, **dict.fromkeys(changed, "the study's, the same for all settings")}
    return plan.model_copy(update={"evaluation": plan.evaluation.model_copy(update={**changed, "reasons": reasons})})
