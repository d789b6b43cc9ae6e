"""The hold-out test set: its cases, which no fold sees, predicted by the ensemble of the folds."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from autoseg.crossvalidation.fold_validation import CasesAsSourceSees, PreprocessedCases, evaluate_cases
from autoseg.evaluation.summary import Evaluation
from autoseg.plans.reasons import values_since
from autoseg.plans.stage import Stage
from autoseg.preprocessing.store import StoredCase
from autoseg.runs.run import Run
from autoseg.runs.trained_folds import folds_of_plan
from autoseg.utils.digest import digest, file_digest
from autoseg.utils.files import read_json, read_json_table, write_json

#: File in the folder of the test set's evaluation: fingerprints of the weights, and of all else that it depends on.
MADE_OF = "made_of.json"

#: Keys of inference that have always been in fingerprints of what was predicted.
_FIRST = (
    *("overlap", "gaussian_sigma", "mirror_axes", "tile_batch", "patch_size", "step", "edges"),
    *("precision", "checkpoint", "average", "manner"),
)


def score_test_cases(
    run: Run, stage: Stage, device: torch.device, folds: Sequence[int] | None = None
) -> Evaluation | None:
    """Predict the test cases with the average of a stage's folds and evaluate them.

    Nothing is post-processed, but for a source that is kept as it is, by the steps that belong to it.

    What was scored before is read, as long as weights, cases and plan are the same.

    Args:
        run: with the test cases preprocessed for the stage and those before it.
        stage: whose folds predict; each earlier stage averages its own.
        device: to compute on.
        folds: numbers; where None, all of the splits, and nothing is scored until all are trained.

    Returns:
        The evaluation, also written to ``<configuration>/test``; None without test cases or without these folds.

    Raises:
        AutosegError: a source is kept that sees images as they are, and a scan is missing.
    """
    wanted = _wanted(run, folds)
    last = [fold for fold in folds_of_plan(run, stage) if fold.number in wanted]
    if not run.test_cases or {fold.number for fold in last} != wanted or not all(fold.done.exists() for fold in last):
        return None
    weights = _predicting(run, stage, wanted)
    if not all(weights):
        return None
    out = run.test(stage)
    made_of = {"others": _made_of(run, stage), "weights": _weights(run, weights), **_kept(run, stage)}
    if (out / "summary.json").exists() and (out / MADE_OF).exists() and read_json(out / MADE_OF) == made_of:
        return Evaluation.read(out)
    (out / MADE_OF).unlink(missing_ok=True)
    # A source that is kept as it is may see other images than the plan's, and has outputs of its own.
    kind = PreprocessedCases if run.used(stage) == stage else CasesAsSourceSees
    cases = kind(run, stage, run.test_cases, f"Testing {stage.name}, {len(weights[-1])} fold(s) together")
    evaluation = evaluate_cases(cases, weights, out, device, run.kept_steps(stage))
    write_json(out / MADE_OF, made_of)
    return evaluation


def read_test(run: Run, stage: Stage, folds: Sequence[int] | None = None) -> Evaluation | None:
    """The evaluation of the test set, if there is one of what predicts now: of these weights, and of this test set.

    Args:
        run: with the evaluation.
        stage: whose folds predicted.
        folds: numbers; where None, all of the splits that are trained.
    """
    folder = run.test(stage)
    if not (folder / "summary.json").exists():
        return None
    noted = read_json_table(folder / MADE_OF)
    used = noted.get("weights", {})  # of an earlier version: not noted
    if used and not _predicts_now(run, stage, folds, noted):
        return None
    if any(not (run.path / name).exists() or file_digest(run.path / name) != content for name, content in used.items()):
        return None
    evaluation = Evaluation.read(folder)
    return evaluation if set(evaluation.cases) == set(run.test_cases) else None


def _predicts_now(run: Run, stage: Stage, folds: Sequence[int] | None, noted: Mapping[str, Any]) -> bool:
    """Whether an evaluation is by the files that predict now, and of a source that is kept in the same way."""
    files = _predicting(run, stage, _wanted(run, folds))
    if {_name(run, file) for of_stage in files for file in of_stage} != noted["weights"].keys():
        return False
    return all(noted.get(key, value) == value for key, value in _kept(run, stage).items())


def _wanted(run: Run, folds: Sequence[int] | None) -> set[int]:
    return set(range(len(run.splits)) if folds is None else folds)


def _predicting(run: Run, stage: Stage, wanted: Collection[int]) -> list[list[Path]]:
    """For each stage the weights of these of its folds; of the last one those of its source, where that is kept."""
    found = [[fold.weights for fold in folds_of_plan(run, one) if fold.number in wanted] for one in stage.chain]
    if kept := run.kept_source(stage):
        found[-1] = kept
    return found


def _kept(run: Run, stage: Stage) -> dict[str, Any]:
    """How a source is kept: the same weights may be given other images. Empty where none is."""
    return {"source": run.kept_share(stage)} if run.kept_source(stage) else {}


def inference_values(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """How stages are applied, for fingerprints of what they predict."""
    return [values_since(stage.inference, _FIRST) for stage in stages]


def _weights(run: Run, weights: Sequence[Sequence[Path]]) -> dict[str, str]:
    """File in the run folder → digest of what is in it."""
    return {_name(run, path): file_digest(path) for files in weights for path in files}


def _name(run: Run, path: Path) -> str:
    return path.relative_to(run.path).as_posix()


def _made_of(run: Run, stage: Stage) -> str:
    data = run.preprocessed(stage.configuration.data)
    steps = [step.model_dump() for step in run.kept_steps(stage)]
    return digest(
        {
            "stages": [run.used(one).identity for one in stage.chain],
            "inference": inference_values([run.used(one) for one in stage.chain]),
            "cases": [[case, StoredCase(data, case).content] for case in run.test_cases],
            "empty": stage.empty,
            **({"postprocessing": steps} if steps else {}),
            **({} if run.used(stage) == stage else stage.recipe.initialization.untouched_part),
        }
    )
