"""A trained model as a teacher: its outputs beside a case's voxels, moved with them, and their term of the loss."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from autoseg.plans.recipe import Augmentation, Distillation
from autoseg.plans.target import Target
from autoseg.preprocessing.store import StoredCase
from autoseg.step.terms import softened_divergence
from autoseg.training.augmentation import augment_maps

#: Least share of a voxel that lies inside the image for the teacher to have a say in it: all of it, but for rounding.
WITHIN = 0.999


@dataclass(frozen=True)
class TaughtCase(StoredCase):
    """A case with what a teacher says of it.

    Attributes:
        said: whose image is the teacher's scores on this case's grid, a channel a head.
        teacher: fingerprint of all that they depend on.
    """

    said: StoredCase
    teacher: str

    @property
    def content(self) -> str:
        """Checksum of the case, and the teacher: not of its scores, whose last digits depend on the device."""
        return super().content + self.teacher

    def image(self, box: tuple[slice, ...] = ()) -> np.ndarray:
        """float32 ``(channel + heads + 1, z, y, x)``: intensities, scores, and ones, which end where the image does."""
        image = super().image(box)
        return np.concatenate([image, self.said.image(box).astype(np.float32), np.ones_like(image[:1])])


def augment_taught(
    image: torch.Tensor,
    label: torch.Tensor,
    patch: Sequence[int],
    augmentation: Augmentation,
    rng: np.random.Generator,
    heads: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Augment a batch of :class:`TaughtCase` and cut it to the patch.

    The teacher's scores are turned, zoomed, bent and mirrored with the image, interpolated as it is; nothing else
    happens to them.

    Args:
        image: float32 ``(batch, channel + heads + 1, *loaded)``.
        label: integer ``(batch, *loaded)``.
        patch: size of the result's space.
        augmentation: what may happen, how often and how far.
        rng: decides.
        heads: of the teacher's scores.

    Returns:
        Image ``(batch, channel, *patch)``, label ``(batch, *patch)``, and ``(batch, heads + 1, *patch)``: the scores,
        and how much of each voxel lies inside the image.
    """
    moved, maps = augment_maps(image, label[:, None], patch, augmentation, rng, fields=heads + 1)
    return moved[:, : -heads - 1].contiguous(), maps[:, 0], moved[:, -heads - 1 :]


def distillation_loss(
    outputs: torch.Tensor | Sequence[torch.Tensor],
    label: torch.Tensor,
    taught: torch.Tensor,
    distillation: Distillation,
    target: Target,
) -> torch.Tensor:
    """The teacher's term of the loss, at the full resolution alone.

    Outputs at lower resolutions help the gradient on its way and are thrown away after the training; what the teacher
    says has been made for the voxels of the full one, and its mean over larger ones would be no longer what it says of
    any. Of several opinions at that resolution each counts in full, as in the plan's loss.

    Args:
        outputs: logits ``(batch, heads, *space)``, or a list of them, the highest resolution first.
        label: integer ``(batch, *space)``; voxels of the ignore label do not count.
        taught: ``(batch, heads + 1, *space)`` from :func:`augment_taught`; voxels beyond the image do not count.
        distillation: weight and temperature.
        target: what to segment.
    """
    levels = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    counts = taught[:, -1:] >= WITHIN
    if target.ignore is not None:
        counts = counts & (label != target.ignore)[:, None]
    total = levels[0].new_zeros((), dtype=torch.float32)
    for logits in levels:
        if logits.shape == levels[0].shape:
            total = total + softened_divergence(
                logits.float(), taught[:, :-1], target.kind, distillation.temperature, counts
            )
    return distillation.weight * total
