"""A source with more labels, regions or channels than the cohort: scored and kept as its own run predicts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autoseg.crossvalidation import source_share
from autoseg.crossvalidation.source_table import SourceTable
from autoseg.data.dataset import Case, Dataset, load_case
from autoseg.inference.predictor import Predictor
from autoseg.interop.nnunet.exporting import export_nnunet
from autoseg.networks.weights import load_weights, save_weights
from autoseg.planning.making import plan_dataset
from autoseg.planning.request import Request
from autoseg.plans.plan import Plan
from autoseg.plans.postprocessing import Step
from autoseg.plans.target import Output, Target
from autoseg.report.html import write_report
from autoseg.runs.run import SOURCE, UNTOUCHED, Run
from autoseg.runs.weight_files import read_metadata
from autoseg.transfer.as_it_is import why_not_scored
from autoseg.transfer.source import Source
from autoseg.transfer.teacher import TeacherModel
from autoseg.utils.errors import AutosegError
from tests.builders import REGIONS, blob, make_configuration, make_plan, make_recipe, make_run, picture_of, write
from tests.cli.test_plan_source import pretend_trained
from tests.crossvalidation.test_source_share import FAST, choosing, label_maps, run_folds
from tests.postprocessing.test_steps import choose

pytestmark = pytest.mark.usefixtures("one_core")

#: A rim that the cohort does not know, and its labels in other places and by other values.
MORE = Target(
    kind="labels",
    outputs=[
        Output(name="inner", values=[1], paint=1),
        Output(name="rim", values=[2], paint=2),
        Output(name="outer", values=[3], paint=3),
    ],
)

#: Value of that source → the cohort's.
COHORT_VALUES = {3: 1, 1: 2}

STEPS = (
    Step(kind="largest_component", output="rim"),
    Step(kind="minimum_size", output="outer", mm3=4),
)


def untrained(root: Path, plan: Plan) -> Run:
    run = pretend_trained(make_run(root, plan), folds=(0, 1))
    for number, case in enumerate(run.dataset.cases):
        write(case.channels["mr"].path, picture_of(blob(shift=number % 2), seed=number))
    return run


def model_of(root: Path, plan: Plan, rarer: float = 0.0) -> Run:
    """A run of two folds with random weights, each of whose heads is as often the highest as any other.

    Regions are the rarer, the more standard deviations their mean logit lies below 0.
    """
    run = untrained(root, plan)
    for fold in run.folds("small"):
        predictor = Predictor.load(run.path, folds=[fold.number], device="cpu")
        heads = [
            head.float() for head in predictor.ensemble.scores(predictor.ensemble.prepare(run.dataset.cases[0]))[0]
        ]
        mean, deviation = torch.stack([head.mean() for head in heads]), torch.stack([head.std() for head in heads])
        weights = load_weights(fold.weights)
        for name in [name for name in weights if name.startswith("decoder.seg_layers")]:
            bias = name.endswith("bias")
            shape = [-1, *[1] * (weights[name].ndim - 1)]
            shifted = weights[name] - mean - rarer * deviation if bias else weights[name]
            weights[name] = shifted / deviation.reshape(shape)
        save_weights(fold.weights, weights, read_metadata(fold.weights))
    return run


def tuned(model: Run, out: Path, *overrides: str, **changes: Any) -> Run:
    """A run that is planned for the model's own cases, of which the cohort knows an outer and an inner part."""
    asked: dict[str, Any] = {"folds": 2, "carried": (Source(model.path),), "overrides": (*FAST, *overrides)}
    cohort = changes.pop("cohort", model.dataset)
    request = Request(device="cuda", gpu_memory_gb=2, workers=1, **{**asked, **changes})
    return plan_dataset(cohort, out, request)


def predicted(run: Run, cases: Sequence[Case], out: Path, **how: Any) -> dict[str, np.ndarray]:
    results = how.pop("results", ())
    assert Predictor.load(run.path, device="cpu", **how).predict(cases, out, results).failed == {}
    return {name: image for name, image in label_maps(out).items() if "_probability_" not in name}


def translated(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Label maps of the model with the cohort's values, and 0 for what this does not know."""
    return {name: sum((image == own) * value for own, value in COHORT_VALUES.items()) for name, image in found.items()}


def same(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> bool:
    assert found.keys() == wanted.keys()
    assert any(image.any() for image in wanted.values())
    return all(np.array_equal(found[name], image) for name, image in wanted.items())


def nearly_same(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> bool:
    """But for voxels that are decided by a hair: preprocessed images are stored in 16 bits."""
    assert found.keys() == wanted.keys()
    return all(np.mean(found[name] == image) > 0.98 for name, image in wanted.items())


def test_more_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scored, kept and tested, they are the label maps of ``autoseg predict SOURCE`` without the labels beyond."""
    choosing(monkeypatch, UNTOUCHED)
    model = model_of(tmp_path / "model", make_plan(target=MORE))
    choose(model, *STEPS)
    run = tuned(model, tmp_path / "run", test_share=0.25)
    stage, cases = run.plan.stage(), run.dataset.cases
    start = stage.recipe.initialization
    assert (stage.heads, start.keep, len(start.ensemble)) == (3, "auto", 2)
    run_folds(run)
    own = predicted(model, cases, tmp_path / "own")
    assert all(set(np.unique(image)) == {0, 1, 2, 3} for image in own.values())
    wanted = translated(own)
    assert same(predicted(run, cases, tmp_path / "kept"), wanted)
    assert same(predicted(run, cases, tmp_path / "probable", results=("probabilities",)), wanted)
    names = {path.name.split("_probability_")[1] for path in (tmp_path / "probable").glob("*_probability_*")}
    assert names == {"outer.nii.gz", "inner.nii.gz"}
    # Its steps are a part of it, and are left out with all others.
    bare = translated(predicted(model, cases, tmp_path / "bare", postprocessing=False))
    assert not all(np.array_equal(bare[name], image) for name, image in wanted.items())
    assert same(predicted(run, cases, tmp_path / "uncleaned", postprocessing=False), bare)
    # A fold is the source's that stands for it; other checkpoints know none of this.
    one = translated(predicted(model, cases, tmp_path / "own_fold", folds=[1]))
    assert same(predicted(run, cases, tmp_path / "fold", folds=[1]), one)
    assert not all(np.array_equal(one[name], image) for name, image in wanted.items())
    assert Predictor.load(run.path, folds=[1], device="cpu").members[0].last.heads == 4
    scored = label_maps(run.test(stage))
    for fold in run.folds(stage):
        scored |= label_maps(fold.folder / "source_untouched")
        validated = label_maps(fold.validation)
        assert same(validated, label_maps(fold.folder / "source_untouched"))
        told = "its post-processing is a part of it: rim: largest component; outer: components ≥ 4 mm³"
        assert told in fold.log.read_text(encoding="utf-8")
    assert nearly_same(scored, wanted)
    table = SourceTable.read(run.path / stage.name / "crossval")
    assert table is not None
    assert [row.name for row in table.rows[:3]] == ["source as it is", "source, fitted to the cohort", "tuned"]
    assert table.note.startswith("Kept: the source as it is with its post-processing;")
    page = write_report(run).read_text(encoding="utf-8")
    assert page.count("the source as it is. Image") == page.count("tuned. Image") == 3
    assert "predicted by all folds of the source, which is kept, together, with its post-processing." in page
    assert "by the fold that did not see it in training, by the source, or by a mix of both, as other cases" in page
    # Arrays have the plan's channels, and several runs share the cohort's outputs.
    case = load_case(cases[0], ["mr"])
    label = Predictor.load(run.path, device="cpu").predict_case(case).label
    assert np.array_equal(label, next(image for name, image in wanted.items() if name.startswith(cases[0].id)))
    both = Predictor.load([run.path, run.path], device="cpu").predict_case(case, ("probabilities",))
    assert set(np.unique(both.label)) <= {0, 1, 2}
    assert list(both.probabilities) == ["outer", "inner"]


def test_a_single_patient(tmp_path: Path) -> None:
    """Nobody can be held out, and what predicts is the source as its own run does."""
    model = model_of(tmp_path / "model", make_plan(target=MORE))
    one = model.dataset.model_copy(update={"cases": model.dataset.cases[:1]})
    run = tuned(model, tmp_path / "run", cohort=one, folds=1)
    run_folds(run)
    cases = model.dataset.cases
    assert same(predicted(run, cases, tmp_path / "kept"), translated(predicted(model, cases, tmp_path / "own")))


def test_what_it_hands_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that keeps such a source is one itself, and a teacher; it can't become a model of nnU-Net."""
    choosing(monkeypatch, UNTOUCHED)
    model = model_of(tmp_path / "model", make_plan(target=MORE))
    choose(model, *STEPS)
    run = tuned(model, tmp_path / "run")
    run_folds(run)
    assert [output.name for output in TeacherModel.of(run.path).target.outputs] == ["inner", "rim", "outer"]
    with pytest.raises(AutosegError, match="keeps its source as it is, with channels or outputs"):
        export_nnunet(run.path, tmp_path / "nnunet")
    again = tuned(run, tmp_path / "again")
    starts = [one.plan.stage().recipe.initialization for one in (run, again)]
    assert sorted(starts[0].ensemble) == sorted(starts[1].ensemble)
    run_folds(again)
    wanted = translated(predicted(model, run.dataset.cases, tmp_path / "own"))
    assert same(predicted(again, run.dataset.cases, tmp_path / "kept"), wanted)


@pytest.mark.parametrize("wanted", ["whole", "inner"])
def test_more_regions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    """Also where another region decides: what it alone finds, and what goes with the larger one that is cleaned up."""
    choosing(monkeypatch, UNTOUCHED)
    model = model_of(tmp_path / "model", make_plan(target=REGIONS), rarer=0.7)
    choose(model, Step(kind="minimum_size", output="whole", mm3=20))
    cohort = model.dataset.model_copy(update={"regions": {"whole": (1, 2), "inner": (2,)}})
    run = tuned(model, tmp_path / "run", cohort=cohort, regions=(wanted,))
    assert (run.plan.stage().heads, run.plan.target.kind) == (1, "regions")
    run_folds(run)
    found = {}
    for name, one in (("own", model), ("kept", run)):
        masks = predicted(one, cohort.cases, tmp_path / name)
        found[name] = {case: np.isin(image, cohort.regions[wanted]) for case, image in masks.items()}
    assert same(found["kept"], found["own"])
    # Its head alone, which is the end of the line from the tuned weights, finds something else.
    choosing(monkeypatch, SOURCE)
    run_folds(run, resume=False)
    alone = predicted(run, cohort.cases, tmp_path / "alone")
    fitted = {case: np.isin(image, cohort.regions[wanted]) for case, image in alone.items()}
    assert not all(np.array_equal(fitted[case], mask) for case, mask in found["own"].items())


def of_two_channels(dropout: float) -> Plan:
    configuration = make_configuration(recipe=make_recipe(channel_dropout=dropout))
    return make_plan(configuration, channels=("t1", "mr"), target=MORE)


def renamed(dataset: Dataset) -> Dataset:
    """The same scans, called as the source calls what they are not."""
    cases = [case.model_copy(update={"channels": {"t1": case.channels["mr"]}}) for case in dataset.cases]
    return dataset.model_copy(update={"channels": ("t1",), "cases": tuple(cases)})


@pytest.mark.parametrize("other_names", [False, True])
def test_more_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other_names: bool) -> None:
    """A source that was trained to go without does so; a channel of its name in the cohort is not taken for it."""
    choosing(monkeypatch, UNTOUCHED)
    model = model_of(tmp_path / "model", of_two_channels(dropout=0.3))
    cohort, names = (renamed(model.dataset), {"t1": "mr"}) if other_names else (model.dataset, {})
    run = tuned(model, tmp_path / "run", cohort=cohort, carried=(Source(model.path, channels=names),))
    stage = run.plan.stage()
    assert (len(stage.channels), stage.recipe.initialization.keep) == (1, "auto")
    run_folds(run)
    wanted = translated(predicted(model, model.dataset.cases, tmp_path / "own"))
    assert same(predicted(run, cohort.cases, tmp_path / "kept"), wanted)
    scored: dict[str, np.ndarray] = {}
    for fold in run.folds(stage):
        scored |= label_maps(fold.folder / "source_untouched")
    assert nearly_same(scored, wanted)
    case = load_case(cohort.cases[0], list(cohort.channels))
    prediction = Predictor.load(run.path, device="cpu").predict_case(case)
    assert prediction.missing == []
    assert np.array_equal(prediction.label, next(i for n, i in wanted.items() if n.startswith(cohort.cases[0].id)))


def test_channels_that_it_can_not_go_without(tmp_path: Path) -> None:
    run = tuned(untrained(tmp_path / "model", of_two_channels(dropout=0.0)), tmp_path / "run")
    stage = run.plan.stage()
    assert (stage.recipe.initialization.ensemble, stage.recipe.initialization.keep) == ([], 0)
    assert why_not_scored(stage) == "it has t1, too, and is not known to do without"


@pytest.mark.parametrize("tuning_helps", [False, True])
def test_a_bad_tuning_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tuning_helps: bool) -> None:
    """By the scores of held-out cases, of which what the source's own run gives is the one to beat."""

    def scores(parts: dict[float, Any], _: Dataset) -> dict[float, dict[str, float]]:
        worth = {UNTOUCHED: 0.5, SOURCE: 0.4, 0.0: 0.6 if tuning_helps else 0.45}
        return {share: dict.fromkeys(of_case, worth.get(share, 0.3)) for share, of_case in parts.items()}

    monkeypatch.setattr(source_share, "of_patients", scores)
    model = model_of(tmp_path / "model", make_plan(target=MORE))
    run = tuned(model, tmp_path / "run")
    run_folds(run)
    stage = run.plan.stage()
    assert run.source_choice(stage)["share"] == (0.0 if tuning_helps else UNTOUCHED)
    (member,) = Predictor.load(run.path, device="cpu").members
    used = [path.relative_to(run.path / stage.name).parent.as_posix() for path in member.stages[0].weights]
    assert used == (["fold_0", "fold_1"] if tuning_helps else ["source/untouched"] * 2)
    log = run.fold(stage, 1).log.read_text(encoding="utf-8")
    assert ("the unchanged source is as good as any tuning" in log) != tuning_helps
    assert "the source as it is: mean Dice" in log
    assert "the source, fitted to the cohort: mean Dice" in log


def test_a_share_that_is_set(tmp_path: Path) -> None:
    """It is taken; the source as its own run predicts stands beside it."""
    model = model_of(tmp_path / "model", make_plan(target=MORE))
    run = tuned(model, tmp_path / "run", "recipe.initialization.keep=0.25")
    run_folds(run)
    table = SourceTable.read(run.path / run.plan.recommended / "crossval")
    assert table is not None
    assert [row.name for row in table.rows] == ["source as it is", "source, fitted to the cohort", "tuned"]
    assert run.kept_source(run.plan.stage()) == []


def test_a_choice_of_an_earlier_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which kept the source's plain network, as the run still has it: not one that is not there."""
    choosing(monkeypatch, UNTOUCHED)
    model = model_of(tmp_path / "model", make_plan(target=MORE))
    run = tuned(model, tmp_path / "run")
    run_folds(run)
    stage = run.plan.stage()
    assert len(run.kept_source(stage)) == 2
    path = run.path / stage.name / "source_share.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"has_network": true', '"has_network": false'), encoding="utf-8")
    assert run.kept_source(stage) == []
