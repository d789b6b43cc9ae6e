"""Distillation: the loss term with a teacher's scores (Hinton et al. 2015)."""

from collections.abc import Sequence

import torch

from autoseg.plans.recipe import Distillation
from autoseg.plans.target import Target
from autoseg.step.terms import softened_divergence

#: Least share of a voxel inside the image for its teacher's scores to count: all of it, but for rounding.
WITHIN = 0.999


def distillation_loss(
    outputs: torch.Tensor | Sequence[torch.Tensor],
    label: torch.Tensor,
    taught: torch.Tensor,
    distillation: Distillation,
    target: Target,
) -> torch.Tensor:
    """Distillation loss of the outputs at full resolution; a scalar.

    Outputs at lower resolutions are left out: the teacher's scores belong to voxels of the full resolution. Several
    outputs at that resolution (a network's views) each count in full, as in the plan's loss; several decoders are
    averaged.

    Args:
        outputs: logits ``(batch, decoders × heads, *space)``, or a list of them, the highest resolution first.
        label: integer ``(batch, *space)`` or ``(batch, decoder, *space)``; voxels of the ignore label do not count.
        taught: ``(batch, heads + 1, *space)``: the teacher's scores, and the share of each voxel inside the image;
            voxels beyond the image do not count.
        distillation: weight and temperature.
        target: what to segment.
    """
    levels = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    inside = taught[:, -1:] >= WITHIN
    total = levels[0].new_zeros((), dtype=torch.float32)
    for logits in levels:
        if logits.shape != levels[0].shape:
            continue
        answers = logits.split(target.heads, dim=1)
        for index, answer in enumerate(answers):
            counts = inside
            if target.ignore is not None:
                map_of = label[:, index] if label.ndim == logits.ndim else label
                counts = counts & (map_of != target.ignore)[:, None]
            term = softened_divergence(answer.float(), taught[:, :-1], target.kind, distillation.temperature, counts)
            total = total + (term if len(answers) == 1 else term / len(answers))
    return distillation.weight * total
