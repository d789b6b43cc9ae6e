"""Where training patches come from: every case in turn, foreground inside, the same whoever loads them."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.recipe import Sampling
from autoseg.training import sampling as module
from autoseg.training.sampling import BatchStream, PatchLoader, guaranteed_foreground
from tests.builders import LABELS, REGIONS, blob, store


@dataclass
class Memory:
    """A stored case in memory."""

    id: str
    voxels: np.ndarray
    values: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def foreground(self) -> dict[int, np.ndarray]:
        return {int(v): np.argwhere(self.values == v) for v in np.unique(self.values) if v}

    def image(self, box: tuple[slice, ...] = ()) -> np.ndarray:
        return self.voxels[(slice(None), *box)]

    def label(self, box: tuple[slice, ...] = ()) -> np.ndarray:
        return self.values[box]


def numbered(count: int, shape: tuple[int, ...] = (4, 5, 6)) -> list[Memory]:
    """Cases whose voxels all say the case's number, from 1."""
    return [
        Memory(f"c{n}", np.full((1, *shape), n, np.float32), np.zeros(shape, np.int16)) for n in range(1, count + 1)
    ]


def loader(cases, patch=(4, 4, 4), batch=2, share=0.0, target=LABELS, seed=0, **more) -> PatchLoader:
    return PatchLoader(cases, batch, patch, target, Sampling(foreground_share=share), seed, **more)


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 7), batch=st.integers(1, 5), seed=st.integers(0, 2**40))
def test_every_case_once_a_round(count: int, batch: int, seed: int) -> None:
    source = loader(numbered(count), batch=batch, seed=seed)
    seen = [int(patch.max()) for number in range(3 * count) for patch in source.batch(number)["image"]]
    rounds = [sorted(seen[start : start + count]) for start in range(0, len(seen), count)]
    assert all(found == list(range(1, count + 1)) for found in rounds)


def test_rounds_are_shuffled_anew() -> None:
    source = loader(numbered(8), batch=8)
    orders = {tuple(int(p.max()) for p in source.batch(number)["image"]) for number in range(5)}
    assert len(orders) == 5


def one_voxel(shape: tuple[int, ...], at: tuple[int, ...], value: int = 1) -> Memory:
    label = np.zeros(shape, np.int16)
    label[at] = value
    return Memory("c", np.indices(shape).astype(np.float32) + 1, label)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), shape=st.tuples(*[st.integers(1, 9)] * 3), patch=st.tuples(*[st.integers(1, 9)] * 3))
def test_guaranteed_foreground_is_inside(data: st.DataObject, shape: tuple, patch: tuple) -> None:
    at = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    source = loader([one_voxel(shape, at)], patch, batch=1, share=1.0)
    batch = source.batch(data.draw(st.integers(0, 1000)))
    assert batch["image"].shape == (1, 3, *patch)
    assert (batch["label"] == 1).sum() == 1
    found = tuple(int(i[0]) for i in np.nonzero(batch["label"][0]))
    assert tuple(batch["image"][(0, slice(None), *found)] - 1) == at


@settings(max_examples=40, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 9)] * 3), patch=st.tuples(*[st.integers(1, 9)] * 3), number=st.integers(0, 99))
def test_patch_is_a_part_of_the_padded_image(shape: tuple, patch: tuple, number: int) -> None:
    """As much of the image as fits is in the patch; beyond it there are zeros, half on each side."""
    found = loader([one_voxel(shape, (0, 0, 0))], patch, batch=1).batch(number)["image"][0]
    inside = found.all(0)
    assert inside.sum() == np.prod([min(n, p) for n, p in zip(shape, patch, strict=True)])
    for axis, (n, p) in enumerate(zip(shape, patch, strict=True)):
        where = np.flatnonzero(inside.any(tuple(a for a in range(3) if a != axis)))
        if p > n:
            assert where[0] == (p - n) // 2 or p - 1 - where[-1] == (p - n) // 2
        values = found[axis].max(tuple(a for a in range(3) if a != axis))[where]
        assert np.array_equal(values, values[0] + np.arange(len(where)))


def test_all_places_are_drawn() -> None:
    source = loader([one_voxel((6, 4, 4), (0, 0, 0))], batch=1)
    starts = Counter(int(source.batch(number)["image"][0, 0].min()) for number in range(300))
    assert set(starts) == {1, 2, 3}
    assert min(starts.values()) > 60


def test_classes_have_equal_chances() -> None:
    """However much larger one is."""
    label = np.ones((8, 8, 8), np.int16)
    label[3, 3, 3] = 2
    case = Memory("c", np.zeros((1, 8, 8, 8), np.float32), label)
    for target, share in ((LABELS, 0.5), (REGIONS, 0.5)):
        source = loader([case], (1, 1, 1), batch=1, share=1.0, target=target)
        found = Counter(int(source.batch(number)["label"].max()) for number in range(600))
        assert found[2] / 600 == pytest.approx(share, abs=0.06)


def test_absent_classes_are_not_asked_for() -> None:
    case = one_voxel((6, 6, 6), (5, 0, 3), value=2)
    source = loader([case], (2, 2, 2), batch=1, share=1.0)
    assert all(source.batch(number)["label"].max() == 2 for number in range(20))
    empty = numbered(1, (6, 6, 6))
    assert loader(empty, (2, 2, 2), batch=1, share=1.0).batch(0)["image"].min() == 1


def test_ignored_voxels_are_no_foreground() -> None:
    case = one_voxel((6, 6, 6), (0, 0, 0), value=9)
    target = LABELS.model_copy(update={"ignore": 9})
    source = loader([case], (1, 1, 1), batch=1, share=1.0, target=target)
    assert sum(int(source.batch(number)["label"].max() == 9) for number in range(50)) < 10


@settings(max_examples=40)
@given(batch=st.integers(1, 12), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_share(batch: int, share: float, seed: int) -> None:
    found = guaranteed_foreground(batch, share, np.random.default_rng(seed))
    assert len(found) == batch
    assert found == sorted(found)
    if share == 0:
        assert not any(found)
    else:
        assert max(1, int(batch * share)) <= sum(found) <= min(batch, max(1, int(batch * share) + 1))


def test_share_is_met_on_average() -> None:
    counts = [sum(guaranteed_foreground(7, 1 / 3, np.random.default_rng(n))) for n in range(600)]
    assert set(counts) == {2, 3}
    assert np.mean(counts) == pytest.approx(7 / 3, abs=0.06)


def test_slices(tmp_path: Path) -> None:
    label = blob()
    case = store(tmp_path, "c", label)
    source = loader([case], (8, 8), batch=4, share=1.0)
    batch = source.batch(0)
    assert batch["image"].shape == (4, 1, 8, 8)
    assert batch["label"].shape == (4, 8, 8)
    assert (batch["label"] > 0).any((1, 2)).all()
    # The image is 100 · label plus less than 1, so image and label were cut at one place.
    assert np.array_equal(np.floor(batch["image"][:, 0] / 100), batch["label"])


def same(first: dict, second: dict) -> bool:
    return np.array_equal(first["image"], second["image"]) and np.array_equal(first["label"], second["label"])


@pytest.fixture
def cases(tmp_path: Path) -> list:
    return [store(tmp_path, f"c{n}", blob(shift=n % 2)) for n in range(3)]


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("start", [0, 3])
def test_workers_and_restarts_change_nothing(cases: list, workers: int, start: int) -> None:
    reference = loader(cases, share=0.5)
    stream = BatchStream(loader(cases, share=0.5, start=start, workers=max(workers, 1)), workers)
    try:
        for number in range(start, start + 5):
            assert same(next(stream), reference.batch(number))
    finally:
        stream.close()


def test_cache_changes_nothing(cases: list, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = [loader(cases).batch(number) for number in range(3)]
    monkeypatch.setattr(module, "CACHE_BYTES", 0)
    source = loader(cases)
    assert all(same(source.batch(number), batch) for number, batch in enumerate(cached))
    assert not source.cache


def test_batches_are_copies(cases: list) -> None:
    """What augmentation does to a batch must not come back with the next one."""
    source = loader(cases, patch=(10, 12, 14))
    before = {k: v.copy() for k, v in source.batch(0).items()}
    source.batch(0)["image"][:] = -1
    source.batch(0)["label"][:] = -1
    assert same(source.batch(0), before)


def test_every_voxel_is_trained_on() -> None:
    """More is loaded than the patch, for rotations; without one the middle is cut, and must reach the image's edges."""
    case = one_voxel((12, 4, 4), (0, 2, 2))
    seen: set[int] = set()
    for share in (0.0, 1.0):
        source = loader([case], (4, 4, 4), batch=1, share=share, loaded=(8, 4, 4))
        for number in range(200):
            seen |= {int(z) for z in source.batch(number)["image"][0, 0, 2:6].ravel()}  # the patch has 4 of the 8
    assert seen >= set(range(1, 13))


def test_seeds_differ(cases: list) -> None:
    assert not same(loader(cases, seed=0).batch(0), loader(cases, seed=1).batch(0))
