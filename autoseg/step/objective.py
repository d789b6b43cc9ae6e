"""The objective of a training: the training loss, and a term for each further field of a batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from autoseg.plans.recipe import Recipe
from autoseg.plans.target import Target
from autoseg.step.batch import Batch
from autoseg.step.distillation import distillation_loss
from autoseg.step.losses import training_loss
from autoseg.utils.registry import Registry

Outputs = torch.Tensor | Sequence[torch.Tensor]


@dataclass(frozen=True)
class FieldLoss:
    """The loss term of a field.

    Attributes:
        loss: a scalar from the network's outputs, the batch, the recipe and the target.
        channels: how many a batch's field has, of this recipe and target; 0 where the batches have none. Memory, time
            and the choice of a step's variant are of batches with it.
    """

    loss: Callable[[Outputs, Batch, Recipe, Target], torch.Tensor]
    channels: Callable[[Recipe, Target], int]


#: Name of a field (:mod:`autoseg.preprocessing.fields`) → its loss term.
FIELD_LOSSES: Registry[FieldLoss] = Registry("field", package="autoseg.step")


def teacher_loss(outputs: Outputs, batch: Batch, recipe: Recipe, target: Target) -> torch.Tensor:
    """Distillation from the teacher's scores (:func:`autoseg.step.distillation.distillation_loss`)."""
    assert recipe.taught is not None
    return distillation_loss(outputs, batch.label, batch.fields["teacher"], recipe.taught, target)


def _teacher_channels(recipe: Recipe, target: Target) -> int:
    """A score of each head, and one for the share of a voxel inside the image."""
    return 0 if recipe.taught is None else target.heads + 1


FIELD_LOSSES.register("teacher", FieldLoss(teacher_loss, _teacher_channels))


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
        loss = loss + FIELD_LOSSES.find(name).loss(outputs, batch, recipe, target)
    return loss
