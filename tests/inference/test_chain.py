"""Stages that follow each other, with networks whose answers are known."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoseg.data.boxes import box_around
from autoseg.inference.chain import TrainedStage, apply_stages
from autoseg.inference.decoding import one_hot
from autoseg.inference.members import Member
from autoseg.inference.predictor import Predictor
from autoseg.inference.slabs import Slab
from autoseg.plans.configuration import Previous
from autoseg.plans.plan import Plan
from autoseg.plans.preprocessing import Preprocessing
from autoseg.plans.target import Output, Target
from autoseg.preprocessing.case import preprocess_case
from tests.builders import LABELS, REGIONS, Perfect, blob, loaded, make_configuration, make_plan, picture_of
from tests.inference.test_predictor import CPU, Constant, case_of

ANYTHING = Target(kind="regions", outputs=[Output(name="anything", values=[1, 2], paint=1)])
WHOLE = Target(kind="regions", outputs=[Output(name="whole", values=[1, 2], paint=1)])
INNER = Target(kind="regions", outputs=[Output(name="inner", values=[2], paint=2)])


class Above(nn.Module):
    """One region: where :func:`picture_of` shows a label above a level."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image[:, :1] / 100 - self.level


class Echo(nn.Module):
    """Says what the stage before found, whatever the image shows."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.full_like(image[:, :1], 0.5), image[:, 1:]], dim=1)


def chain(use: str, first: Target, last: Target | None, target: Target = LABELS, **more: Any) -> Plan:
    how = {"margin": more.pop("margin", 2), "within": more.pop("within", "box")}
    previous = Previous(configuration="first", use=use, output=first.outputs[0].name, **how)
    return make_plan(
        configurations={
            "first": make_configuration(target=first),
            "last": make_configuration(previous=previous, target=last),
        },
        recommended="last",
        target=target,
        **more,
    )


def predictor(plan: Plan, *networks: nn.Module) -> Predictor:
    stages = [TrainedStage(stage, [network]) for stage, network in zip(plan.stages, networks, strict=True)]
    return Predictor([Member("run", stages)], CPU)


class Everywhere(nn.Module):
    """Sure of every head but the first of three, or of all of two or fewer, in every voxel."""

    def __init__(self, heads: int = 1) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = torch.full((len(image), self.heads, *image.shape[2:]), 20.0)
        return logits if self.heads < 3 else logits * torch.tensor([0.0, 1.0, 0.5])[None, :, None, None, None]


@pytest.mark.parametrize("results", [["label"], ["probabilities"]])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 0.8, 1.3)])
def test_a_child_stays_inside_its_parent(results: list[str], spacing: tuple[float, float, float]) -> None:
    """A core that is found in every voxel of the box is a core in the whole tumour's voxels alone, resampled or not."""
    case = loaded(picture_of(blob()), spacing=spacing)
    free = chain("box", WHOLE, INNER, REGIONS)
    inside = predictor(free, Above(0.5), Everywhere()).predict_case(case, results).label
    whole = predictor(free, Above(0.5), Above(9.0)).predict_case(case, results).label > 0
    assert (inside[~whole] == 2).any()
    confined = chain("box", WHOLE, INNER, REGIONS, within="mask")
    found = predictor(confined, Above(0.5), Everywhere()).predict_case(case, results).label
    assert np.array_equal(found == 2, whole)
    assert whole.any()
    # What lies inside anyway is as it was.
    both = [predictor(plan, Above(0.5), Above(1.5)).predict_case(case, results).label for plan in (free, confined)]
    assert np.array_equal(*both)


def test_labels_stay_inside_a_mask() -> None:
    """Softmax over labels inside the mask of the stage before: background outside of it, whatever its kind."""
    case = loaded(picture_of(blob()))
    confined = chain("box", ANYTHING, None, within="mask")
    assert np.array_equal(predictor(confined, Above(0.5), Everywhere(3)).predict_case(case).label, blob() > 0)
    found = predictor(chain("box", LABELS, None, within="mask"), Perfect(), Everywhere(3)).predict_case(case).label
    assert np.array_equal(found > 0, blob() == 1)  # within the label "outer"


@pytest.mark.parametrize("results", [["label"], ["probabilities"]])
@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
def test_perfect_stages(results: list[str], transpose: tuple[int, int, int]) -> None:
    case = loaded(picture_of(blob()))
    turned = {"preprocessing": Preprocessing(transpose=transpose)}
    inside = chain("box", ANYTHING, None, **turned)
    assert np.array_equal(predictor(inside, Above(0.5), Perfect()).predict_case(case, results).label, blob())
    nested = chain("box", WHOLE, INNER, REGIONS, **turned)
    found = predictor(nested, Above(0.5), Above(1.5)).predict_case(case, results)
    assert np.array_equal(found.label, blob())
    assert list(found.probabilities) == (["whole", "inner"] if "probabilities" in results else [])
    handed = chain("channels", LABELS, None, **turned)
    assert np.array_equal(predictor(handed, Perfect(), Echo()).predict_case(case, results).label, blob())


def test_handed_on_from_another_grid() -> None:
    """Found at 0.5 mm, it is at 1 mm what it was before it went there."""
    plan = chain("channels", LABELS, None)
    fine = make_configuration(spacing=(0.5, 0.5, 0.5), data="fine")
    plan = plan.model_copy(update={"configurations": {"first": fine, "last": plan.configurations["last"]}})
    assert np.array_equal(predictor(plan, Perfect(), Echo()).predict_case(loaded(picture_of(blob()))).label, blob())


def test_regions_are_handed_on_as_they_overlap() -> None:
    seen = []

    class Look(Perfect):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            seen.append(image[:, 1:].sum(dim=(0, 2, 3, 4)))
            return super().forward(image)

    plan = chain("channels", REGIONS, None, REGIONS)
    config = plan.configurations["last"].model_copy(update={"patch_size": [12, 12, 14]})
    plan = plan.model_copy(update={"configurations": {"first": plan.configurations["first"], "last": config}})
    found = predictor(plan, Perfect(REGIONS), Look(REGIONS)).predict_case(loaded(picture_of(blob())))
    assert np.array_equal(found.label, blob())
    assert seen[0].tolist() == [(blob() > 0).sum(), (blob() == 2).sum()]


@pytest.mark.parametrize(("margin", "size"), [(0, (5, 7, 7)), (1, (7, 9, 9)), (3, (10, 12, 12))])
def test_the_box_and_its_margin(margin: int, size: tuple[int, ...]) -> None:
    """Label 1 or 2 fills 2:7, 3:10, 2:9 of 10×12×14 voxels; a margin ends at the image's edge."""
    plan = chain("box", ANYTHING, None, margin=margin)
    case = preprocess_case(loaded(picture_of(blob())), plan.stage("last"))
    shapes = []

    def predict(trained: TrainedStage, image: torch.Tensor) -> list[Slab]:
        shapes.append(tuple(image.shape[1:]))
        found = Above(0.5)(image[None])[0] if trained.stage.target is ANYTHING else Perfect()(image[None])[0]
        return [Slab(0, 0, found.shape[1], len(found), found)]

    stages = [TrainedStage(stage, []) for stage in plan.stages]
    heads = apply_stages(stages, [case, case], LABELS, predict, CPU)
    assert shapes == [(10, 12, 14), size]
    # Outside of it the background is all but certain, whatever it says within.
    outside = np.ones(blob().shape, bool)
    outside[2 - min(margin, 2) : 7 + margin, 3 - margin : 10 + margin, max(0, 2 - margin) : 9 + margin] = False
    probability = torch.softmax(torch.stack(list(heads)), 0)[0].numpy()
    assert (probability[outside] > 1 - 1e-6).all()
    assert not outside.all()


@pytest.mark.parametrize("results", [["label"], ["probabilities"]])
def test_a_first_stage_that_finds_nothing(results: list[str]) -> None:
    case = loaded(picture_of(blob()))
    calls = []

    class Never(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            calls.append(1)
            return image

    for plan in (chain("box", ANYTHING, None), chain("box", WHOLE, INNER, REGIONS)):
        found = predictor(plan, Constant(-5.0), Never()).predict_case(case, results)
        assert not found.label.any()
        assert all(p.max() < 0.01 for p in found.probabilities.values())
    assert not calls
    # As further input, nothing is a finding like any other.
    handed = chain("channels", LABELS, None)
    assert np.array_equal(predictor(handed, Constant(5, 0, 0), Perfect()).predict_case(case).label, blob())


def test_nothing_of_an_inner_stage_outside_its_box() -> None:
    """The second stage sees its region everywhere, and is heard inside the box only."""
    found = predictor(chain("box", WHOLE, INNER, REGIONS, margin=0), Above(0.5), Constant(5.0)).predict_case(
        loaded(picture_of(blob()))
    )
    expected = np.zeros_like(blob())
    expected[2:7, 3:10, 2:9] = 2
    assert np.array_equal(found.label, expected)


def test_three_stages_in_one_another() -> None:
    target = Target(kind="regions", outputs=[WHOLE.outputs[0], INNER.outputs[0]])
    first = make_configuration(target=ANYTHING)
    second = make_configuration(
        target=WHOLE, previous=Previous(configuration="a", use="box", output="anything", margin=1)
    )
    third = make_configuration(target=INNER, previous=Previous(configuration="b", use="box", output="whole", margin=1))
    plan = make_plan(configurations={"a": first, "b": second, "c": third}, recommended="c", target=target)
    found = predictor(plan, Above(0.5), Above(0.5), Above(1.5)).predict_case(
        loaded(picture_of(blob())), ["probabilities"]
    )
    assert np.array_equal(found.label, blob())
    assert np.array_equal(found.probabilities["inner"] > 0.5, blob() == 2)


def test_runs_of_stages_are_averaged() -> None:
    plan, alone = chain("box", ANYTHING, None), make_plan()
    stages = predictor(plan, Above(0.5), Perfect()).members[0]
    both = Predictor([stages, Member("other", [TrainedStage(alone.stage("small"), [Perfect()])])], CPU)
    assert np.array_equal(both.predict_case(loaded(picture_of(blob())), ["probabilities"]).label, blob())


def test_folder(tmp_path: Path) -> None:
    cases = [case_of(tmp_path / "in", f"c{n}", blob(shift=n)) for n in range(3)]
    outcome = predictor(chain("box", ANYTHING, None), Above(0.5), Perfect()).predict(cases, tmp_path / "out")
    assert sorted(outcome.written) == ["c0", "c1", "c2"]
    assert json.loads((tmp_path / "out" / "predictions.json").read_text())["failed"] == {}


def test_box_around() -> None:
    inside = np.zeros((6, 6, 6), bool)
    assert box_around(inside, 1) is None
    inside[2, 0, 3:5] = True
    assert box_around(inside, 1) == (slice(1, 4), slice(0, 2), slice(2, 6))


def test_one_hot_of_regions_overlaps() -> None:
    label = torch.tensor([[0, 1, 2]], dtype=torch.int16)
    assert one_hot(label, REGIONS).tolist() == [[[0, 1, 1], [0, 0, 1]]]
    assert one_hot(label, LABELS).tolist() == [[[0, 1, 0], [0, 0, 1]]]
