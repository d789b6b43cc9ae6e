"""Apply a network to a whole image: overlapping tiles, Gaussian weights, mirroring; tensors in, tensors out."""

import itertools
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from autoseg.plans.inference import Inference
from autoseg.step.precision import autocast
from autoseg.utils.errors import AutosegError

#: Above so many bytes scores are collected in a file that the system pages in and out, not in memory.
MEMORY_LIMIT = 4_000_000_000

#: Largest share of a GPU's free memory that the scores of a whole image may take there.
DEVICE_SHARE = 0.4


#: Whose details (see :class:`autoseg.plans.inference.Inference`).
Manner = Literal["autoseg", "nnunet"]


def tile_starts(
    size: int, patch: int, overlap: float, step: int | None = None, manner: Manner = "autoseg"
) -> list[int]:
    """First voxels of the tiles along an axis: evenly spread, neighbours sharing at least ``overlap`` of a patch.

    With ``step``, neighbours are at most so many voxels apart instead. nnU-Net counts half voxels, so that tiles of an
    odd size may share half a voxel less.
    """
    if size <= patch:
        return [0]
    stride = patch * (1 - overlap) if step is None else float(min(step, patch))
    if manner == "autoseg":
        stride = max(1, int(stride))
    count = math.ceil((size - patch) / stride) + 1
    return [round(i * (size - patch) / (count - 1)) for i in range(count)]


def tile_weight(patch: Sequence[int], sigma: float, manner: Manner = "autoseg") -> torch.Tensor:
    """Weight of each voxel of a tile: a Gaussian around the middle (``sigma`` as share of the patch), largest 1.

    nnU-Net's lies around voxel ``size // 2``, and is ten times that, rounded to 16 bits.
    """
    weight = torch.ones(tuple(patch))
    if sigma:
        for axis, size in enumerate(patch):
            middle = (size - 1) / 2 if manner == "autoseg" else size // 2
            distance = (torch.arange(size) - middle) / (size * sigma)
            weight = weight * torch.exp(-0.5 * distance**2).reshape([-1 if a == axis else 1 for a in range(len(patch))])
    if manner == "nnunet":
        rounded = (10 * weight).half().float()
        # What 16 bits round to zero gets the smallest of the other weights.
        return torch.where(rounded > 0, rounded, rounded[rounded > 0].min())
    # Far corners still need a say where no other tile covers them.
    return (weight / weight.max()).clamp(min=1e-4)


def mirrorings(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """All combinations of the axes, none of them first."""
    return [c for n in range(len(axes) + 1) for c in itertools.combinations(sorted(axes), n)]


def collector(shape: Sequence[int], device: torch.device) -> torch.Tensor:
    """Zeros to add scores to: on the device where there is room, else in memory, else in a temporary file.

    Raises:
        AutosegError: there is no room for the file.
    """
    size = 4 * int(np.prod(shape))
    if device.type == "cuda" and size < DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
        return torch.zeros(tuple(shape), device=device)
    if device.type == "mps" and size < 1_000_000_000:
        return torch.zeros(tuple(shape), device=device)
    if size <= MEMORY_LIMIT:
        return torch.zeros(tuple(shape))
    with tempfile.NamedTemporaryFile(prefix="autoseg-scores-", delete=True) as file:
        # The name can go at once: the mapping keeps the space until the tensor is freed.
        try:
            if hasattr(os, "posix_fallocate"):
                # A file with holes would end the process (SIGBUS) when the disk is full on a later write.
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
        except OSError as error:
            raise AutosegError(
                f"{file.name} can't take the {size / 1e9:.1f} GB of an image's scores ({error.strerror}); "
                "set TMPDIR to a folder on a disk with more room."
            ) from None
        return torch.from_file(file.name, shared=True, size=size // 4).reshape(tuple(shape))


@torch.inference_mode()
def predict_scores(
    networks: Sequence[torch.nn.Module],
    image: torch.Tensor,
    patch: Sequence[int],
    heads: int,
    inference: Inference,
    device: torch.device,
    dtype: torch.dtype,
    mirror: bool = True,
    advance: Callable[[int], None] | None = None,
    context: Sequence[int] | None = None,
) -> torch.Tensor:
    """Logits for a whole image, averaged over tiles, mirrorings and networks.

    Args:
        networks: on ``device``, in eval mode, giving one tensor each.
        image: float32 ``(channel, z, y, x)``, on any device.
        patch: voxels that a tile speaks about; two numbers for a 2D network, which then goes through the slices.
        heads: output channels.
        inference: overlap, weights, mirror axes, tiles a pass.
        device: to compute on.
        dtype: of autocast; float32 for none.
        mirror: whether to use test-time augmentation.
        advance: called with the number of tiles just done.
        context: voxels around a tile, on each side, that the network is given with it (zero beyond the image).

    Returns:
        float32 ``(heads, z, y, x)``.
    """
    space = list(image.shape[1:])
    size = [1] * (3 - len(patch)) + list(patch)
    margins = [(max(0, p - n) // 2, max(0, p - n) - max(0, p - n) // 2) for n, p in zip(space, size, strict=True)]
    reach = [0] * (3 - len(patch)) + list(context or [0] * len(patch))
    edges = [(low + r, high + r) for (low, high), r in zip(margins, reach, strict=True)]
    padded = F.pad(image, [m for pair in reversed(edges) for m in pair])
    covered = [n - 2 * r for n, r in zip(padded.shape[1:], reach, strict=True)]
    steps = _steps(inference.step)
    tiles = list(
        itertools.product(
            *(
                tile_starts(n, p, inference.overlap, s, inference.manner)
                for n, p, s in zip(covered, size, steps, strict=True)
            )
        )
    )
    flips = mirrorings(inference.mirror_axes) if mirror else [()]
    sums = collector((heads, *covered), device)
    weight = tile_weight(size, inference.gaussian_sigma, inference.manner).to(sums.device)
    weights = torch.zeros(tuple(covered), device=sums.device)
    for first in range(0, len(tiles), inference.tile_batch):
        chosen = tiles[first : first + inference.tile_batch]
        boxes = [tuple(slice(s, s + p) for s, p in zip(start, size, strict=True)) for start in chosen]
        given = [tuple(slice(s, s + p + 2 * r) for s, p, r in zip(start, size, reach, strict=True)) for start in chosen]
        batch = torch.stack([padded[(slice(None), *box)] for box in given]).to(device)
        if len(patch) == 2:
            batch = batch[:, :, 0]
        scores = _mirrored(networks, batch, flips, device, dtype)
        if len(patch) == 2:
            scores = scores[:, :, None]
        for box, tile in zip(boxes, scores.to(sums.device), strict=True):
            sums[(slice(None), *box)] += tile * weight
            weights[box] += weight
        if advance is not None:
            advance(len(chosen))
    for head in sums:
        head /= weights
    inside = tuple(slice(before, before + n) for (before, _), n in zip(margins, space, strict=True))
    return sums[(slice(None), *inside)]


def _mirrored(
    networks: Sequence[torch.nn.Module],
    batch: torch.Tensor,
    flips: Sequence[tuple[int, ...]],
    device: torch.device,
    dtype: torch.dtype,
) -> torch.Tensor:
    total: torch.Tensor | None = None
    for flip in flips:
        axes = [axis + 2 for axis in flip]
        view = batch.flip(axes) if axes else batch
        for network in networks:
            with autocast(device, dtype):
                scores = network(view)
            scores = scores.float()
            scores = scores.flip(axes) if axes else scores
            total = scores if total is None else total + scores
    assert total is not None
    return total / (len(flips) * len(networks))


def count_tiles(space: Sequence[int], patch: Sequence[int], overlap: float, step: Sequence[int] | None = None) -> int:
    """How many tiles an image ``(z, y, x)`` takes."""
    size = [1] * (3 - len(patch)) + list(patch)
    counts = [len(tile_starts(n, p, overlap, s)) for n, p, s in zip(space, size, _steps(step), strict=True)]
    return int(np.prod(counts))


def _steps(step: Sequence[int] | None) -> list[int | None]:
    """A step an axis of the image; a 2D network goes through all slices."""
    return [None] * 3 if step is None else [None] * (3 - len(step)) + list(step)
