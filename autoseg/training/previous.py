"""What a training is given by the stage before: its segmentation as further input, or a box to work inside.

A segmentation travels as a label map in one more channel, last, until just before the network, which is given a
channel an output (:func:`network_input`): a dataset of fifty labels is loaded and augmented once, not fifty times.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from autoseg.data.boxes import Box
from autoseg.inference.decoding import one_hot
from autoseg.plans.recipe import Augmentation
from autoseg.plans.target import Target
from autoseg.preprocessing.store import PLACES, StoredCase
from autoseg.training.augmentation import augment_maps


@dataclass(frozen=True)
class CascadeCase(StoredCase):
    """A case with what the stage before found in it, as one more channel.

    Attributes:
        found: whose label is the segmentation, on this case's grid.
        handed: target of the stage before.
    """

    found: StoredCase
    handed: Target

    @property
    def content(self) -> str:
        """Checksum of all a training sees: a stage before that was trained anew makes another one."""
        return super().content + self.found.content

    def image(self, box: tuple[slice, ...] = ()) -> np.ndarray:
        """float32 ``(channel + 1, z, y, x)``: the last one holds the label values that the stage before found."""
        return np.concatenate([super().image(box), self.found.label(box)[None].astype(np.float32)])


@dataclass(frozen=True)
class BoxedCase(StoredCase):
    """The part of a case inside a box."""

    box: Box

    @property
    def content(self) -> str:
        """Checksum of the whole case, and the box."""
        return super().content + ",".join(f"{side.start}:{side.stop}" for side in self.box)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels ``(z, y, x)`` of the box."""
        z, y, x = (side.stop - side.start for side in self.box)
        return z, y, x

    def positions(self, wanted: Callable[[str], bool]) -> dict[str, np.ndarray]:
        """Label value as text, or place → int32 ``(n, 3)`` positions of some of its voxels, in the box."""
        start = np.array([side.start for side in self.box], np.int32)
        stop = np.array([side.stop for side in self.box], np.int32)
        found = {
            name: positions[((positions >= start) & (positions < stop)).all(axis=1)] - start
            for name, positions in super().positions(wanted).items()
        }
        return {name: positions for name, positions in found.items() if len(positions) or name in PLACES}

    def image(self, box: tuple[slice, ...] = ()) -> np.ndarray:
        """float32 ``(channel, z, y, x)`` inside ``box``, counted from this case's own box."""
        return super().image(self._of_whole(box))

    def label(self, box: tuple[slice, ...] = ()) -> np.ndarray:
        """int16 ``(z, y, x)`` inside ``box``, counted from this case's own box."""
        return super().label(self._of_whole(box))

    def _of_whole(self, box: tuple[slice, ...]) -> tuple[slice, ...]:
        if not box:
            return self.box
        return tuple(
            slice(outer.start + inner.start, outer.start + inner.stop)
            for outer, inner in zip(self.box, box, strict=True)
        )


def network_input(case: StoredCase) -> torch.Tensor:
    """A whole case as its network is given it: float32 ``(channel, z, y, x)``."""
    image = torch.from_numpy(case.image())
    return _expanded(image[None], case.handed)[0] if isinstance(case, CascadeCase) else image


def _expanded(image: torch.Tensor, handed: Target) -> torch.Tensor:
    """The last channel of ``(batch, channel, *space)``, a label map, made a channel an output."""
    return torch.cat([image[:, :-1], one_hot(image[:, -1].round().to(torch.int16), handed)], dim=1)


def augment_handed(
    image: torch.Tensor,
    label: torch.Tensor,
    patch: Sequence[int],
    augmentation: Augmentation,
    rng: np.random.Generator,
    handed: Target,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Augment a batch of :class:`CascadeCase` and cut it to the patch.

    What the stage before found is moved like the label, and then made wrong at random (:func:`distort`).

    Args:
        image: float32 ``(batch, channel + 1, *loaded)``, a label map last.
        label: integer ``(batch, *loaded)``.
        patch: size of the result's space.
        augmentation: what may happen, how often and how far.
        rng: decides.
        handed: target of the stage before.

    Returns:
        Image ``(batch, channel + outputs, *patch)`` and label ``(batch, *patch)``.
    """
    found = image[:, -1].round().to(label.dtype)
    image, maps = augment_maps(image[:, :-1], torch.stack([label, found], dim=1), patch, augmentation, rng)
    found = torch.stack([distort(one, augmentation, rng) for one in maps[:, 1]])
    return torch.cat([image, one_hot(found, handed)], dim=1), maps[:, 0]


def distort(found: torch.Tensor, augmentation: Augmentation, rng: np.random.Generator) -> torch.Tensor:
    """Make a segmentation wrong the way that one of a case never seen is.

    Isensee et al. 2021 (nnU-Net's cascade): a label grows, shrinks or is smoothed; a small component goes missing.

    Args:
        found: integer label map ``space``.
        augmentation: how often and how far.
        rng: decides.
    """
    found = found.clone()
    values = [int(value) for value in torch.unique(found) if value != 0]
    low, high = augmentation.previous_morphology_radius
    if rng.random() < augmentation.previous_morphology_probability and values:
        value = values[int(rng.integers(len(values)))]
        operation = OPERATIONS[int(rng.integers(len(OPERATIONS)))]
        mask = found == value
        changed = operation(mask.float(), int(rng.integers(low, high + 1))) > 0
        found[mask & ~changed] = 0
        found[changed] = value
    for value in values:
        if rng.random() < augmentation.previous_removal_probability:
            numbered = components(found == value)
            names, sizes = torch.unique(numbered[numbered > 0], return_counts=True)
            small = names[sizes <= augmentation.previous_removal_share * found.numel()]
            if len(small):
                found[numbered == small[int(rng.integers(len(small)))]] = 0
    return found


def dilate(mask: torch.Tensor, radius: int) -> torch.Tensor:
    """Grow a mask (0/1 floats, ``space``) by a ball of a radius in voxels; beyond the edge there is nothing.

    The ball is that of the octagonal distance: steps to all neighbours and to those that share a face, in turn
    (Rosenfeld & Pfaltz 1968), which needs no more than maxima of three voxels along an axis.
    """
    for step in range(radius):
        if step % 2:
            for axis in range(mask.ndim):
                mask = _neighbours(mask, axis)
        else:
            mask = torch.stack([_neighbours(mask, axis) for axis in range(mask.ndim)]).amax(0)
    return mask


def _neighbours(mask: torch.Tensor, axis: int) -> torch.Tensor:
    """The largest of each voxel and its two neighbours along an axis."""
    line = mask.movedim(axis, -1)
    shape = line.shape
    return F.max_pool1d(line.reshape(-1, 1, shape[-1]), 3, 1, 1).reshape(shape).movedim(-1, axis)


def erode(mask: torch.Tensor, radius: int) -> torch.Tensor:
    """Shrink a mask by a ball; beyond the edge it goes on, so that it does not shrink from there."""
    return 1 - dilate(1 - mask, radius)


def opened(mask: torch.Tensor, radius: int) -> torch.Tensor:
    """Shrink, then grow: what is thinner than the ball is gone."""
    return dilate(erode(mask, radius), radius)


def closed(mask: torch.Tensor, radius: int) -> torch.Tensor:
    """Grow, then shrink: gaps narrower than the ball are filled."""
    return erode(dilate(mask, radius), radius)


#: What may happen to a label.
OPERATIONS: tuple[Callable[[torch.Tensor, int], torch.Tensor], ...] = (dilate, erode, opened, closed)


def components(mask: torch.Tensor) -> torch.Tensor:
    """Number the connected components of a bool mask (neighbours share a face, an edge or a corner); 0 outside.

    Every voxel starts with a number of its own and takes the largest of its neighbours', until nothing changes.
    Numbers are 32-bit floats, exact up to 2²⁴ voxels.
    """
    numbers = torch.zeros(mask.shape, dtype=torch.int64, device=mask.device)
    where = mask.nonzero()
    if not len(where):
        return numbers
    low, high = where.amin(0).tolist(), where.amax(0).tolist()
    box = tuple(slice(first, last + 1) for first, last in zip(low, high, strict=True))
    inside = mask[box].float()
    current = (
        torch.arange(1, inside.numel() + 1, device=mask.device, dtype=torch.float32).reshape(inside.shape) * inside
    )
    while True:
        spread = current
        for axis in range(mask.ndim):
            spread = _neighbours(spread, axis)
        spread = spread * inside
        if torch.equal(spread, current):
            numbers[box] = current.long()
            return numbers
        current = spread
