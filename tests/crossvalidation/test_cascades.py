"""Runs of several stages, from training to prediction, on blobs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.crossvalidation import cascades, fold_training
from autoseg.crossvalidation.cascades import fetch_previous, schedule, stage_cases
from autoseg.crossvalidation.job import Length
from autoseg.crossvalidation.jobs import train as train_anywhere
from autoseg.evaluation.summary import Evaluation
from autoseg.inference.predictor import Predictor
from autoseg.plans.configuration import Previous
from autoseg.plans.files import save_plan
from autoseg.plans.overrides import override
from autoseg.plans.plan import Plan
from autoseg.plans.stage import Stage
from autoseg.plans.target import Output, Target
from autoseg.preprocessing.boxed_case import BoxedCase
from autoseg.preprocessing.dataset import preprocess
from autoseg.preprocessing.fields import PREVIOUS
from autoseg.report import write_report
from autoseg.runs.fold import Fold
from autoseg.runs.run import Run
from autoseg.training import training
from autoseg.training.training import Budget
from autoseg.utils.device import Compute
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import write_json
from tests.builders import LABELS, REGIONS, Perfect, blob, done_by_another, make_configuration, make_plan, make_run
from tests.inference.test_chain import INNER, WHOLE, Above, chain

pytestmark = pytest.mark.usefixtures("one_core")


def cascade(**changes: Any) -> Plan:
    """Half the resolution first, whose findings are further input at the full one."""
    return make_plan(
        configurations={
            "low": make_configuration((4, 4, 4), spacing=(2.0, 2.0, 2.0), data="low"),
            "full": make_configuration(previous=Previous(configuration="low")),
        },
        recommended="full",
        **changes,
    )


def nested() -> Plan:
    return chain("box", WHOLE, INNER, REGIONS)


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def changed(run: Run) -> dict[str, int]:
    """Every trained fold, and when its weights were written."""
    found = sorted(run.path.glob("*/fold_*/weights.safetensors"))
    return {f"{path.parent.parent.name}/{path.parent.name}": path.stat().st_mtime_ns for path in found}


def train(*arguments: Any, **options: Any) -> Evaluation:
    """In this process alone: starting others takes longer than these trainings."""
    return train_anywhere(*arguments, **{**options, "compute": Compute("cpu", 0)})


def scheduled(
    tmp_path: Path, plan: Plan, folds: Sequence[int], seconds: float | None, name: str | None = None
) -> list[tuple[str, int, float | None]]:
    """Stage, fold and seconds of what is to be trained, in a run of five folds."""
    run = make_run(tmp_path, plan)
    write_json(run.path / "splits.json", [{"train": ["case_0"], "validation": ["case_1"]}] * 5)
    jobs = schedule(Run.open(run.path), plan.stage(name), folds, Length(seconds=seconds))
    return [(job.fold.stage.name, job.fold.number, job.length.seconds) for job in jobs]


# --- what is trained, and for how long ---


def test_schedule_of_one_stage(tmp_path: Path) -> None:
    plan = make_plan()
    assert scheduled(tmp_path / "a", plan, [1, 3], 7.3) == [("small", 1, 7.3), ("small", 3, 7.3)]
    assert scheduled(tmp_path / "b", plan, [2], None) == [("small", 2, None)]


def test_schedule_of_a_cascade(tmp_path: Path) -> None:
    """One fold in 100 s: 50 s for it, and 50 s for the five that it needs of the stage before."""
    parts = scheduled(tmp_path / "a", cascade(), [2], 100.0)
    assert parts == [*(("low", fold, 10.0) for fold in range(5)), ("full", 2, 50.0)]
    every = scheduled(tmp_path / "b", cascade(), range(5), 100.0)
    assert {seconds for _, _, seconds in every} == {50.0}
    assert len(every) == 10
    assert scheduled(tmp_path / "c", cascade(), [2], 100.0, "low") == [("low", 2, 100.0)]


def test_schedule_of_boxes(tmp_path: Path) -> None:
    assert scheduled(tmp_path, nested(), [0, 4], 60.0) == [
        ("first", 0, 30.0),
        ("first", 4, 30.0),
        ("last", 0, 30.0),
        ("last", 4, 30.0),
    ]


# --- the whole way ---


def test_cascade_from_training_to_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, cascade())
    evaluation = train(run, folds=[0], length=Length(epochs=1))
    assert "Stage 1 of 2: low, folds 0, 1." in capsys.readouterr().err
    assert sorted(changed(run)) == ["full/fold_0", "low/fold_0", "low/fold_1"]
    assert evaluation.targets == ("outer", "inner")
    # What the second stage was given is what the fold that had not seen the case said, on its own grid.
    for case in run.dataset.cases:
        fold = 0 if case.id in run.split(0)["validation"] else 1
        said = read(run.fold("low", fold).validation / f"{case.id}.nii.gz")
        (given_to,) = stage_cases(run, run.plan.stage("full"), [case.id])
        assert np.array_equal(given_to.field(PREVIOUS)[0], said)
    before = changed(run)
    train(run, folds=[0], length=Length(epochs=1))
    assert changed(run) == before
    train(run, length=Length(epochs=1))  # the other fold; what is there stays
    assert {name: time for name, time in changed(run).items() if name in before} == before
    assert len(changed(run)) == 4

    outcome = Predictor.load(run.path, device="cpu").predict(run.dataset.cases[:1], tmp_path / "out", ["probabilities"])
    assert outcome.failed == {}
    (told,) = json.loads((tmp_path / "out" / "predictions.json").read_text())["runs"]
    assert told["stages"] == [
        {"configuration": "low", "folds": [0, 1]},
        {"configuration": "full", "folds": [0, 1]},
    ]
    (alone,) = Predictor.load(run.path, folds=[1], device="cpu").members
    assert [len(stage.networks) for stage in alone.stages] == [1, 1]
    page = write_report(run).read_text()
    assert "segmentation by low" in page


def test_boxes_from_training_to_report(tmp_path: Path) -> None:
    run = make_run(tmp_path, nested())
    evaluation = train(run, folds=[1], length=Length(epochs=1))
    assert sorted(changed(run)) == ["first/fold_1", "last/fold_1"]
    assert evaluation.targets == ("whole", "inner")
    # A stage on its own is measured by what it segments.
    assert train(run, "first", folds=[1], length=Length(epochs=1)).targets == ("whole",)
    cases = stage_cases(run, run.plan.stage("last"), run.split(1)["train"])
    assert [case.shape for case in cases] == [(9, 11, 11)] * 2  # 5×7×7, 2 more on each side, where the image goes on
    outcome = Predictor.load(run.path, device="cpu").predict(run.dataset.cases[:1], tmp_path / "out")
    assert outcome.failed == {}
    assert "inside whole of first" in write_report(run).read_text()


def test_perfect_networks_are_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fold k's networks of every stage; the second stage's reference box does not matter for the result."""
    asked = []

    def perfect(path: Path, stage: Stage, *_: Any) -> Any:
        asked.append(f"{path.parent.parent.name}/{path.parent.name}")
        return Above(1.5 if stage.target.outputs[0].name == "inner" else 0.5)

    run = make_run(tmp_path, nested())
    monkeypatch.setattr("autoseg.inference.chain.load_network", perfect)
    evaluation = train(run, folds=[1], length=Length(epochs=1))
    assert [row.values["dice"] for row in evaluation.rows] == [1.0] * 4
    assert asked == ["first/fold_1", "first/fold_1", "last/fold_1"]


def test_time_is_shared(tmp_path: Path) -> None:
    run = make_run(tmp_path, nested())
    train(run, folds=[0], length=Length(seconds=3))
    for stage in ("first", "last"):
        assert json.loads((run.fold(stage, 0).folder / "done.json").read_text())["request"] == "1.5 seconds"
    before = changed(run)
    train(run, folds=[0], length=Length(seconds=3))
    assert changed(run) == before


# --- interrupted, trained further, started over ---


class Stop(Exception):
    """The process dies here."""


@pytest.mark.parametrize("plan", [cascade, nested])
def test_stopped_in_the_second_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: Any) -> None:
    whole = make_run(tmp_path / "whole", plan())
    expected = train(whole, folds=[0], length=Length(epochs=2))
    run = make_run(tmp_path / "parts", plan())
    real = fold_training.train_fold

    def dies(fold: Fold, *rest: Any) -> Any:
        if fold.stage.before is not None:
            raise Stop
        return real(fold, *rest)

    monkeypatch.setattr(fold_training, "train_fold", dies)
    with pytest.raises(Stop):
        train(run, folds=[0], length=Length(epochs=2))
    first = changed(run)
    assert not any(name.startswith(run.plan.recommended) for name in first)
    monkeypatch.undo()
    monkeypatch.setattr("autoseg.crossvalidation.jobs.available_cpus", lambda: 1)
    if plan is nested:
        with pytest.raises(UsageError, match="has no trained fold of last"):
            Predictor.load(run.path, device="cpu")
    found = train(run, folds=[0], length=Length(epochs=2))
    assert found.rows == expected.rows
    assert {name: time for name, time in changed(run).items() if name in first} == first


def test_a_first_stage_trained_further(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What learned from its former predictions starts over; that it was trained for longer than asked is well."""
    run = make_run(tmp_path, cascade())
    train(run, folds=[0], length=Length(epochs=1))
    before = changed(run)
    train(run, "low", folds=[1], length=Length(epochs=6))
    further = changed(run)
    assert [name for name in further if further[name] != before[name]] == ["low/fold_1"]
    capsys.readouterr()
    train(run, folds=[0], length=Length(epochs=1))
    assert "The stage before full has been trained further: fold 0 starts over." in capsys.readouterr().err
    after = changed(run)
    assert [name for name in after if after[name] != further[name]] == ["full/fold_0"]
    assert len((run.fold("full", 0).folder / "history.csv").read_text().splitlines()) == 1 + 1


def test_restart(tmp_path: Path) -> None:
    """Folds that were asked for start over in every stage, the others are kept as long as the plan is."""
    run = make_run(tmp_path, cascade())
    train(run, folds=[0], length=Length(epochs=1))
    before = changed(run)
    train(run, folds=[0], resume=False, length=Length(epochs=1))
    after = changed(run)
    assert [name for name in after if after[name] != before[name]] == ["full/fold_0", "low/fold_0"]
    save_plan(override(run.plan, ["configurations.low.recipe.gradient_clip=3"]), run.path / "plan.json")
    run = Run.open(run.path)
    with pytest.raises(AutosegError, match=r"another plan, seed or split.*--restart"):
        train(run, folds=[0], length=Length(epochs=2))
    train(run, folds=[0], resume=False, length=Length(epochs=1))
    assert all(time != after[name] for name, time in changed(run).items())


def test_restart_lets_folds_go_on_that_were_not_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an earlier stage their predictions are needed alone; one that was stopped half-way keeps its state."""
    run = make_run(tmp_path, cascade())
    real = fold_training.train_fold

    def dies(fold: Fold, cases: Any, budget: Budget, *rest: Any) -> Any:
        state = real(fold, cases, Budget(iterations=1) if fold.number == 1 else budget, *rest)
        if fold.number == 1:
            raise Stop
        return state

    with monkeypatch.context() as patched:
        patched.setattr(fold_training, "train_fold", dies)
        with pytest.raises(Stop):
            train(run, folds=[0], length=Length(epochs=2))
    assert run.fold("low", 1).begun
    resumed: list[str] = []
    resume = training.resume_training

    def noted(path: Path, *rest: Any) -> Any:
        resumed.append(path.parent.name)
        return resume(path, *rest)

    monkeypatch.setattr(training, "resume_training", noted)
    train(run, folds=[0], resume=False, length=Length(epochs=2))
    assert resumed == ["fold_1"]


def test_resume_needs_something_begun(tmp_path: Path) -> None:
    run = make_run(tmp_path, nested())
    with pytest.raises(UsageError, match="was never begun"):
        train(run, folds=[0], resume=True)
    train(run, "first", folds=[0], length=Length(epochs=1))
    train(run, folds=[0], resume=True, length=Length(epochs=1))
    assert "last/fold_0" in changed(run)


# --- cases that stages work on ---


def test_cases_without_the_structure_are_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path, nested())
    empty = sitk.GetImageFromArray(np.zeros_like(blob()))
    sitk.WriteImage(empty, str(run.dataset.case("case_1").label))
    preprocess(run, "last", workers=1)
    cases = stage_cases(run, run.plan.stage("last"), ["case_0", "case_1", "case_3"])
    assert [case.id for case in cases] == ["case_0", "case_3"]
    assert all(isinstance(case, BoxedCase) for case in cases)
    sitk.WriteImage(empty, str(run.dataset.case("case_3").label))
    with pytest.raises(AutosegError, match="last works inside the box of whole, which no training case of fold 0 has"):
        train(run, folds=[0], length=Length(epochs=1))


def test_predictions_that_are_not_there(tmp_path: Path) -> None:
    run = make_run(tmp_path, cascade())
    preprocess(run, "full", workers=1)
    with pytest.raises(AutosegError, match=r"low.*fold_1.*is missing.*--config low --fold 1 --restart"):
        fetch_previous(run, run.plan.stage("full"), 1)
    splits = run.splits
    write_json(run.path / "splits.json", [splits[0]])
    run = Run.open(run.path)
    with pytest.raises(AutosegError, match=r"case_1 is validated in no fold"):
        fetch_previous(run, run.plan.stage("full"), 1)
    with pytest.raises(AutosegError, match=r"case_1 is validated in no fold"):
        train(run, length=Length(epochs=1))
    write_json(run.path / "splits.json", [{"train": ["case_0", "case_1"], "validation": []}])
    run = Run.open(run.path)
    with pytest.raises(AutosegError, match=r"all cases \(--folds 1\): low has no prediction.*--folds 2 or more"):
        train(run, length=Length(epochs=1))
    assert not list((run.path / "low").glob("fold_*")), "the first stage is not trained for nothing"


def test_predictions_are_fetched_once(tmp_path: Path) -> None:
    run = make_run(tmp_path, cascade())
    preprocess(run, "full", workers=1)
    for fold in (0, 1):
        for case in run.split(fold)["validation"]:
            path = run.fold("low", fold).validation / f"{case}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(blob().astype(np.uint8)), str(path))
    fetch_previous(run, run.plan.stage("full"), 1)
    (case,) = stage_cases(run, run.plan.stage("full"), ["case_0"])
    found = case.extra[0].source
    assert np.array_equal(found.label(), blob())
    stored = found.folder / "case_0.json"
    before, content = stored.stat().st_mtime_ns, case.content
    fetch_previous(run, run.plan.stage("full"), 1)
    assert stored.stat().st_mtime_ns == before
    path = run.fold("low", 0).validation / "case_0.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(blob(shift=1).astype(np.uint8)), str(path))
    fetch_previous(run, run.plan.stage("full"), 1)
    (case,) = stage_cases(run, run.plan.stage("full"), ["case_0"])
    assert case.content != content


# --- plans ---


def test_plans_that_contradict_themselves() -> None:
    first, inside = WHOLE, Previous(configuration="first", use="box", output="whole")

    def plan(whole: Target = REGIONS, **last: Any) -> Plan:
        return make_plan(
            configurations={
                "first": make_configuration(target=first),
                "last": make_configuration(**{"previous": inside, "target": INNER, **last}),
            },
            recommended="last",
            target=whole,
        )

    swapped = Output(name="inner", values=[2], paint=5)
    assert plan().stage("first").result == first
    assert plan().stage("last").result == REGIONS
    for name, value in {"spacing": (2.0, 2.0, 2.0), "data": "other", "resampling": {"label_order": 0}}.items():
        with pytest.raises(ValueError, match=f"inside another one's box must have the same {name}"):
            plan(**{name: value})
    with pytest.raises(ValueError, match="labels come from the last stage"):
        plan(LABELS, target=LABELS.model_copy(update={"outputs": [LABELS.outputs[0], swapped]}))
    other = Target(kind="regions", outputs=[Output(name="inner", values=[1], paint=1)])
    with pytest.raises(ValueError, match=r"inner must be a region of the values \[2\]"):
        plan(target=other)


def test_the_perfect_network_of_a_cascade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path, cascade())
    monkeypatch.setattr("autoseg.inference.chain.load_network", lambda *_: Perfect())
    evaluation = train(run, folds=[0], length=Length(epochs=1))
    assert [row.values["dice"] for row in evaluation.rows] == [1.0] * 4


def test_predictions_that_another_process_fetches_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not fetched a second time, which would take them away from who reads them."""
    run = make_run(tmp_path, cascade())
    train(run, "low", length=Length(epochs=1))
    stage, fetched, fetch = run.plan.stage("full"), [], cascades._fetch
    monkeypatch.setattr(cascades, "_fetch", lambda job: (fetched.append(job.case.id), fetch(job)))
    preprocess(run, "full", workers=1)

    done_by_another(monkeypatch, lambda: fetch_previous(run, stage, workers=1))
    fetch_previous(run, stage, workers=1)
    assert sorted(fetched) == [case.id for case in run.dataset.cases]
