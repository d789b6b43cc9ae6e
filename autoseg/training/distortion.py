"""Random errors in a segmentation, as a previous stage makes them on cases it was not trained on."""

from collections.abc import Callable

import cc3d
import numpy as np
import torch
import torch.nn.functional as F

from autoseg.data.boxes import bounding_box
from autoseg.data.counts import value_counts
from autoseg.plans.augmentation import Augmentation
from autoseg.training.transfers import to_device


def distort(label: torch.Tensor, augmentation: Augmentation, rng: np.random.Generator) -> torch.Tensor:
    """Add random errors to a segmentation, as of an unseen case.

    From nnU-Net's cascade (Isensee et al. 2021): a label is dilated, eroded, opened or closed; a small component is
    removed.

    The map is copied to the CPU once, and once more where a component is looked for in a label map that has changed:
    to number components by spreading voxel by voxel, a GPU would be waited for a hundred times.

    Args:
        label: integer label map ``space``.
        augmentation: probabilities and sizes (``previous_…``).
        rng: random generator.

    Returns:
        A changed copy.
    """
    known, current = _on_host(label), True
    values = [value for value in value_counts(known) if value != 0]
    label = label.clone()
    low, high = augmentation.previous_morphology_radius
    if rng.random() < augmentation.previous_morphology_probability and values:
        value = values[int(rng.integers(len(values)))]
        operation = OPERATIONS[int(rng.integers(len(OPERATIONS)))]
        mask = label == value
        changed = operation(mask.float(), int(rng.integers(low, high + 1))) > 0
        label.masked_fill_(mask & ~changed, 0)
        label.masked_fill_(changed, value)
        current = False
    removed = False
    for value in values:
        if rng.random() < augmentation.previous_removal_probability:
            known, current = known if current else _on_host(label), True
            numbered = components(known == value)
            sizes = np.bincount(numbered.reshape(-1))[1:]
            small = 1 + np.flatnonzero(sizes <= augmentation.previous_removal_share * known.size)
            if len(small):
                known[numbered == small[int(rng.integers(len(small)))]] = 0
                removed = True
    return to_device(known, label.device) if removed else label


def _on_host(label: torch.Tensor) -> np.ndarray:
    """A copy in host memory; waits for the device."""
    found: np.ndarray = label.to("cpu", copy=True).numpy()
    return found


def dilate(mask: torch.Tensor, radius: int) -> torch.Tensor:
    """Dilate a mask (0/1 floats, ``space``) by a ball of a radius in voxels; voxels beyond the edge count as 0.

    The ball is that of the octagonal distance: steps to face neighbours and to all neighbours, in turn (Rosenfeld &
    Pfaltz 1968), which only takes maxima of three voxels along an axis.
    """
    for step in range(radius):
        if step % 2:
            for axis in range(mask.ndim):
                mask = _neighbours(mask, axis)
        else:
            mask = torch.stack([_neighbours(mask, axis) for axis in range(mask.ndim)]).amax(0)
    return mask


def _neighbours(mask: torch.Tensor, axis: int) -> torch.Tensor:
    """The maximum of each voxel and its two neighbours along an axis."""
    line = mask.movedim(axis, -1)
    shape = line.shape
    return F.max_pool1d(line.reshape(-1, 1, shape[-1]), 3, 1, 1).reshape(shape).movedim(-1, axis)


def erode(mask: torch.Tensor, radius: int) -> torch.Tensor:
    """Erode a mask by a ball; voxels beyond the edge count as 1, so that it does not shrink from there."""
    return 1 - dilate(1 - mask, radius)


def opened(mask: torch.Tensor, radius: int) -> torch.Tensor:
    """Erode, then dilate: removes what is thinner than the ball."""
    return dilate(erode(mask, radius), radius)


def closed(mask: torch.Tensor, radius: int) -> torch.Tensor:
    """Dilate, then erode: fills gaps narrower than the ball."""
    return erode(dilate(mask, radius), radius)


#: Operations of which one is applied to a label.
OPERATIONS: tuple[Callable[[torch.Tensor, int], torch.Tensor], ...] = (dilate, erode, opened, closed)


def components(mask: np.ndarray) -> np.ndarray:
    """Number the connected components of a bool mask (neighbours share a face, an edge or a corner).

    Args:
        mask: ``space``, of two axes or three.

    Returns:
        int32 ``space``: from 1 in the order of the components' last voxels, so that a seed picks the same one whoever
        numbers them; 0 outside.
    """
    numbers = np.zeros(mask.shape, np.int32)
    box = bounding_box(mask)
    # cc3d 4.1 fails on a single line of voxels of which every second one is true; with a margin there is none.
    found = cc3d.connected_components(np.pad(mask[box], 1), connectivity=8 if mask.ndim == 2 else 26)
    found = found[(slice(1, -1),) * mask.ndim].astype(np.intp)
    last = np.zeros(int(found.max(initial=0)) + 1, np.intp)
    np.maximum.at(last, found.reshape(-1), np.arange(found.size, dtype=np.intp))
    places = np.zeros(len(last), np.int32)
    places[1 + np.argsort(last[1:])] = np.arange(1, len(last))
    numbers[box] = places[found]
    return numbers
