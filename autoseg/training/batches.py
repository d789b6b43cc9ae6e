"""One batch of a training: source voxels, resampled and augmented, to the network's input and targets."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from autoseg.plans.stage import Stage
from autoseg.preprocessing.fields import ANNOTATIONS, Field
from autoseg.step.batch import Batch
from autoseg.training.augmentation import augment_intensities, mirror
from autoseg.training.case_cache import CaseArrays
from autoseg.training.deformation import resample_patch
from autoseg.training.fields import with_input_fields
from autoseg.training.missing_channels import kept_channels, only_channels
from autoseg.training.sampling import LoadedBatch, LoadedPatch


@dataclass(frozen=True)
class MadeBatch:
    """A batch, ready for the step.

    Attributes:
        batch: on the device.
        seed: of torch's global random state during the step, which dropout uses.
    """

    batch: Batch
    seed: int

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All tensors of the batch."""
        return [self.batch.image, self.batch.label, *self.batch.fields.values()]


class BatchMaker:
    """Makes batches of loaded source voxels, on the training device; for a Mac's GPU on the CPU.

    Args:
        stage: patch, network and recipe.
        device: of the training.
    """

    def __init__(self, stage: Stage, device: torch.device) -> None:
        self.stage = stage
        patch = stage.configuration.patch_size
        self.input_size = stage.network.input_size(patch)
        self.output_size = stage.network.output_size(patch)
        self.device = device
        #: Where batches are made: torch has no nearest sampling of volumes for Metal.
        self.made_on = torch.device("cpu") if device.type == "mps" else device

    def make(self, loaded: LoadedBatch, layout: CaseArrays) -> MadeBatch:
        """A batch of loaded patches, augmented, on the training device.

        Args:
            loaded: its source voxels.
            layout: of their arrays.
        """
        recipe, rng = self.stage.recipe, loaded.rng
        patches = [self._resampled(patch, layout) for patch in loaded.patches]
        numbers, maps = (torch.stack(parts) for parts in zip(*patches, strict=True))
        own = loaded.present.shape[1]
        noise = torch.Generator(self.made_on).manual_seed(loaded.noise)
        augment_intensities(numbers[:, :own], recipe.augmentation, rng, noise)
        mirror([numbers, maps], recipe.augmentation.mirror_axes, rng, recipe.augmentation.mirror_probability)
        voxels = loaded.patches[0].voxels
        widths = [len(array) + (field is not None) for array, field in zip(voxels.numbers, layout.numbers, strict=True)]
        arrays = dict(zip(layout.numbers, numbers.split(widths, dim=1), strict=True))
        image = arrays.pop(None).contiguous()
        fields: dict[Field, torch.Tensor] = {field: values for field, values in arrays.items() if field is not None}
        label: torch.Tensor | None = None
        for field, values in zip(layout.maps, maps.split([len(array) for array in voxels.maps], dim=1), strict=True):
            if field is None:
                label = self._middle(values[:, 0])
            else:
                fields[field] = values
        image = with_input_fields(image, fields, self.stage, rng)
        # After the augmentation, whose noise would make a missing channel non-zero.
        image = only_channels(image, kept_channels(loaded.present, recipe.channel_dropout, rng))
        targets = {field: self._middle(values) for field, values in fields.items() if field.role == "target"}
        if label is None:
            label = targets.pop(ANNOTATIONS)
        named = {field.name: values.contiguous() for field, values in targets.items()}
        batch = Batch(image, label, loaded.drawn, named).to(self.device)
        return MadeBatch(batch, int(rng.integers(2**62)))

    def _resampled(self, patch: LoadedPatch, layout: CaseArrays) -> tuple[torch.Tensor, torch.Tensor]:
        """Numbers ``(channel, *input)`` and label maps ``(map, *input)`` of one sample."""
        arrays, labels = patch.voxels.on(self.made_on)
        numbers = []
        for array, scales, field in zip(arrays, patch.voxels.scales, layout.numbers, strict=True):
            values = decoded(array, scales)
            numbers.append(values)
            if field is not None:
                numbers.append(torch.ones_like(values[:1]))  # zero beyond the image, after resampling
        together, maps = _joined(numbers), _joined(labels)
        if len(self.input_size) == 2:
            together, maps = together[:, 0], maps[:, 0]
        return resample_patch(together, maps, patch.first, patch.deformation)

    def _middle(self, maps: torch.Tensor) -> torch.Tensor:
        """The centre ``(…, *size)`` of maps: the output of a network without padding."""
        size = self.output_size
        for axis, voxels in enumerate(size, start=maps.ndim - len(size)):
            maps = maps.narrow(axis, (maps.shape[axis] - voxels) // 2, voxels)
        return maps


def _joined(arrays: Sequence[torch.Tensor]) -> torch.Tensor:
    return arrays[0] if len(arrays) == 1 else torch.cat(list(arrays))


def decoded(voxels: torch.Tensor, scales: Sequence[tuple[float, float]]) -> torch.Tensor:
    """The values of stored numbers (:class:`autoseg.preprocessing.volume.Volume`): float32, same shape."""
    values = voxels.float()
    if not scales:
        return values
    return torch.stack([(channel + shift) * slope for channel, (slope, shift) in zip(values, scales, strict=True)])
