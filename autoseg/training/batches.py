"""One batch of a training: from loaded patches, by augmentation, to what the network is given and asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from autoseg.plans.recipe import Recipe
from autoseg.plans.stage import Stage
from autoseg.plans.target import Target
from autoseg.step.loss import training_loss
from autoseg.training.augmentation import augment, augment_maps
from autoseg.training.distillation import augment_taught, distillation_loss
from autoseg.training.missing_channels import kept_channels, only_channels
from autoseg.training.previous import augment_handed


@dataclass(frozen=True)
class Batch:
    """What the network is given, and what it is compared with.

    Attributes:
        image: float32 ``(batch, channel, *input)``.
        label: integer ``(batch, *output)``, with the dataset's values; of raters who are learned separately ``(batch,
            rater, *output)``.
        taught: what a teacher says, ``(batch, heads + 1, *output)``; None without a teacher.
        drawn: bool ``(batch, rater)``: who drew which sample; None where no raters are learned separately.
    """

    image: torch.Tensor
    label: torch.Tensor
    taught: torch.Tensor | None = None
    drawn: np.ndarray | None = None


class BatchMaker:
    """Augments loaded patches on the training device.

    Args:
        stage: patch, network and recipe.
        device: to compute on.
    """

    def __init__(self, stage: Stage, device: torch.device) -> None:
        self.recipe, configuration = stage.recipe, stage.configuration
        self.given = configuration.network.input_size(configuration.patch_size)
        self.spoken_of = configuration.network.output_size(configuration.patch_size)
        self.handed = stage.input_target
        self.raters = bool(stage.raters)
        self.heads = stage.heads
        self.device = device

    def make(self, loaded: Mapping[str, np.ndarray], rng: np.random.Generator) -> Batch:
        """A batch of loaded patches (:meth:`autoseg.training.sampling.PatchLoader.batch`), augmented."""
        image = torch.from_numpy(loaded["image"]).to(self.device, non_blocking=True)
        label = torch.from_numpy(loaded["label"]).to(self.device, non_blocking=True)
        augmentation, taught = self.recipe.augmentation, None
        if self.recipe.taught is not None:
            image, label, taught = augment_taught(image, label, self.given, augmentation, rng, self.heads)
            taught = _middle(taught, self.spoken_of).contiguous()
        elif self.raters:
            image, label = augment_maps(image, label, self.given, augmentation, rng)
        elif self.handed is not None:
            image, label = augment_handed(image, label, self.given, augmentation, rng, self.handed)
        else:
            image, label = augment(image, label, self.given, augmentation, rng)
        # After the augmentation, whose noise and brightness would give a missing channel a content.
        image = only_channels(image, kept_channels(loaded["present"], self.recipe.channel_dropout, rng))
        return Batch(image, _middle(label, self.spoken_of), taught, loaded.get("drawn"))


def batch_loss(
    outputs: torch.Tensor | Sequence[torch.Tensor], batch: Batch, recipe: Recipe, target: Target
) -> torch.Tensor:
    """What a training makes small: the plan's loss, and the teacher's term where there is one.

    Args:
        outputs: logits ``(batch, heads, *output)`` (of raters, one's heads after the other's), or a list of them, the
            highest resolution first.
        batch: that they are of.
        recipe: weights of the terms.
        target: what to segment.
    """
    loss = training_loss(outputs, batch.label, recipe.loss, target, batch.drawn)
    if batch.taught is not None and recipe.taught is not None:
        loss = loss + distillation_loss(outputs, batch.label, batch.taught, recipe.taught, target)
    return loss


def _middle(maps: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """The middle ``(…, *size)`` of maps: what a network without padding speaks about."""
    for axis, wanted in enumerate(size, start=maps.ndim - len(size)):
        maps = maps.narrow(axis, (maps.shape[axis] - wanted) // 2, wanted)
    return maps
