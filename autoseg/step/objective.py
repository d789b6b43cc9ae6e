"""The objective of a training: the plan's loss, and a term for each further field that a batch brings."""

from collections.abc import Callable, Sequence

import torch

from autoseg.plans.recipe import Recipe
from autoseg.plans.target import Target
from autoseg.step.batch import Batch
from autoseg.step.distillation import distillation_loss
from autoseg.step.losses import training_loss
from autoseg.utils.registry import Registry

Outputs = torch.Tensor | Sequence[torch.Tensor]

#: The term of a field: a scalar from the network's outputs, the batch, the recipe and what is segmented.
FieldLoss = Callable[[Outputs, Batch, Recipe, Target], torch.Tensor]

#: Name of a field (:mod:`autoseg.training.fields`) → its term of the loss.
FIELD_LOSSES: Registry[FieldLoss] = Registry("field", package="autoseg.step")


@FIELD_LOSSES.register("teacher")
def teacher_loss(outputs: Outputs, batch: Batch, recipe: Recipe, target: Target) -> torch.Tensor:
    """The teacher's softened outputs (:func:`autoseg.step.distillation.distillation_loss`)."""
    assert recipe.taught is not None
    return distillation_loss(outputs, batch.label, batch.fields["teacher"], recipe.taught, target)


def objective(outputs: Outputs, batch: Batch, recipe: Recipe, target: Target) -> torch.Tensor:
    """What a training minimises.

    Args:
        outputs: logits ``(batch, answers × heads, *output)``, or a list of them, the highest resolution first.
        batch: that they are of.
        recipe: weights of the terms.
        target: what to segment.
    """
    loss = training_loss(outputs, batch.label, recipe.loss, target, batch.drawn)
    for name in batch.fields:
        loss = loss + FIELD_LOSSES.find(name)(outputs, batch, recipe, target)
    return loss
