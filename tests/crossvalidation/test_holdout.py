"""The hold-out test set: never seen by a fold, and scored by all of them together."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from autoseg.crossvalidation import holdout
from autoseg.crossvalidation.holdout import inference_values, read_test, score_test_cases
from autoseg.crossvalidation.jobs import train
from autoseg.evaluation.folders import evaluate
from autoseg.evaluation.summary import Evaluation
from autoseg.inference.predictor import Predictor
from autoseg.networks.weights import load_weights, save_weights
from autoseg.planning.making import plan_dataset
from autoseg.planning.request import Request
from autoseg.plans.evaluation import EvaluationRules
from autoseg.plans.files import save_plan
from autoseg.plans.inference import Inference
from autoseg.preprocessing.dataset import preprocess
from autoseg.report.html import write_report
from autoseg.runs.run import SOURCE, UNTOUCHED, Run
from autoseg.runs.splits import make_splits
from autoseg.runs.weight_files import read_metadata
from autoseg.utils.device import Compute
from autoseg.utils.errors import UsageError
from autoseg.utils.files import write_json
from tests.builders import (
    blob,
    keep_share,
    make_configuration,
    make_dataset,
    make_fingerprint,
    make_plan,
    make_tuned_plan,
    picture_of,
    write,
)
from tests.cli.test_plan_source import pretend_trained

pytestmark = pytest.mark.usefixtures("one_core")

CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    dataset = make_dataset(tmp_path / "data", 5)
    plan = make_plan(evaluation=EvaluationRules(test_share=0.2))
    splits = make_splits(dataset, 2, rules=plan.evaluation)
    return Run.create(tmp_path / "run", plan, make_fingerprint(dataset), dataset, splits)


def test_all_folds_are_scored_on_it_together(run: Run, tmp_path: Path) -> None:
    """As by hand: predict the scan with all folds, then evaluate the folder."""
    evaluation = train(run, folds=[0], compute=Compute("cpu"))
    (case,) = run.test_cases
    assert case not in evaluation.cases
    assert read_test(run, run.plan.stage()) is None
    evaluation = train(run, compute=Compute("cpu"))
    assert len(evaluation.cases) == 4
    assert case not in evaluation.cases
    found = read_test(run, run.plan.stage())
    assert found is not None
    assert found.cases == [case]
    predictor = Predictor.load(run.path, device="cpu")
    predictor.predict([run.dataset.case(case)], tmp_path / "results")
    label = run.dataset.case(case).label
    assert isinstance(label, Path)
    by_hand = evaluate(tmp_path / "results" / f"{case}.nii.gz", label, targets=run.plan.target.outputs)
    for target in found.targets:
        np.testing.assert_allclose(found.values("dice", target), by_hand.values("dice", target), rtol=1e-9)
    stored = sitk.GetArrayFromImage(sitk.ReadImage(str(run.path / "small" / "test" / f"{case}.nii.gz")))
    again = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "results" / f"{case}.nii.gz")))
    assert np.array_equal(stored, again)
    page = write_report(run).read_text()
    assert "Test set" in page
    assert "mean Dice, test set" in page
    assert "predicted by all folds together, without post-processing." in page
    assert "by the fold that did not see it in training. NSD" in page


def test_it_is_scored_once_and_again_for_other_weights(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = holdout.evaluate_cases
    monkeypatch.setattr(holdout, "evaluate_cases", lambda *a: calls.append(1) or real(*a))
    train(run, compute=Compute("cpu"))
    train(run, compute=Compute("cpu"))
    assert len(calls) == 1
    stage = run.plan.stage()
    assert score_test_cases(run, stage, CPU) is not None
    assert len(calls) == 1
    assert read_test(run, stage) is not None
    train(run, folds=[1], compute=Compute("cpu"), seed=1, resume=False)
    assert len(calls) == 2
    # Scores of other weights are not shown as theirs.
    assert read_test(run, stage) is not None
    weights = run.fold(stage, 0).weights
    save_weights(weights, {name: tensor + 1 for name, tensor in load_weights(weights).items()}, read_metadata(weights))
    assert read_test(run, stage) is None
    assert score_test_cases(run, stage, CPU) is not None
    assert len(calls) == 3
    assert score_test_cases(run, stage, CPU, folds=[0]) is not None
    assert len(calls) == 4


def test_scores_are_of_what_predicts_now(tmp_path: Path) -> None:
    """Not of a source that was kept and is no more, or is kept on other images; nor of fewer folds than there are."""
    dataset = make_dataset(tmp_path / "data", 5)
    plan = make_tuned_plan(evaluation=EvaluationRules(test_share=0.2))
    splits = make_splits(dataset, 2, rules=plan.evaluation)
    run = Run.create(tmp_path / "run", plan, make_fingerprint(dataset), dataset, splits)
    preprocess(pretend_trained(run, folds=(0, 1)), workers=1)
    stage = run.plan.stage()
    for fold in run.folds(stage):
        write_json(fold.done, {})
    shares = (UNTOUCHED, SOURCE, 0.0)
    for scored in shares:
        keep_share(run, scored)
        assert score_test_cases(run, stage, CPU) is not None
        for now in shares:
            keep_share(run, now)
            assert (read_test(run, stage) is not None) == (now == scored)
    assert score_test_cases(run, stage, CPU, folds=[0]) is not None
    assert read_test(run, stage) is None
    assert read_test(run, stage, [0]) is not None


def test_keys_that_inference_gets_leave_scores_valid() -> None:
    """At their defaults; what was noted of older keys stays as it is."""

    class Later(Inference):
        newer: int = 3

    def noted(inference: Inference) -> list[dict[str, Any]]:
        configuration = make_configuration().model_copy(update={"inference": inference})
        plan = make_plan().model_copy(update={"configurations": {"small": configuration}})
        return inference_values(plan.stage().chain)

    assert (
        noted(Later())
        == noted(Inference())
        == [
            {
                "overlap": 0.5,
                "gaussian_sigma": 0.125,
                "mirror_axes": [0, 1, 2],
                "tile_batch": 1,
                "patch_size": None,
                "step": None,
                "edges": "spread",
                "precision": None,
                "checkpoint": "weights",
                "average": "logits",
                "manner": "autoseg",
            }
        ]
    )
    assert noted(Later(newer=4))[0]["newer"] == 4


def test_planning_holds_out(tmp_path: Path) -> None:
    """The share is the user's, or the plan's, by --set, too; a test set of the dataset's own goes before it."""
    dataset = make_dataset(tmp_path / "data", 5)
    for number, case in enumerate(dataset.cases):  # no two scans alike
        write(case.channels["mr"].path, picture_of(blob(shift=number % 2), number))
    request = Request(planner="unet", device="cpu", gpu_memory_gb=1, workers=1, folds=2, test_share=0.4)
    planned = plan_dataset(dataset, tmp_path / "run", request)
    assert len(planned.test_cases) == 2
    assert planned.plan.evaluation.reasons["test_share"] == "the user's"
    assert "test" in json.loads((tmp_path / "run" / "splits.json").read_text())[0]
    override = Request(
        planner="unet", device="cpu", gpu_memory_gb=1, workers=1, folds=2, overrides=("evaluation.test_share=0.2",)
    )
    assert len(plan_dataset(dataset, tmp_path / "set", override).test_cases) == 1
    with pytest.raises(UsageError, match="--test-share 1 is no share"):
        Request(test_share=1).resolved()
    own = dataset.model_copy(update={"cases": dataset.cases[:4], "unlabelled": dataset.cases[4:]})
    with pytest.raises(UsageError, match="a test set of its own, with 1 labelled cases"):
        plan_dataset(own, tmp_path / "own", request)


def test_a_datasets_own_test_set(tmp_path: Path) -> None:
    """nnU-Net's imagesTs with labelsTs: trained on by no fold, and scored at the end."""
    from autoseg.data.dataset import Dataset

    root = tmp_path / "Dataset001_Blobs"
    for folder, names in (("Tr", ("a", "b")), ("Ts", ("t", "u"))):
        for number, name in enumerate(names):
            label = blob(shift=number)
            write(root / f"images{folder}" / f"{name}_0000.nii.gz", picture_of(label))
            if name != "u":
                write(root / f"labels{folder}" / f"{name}.nii.gz", label)
    description = {"channel_names": {"0": "mr"}, "labels": {"background": 0, "outer": 1, "inner": 2}}
    (root / "dataset.json").write_text(json.dumps({**description, "file_ending": ".nii.gz", "numTraining": 2}))
    dataset = Dataset.open(root)
    assert [case.id for case in dataset.cases] == ["a", "b"]
    assert [case.id for case in dataset.unlabelled] == ["t", "u"]
    run = Run.create(tmp_path / "run", make_plan(), make_fingerprint(dataset), dataset, make_splits(dataset, 2))
    train(run, compute=Compute("cpu"))
    found = read_test(run, run.plan.stage())
    assert found is not None
    assert found.cases == ["t"]


def test_absent_structures_count_in_every_table(run: Run) -> None:
    """By the plan's convention: in a fold's validation, the cross-validated table and the test's."""
    train(run, compute=Compute("cpu"))
    counted = run.plan.model_copy(update={"evaluation": EvaluationRules(test_share=0.2, empty="brats")})
    save_plan(counted, run.path / "plan.json")
    again = Run.open(run.path)
    evaluation = train(again, compute=Compute("cpu"))  # nothing is trained again
    assert evaluation.empty == "brats"
    test = read_test(again, again.plan.stage())
    assert test is not None
    assert test.empty == "brats"
    assert Evaluation.read(run.path / "small" / "fold_0" / "validation").empty == "skip"
    train(again, folds=[0], compute=Compute("cpu"), resume=False)
    assert Evaluation.read(run.path / "small" / "fold_0" / "validation").empty == "brats"
    assert "BraTS convention" in write_report(again).read_text()
