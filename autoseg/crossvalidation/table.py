"""The cross-validated table: the merged evaluations of all validated folds."""

from autoseg.crossvalidation.fold_validation import no_evaluation
from autoseg.evaluation.summary import Evaluation
from autoseg.plans.stage import Stage
from autoseg.runs.run import Run
from autoseg.runs.trained_folds import folds_of_plan
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import read_json, write_json
from autoseg.utils.progress import say


def cross_validated(run: Run, stage: Stage) -> Evaluation:
    """Merge the evaluations of all validated folds into ``<configuration>/crossval``.

    Folds that were trained on all cases have no evaluation; the result then has no rows.

    Raises:
        AutosegError: no fold is validated yet.
    """
    trained, folds = run.folds(stage), folds_of_plan(run, stage)
    for fold in trained:
        if fold not in folds:
            say(
                f"Fold {fold.number} of {stage.name} was trained under another plan or split and is left out of the "
                "table."
            )
    on_all_cases = bool(folds) and not any(fold.validation_cases for fold in folds)
    validated = [fold for fold in folds if fold.validated]
    for fold in folds:
        if fold.validation_cases and fold not in validated:
            say(f"Fold {fold.number} of {stage.name} is trained, not validated, and left out of the table.")
    folds = validated
    # Folds that were measured before the plan's convention was changed are counted by the new one, too.
    parts = [Evaluation.read(fold.validation).counting_absent(stage.empty) for fold in folds]
    if not parts and trained and (on_all_cases or not any(split["validation"] for split in run.splits)):
        return no_evaluation(stage)
    if not parts:
        raise AutosegError(f"{run.path} has no validated fold of {stage.name} yet; train one first.")
    merged = Evaluation.merge(parts)
    out = run.path / stage.name / "crossval"
    merged.write(out)
    summary = read_json(out / "summary.json")
    write_json(out / "summary.json", {**summary, "folds": [fold.number for fold in folds]})
    return merged
