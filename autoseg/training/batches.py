"""One batch of a training: loaded patches, augmented, to the network's input and targets."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from autoseg.plans.stage import Stage
from autoseg.preprocessing.fields import ANNOTATIONS, Field
from autoseg.step.batch import Batch
from autoseg.training.augmentation import augment_maps
from autoseg.training.fields import with_input_fields
from autoseg.training.missing_channels import kept_channels, only_channels


class BatchMaker:
    """Augments loaded patches on the training device.

    Args:
        stage: patch, network and recipe.
        device: to compute on.
    """

    def __init__(self, stage: Stage, device: torch.device) -> None:
        self.stage = stage
        patch = stage.configuration.patch_size
        self.input_size = stage.network.input_size(patch)
        self.output_size = stage.network.output_size(patch)
        self.device = device

    def make(self, loaded: Mapping[str, Any], rng: np.random.Generator) -> Batch:
        """A batch of loaded patches (:meth:`autoseg.training.sampling.PatchLoader.batch`), augmented."""
        recipe = self.stage.recipe
        image = self._moved(loaded["image"])
        fields: dict[Field, torch.Tensor] = {field: self._moved(values) for field, values in loaded["fields"].items()}
        label = None if ANNOTATIONS in fields else self._moved(loaded["label"])
        linear = {field: values for field, values in fields.items() if field.interpolation == "linear"}
        nearest = {field: values for field, values in fields.items() if field.interpolation == "nearest"}
        maps = [*([] if label is None else [label[:, None]]), *nearest.values()]
        channels = sum(values.shape[1] for values in linear.values())
        numbers, moved = augment_maps(
            torch.cat([image, *linear.values()], dim=1) if linear else image,
            torch.cat(maps, dim=1) if len(maps) > 1 else maps[0],
            self.input_size,
            recipe.augmentation,
            rng,
            fields=channels,
        )
        own = image.shape[1]
        image = numbers[:, :own].contiguous()
        fields = dict(zip(linear, _split(numbers[:, own:], linear), strict=True))
        first = 0 if label is None else 1
        fields |= dict(zip(nearest, _split(moved[:, first:], nearest), strict=True))
        image = with_input_fields(image, fields, self.stage, rng)
        # After the augmentation, whose noise would make a missing channel non-zero.
        image = only_channels(image, kept_channels(loaded["present"], recipe.channel_dropout, rng))
        targets = {field: self._middle(values) for field, values in fields.items() if field.role == "target"}
        annotations = targets.pop(ANNOTATIONS, None)
        return Batch(
            image,
            self._middle(moved[:, 0]) if annotations is None else annotations,
            loaded.get("drawn"),
            {field.name: values.contiguous() for field, values in targets.items()},
        )

    def _moved(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)

    def _middle(self, maps: torch.Tensor) -> torch.Tensor:
        """The centre ``(…, *size)`` of maps: the output of a network without padding."""
        size = self.output_size
        for axis, voxels in enumerate(size, start=maps.ndim - len(size)):
            maps = maps.narrow(axis, (maps.shape[axis] - voxels) // 2, voxels)
        return maps


def _split(values: torch.Tensor, fields: Mapping[Field, torch.Tensor]) -> Sequence[torch.Tensor]:
    """Channels ``(batch, channel, *space)`` back to the fields that they were concatenated from."""
    return values.split([field.shape[1] for field in fields.values()], dim=1) if fields else ()
