"""Slabs: what is decided row by row is what the whole scores decide, whatever the axis, the box and the grids."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autoseg.inference import slabs as module
from autoseg.inference import sliding_window, stored_scores
from autoseg.inference.chain import StageSlabs
from autoseg.inference.decoding import paint_scores
from autoseg.inference.painting import SlabPainter, paint_slabs
from autoseg.inference.slabs import Slab, SlabSums, Sweep, UniformTiles, in_box, parts
from autoseg.inference.sliding_window import SlidingWindow, mirrorings
from autoseg.inference.stored_scores import StoredScores
from autoseg.plans.inference import Inference
from autoseg.plans.target import Output, Target
from autoseg.preprocessing.case import Trace
from autoseg.preprocessing.scores import ScoreResampling, resample_scores
from autoseg.utils.errors import AutosegError
from tests.builders import LABELS, REGIONS, flat_geometry, make_plan

CPU = torch.device("cpu")
SHAPES = st.tuples(*[st.integers(1, 9)] * 3)
AXES = st.sampled_from([None, 0, 1, 2])


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def cut(scores: torch.Tensor, axis: int, stops: list[int]) -> Iterator[Slab]:
    """Whole scores ``(heads, z, y, x)`` as slabs that end at some rows; what is not valid any more is spoiled."""
    moved = scores.movedim(axis + 1, 1)
    done = 0
    for stop in sorted({min(stop, moved.shape[1]) for stop in (*stops, moved.shape[1])}):
        start = max(done - 1, 0)
        rows = moved[:, start:stop].clone()
        yield Slab(axis, start, stop, len(scores), rows)
        rows.fill_(float("nan"))
        done = stop


def trilinear(scores: torch.Tensor, shape: tuple[int, ...], axis: int | None) -> torch.Tensor:
    """Torch's own interpolation of all axes but one, which gets the nearest voxel's value."""
    if axis is not None:
        at = (np.arange(shape[axis]) + 0.5) * scores.shape[axis] / shape[axis]
        nearest = torch.from_numpy(np.minimum(at.astype(int), scores.shape[axis] - 1))
        scores = scores.index_select(axis, nearest)
    return F.interpolate(scores[None, None], size=shape, mode="trilinear", align_corners=False)[0, 0]


@settings(max_examples=80, deadline=None)
@given(old=SHAPES, new=SHAPES, nearest=AXES, axis=st.integers(0, 2), seed=st.integers(0, 1000))
def test_resampling_as_torch(old: tuple, new: tuple, nearest: int | None, axis: int, seed: int) -> None:
    scores = noise(*old, seed=seed)
    expected = trilinear(scores, new, nearest)
    torch.testing.assert_close(resample_scores(scores, new, nearest), expected, atol=1e-5, rtol=1e-5)
    rows = ScoreResampling(old, new, nearest, axis).rows(scores.movedim(axis, 0), 0, slice(0, new[axis]))
    torch.testing.assert_close(rows.movedim(0, axis), expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=80, deadline=None)
@given(old=SHAPES, new=SHAPES, nearest=AXES, axis=st.integers(0, 2), data=st.data())
def test_rows_do_not_depend_on_the_others(old: tuple, new: tuple, nearest: int | None, axis: int, data: Any) -> None:
    """Some rows from just the old ones that they need: the same bits as from all."""
    resampling = ScoreResampling(old, new, nearest, axis)
    scores = noise(*old).movedim(axis, 0)
    whole = resampling.rows(scores, 0, slice(0, new[axis]))
    start = data.draw(st.integers(0, new[axis] - 1))
    stop = data.draw(st.integers(start + 1, new[axis]))
    first, last = int(resampling.lower[start]), int(resampling.upper[stop - 1])
    assert torch.equal(resampling.rows(scores[first : last + 1], first, slice(start, stop)), whole[start:stop])
    ready = resampling.ready(last + 1)
    assert ready >= stop
    assert ready == new[axis] or resampling.upper[ready] > last


def target_of(kind: str, count: int) -> Target:
    outputs = [Output(name=str(i), values=[i + 1], paint=3 * (i + 1)) for i in range(count)]
    return Target(kind="labels" if kind == "labels" else "regions", outputs=outputs)


@settings(max_examples=80, deadline=None)
@given(
    old=SHAPES,
    new=SHAPES,
    nearest=AXES,
    axis=st.integers(0, 2),
    kind=st.sampled_from(["labels", "regions"]),
    count=st.integers(1, 4),
    stops=st.lists(st.integers(1, 9), max_size=3),
    background=st.sampled_from([-3.0, 0.0, 3.0]),
    seed=st.integers(0, 1000),
)
def test_slabs_decide_as_the_whole(
    old: tuple,
    new: tuple,
    nearest: int | None,
    axis: int,
    kind: str,
    count: int,
    stops: list,
    background: float,
    seed: int,
) -> None:
    """Every voxel, with heads that win everywhere, here and there, or nowhere."""
    target = target_of(kind, count)
    scores = noise(target.heads, *old, seed=seed)
    scores[0] += background
    scores[-1] -= background / 2
    expected = paint_scores([resample_scores(head, new, nearest) for head in scores], target)
    resampling = ScoreResampling(old, new, nearest, axis)
    heads = list(range(target.heads))
    found = paint_slabs(cut(scores, axis, stops), lambda _: SlabPainter(target, heads, resampling))
    assert torch.equal(found, expected)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(*[st.integers(1, 14)] * 3),
    patch=st.tuples(*[st.integers(1, 6)] * 3),
    overlap=st.floats(0, 0.8),
    together=st.integers(1, 4),
    large=st.booleans(),
    context=st.sampled_from([(), (1, 0, 2)]),
)
def test_window_by_slabs_as_by_hand(
    size: tuple, patch: tuple, overlap: float, together: int, large: bool, context: tuple
) -> None:
    """Sums over all tiles of the whole image at once, whichever axis the window takes."""

    class Place(nn.Module):
        """Disagrees with itself between tiles."""

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            inner = image[(..., *(slice(c, n - c) for c, n in zip(context or (0, 0, 0), image.shape[2:], strict=True)))]
            ramp = sum(
                torch.arange(n).reshape([-1 if a == b else 1 for b in range(3)]) for a, n in enumerate(inner.shape[2:])
            )
            return torch.cat([inner + ramp, inner - 2 * ramp], dim=1)

    image = noise(1, *size)
    window = SlidingWindow(patch, 2, Inference(overlap=overlap, tile_batch=together), CPU, context=context)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "SIXTEEN_BITS_FROM", 0 if large else 1 << 40)
        found = window.scores([Place()], image)
    reach = context or (0, 0, 0)
    low = [max(0, p - n) // 2 for n, p in zip(size, patch, strict=True)]
    covered = [max(n, p) for n, p in zip(size, patch, strict=True)]
    padded = torch.zeros(1, *(n + 2 * r for n, r in zip(covered, reach, strict=True)))
    here = tuple(slice(a + r, a + r + n) for a, r, n in zip(low, reach, size, strict=True))
    padded[(slice(None), *here)] = image
    sums, weights = torch.zeros(2, *covered), torch.zeros(covered)
    weight = sliding_window.tile_weight(patch, 0.125)
    starts = window._starts(covered)
    for z in starts[0]:
        for y in starts[1]:
            for x in starts[2]:
                box = tuple(slice(s, s + p) for s, p in zip((z, y, x), patch, strict=True))
                given_box = tuple(slice(s, s + p + 2 * r) for s, p, r in zip((z, y, x), patch, reach, strict=True))
                sums[(slice(None), *box)] += Place()(padded[(None, slice(None), *given_box)])[0] * weight
                weights[box] += weight
    expected = (sums / weights)[(slice(None), *(slice(a, a + n) for a, n in zip(low, size, strict=True)))]
    tolerance = 2e-2 if large else 1e-4
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def test_a_window_keeps_a_tiles_depth_of_rows() -> None:
    """However long the image: memory grows with its plane, not with its length."""
    for length in (12, 24, 240):
        sweep = Sweep(3, [length, 8, 9], [list(range(0, length - 3, 2)), [0, 4], [0, 5]], [4, 4, 4], 1)
        assert (sweep.axis, sweep.depth) == (0, 5)
        assert sum(len(tiles) for tiles, _ in sweep.batches()) == 4 * len(range(0, length - 3, 2))


def test_large_sums_go_along_the_longest_axis_in_sixteen_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SIXTEEN_BITS_FROM", 4 * 2 * 4 * 6 * 20 - 1)
    sweep = Sweep(2, [8, 6, 20], [[0, 4], [0, 2], [0, 8, 16]], [4, 4, 4], 2)
    assert sweep.axis == 2
    assert sweep.turned(["z", "y", "x"]) == ["x", "z", "y"]
    assert [tiles for tiles, _ in sweep.batches()][:2] == [[(0, 0, 0), (0, 2, 0)], [(4, 0, 0), (4, 2, 0)]]
    assert [rows for _, rows in sweep.batches()] == [0, 8, 8, 16, 16, 20]
    assert SlabSums(2, (20, 8, 6), 21, CPU).sums.dtype == torch.float16
    assert SlabSums(2, (20, 8, 6), 4, CPU).sums.dtype == torch.float32


def test_slabs_are_handed_on_before_the_end() -> None:
    """The first rows are decided while the network has seen the first tiles only."""
    seen = []

    class Look(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            seen.append(1)
            return image

    image = noise(1, 20, 4, 4)
    window = SlidingWindow([4, 4, 4], 1, Inference(overlap=0.5), CPU)
    rows = [(slab.start, slab.stop, len(seen)) for slab in window.slabs([Look()], image)]
    assert rows[0] == (0, 2, 1)
    assert rows[1] == (1, 4, 2)
    assert rows[-1] == (15, 20, 9)


@pytest.mark.parametrize("limit", [1 << 40, 0])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_stored(monkeypatch: pytest.MonkeyPatch, tmp_path, limit: int, axis: int) -> None:
    """In memory or in a file, each head comes back as it was; the file is gone with the scores."""
    monkeypatch.setattr(stored_scores, "MEMORY_LIMIT", limit)
    monkeypatch.setattr(stored_scores.tempfile, "tempdir", str(tmp_path))
    scores = noise(3, 5, 6, 7)
    stored = StoredScores(cut(scores, axis, [2, 4]), 3, (5, 6, 7), CPU)
    assert (stored._file is None) == (limit > 0)
    assert all(torch.equal(stored[index], scores[index]) for index in (2, 0, 1, -1))
    assert len(list(stored)) == 3
    half = StoredScores(cut(scores.half(), axis, [3]), 3, (5, 6, 7), CPU)
    assert torch.equal(half[1], scores[1].half().float())
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stored_scores, "MEMORY_LIMIT", 0)
    assert stored_scores.collector((2, 3, 4, 5), CPU).sum() == 0
    monkeypatch.setattr(stored_scores.os, "posix_fallocate", full, raising=False)
    for collect in (
        lambda: stored_scores.collector((2, 3, 4, 5), CPU),
        lambda: StoredScores(cut(noise(2, 3, 4, 5), 0, []), 2, (3, 4, 5), CPU),
    ):
        with pytest.raises(AutosegError, match=r"can't take the 0\.0 GB .*No space left on device.*; set TMPDIR"):
            collect()


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(3, 9)] * 3), axis=st.integers(0, 2), stops=st.lists(st.integers(1, 9)), data=st.data()
)
def test_in_a_box(shape: tuple, axis: int, stops: list, data: Any) -> None:
    """Slabs of a box, seen as slabs of the image: its values inside, the given ones outside."""
    box = []
    for size in shape:
        start = data.draw(st.integers(0, size - 1))
        box.append(slice(start, data.draw(st.integers(start + 1, size))))
    scores = noise(2, *(side.stop - side.start for side in box))
    whole = torch.tensor([0.0, -30.0]).reshape(2, 1, 1, 1).repeat(1, *shape)
    whole[(slice(None), *box)] = scores
    for index in (0, 1):
        done, rows = 0, []
        for slab in in_box(cut(scores, axis, stops), box, shape, [0.0, -30.0]):
            rows.append(slab.head(index, done, slab.stop))
            done = slab.stop
        assert torch.equal(torch.cat(rows).movedim(0, axis), whole[index])


@pytest.mark.parametrize("target", [LABELS, REGIONS])
def test_a_stage_in_a_box_on_another_grid(target: Target) -> None:
    shape, new, box = (6, 7, 8), (9, 7, 12), (slice(1, 4), slice(2, 7), slice(3, 5))
    plan = make_plan(target=target)
    trace = Trace(flat_geometry(new), (0, 1, 2), new, tuple((0, n) for n in new), (1.0, 1.0, 1.0), None, (True,))
    inside = noise(target.heads, 3, 5, 2)

    def stage_slabs() -> StageSlabs:
        return StageSlabs(cut(inside, 0, [1]), box, shape, trace, plan.stage())

    kept = stage_slabs().stored(CPU)
    expected = paint_scores([resample_scores(kept.head(i), new, None) for i in range(target.heads)], target)
    assert expected.any()
    assert torch.equal(stage_slabs().painted(target, list(range(target.heads))), expected)
    nothing = StageSlabs(None, None, shape, trace, plan.stage())
    assert not nothing.painted(target, list(range(target.heads))).any()


class Counting(nn.Module):
    """Logits that depend on the whole tile; counts how many it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.tiles = 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.tiles += len(image)
        mean = image.mean((2, 3, 4), keepdim=True)
        return torch.cat([image, mean + torch.arange(float(image.shape[-1])).expand_as(image)], dim=1)


def test_uniform_tiles_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Air on one side of the body, water on the other: the numbers are those of computing every tile."""
    image = torch.full((1, 4, 4, 40), -2.0)
    image[..., 12:16] = noise(1, 4, 4, 4)
    image[..., 28:] = 0.5
    inference = Inference(overlap=0, tile_batch=3, mirror_axes=[2])
    window = SlidingWindow([4, 4, 4], 2, inference, CPU, mirrorings=mirrorings([2]))
    few = Counting()
    found = window.scores([few], image)
    with monkeypatch.context() as patched:  # too large to be kept
        patched.setattr(module, "LARGEST_UNIFORM", 0)
        large = Counting()
        assert torch.equal(window.scores([large], image), found)
        assert large.tiles == 2 * 10
    monkeypatch.setattr(UniformTiles, "values", lambda *_: None)
    all_of_them = Counting()
    assert torch.equal(window.scores([all_of_them], image), found)
    assert (few.tiles, all_of_them.tiles) == (2 * (1 + 2), 2 * 10)


def test_mirrored_copies_together_or_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise(1, 6, 7, 8)
    found = []
    for limit in (1, 1 << 30):
        monkeypatch.setattr(sliding_window, "MIRRORED_TOGETHER", limit)
        window = SlidingWindow([4, 4, 4], 2, Inference(), CPU, mirrorings=mirrorings([0, 1, 2]))
        found.append(window.scores([Counting(), Counting()], image))
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-6)


def test_parts_of_heads() -> None:
    assert parts(5, 10, 20) == [(0, 2), (2, 4), (4, 5)]
    assert parts(2, 100, 20) == [(0, 1), (1, 2)]
    assert parts(3, 1, 20) == [(0, 3)]
