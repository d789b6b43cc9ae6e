"""StepSetup: all that time and memory of a training step depend on, apart from the device."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from autoseg.plans.architecture import Network
from autoseg.plans.recipe import Recipe
from autoseg.plans.stage import Stage
from autoseg.plans.target import Output, Target
from autoseg.step.batch import LABEL_TYPE, Batch
from autoseg.step.objective import FIELD_LOSSES

#: Voxels of a batch that is timed in place of a larger one; the time is then scaled.
TIMED_VOXELS = 60_000


@dataclass(frozen=True)
class StepSetup:
    """What determines time and memory of a training step; a planner compares several before there is a plan.

    Attributes:
        network: topology.
        in_channels: channels of the image.
        target: what is segmented.
        patch_size: voxels.
        batch_size: patches a step.
        recipe: loss with the terms of further fields, optimizer, average of the weights.
    """

    network: Network
    in_channels: int
    target: Target
    patch_size: Sequence[int]
    batch_size: int
    recipe: Recipe

    @classmethod
    def of(cls, stage: Stage) -> "StepSetup":
        """The setup of a plan's stage."""
        configuration = stage.configuration
        return cls(
            stage.network,
            stage.in_channels,
            stage.target,
            configuration.patch_size,
            configuration.batch_size,
            stage.recipe,
        )

    def at(self, patch_size: Sequence[int], batch_size: int) -> "StepSetup":
        """The same with another patch and batch."""
        return replace(self, patch_size=patch_size, batch_size=batch_size)

    @property
    def voxels(self) -> int:
        """Voxels of all patches of a batch."""
        return self.batch_size * math.prod(self.patch_size)

    def reduced(self) -> "StepSetup":
        """The same with fewer patches, the longest axes cut, until a step is quick to time (:data:`TIMED_VOXELS`)."""
        factor, size = self.network.divisor, list(self.patch_size)
        # Two patches, where there are several: a step of one takes more than half of theirs.
        samples = min(self.batch_size, 2)
        while samples * math.prod(size) > 1.5 * TIMED_VOXELS:
            # A network may not take its divisor: one voxel can't be normalized.
            cut = [[n - factor[axis] * (axis == at) for at, n in enumerate(size)] for axis in range(len(size))]
            axes = [axis for axis, smaller in enumerate(cut) if self.network.fits(smaller) is None]
            if not axes:
                break
            size = cut[max(axes, key=lambda axis: size[axis])]
        return self.at(size, max(samples, min(self.batch_size, TIMED_VOXELS // math.prod(size))))

    def batch(self, device: torch.device | str, random: bool = False) -> Batch:
        """A batch of the right shapes without real data: an empty or random image, labels of zeros.

        Args:
            device: of its tensors; ``meta`` for shapes alone.
            random: fill the image from torch's global random state.
        """
        size = (self.batch_size, self.in_channels, *self.network.input_size(self.patch_size))
        image = torch.randn(size, device=device) if random else torch.empty(size, device=device)
        shape = (self.batch_size, *self.network.label_size(self.patch_size))
        label = torch.zeros(shape, dtype=LABEL_TYPE, device=device)
        space = label.shape[-self.network.dimensions :]
        counts = {name: FIELD_LOSSES.find(name).channels(self.recipe, self.target) for name in FIELD_LOSSES}
        fields = {
            name: torch.zeros((self.batch_size, channels, *space), device=device)
            for name, channels in counts.items()
            if channels
        }
        return Batch(image, label, fields=fields)


def stand_in(kind: str, heads: int) -> Target:
    """A target with this number of heads, for steps of which only shapes and time matter."""
    outputs = [Output(name=str(i), values=[i], paint=i) for i in range(1, heads + (kind == "regions"))]
    return Target(kind="regions" if kind == "regions" else "labels", outputs=outputs)
