"""Slabs: the scores of an image in the order in which a sliding window finishes them, some rows at a time.

Where tiles go along one axis, the rows that no later tile adds to are final. They are handed on, and their memory is
used again, so that a window needs room for a tile's depth of rows and not for the whole image.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch

from autoseg.inference.stored_scores import collector

_T = TypeVar("_T")

#: Above so many bytes in 32 bits, the sums of a slab have 16: each logit is then within 2⁻¹⁰ of itself (half a unit in
#: the last place for each of the eight tiles that add to it, and for the result), so that only ties are decided
#: otherwise.
SIXTEEN_BITS_FROM = 1_000_000_000


#: Bytes of the scores of a uniform tile that are kept at most. Of 96³ voxels and 100 labels they would be 0.18 GB
#: of the 4 GB that such a prediction takes (benchmarks/results/prediction.md), so each of these tiles is computed.
LARGEST_UNIFORM = 128_000_000

#: What becomes of the scores ``(row, a, b)`` of a head: its number, their first row, and they themselves → the scores.
Finish = Callable[[int, int, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Slab:
    """Rows of an image's scores that are final; valid until the next slab is asked for.

    Attributes:
        axis: of the image ``(z, y, x)`` along which its rows are counted.
        start: first row that is here; one more than was finished now, for interpolation.
        stop: rows below it are finished.
        heads: how many there are.
        sums: weighted scores ``(head, row, a, b)`` from ``start`` on, the other two axes in their order.
        weights: what to divide them by, ``(row, a, b)``; None for nothing.
        finish: what is done to the scores of a head after that; None for nothing.
    """

    axis: int
    start: int
    stop: int
    heads: int
    sums: torch.Tensor
    weights: torch.Tensor | None = None
    finish: Finish | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Type that loses nothing of the scores."""
        return self.sums.dtype

    @property
    def device(self) -> torch.device:
        """Where the scores are."""
        return self.sums.device

    def head(self, index: int, first: int, last: int) -> torch.Tensor:
        """Logits of one head in the rows from ``first`` up to ``last``, which are here: float32 ``(row, a, b)``."""
        chosen = slice(first - self.start, last - self.start)
        scores = self.sums[index, chosen].float()
        scores = scores if self.weights is None else scores / self.weights[chosen]
        return scores if self.finish is None else self.finish(index, first, scores)

    def finished_by(self, finish: Finish) -> "Slab":
        """The same with one more thing done to its scores."""
        before = self.finish
        if before is None:
            return replace(self, finish=finish)

        def both(index: int, first: int, scores: torch.Tensor) -> torch.Tensor:
            return finish(index, first, before(index, first, scores))

        return replace(self, finish=both)


@dataclass(frozen=True)
class BoxedSlab(Slab):
    """A slab of the part of an image in a box, as one of the whole image.

    Attributes:
        box: of the image, the axis of rows first.
        shape: of the image, the axis of rows first.
        outside: value of each head outside of the box.
    """

    box: Sequence[slice] = field(kw_only=True)
    shape: Sequence[int] = field(kw_only=True)
    outside: Sequence[float] = field(kw_only=True)

    def head(self, index: int, first: int, last: int) -> torch.Tensor:
        """As that of a slab, in rows of the whole image."""
        result = torch.full((last - first, *self.shape[1:]), self.outside[index], device=self.device)
        offset = self.box[0].start
        inside = max(first, offset), min(last, self.box[0].stop)
        if inside[0] < inside[1]:
            rows = super().head(index, inside[0] - offset, inside[1] - offset)
            result[(slice(inside[0] - first, inside[1] - first), *self.box[1:])] = rows
        return result


def in_box(
    slabs: Iterable[Slab], box: Sequence[slice], shape: Sequence[int], outside: Sequence[float]
) -> Iterator[Slab]:
    """Slabs of the part of an image in a box → slabs of the whole image.

    Args:
        slabs: in order.
        box: ``(z, y, x)`` in the image.
        shape: of the image.
        outside: value of each head outside of the box.
    """
    if [(side.start, side.stop) for side in box] == [(0, size) for size in shape]:
        yield from slabs
        return
    for slab in slabs:
        others = [axis for axis in range(3) if axis != slab.axis]
        turned = [box[slab.axis], *(box[axis] for axis in others)]
        size = [shape[slab.axis], *(shape[axis] for axis in others)]
        stop = slab.stop + turned[0].start
        final = size[0] if stop == turned[0].stop else stop  # nothing comes after the box
        inside = (slab.axis, slab.start, final, slab.heads, slab.sums, slab.weights, slab.finish)
        yield BoxedSlab(*inside, box=turned, shape=size, outside=outside)


class SlabSums:
    """Weighted sums of tiles in the rows that are not final yet.

    Args:
        heads: of the network.
        shape: of the grid, the axis of rows first.
        depth: rows that are needed at once.
        device: to add on, where there is room.
    """

    def __init__(self, heads: int, shape: Sequence[int], depth: int, device: torch.device) -> None:
        size = (heads, depth, *shape[1:])
        large = 4 * heads * depth * shape[1] * shape[2] > SIXTEEN_BITS_FROM
        self.sums = collector(size, device, torch.float16 if large else torch.float32)
        self.weights = torch.zeros(size[1:], device=self.sums.device)
        self.first = 0

    def add(self, box: Sequence[slice], tile: torch.Tensor, weight: torch.Tensor) -> None:
        """Add a tile's scores ``(heads, row, a, b)``, weighted, in a box of the grid."""
        rows = slice(box[0].start - self.first, box[0].stop - self.first)
        inside = (rows, *box[1:])
        # Head by head where they are large, so that their product takes little room.
        for start, stop in parts(len(tile), tile[0].numel()):
            self.sums[(slice(start, stop), *inside)] += tile[start:stop] * weight
        self.weights[inside] += weight

    def drop(self, rows: int) -> None:
        """Forget the rows before this one."""
        count = rows - self.first
        if count <= 0:
            return
        kept = self.weights.shape[0] - count
        for part in (*self.sums, self.weights):
            if kept > 0:
                part[:kept] = part[count:].clone()
            part[max(kept, 0) :] = 0
        self.first = rows


class Sweep:
    """The order of the tiles of an image: row by row along one axis.

    That is the first one, unless a tile's depth of rows is large; then the longest one, whose rows are smallest.

    Args:
        heads: of the network.
        shape: of the grid ``(z, y, x)``.
        starts: first voxels of the tiles along each axis.
        size: of a tile.
        together: tiles in one forward pass.

    Attributes:
        axis: along which rows are counted.
        depth: rows between the first one that is not final and the last one that a tile adds to, and one more.
    """

    def __init__(
        self, heads: int, shape: Sequence[int], starts: Sequence[Sequence[int]], size: Sequence[int], together: int
    ) -> None:
        large = 4 * heads * size[0] * shape[1] * shape[2] > SIXTEEN_BITS_FROM
        self.axis = max(range(3), key=lambda axis: shape[axis]) if large else 0
        order = itertools.product(*self.turned(starts))
        tiles = [(*at[1 : self.axis + 1], at[0], *at[self.axis + 1 :]) for at in order]
        self._batches = [tiles[first : first + together] for first in range(0, len(tiles), together)]
        rows = [batch[0][self.axis] for batch in self._batches]
        self._finished = [*rows[1:], shape[self.axis]]
        ends = [batch[-1][self.axis] + size[self.axis] for batch in self._batches]
        self.depth = min(shape[self.axis], max(end - row for end, row in zip(ends, rows, strict=True)) + 1)

    def turned(self, of_axes: Sequence[_T]) -> list[_T]:
        """What there is for each of z, y, x, the axis of rows first and the others in order."""
        return [of_axes[self.axis], *(one for axis, one in enumerate(of_axes) if axis != self.axis)]

    def batches(self) -> Iterator[tuple[list[tuple[int, ...]], int]]:
        """First voxels ``(z, y, x)`` of the tiles that are computed together, and how many rows are final then."""
        return zip(self._batches, self._finished, strict=True)


class UniformTiles:
    """The scores of tiles in which every channel has one value throughout, as beyond the body: they are all the same.

    Args:
        dtype: that they are kept in.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._scores: dict[tuple[float, ...], torch.Tensor] = {}

    def scores(self, values: tuple[float, ...], compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The scores of a tile with these values: kept ones, or computed and, unless they are large, kept for the next.

        Those of other values go.
        """
        if values not in self._scores:
            found = compute()
            if found.numel() * self._dtype.itemsize > LARGEST_UNIFORM:
                self._scores = {}
                return found
            self._scores = {values: found.to(self._dtype)}
        return self._scores[values]

    def values(self, tile: torch.Tensor) -> tuple[float, ...] | None:
        """The value of each channel of a tile ``(channel, z, y, x)``, or None where a channel has several."""
        first = tile[:, 0, 0, 0]
        corner = tile[:, -1, -1, -1]
        if not torch.equal(first, corner) or not bool((tile == first[:, None, None, None]).all()):
            return None
        return tuple(first.tolist())


def parts(heads: int, voxels: int, limit: int = 1 << 24) -> list[tuple[int, int]]:
    """Consecutive heads that have at most ``limit`` voxels together, or one head: ``(start, stop)`` of each part."""
    step = max(1, limit // max(voxels, 1))
    return [(start, min(start + step, heads)) for start in range(0, heads, step)]
