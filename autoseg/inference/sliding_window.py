"""Apply a network to a whole image: overlapping tiles, Gaussian weights, mirroring; tensors in, tensors out."""

import itertools
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from torch import nn

from autoseg.inference.variant_choice import inference_variant
from autoseg.plans.inference import Inference
from autoseg.plans.stage import Stage
from autoseg.plans.tiles import Manner, tile_starts
from autoseg.step.precision import autocast
from autoseg.utils.errors import AutosegError

#: Above so many bytes scores are collected in a file that the system pages in and out, not in memory.
MEMORY_LIMIT = 4_000_000_000

#: Largest share of a GPU's free memory that the scores of a whole image may take there.
SCORES_SHARE = 0.4


#: Only the image as it is.
NO_MIRRORING: tuple[tuple[int, ...], ...] = ((),)


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
    # Far corners need some weight where no other tile covers them.
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
    if device.type == "cuda" and size < SCORES_SHARE * torch.cuda.mem_get_info(device)[0]:
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


@dataclass(frozen=True)
class SlidingWindow:
    """How a network that is made for tiles goes over a whole image.

    Attributes:
        tile_size: voxels segmented at once; two numbers for a 2D network, which goes through the slices.
        out_channels: of the network.
        inference: overlap, weights, tiles in one forward pass.
        device: to compute on.
        dtype: of autocast; float32 for none.
        context: voxels around a tile, on each side, that the network is given with it (zero beyond the image).
        mirrorings: combinations of axes along which a tile is mirrored; the scores of all of them are averaged.
    """

    tile_size: Sequence[int]
    out_channels: int
    inference: Inference
    device: torch.device
    dtype: torch.dtype = torch.float32
    context: Sequence[int] = ()
    mirrorings: Sequence[tuple[int, ...]] = NO_MIRRORING

    @classmethod
    def of(
        cls, stage: Stage, device: torch.device, dtype: torch.dtype | None = None, mirror: bool = True
    ) -> "SlidingWindow":
        """The window of a stage.

        Args:
            stage: of the plan.
            device: to compute on.
            dtype: of autocast; chosen for the device where None (:func:`inference_variant`).
            mirror: use test-time augmentation: average over all combinations of the plan's mirror axes.
        """
        inference = stage.inference
        return cls(
            stage.configuration.tile_size,
            stage.out_channels,
            inference,
            device,
            inference_variant(stage, device).dtype if dtype is None else dtype,
            stage.configuration.tile_context,
            mirrorings(inference.mirror_axes) if mirror else NO_MIRRORING,
        )

    def count(self, space: Sequence[int]) -> int:
        """How many tiles an image ``(z, y, x)`` takes."""
        return math.prod(len(starts) for starts in self._starts(space))

    @torch.inference_mode()
    def scores(self, networks: Sequence[nn.Module], image: torch.Tensor) -> torch.Tensor:
        """Logits for a whole image, averaged over tiles, mirrorings and networks.

        Args:
            networks: on the window's device, in eval mode; each returns one tensor.
            image: float32 ``(channel, z, y, x)``, on any device.

        Returns:
            float32 ``(out_channels, z, y, x)``.
        """
        size, reach = self._in_3d(self.tile_size, 1), self._in_3d(self.context or [0] * len(self.tile_size), 0)
        shape = [max(n, p) + 2 * r for n, p, r in zip(image.shape[1:], size, reach, strict=True)]
        padded, inside = pad_nd_image(image, shape, return_slicer=True)
        covered = [n - 2 * r for n, r in zip(shape, reach, strict=True)]
        tiles = list(itertools.product(*self._starts(covered)))
        sums = collector((self.out_channels, *covered), self.device)
        weight = tile_weight(size, self.inference.gaussian_sigma, self.inference.manner).to(sums.device)
        weights = torch.zeros(tuple(covered), device=sums.device)
        for first in range(0, len(tiles), self.inference.tile_batch):
            chosen = tiles[first : first + self.inference.tile_batch]
            boxes = [tuple(slice(s, s + p) for s, p in zip(start, size, strict=True)) for start in chosen]
            given = [
                tuple(slice(s, s + p + 2 * r) for s, p, r in zip(start, size, reach, strict=True)) for start in chosen
            ]
            batch = torch.stack([padded[(slice(None), *box)] for box in given]).to(self.device)
            for box, tile in zip(boxes, self._mirrored(networks, batch).to(sums.device), strict=True):
                sums[(slice(None), *box)] += tile * weight
                weights[box] += weight
        for channel in sums:
            channel /= weights
        image_box = (slice(part.start - r, part.stop - r) for part, r in zip(inside[1:], reach, strict=True))
        return sums[(slice(None), *image_box)]

    def _mirrored(self, networks: Sequence[nn.Module], batch: torch.Tensor) -> torch.Tensor:
        """Logits ``(tile, out_channels, z, y, x)`` of some tiles, averaged over mirrorings and networks."""
        flat = len(self.tile_size) == 2
        batch = batch[:, :, 0] if flat else batch
        total: torch.Tensor | None = None
        for mirroring in self.mirrorings:
            axes = [axis + 2 for axis in mirroring]
            view = batch.flip(axes) if axes else batch
            for network in networks:
                with autocast(self.device, self.dtype):
                    scores = network(view)
                scores = scores.float()
                scores = scores.flip(axes) if axes else scores
                total = scores if total is None else total + scores
        assert total is not None
        total = total / (len(self.mirrorings) * len(networks))
        return total[:, :, None] if flat else total

    def _starts(self, space: Sequence[int]) -> list[list[int]]:
        """First voxels of the tiles along each axis of an image."""
        steps: list[int | None] = [None] * 3
        if self.inference.step is not None:  # a 2D network goes through all slices
            steps[3 - len(self.inference.step) :] = self.inference.step
        return [
            tile_starts(n, p, self.inference.overlap, step, self.inference.manner)
            for n, p, step in zip(space, self._in_3d(self.tile_size, 1), steps, strict=True)
        ]

    @staticmethod
    def _in_3d(numbers: Sequence[int], slices: int) -> list[int]:
        """A number for each axis of space, with that for the slices of a 2D network."""
        return [slices] * (3 - len(numbers)) + list(numbers)
