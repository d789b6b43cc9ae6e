"""Fine-tuning beside the source as it is: what is scored, chosen, written and predicted with."""

import math
import shutil
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import stats

from autoseg.crossvalidation import fold_training, source_share
from autoseg.crossvalidation.halves import Half, halves
from autoseg.crossvalidation.job import Job, Length
from autoseg.crossvalidation.jobs import train
from autoseg.crossvalidation.source_fingerprints import NEWER, without_newer
from autoseg.crossvalidation.source_share import settle
from autoseg.crossvalidation.source_table import SourceRow, SourceTable
from autoseg.data.dataset import ChannelFile, Dataset
from autoseg.evaluation.summary import Evaluation
from autoseg.inference.predictor import Predictor
from autoseg.interop.nnunet.exporting import export_nnunet
from autoseg.networks.weights import load_weights
from autoseg.planning.making import plan_dataset
from autoseg.planning.request import Request
from autoseg.plans.files import save_plan
from autoseg.plans.inference import Inference
from autoseg.plans.overrides import override
from autoseg.plans.postprocessing import Step
from autoseg.plans.reasons import without_reasons
from autoseg.plans.recipe import Initialization, Recipe
from autoseg.plans.target import Target
from autoseg.preprocessing.dataset import preprocess
from autoseg.report.html import write_report
from autoseg.runs.fold import Fold
from autoseg.runs.run import SOURCE, UNTOUCHED, Run
from autoseg.training import callbacks
from autoseg.training.training import Budget, training_identity
from autoseg.transfer import share_choice
from autoseg.transfer.as_it_is import why_not_scored
from autoseg.transfer.share_choice import TRIED_SHARES, ShareChoice
from autoseg.transfer.source import Source
from autoseg.transfer.source_start import START, start_file
from autoseg.transfer.teacher import TEACHER_FOLDER, Teacher, TeacherModel
from autoseg.utils.device import Compute
from autoseg.utils.digest import digest
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import read_json, write_json
from autoseg.utils.lock import waited_for
from tests.builders import (
    LABELS,
    REGIONS,
    blob,
    make_configuration,
    make_dataset,
    make_plan,
    make_recipe,
    make_run,
    picture_of,
    write,
)
from tests.cli.test_plan_source import invoke, pretend_trained
from tests.postprocessing.test_steps import choose

pytestmark = pytest.mark.usefixtures("one_core")

FAST = (
    "recipe.iterations_per_epoch=3",
    "recipe.validate_cases=1",
    "batch_size=2",
    "recipe.optimizer.learning_rate=0.02",
)


#: The outputs of the source, the wrong way round.
SWAPPED = {"outer": "inner", "inner": "outer"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two folds of a network that has learned a little."""
    root = tmp_path_factory.mktemp("source")
    run = make_run(root, make_plan())
    for number, case in enumerate(run.dataset.cases):
        write(case.channels["mr"].path, picture_of(blob(shift=number % 2), seed=number))
    train(run, None, [0, 1], Length(epochs=6), Compute("cpu", 0))
    return run


def tuned(
    source: Run, out: Path, *overrides: str, folds: int = 2, test_share: float | None = None, **of_source: Any
) -> Run:
    request = Request(
        device="cuda",
        gpu_memory_gb=2,
        overrides=(*FAST, *overrides),
        folds=folds,
        test_share=test_share,
        workers=1,
        carried=(Source(source.path, **of_source),),
    )
    return plan_dataset(source.dataset, out, request)


def run_folds(run: Run, folds: Sequence[int] | None = None, **more: Any) -> Evaluation:
    return train(run, None, folds, Length(epochs=2), Compute("cpu", 0), **more)


def choosing(monkeypatch: pytest.MonkeyPatch, share: float, best: float | None = None) -> None:
    """Whatever the scores are, this share is chosen, for all and for each, and is or is not the plain best."""
    chosen = ShareChoice(share, best or share, {0.0: 0.9, share: 1.0, SOURCE: 0.5}, 0.5, 0.1, 2)
    monkeypatch.setattr(source_share, "choose_share", lambda scores, cases: chosen)
    monkeypatch.setattr(
        source_share, "share_for_each", lambda _, groups, deciding: {case: share for group in groups for case in group}
    )


def label_maps(folder: Path) -> dict[str, np.ndarray]:
    return {p.name: sitk.GetArrayFromImage(sitk.ReadImage(str(p))) for p in sorted(folder.glob("*.nii.gz"))}


def test_the_source_is_scored_with_all_its_folds(source: Run, tmp_path: Path) -> None:
    """As ``autoseg predict SOURCE`` predicts, on cases that the tuning does not see; noted in log and table."""
    run = tuned(source, tmp_path / "run")
    stage = run.plan.stage()
    assert stage.recipe.initialization.keep == "auto"
    assert len(stage.recipe.initialization.ensemble) == 2
    evaluation = run_folds(run)
    predictor = Predictor.load(source.path, device="cpu")
    assert predictor.predict(run.dataset.cases, tmp_path / "as_it_is").failed == {}
    wanted = label_maps(tmp_path / "as_it_is")
    found = {}
    for fold in run.folds(stage):
        found |= label_maps(fold.folder / "source")
        assert "the source as it is: mean Dice" in fold.log.read_text(encoding="utf-8")
        for share in TRIED_SHARES:
            assert sorted(Evaluation.read(fold.folder / "shares" / f"{share:g}").cases) == fold.validation_cases
    assert wanted.keys() == found.keys()
    assert all(np.array_equal(wanted[name], found[name]) for name in wanted)
    table = SourceTable.read(run.path / stage.name / "crossval")
    assert table is not None
    assert [row.name for row in table.rows[:3]] == ["source as it is", "tuned", "chosen for each case by the others"]
    assert {row.cases for row in table.rows} == {4}
    assert table.rows[2].dice == pytest.approx(
        np.mean([evaluation.case_mean(case) for case in evaluation.cases]), abs=1e-4
    )
    assert table.rows[0].difference is None
    assert table.rows[1].difference == pytest.approx(table.rows[1].dice - table.rows[0].dice, abs=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.25, SOURCE])
def test_weights_follow_the_choice(source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    choosing(monkeypatch, share)
    run = tuned(source, tmp_path / "run")
    run_folds(run)
    stage = run.plan.stage()
    for fold in run.folds(stage):
        # All of the source is another fold of it for each fold; a share is of what the tuning began with.
        first = run.source_folder(stage) / f"{fold.number}.safetensors"
        start = load_weights(first if share == SOURCE else start_file(fold))
        own, weights = load_weights(fold.checkpoint("tuned")), load_weights(fold.weights)
        assert any(not torch.equal(own[name], start[name]) for name in own)
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, (1 - share) * own[name] + share * start[name])
        name = "source" if share == SOURCE else f"shares/{share:g}"
        there, here = label_maps(fold.folder / name), label_maps(fold.validation)
        assert there.keys() == here.keys()
        assert all(np.array_equal(there[case], here[case]) for case in here)
    # A run that keeps the source predicts with the source's folds, and any other with its own.
    (member,) = Predictor.load(run.path, device="cpu").members
    used = [path.relative_to(run.path / stage.name).parts[0] for path in member.stages[0].weights]
    assert used == (["source", "source"] if share == SOURCE else ["fold_0", "fold_1"])
    one = run.source_folder(stage) / "1.safetensors" if share == SOURCE else run.fold(stage, 1).weights
    assert Predictor.load(run.path, folds=[1], device="cpu").members[0].stages[0].weights == [one]


def test_another_fold_chooses_anew(source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first fold's weights and validation are made again when the second one is done; nothing is tuned twice."""
    choosing(monkeypatch, 0.0)
    run = tuned(source, tmp_path / "run")
    run_folds(run, [0])
    fold = run.fold(run.plan.stage(), 0)
    own = load_weights(fold.checkpoint("tuned"))
    assert all(torch.equal(own[name], tensor) for name, tensor in load_weights(fold.weights).items())
    choosing(monkeypatch, 0.5)
    history = fold.history.stat().st_mtime_ns
    run_folds(run)
    now = load_weights(fold.weights)
    assert any(not torch.equal(own[name], tensor) for name, tensor in now.items())
    assert fold.history.stat().st_mtime_ns == history
    for name in label_maps(fold.validation):
        assert np.array_equal(label_maps(fold.validation)[name], label_maps(fold.folder / "shares" / "0.5")[name])


def test_the_plain_best_stands_beside_the_kept_source(
    source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its own predictions' scores, and named as what the very cases chose; taken or tuned, it is no row more."""
    choosing(monkeypatch, SOURCE, best=0.5)
    run = tuned(source, tmp_path / "run")
    run_folds(run)
    stage = run.plan.stage()
    three = ["source as it is", "tuned", "chosen for each case by the others"]
    name = "best mix (50% source); optimistic: chosen on these same cases"
    table = SourceTable.read(run.path / stage.name / "crossval")
    assert table is not None
    assert [row.name for row in table.rows] == [*three, name]
    rows = [row for fold in run.folds(stage) for row in Evaluation.read(fold.folder / "shares" / "0.5").rows]
    assert table.rows[3].dice == pytest.approx(np.mean([row.values["dice"] for row in rows]), abs=1e-4)
    assert table.rows[3].difference == pytest.approx(table.rows[3].dice - table.rows[0].dice, abs=1e-4)
    assert name in write_report(run).read_text(encoding="utf-8")
    for share, best in ((SOURCE, 0.0), (SOURCE, SOURCE), (0.5, 0.5)):
        path = run.path / stage.name / "source_share.json"
        write_json(path, read_json(path) | {"share": share, "best": best})
        table = SourceTable.of(run, stage)
        assert table is not None
        assert [row.name for row in table.rows] == three


def test_the_source_is_as_its_run_predicts(source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its post-processing goes with it: where it is scored, kept, tested, and the source of another run."""
    steps = (Step(kind="minimum_total", output="inner", mm3=1e6), Step(kind="largest_component", output="outer"))
    shutil.copytree(source.path, tmp_path / "model")
    model = Run.open(tmp_path / "model")
    choose(model, *steps)
    choosing(monkeypatch, SOURCE)
    run = tuned(model, tmp_path / "run", test_share=0.25)
    stage = run.plan.stage()
    assert tuple(stage.recipe.initialization.postprocessing) == steps
    run_folds(run)
    for name, postprocessing in (("as_it_is", True), ("without", False)):
        predictor = Predictor.load(model.path, device="cpu", postprocessing=postprocessing)
        assert predictor.predict(run.dataset.cases, tmp_path / name).failed == {}
    wanted, without = label_maps(tmp_path / "as_it_is"), label_maps(tmp_path / "without")
    assert all(2 in without[name] and 2 not in wanted[name] for name in wanted)
    found = label_maps(run.test(stage))
    assert len(found) == 1
    for fold in run.folds(stage):
        found |= label_maps(fold.folder / "source")
        told = "its post-processing is a part of it: inner: total ≥ 1e+06 mm³; outer: largest component"
        assert told in fold.log.read_text(encoding="utf-8")
        # The tuned network has none.
        assert all(2 in image for image in label_maps(fold.folder / "shares" / "0").values())
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    table = SourceTable.of(run, stage)
    assert table is not None
    assert table.note.startswith("Kept: the source as it is with its post-processing;")
    assert Predictor.load(run.path, device="cpu").postprocessing == steps
    assert Predictor.load(run.path, device="cpu", checkpoint="best").postprocessing == ()
    again = tuned(run, tmp_path / "again", outputs=SWAPPED).plan.stage().recipe.initialization.postprocessing
    assert [step.output for step in again] == ["outer", "inner"]


def test_what_belongs_to_a_source_changes_no_training() -> None:
    """A run that is planned again by a version that knows it goes on, and its scores of tuned networks stay."""
    names = {"outputs": {"outer": "outer"}, "source_outputs": ["outer"]}
    start = Initialization(source="model", file="f", **names)
    of_model = {"postprocessing": [Step(kind="largest_component", output="outer")], "learned": {"a": "file"}}
    known = start.model_copy(update=of_model)
    stages = [make_plan(make_configuration(recipe=make_recipe(initialization=one))).stage() for one in (start, known)]
    assert training_identity(stages[0], [], 0) == training_identity(stages[1], [], 0)
    assert without_newer(stages[0].recipe) == without_newer(stages[1].recipe)


def test_cases_that_the_source_has_learned(source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have no say; log and table say how many they are. Here the source is better on that one case alone."""
    cohort = make_run(tmp_path / "cohort").dataset
    for number, case in enumerate(cohort.cases):
        write(case.channels["mr"].path, picture_of(blob(shift=number % 2), seed=60 + number))
    shutil.copyfile(source.dataset.cases[0].channels["mr"].path, cohort.cases[0].channels["mr"].path)
    request = Request(
        device="cuda", gpu_memory_gb=2, overrides=FAST, folds=2, workers=1, carried=(Source(source.path),)
    )
    run = plan_dataset(cohort, tmp_path / "run", request)

    def scores(parts: dict[float, Any], _: Dataset) -> dict[float, dict[str, float]]:
        return {
            share: {name: float(share == SOURCE) if name == "case_0" else 0.6 - 0.1 * share for name in of_case}
            for share, of_case in parts.items()
        }

    monkeypatch.setattr(source_share, "of_patients", scores)
    run_folds(run)
    stage = run.plan.stage()
    found = run.source_choice(stage)
    assert (found["share"], found["decided"], len(found["cases"])) == (0.0, 3, 4)
    table = SourceTable.of(run, stage)
    assert table is not None
    assert "The source was trained on 1 of these 4 cases, and its score" in table.note
    assert table.note.endswith("they are not used to choose the weights.")
    logs = [fold.log.read_text(encoding="utf-8") for fold in run.folds(stage)]
    assert sum("The source was trained on 1 of these 2 cases" in log for log in logs) == 1


def test_exams_of_a_patient_are_one_difference(tmp_path: Path) -> None:
    """Three patients of four exams each: Student's t of three means, computed by scipy, not a bootstrap of twelve."""
    dataset = make_dataset(tmp_path, 12)
    cases = [case.model_copy(update={"group": f"p{number % 3}"}) for number, case in enumerate(dataset.cases)]
    dataset = dataset.model_copy(update={"cases": tuple(cases)})
    source = {case.id: 0.5 for case in cases}
    gains = {case.id: 0.1 * (number % 3) + 0.01 * (number // 3) for number, case in enumerate(cases)}
    row = SourceRow.of("tuned", {case: 0.5 + gain for case, gain in gains.items()}, source, dataset)
    means = np.array([0.015, 0.115, 0.215])
    assert row.cases == 12
    assert row.difference == pytest.approx(means.mean())
    assert (row.low, row.high) == pytest.approx(tuple(stats.ttest_1samp(means, 0).confidence_interval(0.95)))
    # The source itself has no interval: its differences are 0 for sure, and not by measurement.
    same = SourceRow.of("chosen", source, source, dataset)
    assert (same.difference, same.low, same.high) == (0, None, None)
    # One exam without a score: the others of its patient count.
    row = SourceRow.of("tuned", {**source, cases[0].id: math.nan, cases[3].id: 0.8}, source, dataset)
    assert (row.cases, row.difference) == (11, pytest.approx((0.3 / 3) / 3))
    assert row.dice == pytest.approx((1.8 / 3 + 0.5 + 0.5) / 3)  # so that it is the source's and the difference


def test_two_cases_can_not_tell(source: Run, tmp_path: Path) -> None:
    """Log and table say why the source is kept: not that tuning was no better."""
    run = tuned(source, tmp_path / "run")
    run_folds(run, [0])
    fold = run.fold(run.plan.stage(), 0)
    assert len(fold.validation_cases) == 2
    told = "2 held-out patient(s) can't tell whether tuning helps, 3 can"
    assert told in fold.log.read_text(encoding="utf-8")
    table = SourceTable.of(run, run.plan.stage())
    assert table is not None
    assert table.note.startswith(f"Kept: the source as it is; {told}.")
    # The cohort is the source's own data here.
    assert table.note.endswith("fewer than 3 other patients are left to choose by, so that it can't be trusted.")


def test_a_mapping_that_is_corrected(source: Run, tmp_path: Path) -> None:
    """Planned again into the same folder and trained anew, nothing of the wrong mapping is left."""
    fresh, run = tuned(source, tmp_path / "fresh"), tuned(source, tmp_path / "run", outputs=SWAPPED)
    for one in (fresh, run):
        run_folds(one, [0])
    stage = run.plan.stage()
    kept = run.source_choice(stage)
    assert kept
    corrected = tuned(source, tmp_path / "run")
    # Until it is trained again, nothing of before counts as this plan's.
    assert corrected.source_choice(corrected.plan.stage()) == {}
    assert SourceTable.of(corrected, corrected.plan.stage()) is None
    run_folds(corrected, [0], resume=False)
    for number in range(2):
        wanted, found = (load_weights(one.source_folder(stage) / f"{number}.safetensors") for one in (fresh, corrected))
        assert all(torch.equal(wanted[name], tensor) for name, tensor in found.items())
    there, here = (label_maps(one.fold("small", 0).folder / "source") for one in (fresh, corrected))
    assert there.keys() == here.keys()
    assert all(np.array_equal(there[name], here[name]) for name in there)
    tables = [SourceTable.of(one, one.plan.stage()) for one in (fresh, corrected)]
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    ("target", "same", "others", "told"),
    [
        (LABELS, ["inner"], [], "it segments regions, and the dataset has labels, and it has no outer"),
        (LABELS, ["outer", "inner"], [], "it segments regions, and the dataset has labels"),
        (REGIONS, ["whole", "inner"], ["background"], "it segments labels, and the dataset has regions"),
        (LABELS, ["inner"], ["background"], "it has no outer"),
        (LABELS, ["outer", "inner"], ["background", "rim"], "it has rim, too"),
    ],
)
def test_why_a_source_can_not_be_scored(target: Target, same: list[str], others: list[str], told: str) -> None:
    """By names that cohort and source both have, and that the source alone has."""
    names = {"source_channels": ["mr"], "channels": {"mr": "mr"}, "source_outputs": [*same, *others]}
    start = Initialization(source="model", file="f", **names, outputs={name: name for name in same})
    configuration = make_configuration(recipe=make_recipe(initialization=start))
    assert why_not_scored(make_plan(configuration, target=target).stage()) == told


def test_without_validation_cases_a_source_that_can_not_be_scored(tmp_path: Path) -> None:
    """Log, terminal and report say so all the same, in a table without rows."""
    model = pretend_trained(make_run(tmp_path / "model", make_plan(target=REGIONS)), folds=(0, 1))
    for number, case in enumerate(model.dataset.cases):
        write(case.channels["mr"].path, picture_of(blob(shift=number % 2), seed=number))
    cases = []
    for number, case in enumerate(model.dataset.cases):
        flair = write(tmp_path / f"{number}.nii.gz", picture_of(blob(shift=number % 2), seed=50 + number))
        channels = {**case.channels, "flair": ChannelFile(path=flair)}
        cases.append(case.model_copy(update={"channels": channels}))
    more = {"channels": ("mr", "flair"), "cases": tuple(cases), "regions": {"whole": (1, 2), "inner": (2,)}}
    request = Request(device="cuda", gpu_memory_gb=2, overrides=FAST, folds=1, workers=1, carried=(Source(model.path),))
    run = plan_dataset(model.dataset.model_copy(update=more), tmp_path / "run", request)
    printed = invoke("train", run.path, "--epochs", 1, "--device", "cpu", "--workers", 0)
    assert printed.exit_code == 0, printed.output
    told = "can't be scored: it has no flair"
    assert f"The source as it is {told}.\n" in printed.output
    fold = run.fold(run.plan.stage(), 0)
    assert f"the source as it is {told}\n" in fold.log.read_text(encoding="utf-8")
    table = SourceTable.read(run.path / fold.stage.name / "crossval")
    assert table == SourceTable([], f"The source as it is {told}.")
    page = write_report(run).read_text(encoding="utf-8")
    assert "<h3>Fine-tuning</h3><p class='note'>The source as it is can&#x27;t be scored: it has no flair.</p>" in page


def killed_at(name: str, run: Run, folds: Sequence[int], epochs: int = 2) -> None:
    """Train folds up to a step after the tuning, and be killed there."""

    def killed(*arguments: Any) -> None:
        raise InterruptedError

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(f"autoseg.crossvalidation.fold_ending.{name}", killed)
        with pytest.raises(InterruptedError):
            train(run, None, folds, Length(epochs=epochs), Compute("cpu", 0))


def test_killed_while_choosing(source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing predicts with weights that were not compared with the source, and the same command goes on."""
    choosing(monkeypatch, 0.5)
    whole = tuned(source, tmp_path / "whole")
    run_folds(whole, [0])
    run = tuned(source, tmp_path / "run")
    fold = run.fold("small", 0)
    for name in ("score_shares", "settle"):
        killed_at(name, run, [0])
        assert fold.checkpoint("tuned").exists()
        told = (
            "no trained fold of small; its fine-tuned weights are not compared with the source yet: let 'autoseg train"
        )
        for use in (lambda: Predictor.load(run.path, device="cpu"), lambda: Source(run.path).model):
            with pytest.raises(UsageError, match=told):
                use()
    run_folds(run, [0])
    for name in ("weights", "tuned"):
        wanted, found = (load_weights(r.fold("small", 0).checkpoint(name)) for r in (whole, run))
        assert all(torch.equal(wanted[key], tensor) for key, tensor in found.items())
    # Tuned for longer, the choice of before counts until there is a new one.
    before, choice = fold.weights.read_bytes(), run.source_choice(fold.stage)
    killed_at("settle", run, [0], epochs=3)
    assert load_weights(fold.checkpoint("tuned")).keys() == found.keys()
    assert any(not torch.equal(found[key], tensor) for key, tensor in load_weights(fold.checkpoint("tuned")).items())
    assert (fold.weights.read_bytes(), run.source_choice(fold.stage)) == (before, choice)
    assert Predictor.load(run.path, device="cpu").members[0].stages[0].weights == [fold.weights]
    train(run, None, [0], Length(epochs=3), Compute("cpu", 0))
    assert fold.weights.read_bytes() != before


def test_a_fold_that_is_scored_has_a_say(source: Run, tmp_path: Path) -> None:
    """Also where it was killed before it made its choice, or makes it right now: the next fold chooses for both."""
    run = tuned(source, tmp_path / "run")
    killed_at("settle", run, [0])
    assert not run.fold("small", 0).trained
    run_folds(run, [1])
    stage = run.plan.stage()
    assert sorted(run.source_choice(stage)["cases"]) == sorted(case.id for case in run.dataset.cases)
    assert all(run.fold(stage, number).trained for number in (0, 1))


def test_a_plan_that_looks_at_the_judges_is_not_trained(source: Run, tmp_path: Path) -> None:
    """Written into plan.json, or of an earlier version, whose folds still predict."""
    run = pretend_trained(tuned(source, tmp_path / "run"))
    told = "held-out cases choose how much of the source is kept .*; set recipe.early_stopping=0, or keep to a number"
    save_plan(override(run.plan, ["recipe.early_stopping=3"]), run.path / "plan.json")
    run = Run.open(run.path)
    for more in ({}, {"resume": False}):
        with pytest.raises(AutosegError, match=f"plan.json: {told}"):
            run_folds(run, [0], **more)
    assert Predictor.load(run.path, device="cpu").members[0].stages[0].folds == [0]


def test_all_cases_are_tuned_on_after_two_halves(source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tuned(source, tmp_path / "run", folds=1)
    choosing(monkeypatch, 0.75)
    assert run_folds(run).cases == []
    fold = run.fold(run.plan.stage(), 0)
    found = halves(fold)
    cases = [sorted(half.validation_cases) for half in found]
    assert sorted([*cases[0], *cases[1]]) == sorted(fold.training_cases)
    for half in found:
        assert not set(read_json(half.folder / START)["cases"]) & set(half.validation_cases)
        assert not set(half.training_cases) & set(half.validation_cases)
        assert half.checkpoint("tuned").exists()
        assert not half.weights.exists()
    own, start = load_weights(fold.checkpoint("tuned")), load_weights(start_file(fold))
    for name, tensor in load_weights(fold.weights).items():
        torch.testing.assert_close(tensor, 0.25 * own[name] + 0.75 * start[name])
    table = SourceTable.read(run.path / fold.stage.name / "crossval")
    assert table is not None
    assert {row.cases for row in table.rows} == {4}


def test_half_of_the_time_is_for_the_halves(source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter for each, half for all cases; and the same command has nothing more to do."""
    lengths: dict[str, float] = {}
    real = fold_training.train_fold

    def timed(fold: Any, cases: Any, budget: Any, settings: Any, hooks: Any) -> Any:
        assert str(fold) not in lengths
        lengths[str(fold)] = budget.seconds
        return real(fold, cases, Budget(iterations=2), settings, hooks)

    monkeypatch.setattr(fold_training, "train_fold", timed)
    monkeypatch.setattr(fold_training, "prediction_seconds", lambda *_: 0.0)
    run = tuned(source, tmp_path / "run", folds=1)
    for _ in range(2):
        train(run, None, None, Length(seconds=4000), Compute("cpu", 0))
    assert lengths == {
        "half 0 of fold 0 of small": pytest.approx(1000, abs=60),
        "half 1 of fold 0 of small": pytest.approx(1000, abs=60),
        "fold 0 of small": pytest.approx(2000, abs=60),
    }


def test_time_for_what_is_not_tuning(source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 s 35 may score the source (two folds of 17 s do, of 18 s do not) and 10 may compare its folds."""
    run = tuned(source, tmp_path / "run")
    fold = run.fold(run.plan.stage(), 0)
    timed = Job(fold, Length(seconds=100))
    assert [fold_training._scored_folds(timed, seconds) for seconds in (17, 18, 500)] == [2, 1, 1]
    assert fold_training._scored_folds(Job(fold, Length(epochs=1)), 500) == 2
    # Three candidates on one case, without mirroring: 9 s are there, 12 s are not.
    cases: list[Any] = ["first", "second"]
    device = torch.device("cpu")
    for seconds, wanted in ((3.0, 1), (4.0, 0)):
        monkeypatch.setattr(fold_training, "prediction_seconds", lambda *_, seconds=seconds: seconds)
        assert fold_training._compared_cases(timed, cases, device) == wanted
    # Whatever was scored before, a quarter is left to tune in.
    budget, _ = fold_training._budget(timed, 10, 30, fold_training.time.monotonic() - 90)
    assert budget.seconds == 25


def test_too_little_time_to_score_all_folds(source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One fold of the source stands for it, and no tuning is taken; with more time it is scored anew with all.

    By the scores the tuned weights are the best for each patient, and two may decide.
    """
    monkeypatch.setattr(share_choice, "FEWEST", 2)
    monkeypatch.setattr(
        source_share,
        "of_patients",
        lambda parts, _: {share: dict.fromkeys(of_case, 1 - share) for share, of_case in parts.items()},
    )
    real = fold_training.train_fold

    def brief(fold: Any, cases: Any, budget: Any, settings: Any, hooks: Any) -> Any:
        return real(fold, cases, Budget(iterations=2), settings, hooks)

    monkeypatch.setattr(fold_training, "train_fold", brief)
    monkeypatch.setattr(fold_training, "prediction_seconds", lambda *_: 700.0)
    run = tuned(source, tmp_path / "run")
    stage, more = run.plan.stage(), {"configuration": None, "folds": [0], "compute": Compute("cpu", 0)}
    train(run, length=Length(seconds=2000), **more)
    fold = run.fold(stage, 0)
    log = fold.log.read_text(encoding="utf-8")
    assert "the source as it is (1 of its 2 folds, for lack of time): mean Dice" in log
    assert "no tuning will be taken in this time" in log
    assert "the time was too short to score all 2 folds of the source, so the unchanged source is kept; give a" in log
    assert "the tuning starts from the source's first fold: there is no time to compare them" in log
    assert len(run.kept_source(stage)) == 2
    as_it_is, validated = label_maps(fold.folder / "source"), label_maps(fold.validation)
    assert as_it_is.keys() == validated.keys()
    assert all(np.array_equal(image, validated[name]) for name, image in as_it_is.items())
    table = SourceTable.read(run.path / stage.name / "crossval")
    assert table is not None
    assert table.note.startswith("Kept: the source as it is; no tuning is taken where time is too short to score all")
    assert "Time was too short to score all of the source's 2 folds: 1 of them stand for it." in table.note
    assert "time is too short for more than 1 of 4 shares of the source's weights" in log
    assert "for all shares of the source's weights: 0% was compared with all of it." in table.note
    train(run, length=Length(seconds=12000), **more)
    table = SourceTable.read(run.path / stage.name / "crossval")
    assert table is not None
    assert "too short" not in table.note
    assert run.source_choice(stage)["share"] == 0
    assert run.kept_source(stage) == []


def test_a_run_that_moved_away_from_its_dataset(source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels come from the preprocessed cases then; it is prolonged, and started over."""
    choosing(monkeypatch, 0.5)
    shutil.copytree(source.dataset.root, tmp_path / "data")
    moved = Dataset.model_validate_json(
        source.dataset.model_dump_json().replace(str(source.dataset.root), str(tmp_path / "data"))
    )
    request = Request(
        device="cuda", gpu_memory_gb=2, overrides=FAST, folds=2, workers=1, carried=(Source(source.path),)
    )
    run = plan_dataset(moved, tmp_path / "run", request)
    preprocess(run, workers=1)
    shutil.rmtree(tmp_path / "data")
    for more in ({}, {"resume": False}):
        assert len(run_folds(run, [0], **more).cases) == 2
        assert len(label_maps(run.fold("small", 0).validation / "references")) == 2


def test_a_fold_of_another_recipe_has_no_say(source: Run, tmp_path: Path) -> None:
    run = tuned(source, tmp_path / "run")
    run_folds(run)
    again = tuned(source, tmp_path / "run", "recipe.optimizer.learning_rate=0.01")
    other = load_weights(again.fold("small", 1).weights)
    train(again, None, [0], Length(epochs=2), Compute("cpu", 0), resume=False)
    assert source_share._known(again.fold("small", 0)) != []
    assert source_share._known(again.fold("small", 1)) == []
    now = load_weights(again.fold("small", 1).weights)
    assert all(torch.equal(other[name], tensor) for name, tensor in now.items())


def test_a_run_that_kept_its_source_as_a_source(source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it predicts with is what the next one is compared with: the first source's folds."""
    choosing(monkeypatch, SOURCE)
    first = tuned(source, tmp_path / "first")
    run_folds(first)
    request = Request(device="cuda", gpu_memory_gb=2, overrides=FAST, folds=2, workers=1, carried=(Source(first.path),))
    second = plan_dataset(source.dataset, tmp_path / "second", request)
    names = [first.plan.stage().recipe.initialization.ensemble, second.plan.stage().recipe.initialization.ensemble]
    assert sorted(names[0]) == sorted(names[1])


def test_what_a_run_that_kept_its_source_hands_on(source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a student, and to nnU-Net: all folds of the source, and not one for each fold that was tuned."""
    choosing(monkeypatch, SOURCE)
    run = tuned(source, tmp_path / "run")
    run_folds(run, [0])
    stage, names = run.plan.stage(), ["0.safetensors", "1.safetensors"]
    teacher = TeacherModel.of(run.path)
    assert [Path(name).name for name in teacher.weights] == ["weights.safetensors", *names, "source_share.json"]
    assert teacher.unseen(["case_0"]) == ()  # the source was trained on it
    assert teacher.unseen(["another"]) == (0, 1)
    asked = Teacher(run.path)
    asked.install(run.plan, tmp_path / "student")
    copy = TeacherModel.of(tmp_path / "student" / TEACHER_FOLDER / asked.content)
    assert copy.content == asked.content
    predictor = Predictor.load(copy.run.path, stage.name, copy.asked(copy.folds), "cpu")
    assert [path.name for path in predictor.members[0].stages[0].weights] == names
    monkeypatch.setattr("autoseg.interop.nnunet.exporting._refuse", lambda plan, stage, run: stage.network)
    model = export_nnunet(run.path, tmp_path / "model")
    assert sorted(path.parent.name for path in model.glob("fold_*/*")) == ["fold_0", "fold_1"]
    one = export_nnunet(run.path, tmp_path / "one", folds=[0])
    assert [path.parent.name for path in one.glob("fold_*/checkpoint_final.pth")] == ["fold_0"]


def test_a_single_patient(source: Run, tmp_path: Path) -> None:
    dataset = source.dataset.model_copy(update={"cases": source.dataset.cases[:1]})
    request = Request(
        device="cuda", gpu_memory_gb=2, overrides=FAST, folds=1, workers=1, carried=(Source(source.path),)
    )
    run = plan_dataset(dataset, tmp_path / "run", request)
    run_folds(run)
    stage = run.plan.stage()
    fold = run.fold(stage, 0)
    assert "a single patient can't be held out" in fold.log.read_text(encoding="utf-8")
    assert fold.checkpoint("tuned").exists()
    kept = run.kept_source(stage)
    assert [path.name for path in kept] == ["0.safetensors", "1.safetensors"]
    first = load_weights(kept[0])
    for name, tensor in load_weights(fold.weights).items():
        torch.testing.assert_close(tensor, first[name], rtol=0, atol=0)
    assert Predictor.load(run.path, device="cpu").members[0].stages[0].weights == kept
    table = SourceTable.read(run.path / stage.name / "crossval")
    assert table is not None
    assert (table.rows, table.note[:31]) == ([], "Kept: the source as it is; 0 he")


def test_killed_between_weights_and_choice(source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the source is kept with all of its folds, or nothing has been chosen yet."""

    def killed(*_: Any) -> None:
        raise InterruptedError

    for share, last in ((SOURCE, "write_blended"), (0.5, "_write_choice")):
        run = tuned(source, tmp_path / f"{share}")
        with pytest.MonkeyPatch.context() as patched:
            choosing(patched, share)
            patched.setattr(source_share, last, killed if last == "_write_choice" else _only_shares(killed))
            with pytest.raises(InterruptedError):
                run_folds(run, [0])
        stage = run.plan.stage()
        assert run.source_choice(stage).get("share") == (SOURCE if share == SOURCE else None)
        assert len(run.kept_source(stage)) == (2 if share == SOURCE else 0)


def _only_shares(then: Any) -> Any:
    """Blends of the shares that are tried; the weights that a fold predicts with are another matter."""
    real = source_share.write_blended

    def write(fold: Any, share: float, path: Path) -> None:
        then() if path == fold.weights else real(fold, share, path)

    return write


def test_planned_again_with_another_way_to_predict(source: Run, tmp_path: Path) -> None:
    """Nothing is trained again, and all folds choose anew, by scores of the plan as it is."""
    run = tuned(source, tmp_path / "run")
    run_folds(run)
    folds = [run.fold("small", number) for number in (0, 1)]
    before = [read_json(fold.folder / "source" / "scored.json")["made_of"] for fold in folds]
    trained = [fold.checkpoint("tuned").read_bytes() for fold in folds]
    save_plan(override(run.plan, ["inference.overlap=0.5"]), run.path / "plan.json")
    run = Run.open(run.path)
    run_folds(run)
    folds = [run.fold("small", number) for number in (0, 1)]
    after = [read_json(fold.folder / "source" / "scored.json")["made_of"] for fold in folds]
    assert all(first != second for first, second in zip(before, after, strict=True))
    assert [fold.checkpoint("tuned").read_bytes() for fold in folds] == trained
    assert len(run.source_choice(run.plan.stage())["cases"]) == 4
    assert "made anew" in folds[0].log.read_text(encoding="utf-8")


def test_halves_that_were_scored_as_planned_before(
    source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after them, planned again, and resumed: they are scored anew, and still choose."""
    run, real = tuned(source, tmp_path / "run", folds=1), fold_training.train_fold

    def killed(fold: Fold, *rest: Any) -> Any:
        if isinstance(fold, Half):
            return real(fold, *rest)
        raise InterruptedError

    with monkeypatch.context() as patched:
        patched.setattr(fold_training, "train_fold", killed)
        with pytest.raises(InterruptedError):
            run_folds(run)
    save_plan(override(run.plan, ["inference.overlap=0.5"]), run.path / "plan.json")
    run = Run.open(run.path)
    run_folds(run, [0], resume=True)
    fold = run.fold("small", 0)
    assert "a single patient" not in fold.log.read_text(encoding="utf-8")
    assert len(run.source_choice(fold.stage)["cases"]) == 4


def test_cases_that_the_others_leave_with_the_source(
    source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table says that its row is not of the weights that are taken."""
    choosing(monkeypatch, 0.5)
    monkeypatch.setattr(
        source_share, "share_for_each", lambda _, groups, deciding: {case: SOURCE for group in groups for case in group}
    )
    run = tuned(source, tmp_path / "run")
    run_folds(run)
    table = SourceTable.read(run.path / "small" / "crossval")
    assert table is not None
    assert "as all of these cases chose. 4 of them are scored with the source" in table.note


def test_choices_at_the_same_time_follow_each_other(
    source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that ends a fold waits for another one's choice, whose folds it would else not count."""
    run = tuned(source, tmp_path / "run")
    run_folds(run)
    stage = run.plan.stage()
    chosen, real = threading.Event(), source_share._settle

    def settled(fold: Fold) -> Any:
        chosen.set()
        return real(fold)

    monkeypatch.setattr(source_share, "_settle", settled)
    choosing_too = threading.Thread(target=settle, args=(run.fold(stage, 1),))
    with waited_for(run.path / stage.name):
        choosing_too.start()
        assert not chosen.wait(timeout=0.2)
    choosing_too.join()
    assert chosen.is_set()


def test_a_share_that_is_set_is_taken(source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoseg.training.source_average.TOLERANCE", 10.0)
    run = tuned(source, tmp_path / "run", "recipe.initialization.keep=0.25")
    run_folds(run)
    stage = run.plan.stage()
    assert not run.fold(stage, 0).checkpoint("tuned").exists()
    assert "75% trained and 25% the source's" in run.fold(stage, 0).log.read_text(encoding="utf-8")
    table = SourceTable.read(run.path / stage.name / "crossval")
    assert table is not None
    assert [row.name for row in table.rows] == ["source as it is", "tuned"]
    assert table.rows[1].difference is not None
    assert ("the source as it is did better" in table.note) == (table.rows[1].difference < 0)
    assert run.kept_source(stage) == []
    alone = tuned(source, tmp_path / "alone", "recipe.initialization.keep=0.25", folds=1)
    run_folds(alone)
    table = SourceTable.read(alone.path / stage.name / "crossval")
    assert table == SourceTable(
        [], "No case is held out, so that the source as it is can't be compared with what was tuned."
    )


def test_started_over(source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tuning goes, the source's score stays: nothing of it has changed."""
    choosing(monkeypatch, 0.5)
    run = tuned(source, tmp_path / "run")
    run_folds(run, [0])
    fold = run.fold(run.plan.stage(), 0)
    scored = (fold.folder / "source" / "scored.json").stat().st_mtime_ns
    shutil.rmtree(fold.validation)
    monkeypatch.setattr(callbacks, "SAVE_INTERVAL", 1e9)
    run_folds(run, [0], resume=False)
    assert (fold.folder / "source" / "scored.json").stat().st_mtime_ns == scored
    assert (fold.validation / "summary.json").exists()
    # A label that was corrected since is another matter.
    case = run.dataset.case(fold.validation_cases[0])
    assert case.label is not None
    kept = case.label.read_bytes()
    write(case.label, np.zeros_like(blob()) + (blob() > 1))
    try:
        run_folds(run, [0], resume=False)
    finally:
        case.label.write_bytes(kept)
    assert (fold.folder / "source" / "scored.json").stat().st_mtime_ns != scored


def test_a_command_that_is_refused_leaves_the_scores(source: Run, tmp_path: Path) -> None:
    """Another seed can't go on from a training; given as before, there is nothing to do, and the choice stands."""
    run = tuned(source, tmp_path / "run")
    run_folds(run)
    fold = run.fold(run.plan.stage(), 0)
    before = SourceTable.of(run, run.plan.stage())
    with pytest.raises(AutosegError, match="seed"):
        train(run, None, [0], Length(epochs=3), Compute("cpu", 0), seed=1)
    assert fold.checkpoint("tuned").exists()
    assert (fold.folder / "shares" / "scored.json").exists()
    history = fold.history.stat().st_mtime_ns
    run_folds(run)
    assert fold.history.stat().st_mtime_ns == history
    assert SourceTable.of(run, run.plan.stage()) == before


def test_fewer_folds_than_before(source: Run, tmp_path: Path) -> None:
    """What is left of a fold that the splits no longer have is left out."""
    run = tuned(source, tmp_path / "run", folds=4)
    run_folds(run)
    run = tuned(source, tmp_path / "run", folds=2)
    evaluation = run_folds(run, resume=False)
    assert len(run.splits) == 2
    assert (run.path / run.plan.recommended / "fold_3").exists()
    assert sorted(evaluation.cases) == sorted(case.id for case in run.dataset.cases)
    table = SourceTable.of(run, run.plan.stage())
    assert table is not None
    assert {row.cases for row in table.rows} == {4}


def test_what_was_chosen_of_another_source(source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planned again with another, a run neither predicts with the source it kept before nor shows its scores."""
    choosing(monkeypatch, SOURCE)
    run = tuned(source, tmp_path / "run")
    run_folds(run)
    assert len(run.kept_source(run.plan.stage())) == 2
    other = make_run(tmp_path / "other", make_plan())
    train(other, None, [0, 1], Length(epochs=1), Compute("cpu", 0), seed=5)
    request = Request(device="cuda", gpu_memory_gb=2, overrides=FAST, folds=2, workers=1, carried=(Source(other.path),))
    run = plan_dataset(source.dataset, tmp_path / "run", request)
    stage = run.plan.stage()
    assert run.kept_source(stage) == []
    assert SourceTable.of(run, stage) is None
    run_folds(run, [0], resume=False)
    table = SourceTable.of(run, stage)
    assert table is not None
    assert [row.cases for row in table.rows] == [2, 2, 2]


def test_exams_of_one_patient_do_not_choose_for_each_other(source: Run, tmp_path: Path) -> None:
    """Four exams of two patients are two that can't tell, and a fold's exams are one patient's."""
    cases = [
        case.model_copy(update={"group": f"patient {number % 2}"}) for number, case in enumerate(source.dataset.cases)
    ]
    dataset = source.dataset.model_copy(update={"cases": tuple(cases)})
    request = Request(
        device="cuda", gpu_memory_gb=2, overrides=FAST, folds=2, workers=1, carried=(Source(source.path),)
    )
    run = plan_dataset(dataset, tmp_path / "run", request)
    run_folds(run)
    stage = run.plan.stage()
    for fold in run.folds(stage):
        assert len({run.dataset.case(name).group for name in fold.validation_cases}) == 1
    assert "2 held-out patient(s) can't tell" in run.fold(stage, 1).log.read_text(encoding="utf-8")
    table = SourceTable.of(run, stage)
    assert table is not None
    assert table.note.startswith("Kept: the source as it is; 2 held-out patient(s)")
    assert table.rows[0].cases == 4


def test_in_the_report(source: Run, tmp_path: Path) -> None:
    """The table, and the same cases by the source, the tuned network and what was chosen."""
    run = tuned(source, tmp_path / "run")
    run_folds(run)
    page = write_report(run).read_text(encoding="utf-8")
    assert "to the source (95 % interval)" in page
    assert page.count("<div class='beside'>") == 3
    assert page.count("the source as it is. Image") == page.count("tuned. Image") == 3


def test_a_fold_of_the_source_is_gone(source: Run, tmp_path: Path) -> None:
    run = tuned(source, tmp_path / "run")
    name = run.plan.stage().recipe.initialization.ensemble[1]
    (run.path / name).unlink()
    with pytest.raises(AutosegError, match=f"{name}, a fold of the source, is gone; plan again with --source"):
        run_folds(run, [0])


def harmonized(source: Run, root: Path) -> tuple[Run, Request]:
    """A planned run on a cohort with other intensities, harmonized to the source's, and what was asked for."""
    cohort = make_run(root / "cohort", make_plan()).dataset
    for number, case in enumerate(cohort.cases):
        image = picture_of(blob(shift=number % 2), seed=10 + number)
        write(case.channels["mr"].path, 40 + 0.3 * (image - image.min()) ** 2)
    request = Request(
        device="cuda",
        gpu_memory_gb=2,
        overrides=FAST,
        folds=2,
        workers=1,
        carried=(Source(source.path, harmonize=True),),
    )
    return plan_dataset(cohort, root / "run", request), request


def test_harmonized_and_as_it_is(source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With harmonized images the source is scored both ways, and the one without is what its own run predicts."""
    run, request = harmonized(source, tmp_path)
    cohort, stage = run.dataset, run.plan.stage()
    choosing(monkeypatch, UNTOUCHED)
    run_folds(run)
    assert Predictor.load(source.path, device="cpu").predict(cohort.cases, tmp_path / "as_it_is").failed == {}
    expected = label_maps(tmp_path / "as_it_is")
    plain: dict[str, np.ndarray] = {}
    matched: dict[str, np.ndarray] = {}
    for fold in run.folds(stage):
        plain |= label_maps(fold.folder / "source_unharmonized")
        matched |= label_maps(fold.folder / "source")
        log = fold.log.read_text(encoding="utf-8")
        assert "the source as it is: mean Dice" in log
        assert "the source, harmonized: mean Dice" in log
    assert plain.keys() == expected.keys() == matched.keys()
    assert all(np.array_equal(plain[name], expected[name]) for name in expected)
    assert not all(np.array_equal(plain[name], matched[name]) for name in expected)
    table = SourceTable.read(run.path / stage.name / "crossval")
    assert table is not None
    assert [row.name for row in table.rows][:3] == ["source as it is", "source as it is, harmonized", "tuned"]
    assert table.note.startswith("Kept: the source as it is;")
    for fold in run.folds(stage):
        # In the run's folds, too, are the source's weights.
        own = load_weights(run.source_folder(stage) / f"{fold.number}.safetensors")
        assert all(torch.equal(own[name], tensor) for name, tensor in load_weights(fold.weights).items())
    # Kept without harmonization: the run predicts what the source's own does, and is such a source itself.
    assert Predictor.load(run.path, device="cpu").predict(cohort.cases, tmp_path / "kept").failed == {}
    assert all(np.array_equal(image, expected[name]) for name, image in label_maps(tmp_path / "kept").items())
    again = plan_dataset(cohort, tmp_path / "again", replace(request, carried=(Source(run.path),)))
    assert again.plan.preprocessing.harmonize == {}
    assert run.plan.preprocessing.harmonize
    # What it was trained on is the first source's: neither the cohort's cases nor their intensities.
    assert again.plan.stage().recipe.initialization.learned == {}
    third = plan_dataset(cohort, tmp_path / "third", replace(request, carried=(Source(run.path, harmonize=True),)))
    assert third.plan.preprocessing.harmonize == run.plan.preprocessing.harmonize


def test_harmonized_without_scans(source: Run, tmp_path: Path) -> None:
    run, _ = harmonized(source, tmp_path)
    preprocess(run, workers=1)
    shutil.rmtree(run.dataset.root)
    run_folds(run)
    table = SourceTable.read(run.path / run.plan.recommended / "crossval")
    assert table is not None
    assert table.rows[0].name == "source as it is, harmonized"
    assert "The scans are missing" in table.note


def test_newer_keys_leave_older_scores_valid() -> None:
    """At their defaults: where these digests change, a key is missing in NEWER, and scores of older runs are lost."""
    assert digest(without_reasons(without_newer(Recipe()))) == "2aa57cf8ffe2af7d"
    assert digest(without_reasons(without_newer(Inference()))) == "7960d12c2c7052a4"
    start = Initialization(source="model", file="f", ensemble=["f"], outputs={"a": "a"}, source_outputs=["a"])
    assert digest(without_reasons(without_newer(start))) == "35f1d56caaa59270"
    values = without_newer(make_recipe())
    assert "validation_loss" not in values
    assert "follows" not in values["schedule"]
    assert {"smooth", "dice_weight"} <= set(values["loss"])  # older ones stay, at their defaults, too
    changed = without_newer(make_recipe(validation_loss="none"))
    assert changed["validation_loss"] == "none"
    assert NEWER.isdisjoint(without_newer(Inference()))
    assert without_newer(Inference(checkpoint="best"))["checkpoint"] == "best"
