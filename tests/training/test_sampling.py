"""Where training patches come from: every case in turn, foreground inside, the same whoever loads them."""

import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.plans.recipe import Sampling
from autoseg.plans.stage import Stage
from autoseg.preprocessing.store import StoredCase
from autoseg.preprocessing.volume import Volume, encode_labels
from autoseg.training.batch_stream import BatchStream
from autoseg.training.batches import BatchMaker, MadeBatch
from autoseg.training.case_cache import CaseCache, Room
from autoseg.training.deformation import reach_limit
from autoseg.training.positions import Positions
from autoseg.training.sampling import PatchLoader, guaranteed_foreground
from tests.builders import LABELS, REGIONS, blob, make_configuration, make_plan, make_recipe, still, store
from tests.training.loading import CPU, EVERYTHING, NOTHING, loader_of, padded, patches_of, resampled_before


@dataclass
class Memory:
    """A stored case in memory."""

    id: str
    voxels: np.ndarray
    values: np.ndarray
    mask: np.ndarray | None = None
    present: tuple[bool, ...] = (True,)
    drawn: tuple[bool, ...] = ()
    fields: tuple[()] = ()

    def volume(self, name: str) -> Volume:
        return Volume(self.voxels) if name == "image" else encode_labels(self.values[None])

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def foreground(self) -> dict[int, np.ndarray]:
        return {int(v): np.argwhere(self.values == v) for v in np.unique(self.values) if v}

    @property
    def label_voxels(self) -> dict[int, int]:
        return {value: len(positions) for value, positions in self.foreground.items()}

    @property
    def places(self) -> dict[str, np.ndarray]:
        mask = np.ones(self.shape, bool) if self.mask is None else self.mask
        return {"inside": np.argwhere(mask), "healthy": np.argwhere(mask & (self.values == 0))}


def numbered(count: int, shape: tuple[int, ...] = (4, 5, 6)) -> list[Memory]:
    """Cases whose voxels all say the case's number, from 1."""
    return [
        Memory(f"c{n}", np.full((1, *shape), n, np.float32), np.zeros(shape, np.int16)) for n in range(1, count + 1)
    ]


class Padded:
    """A loader whose batches are padded arrays."""

    def __init__(self, loader: PatchLoader) -> None:
        self.loader = loader

    def batch(self, number: int) -> dict[str, Any]:
        return padded(self.loader, number)


def loader(cases, patch=(4, 4, 4), batch=2, share=0.0, target=LABELS, seed=0, rule=None, **more) -> Padded:
    sampling = Sampling(foreground_share=share, **(rule or {}))
    return Padded(loader_of(cases, patches_of(patch, batch, target, sampling, **more), seed))


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
    assert sum(int(source.batch(number)["label"].max() == target.values.index(9)) for number in range(50)) < 10


@settings(max_examples=40)
@given(batch=st.integers(1, 12), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_share(batch: int, share: float, seed: int) -> None:
    found = guaranteed_foreground(batch, share, np.random.default_rng(seed))
    assert len(found) == batch
    assert found == sorted(found)
    if share == 0:
        assert not any(found)
    elif batch == 1:
        assert sum(found) <= 1
    else:
        assert max(1, int(batch * share)) <= sum(found) <= min(batch, max(1, int(batch * share) + 1))


@pytest.mark.parametrize(("batch", "few", "many"), [(7, 2, 3), (1, 0, 1)])
def test_share_is_met_on_average(batch: int, few: int, many: int) -> None:
    counts = [sum(guaranteed_foreground(batch, 1 / 3, np.random.default_rng(n))) for n in range(600)]
    assert set(counts) == {few, many}
    assert np.mean(counts) == pytest.approx(batch / 3, abs=0.06)


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


def stage_of(**augmentation: Any) -> Stage:
    recipe = make_recipe(augmentation=still(**augmentation), sampling=Sampling(foreground_share=0.5))
    return make_plan(make_configuration((4, 4, 4), recipe=recipe)).stage()


def stream_of(cases: list, stage: Stage, start: int, readers: int, room: Room = EVERYTHING) -> BatchStream:
    maker = BatchMaker(stage, CPU)
    patches = patches_of((4, 4, 4), sampling=stage.recipe.sampling, augmentation=stage.recipe.augmentation)
    cache = CaseCache(cases, stage, CPU, room)
    return BatchStream(PatchLoader(cases, patches, cache, 0, start), maker, readers)


def same_batches(first: MadeBatch, second: MadeBatch) -> bool:
    pairs = zip(first.tensors, second.tensors, strict=True)
    return first.seed == second.seed and all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("readers", [0, 1, 2])
@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("room", [EVERYTHING, NOTHING, Room(0, 6_000)])
def test_readers_restarts_and_room_change_nothing(cases: list, readers: int, start: int, room: Room) -> None:
    stage = stage_of(rotation_probability=0.5, scaling_probability=0.5, noise_probability=0.5)
    reference = stream_of(cases, stage, 0, 0)
    stream = stream_of(cases, stage, start, readers, room)
    try:
        for number in range(start, start + 5):
            assert same_batches(next(stream), reference.make(number))
    finally:
        stream.close()


def test_where_cases_lie(cases: list) -> None:
    """As many as there is room for: an image of 1680 voxels takes 2 bytes each, its label 1."""
    cache = stream_of(cases, stage_of(), 0, 0, Room(0, 2 * 3 * 1680)).loader.cache
    assert cache.places == ["host", "host", "files"]
    assert str(cache) == "memory (2 cases, 1.01e-05 GB) and their files (1 cases, 5.04e-06 GB)"


def test_a_case_that_finds_no_room_after_all_is_read_from_its_files(
    cases: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another program took the memory, which torch says in words alone; any other error is raised."""

    def fails(*_: object) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr(CaseCache, "_uploaded", fails)
    cache = CaseCache(cases, stage_of(), torch.device("meta"), Room(2**40, 0))
    box = (slice(1, 3), slice(0, 4), slice(2, 5))
    words = "CUDA error: out of memory"
    found, wanted = (one.read(0, box) for one in (cache, CaseCache(cases, stage_of(), CPU, NOTHING)))
    assert cache.places == ["files", "device", "device"]
    for one, other in zip((*found.numbers, *found.maps), (*wanted.numbers, *wanted.maps), strict=True):
        assert np.array_equal(one, other)
    words = "CUDA error: an illegal memory access was encountered"
    with pytest.raises(RuntimeError, match="illegal memory access"):
        cache.read(1, box)


def test_cases_are_uploaded_on_a_stream_that_no_other_work_gets(cases: list, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch keeps streams of the usual priority, 0, and those of a higher one apart."""
    asked: list[tuple[torch.device, int]] = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device, priority=0: asked.append((device, priority)))
    CaseCache(cases, stage_of(), torch.device("cuda:1"), NOTHING)
    assert asked == [(torch.device("cuda:1"), -1)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_the_streams_of_other_work_come_again_but_not_that_of_uploads(cases: list) -> None:
    others = {torch.cuda.Stream().cuda_stream for _ in range(64)}
    assert len(others) <= 32
    uploads = {CaseCache(cases, stage_of(), torch.device("cuda"), NOTHING)._stream.cuda_stream for _ in range(40)}
    assert not uploads & others


def test_batches_are_copies(cases: list) -> None:
    """What augmentation does to a batch must not come back with the next one."""
    stream = stream_of(cases, stage_of(), 0, 0)
    before = [tensor.clone() for tensor in stream.make(0).tensors]
    for tensor in stream.make(0).tensors:
        tensor.fill_(7)
    assert all(torch.equal(a, b) for a, b in zip(stream.make(0).tensors, before, strict=True))


def test_every_voxel_is_trained_on() -> None:
    """A network without padding is given more than its patch, which must reach the image's edges all the same."""
    case = one_voxel((12, 4, 4), (0, 2, 2))
    seen: set[int] = set()
    for share in (0.0, 1.0):
        source = loader([case], (4, 4, 4), batch=1, share=share, size=(8, 4, 4))
        for number in range(200):
            seen |= {int(z) for z in source.batch(number)["image"][0, 0, 2:6].ravel()}  # the patch has 4 of the 8
    assert seen >= set(range(1, 13))


def test_seeds_differ(cases: list) -> None:
    assert not same(loader(cases, seed=0).batch(0), loader(cases, seed=1).batch(0))


def landscape() -> Memory:
    """Every voxel says where it is; in a mask of 4 × 6 × 6 there are 96 voxels of label 1 and 4 of label 2."""
    shape = (8, 10, 12)
    mask, label = np.zeros(shape, bool), np.zeros(shape, np.int16)
    mask[2:6, 2:8, 3:9] = True
    label[2:6, 2:8, 3:7] = 1
    label[2:6, 2, 3] = 2
    label[0, 0, 0] = 1  # outside the mask
    return Memory("c", np.arange(label.size, dtype=np.float32).reshape(1, *shape), label, mask)


def centres(source: Padded, batches: int) -> np.ndarray:
    """Indices (z, y, x) of the middle voxels of patches of 3³ or 1³."""
    shape = source.loader._data[0].shape
    found = []
    for number in range(batches):
        for patch in source.batch(number)["image"]:
            middle = patch[(0, *(n // 2 for n in patch.shape[1:]))]
            found.append(np.unravel_index(int(middle), shape))
    return np.array(found)


@pytest.mark.parametrize("patch", [(1, 1, 1), (3, 3, 3)])
@pytest.mark.parametrize("background", ["mask", "healthy"])
def test_other_patches_are_centred_where_said(background: str, patch: tuple) -> None:
    case = landscape()
    allowed = case.mask & (case.values == 0) if background == "healthy" else case.mask
    found = centres(loader([case], patch, batch=20, rule={"background": background}), 100)
    times = np.zeros(case.shape, int)
    np.add.at(times, tuple(found.T), 1)
    assert times[~allowed].sum() == 0
    # Uniformly: χ² of 2000 draws over n places is about n, give or take √(2n).
    places = int(allowed.sum())
    expected = len(found) / places
    assert ((times[allowed] - expected) ** 2 / expected).sum() < places + 5 * np.sqrt(2 * places)


def test_foreground_patches_are_centred_there_whatever_the_others_are() -> None:
    case = landscape()
    found = centres(loader([case], (3, 3, 3), batch=4, share=0.5, rule={"background": "healthy"}), 100)
    labels = case.values[tuple(found.T)].reshape(-1, 4)
    assert not labels[:, :2].any()
    # One corner voxel of label 1 lies at the image's border, where a patch can't be centred on it.
    assert (labels[:, 2:] > 0).mean() > 0.97


def test_any_voxel_of_the_structures() -> None:
    """Large structures come more often: 93 voxels of the first, 4 of the second, each region's voxel once."""
    case = landscape()
    for target in (LABELS, REGIONS):
        source = loader([case], (1, 1, 1), batch=50, share=1.0, target=target, rule={"foreground": "voxel"})
        found = centres(source, 60)
        labels = case.values[tuple(found.T)]
        assert (labels > 0).all()
        assert (labels == 2).mean() == pytest.approx(4 / (case.values > 0).sum(), abs=0.012)
        assert len(np.unique(found, axis=0)) == (case.values > 0).sum()


def test_any_voxel_counts_those_whose_position_is_not_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoseg.preprocessing.store.POSITIONS", 10)
    label = blob()  # label 2 has 36 voxels, label 1 has 209
    source = loader([store(tmp_path, "c", label)], (1, 1, 1), batch=50, share=1.0, rule={"foreground": "voxel"})
    found = np.concatenate([source.batch(number)["label"].ravel() for number in range(40)])
    assert (found == 2).mean() == pytest.approx((label == 2).sum() / (label > 0).sum(), abs=0.025)


def test_without_healthy_tissue_or_a_mask() -> None:
    """A lesion that fills the mask leaves the mask; an image of zeros leaves everything."""
    full = landscape()
    full.values[full.mask] = 1
    found = centres(loader([full], (1, 1, 1), batch=10, rule={"background": "healthy"}), 20)
    assert full.mask[tuple(found.T)].all()
    empty = landscape()
    empty.mask[:] = False
    found = centres(loader([empty], (1, 1, 1), batch=10, rule={"background": "mask"}), 20)
    assert len(np.unique(found, axis=0)) > 150


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 9), batch=st.integers(1, 12), most=st.integers(1, 12), seed=st.integers(0, 99))
def test_few_cases_a_batch(count: int, batch: int, most: int, seed: int) -> None:
    source = loader(numbered(count), batch=batch, seed=seed, rule={"cases_per_batch": most})
    places = min(batch, most)
    drawn = []
    for number in range(2 * count):
        cases = [int(patch.max()) for patch in source.batch(number)["image"]]
        assert len(set(cases)) <= most
        # Each of the drawn ones in turn.
        assert all(case == cases[index % places] for index, case in enumerate(cases))
        drawn += cases[:places]
    # Still every case once a round.
    rounds = [sorted(drawn[start : start + count]) for start in range(0, len(drawn) // count * count, count)]
    assert all(found == list(range(1, count + 1)) for found in rounds)


def test_deepmedics_batch(cases: list) -> None:
    """60 patches of at most two cases, half of them on lesions and half on healthy tissue, whoever loads them."""
    rule = {"foreground": "voxel", "background": "healthy", "cases_per_batch": 2}
    source = loader(cases, (1, 1, 1), batch=60, share=0.5, rule=rule, size=(5, 5, 5))
    labels = source.batch(0)["label"][:, 2, 2, 2]
    assert (labels[:30] == 0).all()
    assert (labels[30:] > 0).all()


def test_default_draws_are_what_they_were(cases: list) -> None:
    """A plan of before trains on the very patches it did: checksums of its first batches."""
    source = loader(cases, batch=3, share=0.5)
    assert [zlib.crc32(source.batch(number)["label"].astype(np.int16).tobytes()) for number in range(3)] == [
        40068109,
        3883756163,
        1886287978,
    ]


def measured(folder: Path, name: str, seed: int, shape: tuple[int, ...] = (15, 20, 17)) -> StoredCase:
    rng = np.random.default_rng(seed)
    label = np.kron(rng.integers(0, 3, (4, 5, 5)), np.ones((4, 4, 4))).astype(np.int16)[tuple(map(slice, shape))]
    return store(folder, name, label, rng.normal(size=(2, *shape)).astype(np.float32))


DEFORMED = {"rotation_probability": 0.6, "scaling_probability": 0.6, "elastic_probability": 0.4, "elastic_spacing": 6}


@pytest.mark.parametrize("patch", [(8, 12, 10), (20, 12, 24)])
def test_patches_are_those_of_generous_boxes(tmp_path: Path, patch: tuple[int, ...]) -> None:
    """Exact boxes in 16 bits give what padded boxes around the whole reach of a patch gave in 32."""
    cases = [measured(tmp_path, f"c{seed}", seed) for seed in range(3)]
    stage = make_plan(make_configuration(patch), channels=("a", "b")).stage()
    patches = patches_of(patch, 4, sampling=Sampling(foreground_share=0.5), augmentation=still(**DEFORMED))
    loader, maker = loader_of(cases, patches, stage=stage), BatchMaker(stage, CPU)
    limit = reach_limit(patch, patches.augmentation)
    moved = 0
    for number in range(6):
        order = loader._shuffled(number)
        drawn = loader.batch(number).patches
        pairs = zip(*maker.resampled(drawn, loader.cache.layout), strict=True)
        places = zip(order, patch_starts(loader, number), drawn, pairs, strict=True)
        for index, start, one, (image, label) in places:
            corner = [c - (n - p) // 2 for c, n, p in zip(start, limit, patch, strict=True)]
            deformation = one.deformation
            before, before_label = resampled_before(
                cases[index], corner, limit, deformation.matrix, deformation.nodes, patch
            )
            np.testing.assert_allclose(image, before, atol=2e-3)
            # Half-way between two voxels, rounding decides.
            assert (label[0].numpy() != before_label).mean() < 2e-3
            moved += deformation.matrix is not None
            inside = [n - s for n, s in zip(one.voxels.numbers[0].shape[1:], limit, strict=True)]
            assert max(inside) <= 0
    assert moved > 10


def test_a_bent_patch_sees_the_image_around_it(tmp_path: Path) -> None:
    """Displaced by up to 3 voxels at its nodes, and neither turned nor zoomed: no voxel of it is beyond the box."""
    label = np.ones((40, 40, 40), np.int16)
    case = store(tmp_path, "c", label, np.ones((1, 40, 40, 40), np.float32))
    bent = still(elastic_probability=1, elastic_magnitude=3.0, elastic_spacing=4)
    stage = make_plan(make_configuration((8, 8, 8)), channels=("a",)).stage()
    loader = loader_of([case], patches_of((8, 8, 8), 4, augmentation=bent), stage=stage)
    maker, middle = BatchMaker(stage, CPU), 0
    for number in range(8):
        images, maps = maker.resampled(loader.batch(number).patches, loader.cache.layout)
        for start, image, labels in zip(patch_starts(loader, number), images, maps, strict=True):
            if all(4 <= first <= 40 - 8 - 4 for first in start):
                assert float(image.min()) > 0.999
                assert int(labels.min()) == 1
                middle += 1
    assert middle > 5


def test_positions_beyond_the_room_are_read_again(cases: list, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they are kept or read anew, the patches are the same; and what finds room is read once."""
    patches = patches_of((4, 4, 4), sampling=Sampling(foreground_share=1.0, background="mask"))
    kept, anew = (loader_of(cases, patches) for _ in range(2))
    anew._positions = Positions(room=0)
    for number in range(6):
        assert patch_starts(kept, number) == patch_starts(anew, number)
    read: list[str] = []
    usual = StoredCase.positions
    monkeypatch.setattr(StoredCase, "positions", lambda case, select: read.append(case.id) or usual(case, select))
    largest = max(sum(a.nbytes for a in case.foreground.values()) for case in cases)
    read.clear()
    found = Positions(room=largest)
    for _ in range(3):
        for case in cases:
            found.foreground(case)
    assert read == [case.id for case in cases] + 2 * [case.id for case in cases[1:]]


def patch_starts(loader: PatchLoader, number: int) -> list[list[int]]:
    """First voxel of each patch of a batch, drawn as the loader draws it."""
    rng = np.random.default_rng([loader.seed, 1, number])
    order = loader._shuffled(number)
    guaranteed = guaranteed_foreground(loader.batch_size, loader.sampling.foreground_share, rng)
    return [loader._corner(loader._data[i], wants, rng) for i, wants in zip(order, guaranteed, strict=True)]


def test_nothing_beyond_the_image_is_read(cases: list) -> None:
    source = loader_of(cases, patches_of((20, 20, 20), augmentation=still(**DEFORMED)))
    for number in range(5):
        for patch in source.batch(number).patches:
            assert all(n <= most for n, most in zip(patch.voxels.numbers[0].shape[1:], cases[0].shape, strict=True))
        plain = 2 * 3 * int(np.prod(cases[0].shape))  # two patches, 3 bytes a voxel
        assert source.batch(number).nbytes <= plain


@pytest.mark.parametrize("largest", [5, 40_000, 3_000_000_000])
def test_label_values_of_any_size(tmp_path: Path, largest: int) -> None:
    label = blob().astype(np.int64)
    label[label == 2] = largest
    case = store(tmp_path, "c", label, np.where(label > 0, 1.0, 0.5))
    assert np.array_equal(case.label(), label)
    assert sorted(case.foreground) == [1, largest]
    outputs = [LABELS.outputs[0], LABELS.outputs[1].model_copy(update={"values": [largest], "paint": largest})]
    target = LABELS.model_copy(update={"outputs": outputs})
    stage = make_plan(target=target).stage()
    batch = padded(loader_of([case], patches_of((12, 12, 14), 1, target), stage=stage), 0)
    indices = batch["label"][0, 1:11]
    assert indices.dtype == np.uint8
    assert np.array_equal(np.array([0, 1, largest])[indices], label)
