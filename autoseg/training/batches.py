"""One batch of a training: source voxels, resampled and augmented, to the network's input and targets."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
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
from autoseg.training.transfers import to_device


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
        numbers, maps = self.resampled(loaded.patches, layout)
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

    def resampled(self, patches: Sequence[LoadedPatch], layout: CaseArrays) -> tuple[torch.Tensor, torch.Tensor]:
        """Numbers ``(patch, channel, *input)`` and label maps ``(patch, map, *input)``, not augmented further.

        Args:
            patches: of a batch.
            layout: of their arrays.
        """
        whole = [number for number, patch in enumerate(patches) if patch.deformation.matrix is None]
        found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        if whole:
            numbers, maps = self._placed([patches[number] for number in whole], layout)
            if len(whole) == len(patches):
                return numbers, maps
            found = dict(zip(whole, zip(numbers.unbind(), maps.unbind(), strict=True), strict=True))
        parts = [found.get(number) or self._deformed(patch, layout) for number, patch in enumerate(patches)]
        numbers, maps = (torch.stack(arrays) for arrays in zip(*parts, strict=True))
        return numbers, maps

    def _placed(self, patches: Sequence[LoadedPatch], layout: CaseArrays) -> tuple[torch.Tensor, torch.Tensor]:
        """Numbers and label maps of patches that are not deformed, all at once: there may be hundreds of small ones."""
        size = patches[0].deformation.patch
        loaded = [self._on_device(patch) for patch in patches]
        boxes = [
            tuple(slice(first, first + n) for first, n in zip(patch.first, labels[0].shape[1:], strict=True))
            for patch, (_, labels) in zip(patches, loaded, strict=True)
        ]
        inside = _inside(boxes, size, self.made_on)
        numbers, maps = [], []
        for index, field in enumerate(layout.numbers):
            values = _padded([arrays[index] for arrays, _ in loaded], boxes, size, torch.float32)
            scales = [patch.voxels.scales[index] for patch in patches]
            if any(scales):
                _decode(values, scales)
                values.masked_fill_(~inside, 0)
            numbers.append(values)
            if field is not None:
                numbers.append(inside.float())
        for index in range(len(layout.maps)):
            arrays = [labels[index] for _, labels in loaded]
            maps.append(_padded(arrays, boxes, size, arrays[0].dtype))
        return _joined(numbers, 1), _joined(maps, 1)

    def _deformed(self, patch: LoadedPatch, layout: CaseArrays) -> tuple[torch.Tensor, torch.Tensor]:
        """Numbers ``(channel, *input)`` and label maps ``(map, *input)`` of one patch."""
        arrays, labels = self._on_device(patch)
        numbers = []
        for array, scales, field in zip(arrays, patch.voxels.scales, layout.numbers, strict=True):
            values = array.to(torch.float32, copy=True)
            if scales:
                _decode(values[None], [scales])
            numbers.append(values)
            if field is not None:
                numbers.append(torch.ones_like(values[:1]))  # zero beyond the image, after resampling
        return resample_patch(_joined(numbers, 0), _joined(labels, 0), patch.first, patch.deformation)

    def _on_device(self, patch: LoadedPatch) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The source voxels ``(channel, *box)`` of a patch's numbers and label maps, a slice's without its axis."""
        numbers, maps = patch.voxels.on(self.made_on)
        if len(self.input_size) == 2:
            return [array[:, 0] for array in numbers], [array[:, 0] for array in maps]
        return numbers, maps

    def _middle(self, maps: torch.Tensor) -> torch.Tensor:
        """The centre ``(…, *size)`` of maps: the output of a network without padding."""
        size = self.output_size
        for axis, voxels in enumerate(size, start=maps.ndim - len(size)):
            maps = maps.narrow(axis, (maps.shape[axis] - voxels) // 2, voxels)
        return maps


def _joined(arrays: Sequence[torch.Tensor], axis: int) -> torch.Tensor:
    return arrays[0] if len(arrays) == 1 else torch.cat(list(arrays), dim=axis)


def _padded(
    arrays: Sequence[torch.Tensor], boxes: Sequence[tuple[slice, ...]], size: Sequence[int], dtype: torch.dtype
) -> torch.Tensor:
    """Arrays ``(channel, *box)`` in boxes of patches, with zeros around: ``(patch, channel, *size)`` of a type."""
    whole = torch.zeros((len(arrays), len(arrays[0]), *size), dtype=dtype, device=arrays[0].device)
    places = [one[(slice(None), *box)] for one, box in zip(whole.unbind(), boxes, strict=True)]
    # A patch may see nothing of the image.
    filled = [(place, array) for place, array in zip(places, arrays, strict=True) if array.numel()]
    if filled:
        torch._foreach_copy_([place for place, _ in filled], [array for _, array in filled])
    return whole


def _inside(boxes: Sequence[tuple[slice, ...]], size: Sequence[int], device: torch.device) -> torch.Tensor:
    """Which voxels of patches lie in their boxes: bool ``(patch, 1, *size)``."""
    lines = [np.zeros((len(boxes), n), bool) for n in size]
    for number, box in enumerate(boxes):
        for line, side in zip(lines, box, strict=True):
            line[number, side] = True
    moved = to_device(np.concatenate(lines, axis=1), device).split(list(size), dim=1)
    along = [
        line.reshape(len(boxes), 1, *(n if other == axis else 1 for other, n in enumerate(size)))
        for axis, line in enumerate(moved)
    ]
    return reduce(torch.logical_and, along)


def _decode(voxels: torch.Tensor, scales: Sequence[Sequence[tuple[float, float]]]) -> None:
    """Turn stored numbers into values, in place (:class:`autoseg.preprocessing.volume.Volume`).

    Args:
        voxels: float32 ``(patch, channel, *space)``.
        scales: of each patch's channels; empty for a patch whose numbers are values.
    """
    channels = voxels.shape[1]
    factors = np.array([list(one) or [(1.0, 0.0)] * channels for one in scales], np.float32)
    moved = to_device(factors, voxels.device).reshape(*factors.shape, *[1] * (voxels.ndim - 2))
    voxels.add_(moved[:, :, 1]).mul_(moved[:, :, 0])
