"""The batch that stands for a plan's: shapes of its fields, also of those that another package adds."""

import pytest
import torch

from autoseg.networks import build
from autoseg.planning.memory import step_memory
from autoseg.plans.recipe import Distillation, Recipe
from autoseg.plans.target import Target
from autoseg.step.batch import Batch
from autoseg.step.objective import FIELD_LOSSES, FieldLoss, Outputs
from autoseg.step.training_step import TrainingStep
from tests.builders import make_network, step_setup


def three_or_none(recipe: Recipe, target: Target) -> int:
    """Channels of a field that a recipe without clipping does without."""
    return target.heads + 1 if recipe.gradient_clip else 0


def distance(outputs: Outputs, batch: Batch, recipe: Recipe, target: Target) -> torch.Tensor:
    logits = outputs if isinstance(outputs, torch.Tensor) else outputs[0]
    return 7 + (logits * batch.fields["distance"][:, :-1]).sum()


@pytest.mark.parametrize(("taught", "channels"), [(None, 0), (Distillation(teacher="any"), 3)])
def test_a_teachers_scores_are_there_where_there_is_one(taught: Distillation | None, channels: int) -> None:
    setup = step_setup(make_network(3), (1, 2, [8, 8, 16], 2), distillation=taught)
    found = {name: tuple(values.shape) for name, values in setup.batch("meta").fields.items()}
    assert found == ({"teacher": (2, channels, 8, 8, 16)} if channels else {})


def test_a_field_of_another_package_is_part_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shape, its term and its memory; a recipe that does without it costs nothing."""
    setup = step_setup(make_network(3), (1, 2, [8, 8, 16], 2))
    without = step_setup(make_network(3), (1, 2, [8, 8, 16], 2), gradient_clip=0.0)
    before = step_memory(setup, "fp32"), step_memory(without, "fp32")
    plain = _loss(setup)
    monkeypatch.setitem(FIELD_LOSSES._things, "distance", FieldLoss(distance, three_or_none))
    batch = setup.batch("cpu")
    assert batch.fields["distance"].shape == (2, 3, 8, 8, 16)
    assert not without.batch("cpu").fields
    assert _loss(setup) == pytest.approx(plain + 7)
    after = step_memory(setup, "fp32"), step_memory(without, "fp32")
    assert after[0].total >= before[0].total + batch.fields["distance"].nbytes
    assert after[1] == before[1]


def _loss(setup) -> float:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    step = TrainingStep(build(setup.network, 1, 2), setup.recipe, setup.target)
    return float(step(setup.batch("cpu", random=True)).loss)
