"""The objective of a training: the training loss, and a term for each further field of a batch."""

from collections.abc import Callable, Sequence

import torch

from autoseg.plans.recipe import Recipe
from autoseg.plans.target import Target
from autoseg.step.batch import Batch
from autoseg.step.distillation import distillation_loss
from autoseg.step.losses import training_loss
from autoseg.utils.registry import Registry

Outputs = torch.Tensor | Sequence[torch.Tensor]

#: The loss term of a field: a scalar from the network's outputs, the batch, the recipe and the target.
FieldLoss = Callable[[Outputs, Batch, Recipe, Target], torch.Tensor]

#: Name of a field (:mod:`autoseg.preprocessing.fields`) → its loss term.
FIELD_LOSSES: Registry[FieldLoss] = Registry("field", package="autoseg.step")


@FIELD_LOSSES.register("teacher")
def teacher_loss(outputs: Outputs, batch: Batch, recipe: Recipe, target: Target) -> torch.Tensor:
    """Distillation from the teacher's scores (:func:`autoseg.step.distillation.distillation_loss`)."""
    assert recipe.taught is not None
    return distillation_loss(outputs, batch.label, batch.fields["teacher"], recipe.taught, target)


def objective(outputs: Outputs, batch: Batch, recipe: Recipe, target: Target) -> torch.Tensor:
    """The scalar that training minimises.

    Args:
        outputs: logits ``(batch, decoders × heads, *output)``, or a list of them, the highest resolution first.
        batch: that they were computed from.
        recipe: weights of the terms.
        target: what to segment.
    """
    loss = training_loss(outputs, batch.label, recipe.loss, target, batch.drawn)
    for name in batch.fields:
        loss = loss + FIELD_LOSSES.find(name)(outputs, batch, recipe, target)
    return loss
