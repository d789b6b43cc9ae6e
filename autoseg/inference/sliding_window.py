"""Apply a network to a whole image: overlapping tiles, Gaussian weights, mirroring; tensors in, tensors out."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from torch import nn

from autoseg.inference.averaging import AS_LOGITS, Averaging
from autoseg.inference.slabs import Slab, SlabSums, Sweep, UniformTiles, parts
from autoseg.inference.stored_scores import collector, room_on
from autoseg.inference.variant_choice import inference_variant
from autoseg.networks.last_layer import LastLayer
from autoseg.plans.inference import Inference
from autoseg.plans.stage import Stage
from autoseg.plans.tiles import Manner, tile_starts
from autoseg.step.precision import autocast

#: Scores that the tiles of one forward pass may have together (a GB with a plan's usual 32 bits), but for a single one.
TILES_TOGETHER = 1 << 28

#: Largest share of a GPU's free memory that a copy of the image may take there, from which tiles are cut: a CT of
#: 512×512×500 voxels has 0.5 GB.
IMAGE_SHARE = 0.1

#: Scores that mirrored copies of tiles may have together to go through the network at once on a GPU, where small tiles
#: leave it waiting for the next kernel.
MIRRORED_TOGETHER = 1 << 22

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
        averaging: as what scores are averaged.
    """

    tile_size: Sequence[int]
    out_channels: int
    inference: Inference
    device: torch.device
    dtype: torch.dtype = torch.float32
    context: Sequence[int] = ()
    mirrorings: Sequence[tuple[int, ...]] = NO_MIRRORING
    averaging: Averaging = AS_LOGITS

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
            Averaging.by_plan(stage),
        )

    def count(self, space: Sequence[int]) -> int:
        """How many tiles an image ``(z, y, x)`` takes."""
        return math.prod(len(starts) for starts in self._starts(space))

    def slabs(self, networks: Sequence[nn.Module], image: torch.Tensor) -> Iterator[Slab]:
        """Logits for an image, averaged over tiles, mirrorings and networks, some rows at a time.

        Args:
            networks: on the window's device, in eval mode; each returns one tensor.
            image: float32 ``(channel, z, y, x)``, on any device.

        Yields:
            Consecutive slabs; each is valid until the next one is asked for.
        """
        size, reach = self._in_3d(self.tile_size, 1), self._in_3d(self.context or [0] * len(self.tile_size), 0)
        starts = self._starts(image.shape[1:])
        shape = [
            max(n, first[-1] + p) + 2 * r for n, first, p, r in zip(image.shape[1:], starts, size, reach, strict=True)
        ]
        padded, inside = pad_nd_image(image, shape, return_slicer=True)
        covered = [n - 2 * r for n, r in zip(shape, reach, strict=True)]
        image_box = [slice(part.start - r, part.stop - r) for part, r in zip(inside[1:], reach, strict=True)]
        numbers = max(image.shape[0], self.out_channels) * math.prod(size)
        together = max(1, min(self.inference.tile_batch, TILES_TOGETHER // numbers))
        sweep = Sweep(self.out_channels, covered, starts, size, together)
        sums = SlabSums(self.out_channels, sweep.turned(covered), sweep.depth, self.device)
        device = sums.sums.device
        weight = tile_weight(size, self.inference.gaussian_sigma, self.inference.manner).to(device)
        weight = weight.movedim(sweep.axis, 0)
        rows, first_plane, second_plane = sweep.turned(image_box)
        uniform = UniformTiles(sums.sums.dtype)
        # A tile that comes from the host waits until the device has computed those before; one that is there does not.
        moved = padded.to(self.device) if room_on(self.device, padded.nbytes, IMAGE_SHARE) else padded
        done = 0
        for chosen, finished in sweep.batches():
            sums.drop(chosen[0][sweep.axis] - 1)
            for start, scores in self._scored(networks, (padded, moved), chosen, uniform):
                box = sweep.turned([slice(s, s + p) for s, p in zip(start, size, strict=True)])
                sums.add(box, scores.to(device).movedim(sweep.axis + 1, 1), weight)
                del scores  # else it would stay while the next tiles are computed
            stop = min(finished, rows.stop) - rows.start
            if stop > done:
                kept = max(done - 1, 0) + rows.start
                here = (slice(kept - sums.first, stop + rows.start - sums.first), first_plane, second_plane)
                values, weights = sums.sums[(slice(None), *here)], sums.weights[here]
                slab = Slab(sweep.axis, kept - rows.start, stop, self.out_channels, values, weights)
                yield slab if self.averaging.of == "logits" else slab.finished_by(self.averaging.finish)
                done = stop

    @torch.inference_mode()
    def scores(self, networks: Sequence[nn.Module], image: torch.Tensor) -> torch.Tensor:
        """As :meth:`slabs`, the whole image at once: float32 ``(out_channels, z, y, x)``."""
        result: torch.Tensor | None = None
        done = 0
        for slab in self.slabs(networks, image):
            if result is None:
                result = collector((self.out_channels, *image.shape[1:]), slab.device)
            moved = result.movedim(slab.axis + 1, 1)
            for index in range(self.out_channels):
                moved[index, done : slab.stop] = slab.head(index, done, slab.stop).to(result.device)
            done = slab.stop
        assert result is not None
        return result

    @torch.inference_mode()
    def _scored(
        self,
        networks: Sequence[nn.Module],
        images: tuple[torch.Tensor, torch.Tensor],
        starts: Sequence[tuple[int, ...]],
        uniform: UniformTiles,
    ) -> Iterator[tuple[tuple[int, ...], torch.Tensor]]:
        """First voxel and logits ``(out_channels, z, y, x)`` of some tiles; all uniform ones are computed once, unless
        their scores are large.

        Of the two copies of the image, the first is looked at, and tiles are cut from the second.
        """
        size, reach = self._in_3d(self.tile_size, 1), self._in_3d(self.context or [0] * len(self.tile_size), 0)
        boxes = [
            (slice(None), *(slice(s, s + p + 2 * r) for s, p, r in zip(start, size, reach, strict=True)))
            for start in starts
        ]
        seen, given = ([image[box] for box in boxes] for image in images)
        found = {start: uniform.values(tile) for start, tile in zip(starts, seen, strict=True)}
        others = [index for index, start in enumerate(starts) if found[start] is None]
        if others:
            batch = torch.stack([given[index] for index in others]).to(self.device)
            yield from zip((starts[index] for index in others), self._mirrored(networks, batch), strict=True)
        for start, tile in zip(starts, given, strict=True):
            values = found[start]
            if values is not None:
                yield start, uniform.scores(values, partial(self._alone, networks, tile))

    def _alone(self, networks: Sequence[nn.Module], tile: torch.Tensor) -> torch.Tensor:
        """As :meth:`_mirrored`, of one tile ``(channel, z, y, x)``."""
        return self._mirrored(networks, tile[None].to(self.device))[0]

    def _mirrored(self, networks: Sequence[nn.Module], batch: torch.Tensor) -> torch.Tensor:
        """Logits, or what is averaged, ``(tile, out_channels, z, y, x)`` of some tiles: the mean of all copies."""
        flat = len(self.tile_size) == 2
        batch = batch[:, :, 0] if flat else batch
        together = self._mirrored_together(batch)
        total: torch.Tensor | None = None
        for first in range(0, len(self.mirrorings), together):
            group = [[axis + 2 for axis in axes] for axes in self.mirrorings[first : first + together]]
            for network in networks:
                total = self._add(total, network, batch, group)
        assert total is not None
        total /= len(self.mirrorings) * len(networks)
        return total[:, :, None] if flat else total

    def _mirrored_together(self, batch: torch.Tensor) -> int:
        """How many mirrored copies of some tiles go through a network at once; on a CPU one by one is fastest."""
        if self.device.type == "cpu":
            return 1
        numbers = len(batch) * max(batch.shape[1], self.out_channels) * math.prod(batch.shape[2:])
        return max(1, MIRRORED_TOGETHER // numbers)

    def _add(
        self, total: torch.Tensor | None, network: nn.Module, batch: torch.Tensor, group: Sequence[list[int]]
    ) -> torch.Tensor:
        """Add a network's logits of some mirrored copies of the tiles, which go through it together."""
        view = torch.cat([batch.flip(axes) if axes else batch for axes in group])
        if (last := self._last_layer(network)) is not None:
            return self._add_features(total, last, last.features(view), group)
        with autocast(self.device, self.dtype):
            scores = network(view)
        scores = self.averaging.values(scores)
        for axes, copy in zip(group, scores.split(len(batch)), strict=True):
            if total is None:
                total = torch.zeros_like(copy, dtype=torch.float32)
            # Head by head where they are large: turning all of them at once would take as much memory as they do.
            for start, stop in parts(copy.shape[1], len(copy) * copy[0, 0].numel()):
                total[:, start:stop] += copy[:, start:stop].flip(axes) if axes else copy[:, start:stop]
        assert total is not None
        return total

    def _last_layer(self, network: nn.Module) -> LastLayer | None:
        """The last layer of a network, where it is faster by itself: on a CPU, with more heads than features."""
        if self.device.type != "cpu" or self.dtype != torch.float32 or self.averaging.of != "logits":
            return None
        last = LastLayer.of(network)
        return last if last is not None and last.heads > last.channels else None

    @staticmethod
    def _add_features(
        total: torch.Tensor | None, last: LastLayer, features: torch.Tensor, group: Sequence[list[int]]
    ) -> torch.Tensor:
        """As :meth:`_add`, of what the last layer is given; that is mirrored back in place of the logits."""
        for axes, copy in zip(group, features.chunk(len(group)), strict=True):
            first = total is None
            if total is None:
                total = copy.new_empty((len(copy), last.heads, *copy.shape[2:]))
            for sums, tile in zip(total, copy.flip(axes) if axes else copy, strict=True):
                last.add(tile, sums, first)
        assert total is not None
        return total

    def _starts(self, space: Sequence[int]) -> list[list[int]]:
        """First voxels of the tiles along each axis of an image."""
        steps: list[int | None] = [None] * 3
        if self.inference.step is not None:  # a 2D network goes through all slices
            steps[3 - len(self.inference.step) :] = self.inference.step
        return [
            tile_starts(n, p, self.inference.overlap, step, self.inference.manner, self.inference.edges)
            for n, p, step in zip(space, self._in_3d(self.tile_size, 1), steps, strict=True)
        ]

    @staticmethod
    def _in_3d(numbers: Sequence[int], slices: int) -> list[int]:
        """A number for each axis of space, with that for the slices of a 2D network."""
        return [slices] * (3 - len(numbers)) + list(numbers)
