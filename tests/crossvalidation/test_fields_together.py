"""Fields together: a teacher, several raters and stages that follow each other, in one training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoseg.crossvalidation.cascades import stage_cases
from autoseg.crossvalidation.job import Length
from autoseg.crossvalidation.jobs import train
from autoseg.evaluation.summary import Evaluation
from autoseg.inference.predictor import Predictor
from autoseg.plans.configuration import Previous
from autoseg.plans.recipe import Distillation
from autoseg.preprocessing.boxed_case import BoxedCase
from autoseg.preprocessing.fields import ANNOTATIONS, PREVIOUS, TEACHER
from autoseg.runs.run import Run
from autoseg.transfer.teacher import Teacher
from autoseg.transfer.teacher_scores import teacher_scores
from autoseg.utils.device import Compute
from tests.builders import LABELS, make_configuration, make_fingerprint, make_network, make_plan, make_recipe, make_run
from tests.crossvalidation.test_annotators import BOTH, drawn_by
from tests.transfer.test_teacher_scores import pretend

pytestmark = pytest.mark.usefixtures("one_core")

NOBODY: tuple[str, ...] = ()


def run_of(tmp_path: Path, use: str | None, raters: tuple[str, ...] = NOBODY, teacher: Run | None = None) -> Run:
    """A run of one stage, or of two; with raters, and with a teacher."""
    distillation: Distillation | None = None
    if teacher is not None:
        distillation = Teacher(teacher.path).distillation

    def configuration(**more: Any) -> Any:
        network = make_network(decoders=max(len(raters), 1))
        return make_configuration(network=network, recipe=make_recipe(distillation=distillation), **more)

    stages = {"small": configuration()}
    if use is not None:
        previous = Previous(configuration="first", use=use, output=LABELS.outputs[0].name, margin=2)
        stages = {"first": configuration(), "small": configuration(previous=previous)}
    plan = make_plan(configurations=stages, raters=list(raters))
    run = make_run(tmp_path, plan)
    if teacher is not None:
        Teacher(teacher.path).install(plan, run.path)
    dataset = drawn_by(run.dataset, *[BOTH] * 4) if raters else run.dataset
    return Run.create(run.path, plan, make_fingerprint(dataset), dataset, run.splits)


def trained(run: Run) -> Evaluation:
    return train(run, folds=[0], length=Length(epochs=1), compute=Compute("cpu", 0))


@pytest.fixture
def teacher(tmp_path: Path) -> Run:
    return pretend(make_run(tmp_path / "teacher", make_plan()))


@pytest.mark.parametrize("use", ["channels", "box"])
def test_raters_in_several_stages(tmp_path: Path, use: str) -> None:
    """The next stage is given the mean of what the decoders of the stage before say; its own answer one by one."""
    run = run_of(tmp_path, use, BOTH)
    evaluation = trained(run)
    assert len(evaluation.cases) == 2
    (case,) = stage_cases(run, run.plan.stage(), ["case_0"])
    assert case.fields == ([ANNOTATIONS, PREVIOUS] if use == "channels" else [ANNOTATIONS])
    assert isinstance(case, BoxedCase) == (use == "box")
    assert case.field(ANNOTATIONS).shape == (2, *case.shape)
    predictor = Predictor.load(run.path, folds=[0], device="cpu")
    found = predictor.predict_case(run.dataset.cases[0], ["label", "raters"])
    assert set(found.answers) == set(BOTH)
    assert all(label.shape == found.label.shape for label in found.answers.values())


@pytest.mark.parametrize("use", ["channels", "box"])
def test_a_teacher_in_several_stages(tmp_path: Path, teacher: Run, use: str) -> None:
    """Every stage learns from it; inside a box it is the box's part of what the teacher says of the whole case."""
    run = run_of(tmp_path, use, teacher=teacher)
    trained(run)
    for stage in run.plan.stages:
        scores = teacher_scores(run.fold(stage, 0))
        assert scores is not None
        name = run.split(0)["train"][0]
        (case,) = [scores.of(one) for one in stage_cases(run, stage, [name])]
        values = case.field(TEACHER)
        assert values.shape == (LABELS.heads + 1, *case.shape)
        if isinstance(case, BoxedCase):
            (whole,) = [scores.of(one) for one in stage_cases(run, run.plan.stage("first"), [name])]
            assert np.array_equal(values, whole.field(TEACHER)[(slice(None), *case.box)])
    assert PREVIOUS in case.fields if use == "channels" else PREVIOUS not in case.fields


def test_a_teacher_of_several_raters(tmp_path: Path, teacher: Run) -> None:
    run = run_of(tmp_path, None, BOTH, teacher)
    assert len(trained(run).cases) == 2
    assert "taught by fold 0 of small" in run.fold("small", 0).log.read_text()
