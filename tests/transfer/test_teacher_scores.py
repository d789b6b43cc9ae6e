"""A trained run as a teacher: what it says of a student's cases, by which folds, and what is kept of it."""

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autoseg.crossvalidation.job import Length
from autoseg.crossvalidation.jobs import train as train_anywhere
from autoseg.data.dataset import Dataset
from autoseg.evaluation.summary import Evaluation
from autoseg.inference.ensemble import Ensemble
from autoseg.inference.predictor import Predictor
from autoseg.networks import build
from autoseg.networks.weights import identity_of, save_weights
from autoseg.planning.request import Request
from autoseg.plans.configuration import Previous
from autoseg.plans.files import save_plan
from autoseg.plans.plan import Plan
from autoseg.plans.target import Output, Target
from autoseg.preprocessing.dataset import preprocess
from autoseg.preprocessing.fields import TEACHER
from autoseg.preprocessing.store import StoredCase
from autoseg.runs.run import SOURCE, Run
from autoseg.transfer import teacher_scores as teacher_scores_module
from autoseg.transfer.teacher import TEACHER_FOLDER, Teacher, installed_teacher, match_heads
from autoseg.transfer.teacher_scores import TeacherScores, teacher_scores
from autoseg.utils.device import Compute
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import write_json
from tests.builders import (
    LABELS,
    REGIONS,
    done_by_another,
    keep_share,
    make_configuration,
    make_fingerprint,
    make_plan,
    make_recipe,
    make_run,
    make_tuned_plan,
)

pytestmark = pytest.mark.usefixtures("one_core")


def pretend(run: Run, folds: tuple[int, ...] = (0, 1)) -> Run:
    """Random weights instead of trained ones, of every stage; each fold its own."""
    plan = run.plan
    for stage in plan.stages:
        for fold in folds:
            torch.manual_seed(fold)
            network = build(stage.network, stage.in_channels, stage.heads)
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.mul_(1.5)  # so that what it says is no longer near a half
            path = run.fold(stage, fold).weights
            save_weights(path, network.state_dict(), identity_of(stage))
    return run


def student_of(teacher: Run, root: Path, splits: Any = None, **changes: Any) -> Run:
    """A run on the teacher's dataset that is to learn from it."""
    dataset = teacher.dataset
    found = Teacher(teacher.path)
    found.check(Request(), dataset, root / "student")
    configuration = make_configuration(
        recipe=make_recipe(distillation=found.distillation), **changes.pop("configuration", {})
    )
    plan = make_plan(configuration, **changes)
    found.install(plan, root / "student")
    return Run.create(root / "student", plan, make_fingerprint(dataset), dataset, splits or teacher.splits)


def copy_in(student: Run) -> Path:
    """The teacher's copy in a student's run folder."""
    (copy,) = (student.path / TEACHER_FOLDER).iterdir()
    return copy


def scores_for(run: Run, fold: int = 0) -> TeacherScores:
    found = teacher_scores(run.fold("small", fold))
    assert found is not None
    return found


def fetch(run: Run, fold: int = 0) -> list[StoredCase]:
    preprocess(run, "small", 1)
    scores = scores_for(run, fold)
    cases = [scores.of(StoredCase(run.preprocessed("fullres"), case)) for case in run.split(fold)["train"]]
    scores.predict(run, cases, "cpu")
    return list(cases)


def scores_of(case: StoredCase, heads: int) -> np.ndarray:
    return case.field(TEACHER)[:heads]


def train(*arguments: Any, **options: Any) -> Evaluation:
    length = Length(epochs=options.pop("epochs"))
    return train_anywhere(*arguments, length=length, compute=Compute("cpu", 0), **options)


def test_scores_that_another_process_predicts_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = student_of(pretend(make_run(tmp_path)), tmp_path)
    predicted, save = [], teacher_scores_module.save
    monkeypatch.setattr(teacher_scores_module, "save", lambda *given: (predicted.append(given[1]), save(*given)))
    done_by_another(monkeypatch, lambda: fetch(student))
    fetch(student)
    assert sorted(predicted) == sorted(student.split(0)["train"])


def test_a_scan_is_read_and_one_is_stored_beside_the_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = student_of(pretend(make_run(tmp_path)), tmp_path)
    read: list[str] = []
    both = threading.Event()
    storing: set[str] = set()
    prepare, scores, save = Ensemble.prepare, Ensemble.scores, teacher_scores_module.save

    def noted(self: Ensemble, case: Any) -> Any:
        read.append(case.id)
        if len(read) == 2:
            both.set()
        return prepare(self, case)

    def waiting(self: Ensemble, prepared: Any) -> Any:
        assert both.wait(60)
        return scores(self, prepared)

    def stored(*given: Any) -> None:
        storing.add(threading.current_thread().name)
        save(*given)

    monkeypatch.setattr(Ensemble, "prepare", noted)
    monkeypatch.setattr(Ensemble, "scores", waiting)
    monkeypatch.setattr(teacher_scores_module, "save", stored)
    assert [case.id for case in fetch(student)] == read
    assert storing == {"writer_0"}


# --- what it says ---


@pytest.mark.parametrize("target", [LABELS, REGIONS])
@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
def test_what_is_kept_is_what_the_teacher_predicts(tmp_path: Path, target: Target, transpose: tuple) -> None:
    """On other axes, another spacing, another patch than the student's, whose grid is the scan's here."""
    taught_on = make_configuration((4, 8, 4), spacing=(2.0, 1.0, 1.5))
    teacher = pretend(make_run(tmp_path, make_plan(taught_on, target=target, preprocessing={"transpose": transpose})))
    student = student_of(teacher, tmp_path, target=target)
    for fold in (0, 1):
        predictor = Predictor.load(teacher.path, folds=[fold], device="cpu")
        for case in fetch(student, fold):
            expected = predictor.predict_case(student.dataset.case(case.id), ["probabilities"]).probabilities
            scores = torch.from_numpy(scores_of(case, target.heads))
            found = torch.softmax(scores, 0)[1:] if target.kind == "labels" else torch.sigmoid(scores)
            for index, output in enumerate(target.outputs):
                np.testing.assert_allclose(found[index], expected[output.name], atol=2e-3)
                assert expected[output.name].std() > 0.05


def test_outside_of_the_teachers_crop_there_is_background(tmp_path: Path) -> None:
    teacher = pretend(make_run(tmp_path, make_plan(preprocessing={"box": (4, 12, 14)})))
    (case, _) = fetch(student_of(teacher, tmp_path))
    outer, inner = torch.softmax(torch.from_numpy(scores_of(case, 3)), 0)[1:].numpy()
    assert case.shape == (10, 12, 14)
    for planes in (slice(0, 3), slice(7, 10)):
        assert outer[planes].max() < 1e-12
        assert inner[planes].max() < 1e-12
    assert (outer + inner)[3:7].std() > 0.05


def test_another_grid_of_the_student(tmp_path: Path) -> None:
    teacher = pretend(make_run(tmp_path))
    (case, _) = fetch(student_of(teacher, tmp_path, configuration={"spacing": (2.0, 1.0, 2.0)}))
    assert case.shape == (5, 12, 7)
    (full, _) = fetch(student_of(teacher, tmp_path / "full"))
    # Linear, and so the mean of two planes of logits (relative to background, where log-probabilities lose the rest).
    wanted = scores_of(full, 3).reshape(3, 5, 2, 12, 7, 2).mean((2, 5))
    found = scores_of(case, 3)
    np.testing.assert_allclose(found[1:] - found[:1], wanted[1:] - wanted[:1], atol=0.05)


def test_labels_that_the_student_does_not_have_are_background(tmp_path: Path) -> None:
    teacher = pretend(make_run(tmp_path))
    only = Target(kind="labels", outputs=[Output(name="inner", values=[2], paint=2)])
    whole = fetch(student_of(teacher, tmp_path / "a"))
    part = fetch(student_of(teacher, tmp_path / "b", target=only))
    for one, other in zip(whole, part, strict=True):
        background, outer, inner = np.exp(scores_of(one, 3))
        np.testing.assert_allclose(np.exp(scores_of(other, 2)), [background + outer, inner], atol=2e-3)


def test_outputs_are_matched_by_name() -> None:
    turned = LABELS.model_copy(update={"outputs": LABELS.outputs[::-1]})
    assert match_heads(LABELS, turned) == [[0], [2], [1]]
    assert match_heads(REGIONS, REGIONS) == [[0], [1]]
    inner = REGIONS.model_copy(update={"outputs": REGIONS.outputs[1:]})
    assert match_heads(inner, REGIONS) == [[1]]
    with pytest.raises(AutosegError, match=r"regions inner, the student the regions whole, inner"):
        match_heads(REGIONS, inner)
    with pytest.raises(AutosegError, match="of the same kind"):
        match_heads(inner.model_copy(update={"kind": "labels"}), REGIONS)


# --- which folds, and what is kept ---


def test_the_fold_of_the_same_splits_that_saw_no_validation_case(tmp_path: Path) -> None:
    student = student_of(pretend(make_run(tmp_path)), tmp_path)
    for fold in (0, 1):
        assert scores_for(student, fold).folds == (fold,)
        assert str(scores_for(student, fold)) == f"taught by fold {fold} of small in {copy_in(student)}"


def test_all_folds_where_each_has_seen_validation_cases(tmp_path: Path) -> None:
    teacher = pretend(make_run(tmp_path))
    names = [case.id for case in teacher.dataset.cases]
    splits = [{"train": names[2:], "validation": names[:2]}, {"train": names[:2], "validation": names[2:]}]
    student = student_of(teacher, tmp_path, splits)
    assert scores_for(student).folds == (0, 1)
    assert "it has seen validation cases" in str(scores_for(student))
    # A teacher of other cases has seen none of them.
    write_json(student.path / "splits.json", [{"train": names[1:], "validation": []}])
    student = Run.open(student.path)
    assert scores_for(student).folds == (0, 1)
    assert scores_for(student).clean


@pytest.mark.parametrize("keeps", [False, True])
def test_what_the_teacher_s_source_has_learned_is_seen(tmp_path: Path, keeps: bool) -> None:
    """Of a teacher that keeps its source, and of one whose folds started from it: case_0 is validated by fold 0."""
    teacher = pretend(make_run(tmp_path, make_tuned_plan(start={"learned": {"case_0": "file"}})))
    if keeps:
        keep_share(teacher, SOURCE)
    student = student_of(teacher, tmp_path)
    for fold, clean in ((0, False), (1, True)):
        found = scores_for(student, fold)
        assert found.folds == ((0, 1) if keeps else (fold,))
        assert found.clean == clean
        assert ("it has seen validation cases" in str(found)) != clean


def test_answers_are_kept_until_something_changes(tmp_path: Path) -> None:
    teacher = pretend(make_run(tmp_path))
    student = student_of(teacher, tmp_path)

    def times() -> dict[str, int]:
        return {case.id: (scores_for(student).folder / f"{case.id}.json").stat().st_mtime_ns for case in fetch(student)}

    before = times()
    assert times() == before
    first, second = before
    # Killed while writing: the file that is written last is not there.
    (scores_for(student).folder / f"{first}.json").unlink()
    after = times()
    assert after[first] != before[first]
    assert after[second] == before[second]
    # Another preprocessing of the student.
    plan = student.plan
    coarse = plan.configurations["small"].model_copy(update={"spacing": (2.0, 2.0, 2.0)})
    save_plan(plan.model_copy(update={"configurations": {"small": coarse}}), student.path / "plan.json")
    student = Run.open(student.path)
    assert not set(times().values()) & set(after.values())
    assert fetch(student)[0].shape == (5, 6, 7)


def test_a_scan_that_is_gone(tmp_path: Path) -> None:
    student = student_of(pretend(make_run(tmp_path)), tmp_path)
    fetch(student)
    shutil.rmtree(tmp_path / "data")
    fetch(student)  # what is there will do
    shutil.rmtree(scores_for(student).folder)
    told = (
        r"the teacher has to predict case case_1, but .* is gone; .*"
        r"'autoseg plan NEW_PLACE --out .*', with the same options"
    )
    with pytest.raises(AutosegError, match=told):
        fetch(student)


# --- the whole way ---


def test_from_a_trained_teacher_to_a_trained_student(tmp_path: Path) -> None:
    teacher = make_run(tmp_path)
    train(teacher, epochs=1)
    student = student_of(teacher, tmp_path)
    shutil.rmtree(teacher.path)  # it is copied
    moved = Run.open(shutil.move(student.path, tmp_path / "elsewhere"))
    evaluation = train(moved, epochs=1)
    assert len(evaluation.cases) == 4
    for fold in (0, 1):
        assert f"taught by fold {fold} of small" in (moved.fold("small", fold).folder / "log.txt").read_text()
    # Nothing is done twice.
    done = (moved.fold("small", 0).weights).stat().st_mtime_ns
    train(moved, epochs=1)
    assert (moved.fold("small", 0).weights).stat().st_mtime_ns == done
    # The teacher is of no use any more once the student is trained: it predicts by itself.
    shutil.rmtree(moved.path / TEACHER_FOLDER)
    assert Predictor.load(moved.path, device="cpu").predict_case(moved.dataset.cases[0]).label.shape == (10, 12, 14)


def test_a_cascade_as_teacher(tmp_path: Path) -> None:
    plan = make_plan(
        configurations={
            "low": make_configuration((4, 4, 4), spacing=(2.0, 2.0, 2.0), data="low"),
            "full": make_configuration(previous=Previous(configuration="low")),
        },
        recommended="full",
    )
    student = student_of(pretend(make_run(tmp_path, plan)), tmp_path)
    copied = {str(path.relative_to(copy_in(student)).parent) for path in student.path.rglob("*.safetensors")}
    assert copied == {"low/fold_0", "low/fold_1", "full/fold_0", "full/fold_1"}
    predictor = Predictor.load(copy_in(student), folds=[0], device="cpu")
    for case in fetch(student):
        expected = predictor.predict_case(student.dataset.case(case.id), ["probabilities"]).probabilities
        np.testing.assert_allclose(np.exp(scores_of(case, 3)[1]), expected["outer"], atol=2e-3)


# --- what is refused ---


def refuse(path: Path, message: str, dataset: Dataset, out: Path, kind: type[Exception] = AutosegError) -> None:
    with pytest.raises(kind, match=message):
        Teacher(path).check(Request(), dataset, out)


def test_teachers_that_can_not_teach(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    dataset, out = run.dataset, tmp_path / "student"
    refuse(run.path, r"has no trained fold of small; train it with 'autoseg train", dataset, out)
    refuse(tmp_path / "nowhere", "is no run folder", dataset, out)
    pretend(run, (0,))
    teacher = Teacher(run.path)
    teacher.check(Request(), dataset, out)
    assert teacher.model.folds == (0,)
    refuse(run.path, r"is the run folder that --out writes", dataset, run.path, UsageError)
    other = dataset.model_copy(update={"channels": ("ct",)})
    refuse(run.path, r"needs the channel mr, which blobs does not have \(ct\)", other, out)
    poor = dataset.cases[0].model_copy(update={"channels": {}})
    lacking = dataset.model_copy(update={"cases": (poor, *dataset.cases[1:])})
    refuse(run.path, r"case case_0 lacks the channel mr, which --teacher", lacking, out)
    weights = run.fold("small", 0).weights
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    refuse(run.path, "holds no readable weights", dataset, out)
    weights.write_bytes(whole)
    (run.path / "dataset.json").unlink()
    refuse(run.path, r"lacks its dataset\.json", dataset, out)


@pytest.mark.parametrize("how", ["allowed by the plan", "trained for by dropping channels"])
def test_a_teacher_that_does_without_some_channels(tmp_path: Path, how: str) -> None:
    dropping = how.startswith("trained")
    plan = make_plan(
        make_configuration(recipe=make_recipe(channel_dropout=0.5 if dropping else 0.0)),
        channels=("mr", "more"),
        allow_missing_channels=not dropping,
    )
    teacher = pretend(make_run(tmp_path, plan))
    student = student_of(teacher, tmp_path)  # whose dataset has no channel "more"
    (case, _) = fetch(student)
    predictor = Predictor.load(teacher.path, folds=[0], device="cpu")
    expected = predictor.predict_case(student.dataset.case(case.id), ["probabilities"])
    np.testing.assert_allclose(np.exp(scores_of(case, 3)[1]), expected.probabilities["outer"], atol=2e-3)
    # With none of its channels it has nothing to look at.
    first, *others = student.dataset.cases
    blind = student.dataset.model_copy(update={"cases": (first.model_copy(update={"channels": {}}), *others)})
    refuse(teacher.path, r"case case_0 lacks the channel mr, more.*trained on other channels", blind, tmp_path / "out")


def test_another_teacher_in_the_run_folder_is_refused(tmp_path: Path) -> None:
    student = student_of(pretend(make_run(tmp_path)), tmp_path)
    distillation = student.plan.configurations["small"].recipe.distillation
    assert distillation is not None
    assert installed_teacher(student, distillation).folds == (0, 1)
    # Planned again from the copy, it is the same one.
    again = Teacher(copy_in(student))
    again.check(Request(), student.dataset, student.path)
    again.install(student.plan, student.path)
    assert installed_teacher(student, distillation).content == distillation.teacher
    assert not list(student.path.glob(".teacher*"))
    (copy_in(student) / "small" / "fold_1" / "weights.safetensors").unlink()
    with pytest.raises(AutosegError, match=r"is not the teacher that the plan was made for; plan .* again"):
        train(student, folds=[0], epochs=1)
    shutil.rmtree(student.path / TEACHER_FOLDER)
    with pytest.raises(AutosegError, match=r"teacher is missing, which the plan learns from"):
        train(student, folds=[0], epochs=1)


def test_plans_of_before_have_no_teacher() -> None:
    data = json.loads(make_plan().model_dump_json())
    for configuration in data["configurations"].values():
        del configuration["recipe"]["distillation"]
    assert Plan.model_validate(data) == make_plan()
