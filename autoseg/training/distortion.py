"""Random errors in a segmentation, as a previous stage makes them on cases it was not trained on."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from autoseg.plans.augmentation import Augmentation


def distort(label: torch.Tensor, augmentation: Augmentation, rng: np.random.Generator) -> torch.Tensor:
    """Add random errors to a segmentation, as of an unseen case.

    From nnU-Net's cascade (Isensee et al. 2021): a label is dilated, eroded, opened or closed; a small component is
    removed.

    Args:
        label: integer label map ``space``.
        augmentation: probabilities and sizes (``previous_…``).
        rng: random generator.

    Returns:
        A changed copy.
    """
    label = label.clone()
    values = [int(value) for value in torch.unique(label) if value != 0]
    low, high = augmentation.previous_morphology_radius
    if rng.random() < augmentation.previous_morphology_probability and values:
        value = values[int(rng.integers(len(values)))]
        operation = OPERATIONS[int(rng.integers(len(OPERATIONS)))]
        mask = label == value
        changed = operation(mask.float(), int(rng.integers(low, high + 1))) > 0
        label[mask & ~changed] = 0
        label[changed] = value
    for value in values:
        if rng.random() < augmentation.previous_removal_probability:
            numbered = components(label == value)
            names, sizes = torch.unique(numbered[numbered > 0], return_counts=True)
            small = names[sizes <= augmentation.previous_removal_share * label.numel()]
            if len(small):
                label[numbered == small[int(rng.integers(len(small)))]] = 0
    return label


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
