"""Painting: the label map on the scan's grid, from the scores of finished slabs."""

from collections.abc import Callable, Iterable, Sequence

import torch

from autoseg.inference.decoding import label_type
from autoseg.inference.slabs import Slab
from autoseg.plans.target import Target
from autoseg.preprocessing.scores import ROWS_AT_ONCE, ScoreResampling


class SlabPainter:
    """Decides each voxel of the scan as soon as the scores around it are final, by the rules of ``paint_scores``.

    Labels: the scores of a voxel are means of those around it, with the same weights for every head. So a head that is
    nowhere above the background's in the rows that are needed can't win there, and is left out before it is resampled.
    Of many labels, few are in any few rows.

    Args:
        target: what is painted.
        heads: number in the network of each of the target's heads.
        resampling: from the network's grid to the scan's, the axis of rows that of the slabs.
    """

    def __init__(self, target: Target, heads: Sequence[int], resampling: ScoreResampling) -> None:
        self._target = target
        self._heads = list(heads)
        self._resampling = resampling
        self._label = torch.zeros(resampling.new, dtype=label_type(target))
        self._done = 0

    def add(self, slab: Slab) -> None:
        """Paint the rows of the scan that need no row after this slab's."""
        ready = self._resampling.ready(slab.stop)
        while self._done < ready:
            wanted = slice(self._done, min(self._done + ROWS_AT_ONCE, ready))
            painted = self._rows(slab, wanted)
            if painted is not None:
                self._label.movedim(slab.axis, 0)[wanted] = painted.cpu()
            self._done = wanted.stop

    def finished(self) -> torch.Tensor:
        """The label map ``(z, y, x)`` on the scan's cropped grid."""
        assert self._done == self._resampling.new[self._resampling.axis]
        return self._label

    def _rows(self, slab: Slab, wanted: slice) -> torch.Tensor | None:
        """Values of some rows of the scan, the axis of rows first; None where all are background."""
        grid = self._resampling
        first, last = int(grid.lower[wanted.start]), int(grid.upper[wanted.stop - 1])

        def on_grid(index: int) -> torch.Tensor:
            return slab.head(self._heads[index], first, last + 1)

        def on_scan(scores: torch.Tensor) -> torch.Tensor:
            return grid.rows(scores, first, wanted)

        return (self._regions if self._target.kind == "regions" else self._labels)(on_grid, on_scan)

    def _regions(
        self, on_grid: Callable[[int], torch.Tensor], on_scan: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor | None:
        result: torch.Tensor | None = None
        for index, output in enumerate(self._target.outputs):
            scores = on_grid(index)
            if bool((scores > 0).any()):
                inside = on_scan(scores) > 0
                result = torch.zeros_like(inside, dtype=label_type(self._target)) if result is None else result
                result[inside] = output.paint
        return result

    def _labels(
        self, on_grid: Callable[[int], torch.Tensor], on_scan: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor | None:
        background = on_grid(0)
        result = best = None
        for index, output in enumerate(self._target.outputs, 1):
            scores = on_grid(index)
            if not bool((scores > background).any()):
                continue
            if result is None or best is None:
                best = on_scan(background).clone()
                result = torch.zeros_like(best, dtype=label_type(self._target))
            moved = on_scan(scores)
            result[moved > best] = output.paint
            torch.maximum(best, moved, out=best)
        return result


def paint_slabs(slabs: Iterable[Slab], painter_on: Callable[[int], SlabPainter]) -> torch.Tensor:
    """Paint all slabs of an image.

    Args:
        slabs: in order.
        painter_on: axis of the rows → painter.
    """
    painter: SlabPainter | None = None
    for slab in slabs:
        painter = painter_on(slab.axis) if painter is None else painter
        painter.add(slab)
    assert painter is not None
    return painter.finished()
