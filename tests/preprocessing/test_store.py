"""Preprocessed cases on disk: what is read is what was written, in part or in whole, and damage is said."""

import errno
import gc
import json
import os
import resource
import sys
from pathlib import Path

import blosc2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.preprocessing import store as module
from autoseg.preprocessing.boxed_case import BoxedCase
from autoseg.preprocessing.case import preprocess_case
from autoseg.preprocessing.store import StoredCase, save, stored_key
from autoseg.utils.errors import AutosegError
from tests.builders import blob, forget_places, loaded, make_configuration, make_plan, picture_of, still, store
from tests.training.loading import EVERYTHING, NOTHING, loader_of, patches_of

SHAPE = (11, 40, 37)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[StoredCase, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, *SHAPE)).astype(np.float16).astype(np.float32)
    label = rng.choice(np.array([0, 1, 5], np.int16), SHAPE, p=[0.8, 0.15, 0.05])
    return store(tmp_path_factory.mktemp("store"), "case", label, image), image, label


def test_everything(written) -> None:
    case, image, label = written
    assert case.shape == SHAPE
    assert np.array_equal(case.image(), image)
    assert np.array_equal(case.label(), label)
    assert case.image().dtype == np.float32
    assert case.label().dtype == np.int16


@settings(max_examples=30, deadline=None)
@given(ends=st.tuples(*[st.tuples(st.integers(0, n), st.integers(0, n)) for n in SHAPE]))
def test_part_equals_part_of_all(written, ends) -> None:
    case, image, label = written
    box = tuple(slice(min(pair), max(pair)) for pair in ends)
    assert np.array_equal(case.image(box), image[(slice(None), *box)])
    assert np.array_equal(case.label(box), label[box])


def test_foreground_positions(written) -> None:
    case, _, label = written
    assert sorted(case.foreground) == [1, 5]
    for value, positions in case.foreground.items():
        assert np.array_equal(positions, np.argwhere(label == value))
    assert case.foreground_values == {1, 5}
    only_1 = np.argwhere(label == 1)[0]
    box = tuple(slice(int(place), int(place) + 1) for place in only_1)
    assert BoxedCase(case.folder, case.id, box=box).foreground_values == {1}


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
def test_few_files_stay_open(tmp_path: Path) -> None:
    """More cases than a process may have files open, as with the usual limit of 1024 and some hundred cases."""
    cases = [store(tmp_path, f"c{number}", blob()) for number in range(150)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    module._mapped.cache_clear()
    gc.collect()
    taken = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(taken + 200, soft), hard))
    try:
        loader = loader_of(cases, patches_of((4, 4, 4)), room=NOTHING)
        for number in range(75):
            loader.batch(number)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_too_many_open_files_are_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    case = store(tmp_path, "case", blob())
    monkeypatch.setattr(module.np, "load", full)
    with pytest.raises(AutosegError, match=r"case\.image\.npy can't be opened: too many files .* 'ulimit -n'"):
        case.image()


def test_a_case_that_was_stored_anew_is_read_anew(tmp_path: Path) -> None:
    case = store(tmp_path, "case", blob())
    assert np.array_equal(case.label(), blob())
    assert np.array_equal(store(tmp_path, "case", blob(shift=1)).label(), blob(shift=1))
    assert np.array_equal(StoredCase(tmp_path, "case").label(), blob(shift=1))
    # Who read it before knows how the first one was encoded.
    with pytest.raises(AutosegError, match="was preprocessed anew while it was in use; give the command again"):
        case.label()


def test_places(tmp_path: Path) -> None:
    """Inside: what is not zero; healthy: that without a label. Neither is taken for a label value."""
    label = blob()
    image = np.where(np.arange(label.size).reshape(label.shape) % 3 == 0, 0, 1.0)
    image[0, 0, 0] = image[-1, -1, -1] = 1  # so that nothing is cropped
    case = store(tmp_path, "case", label, image)
    assert sorted(case.places) == ["healthy", "inside"]
    assert np.array_equal(case.places["inside"], np.argwhere(image != 0))
    assert np.array_equal(case.places["healthy"], np.argwhere((image != 0) & (label == 0)))
    assert sorted(case.foreground) == [1, 2]
    assert case.label_voxels == {1: int((label == 1).sum()), 2: int((label == 2).sum())}


def test_places_are_thinned_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POSITIONS", 300)
    label = blob()
    inside = store(tmp_path, "case", label).places["inside"]
    assert len(inside) == 300 == len(np.unique(inside, axis=0))
    assert inside.min(0).tolist() == [0, 0, 0]
    assert inside.max(0).tolist() == [n - 1 for n in label.shape]
    # 1680 voxels in 10 slices: 30 of the 300 a slice.
    assert np.bincount(inside[:, 0]).min() > 12


def test_case_of_an_earlier_version_has_no_places(tmp_path: Path) -> None:
    case = store(tmp_path, "case", blob())
    forget_places(tmp_path / "case.foreground.npz")
    old = StoredCase(tmp_path, "case")
    assert old.places == {}
    assert old.foreground.keys() == case.foreground.keys()
    assert all(np.array_equal(old.foreground[value], case.foreground[value]) for value in (1, 2))


def as_an_earlier_version_stored(folder: Path, name: str) -> StoredCase:
    """Rewrite a case as compressed 32-bit images and 16-bit label values, and say nothing of its arrays."""
    case = StoredCase(folder, name)
    image, label = case.image(), case.label().astype(np.int16)
    for array, values in (("image", image), ("label", label)):
        blosc2.asarray(np.ascontiguousarray(values), urlpath=str(folder / f"{name}.{array}.b2nd"), mode="w")
        (folder / f"{name}.{array}.npy").unlink()
    info = json.loads((folder / f"{name}.json").read_text())
    del info["arrays"]
    (folder / f"{name}.json").write_text(json.dumps(info))
    return StoredCase(folder, name)


def test_arrays_of_an_earlier_version(tmp_path: Path) -> None:
    """They are read in part, cut into patches and validated as those of today; writing the case anew replaces them."""
    new = store(tmp_path / "new", "case", blob())
    store(tmp_path / "old", "case", blob())
    old = as_an_earlier_version_stored(tmp_path / "old", "case")
    assert stored_key(tmp_path / "old", "case") == "key"
    box = (slice(1, 6), slice(2, 9), slice(3, 7))
    for part in ((), box):
        assert np.array_equal(old.image(part), new.image(part))
        assert np.array_equal(old.label(part), new.label(part))
    assert old.label_voxels == new.label_voxels
    patches = patches_of((6, 6, 6), augmentation=still(rotation_probability=1.0))
    for room in (EVERYTHING, NOTHING):
        for mine, theirs in zip(
            loader_of([old], patches, room=room).batch(0).patches,
            loader_of([new], patches, room=room).batch(0).patches,
            strict=True,
        ):
            assert mine.first == theirs.first
            assert np.array_equal(mine.voxels.numbers[0], theirs.voxels.numbers[0])
            assert np.array_equal(mine.voxels.maps[0], theirs.voxels.maps[0])
    store(tmp_path / "old", "case", blob(shift=1))
    assert not list((tmp_path / "old").glob("*.b2nd"))
    assert np.array_equal(StoredCase(tmp_path / "old", "case").label(), blob(shift=1))


@pytest.mark.parametrize("offset", [0.0, -1024.0])
def test_large_values_keep_16_bits_and_zero(tmp_path: Path, offset: float) -> None:
    """Beyond ±1000 a channel has 65,535 steps over its range, and background stays exactly zero."""
    rng = np.random.default_rng(0)
    image = rng.uniform(offset, 3071, (2, *SHAPE)).astype(np.float32)
    image[:, 4:6] = 0
    image[1] /= 100
    found = store(tmp_path, "case", np.ones(SHAPE, np.int16), image).image()
    assert (found[:, 4:6] == 0).all()
    assert np.abs(found[0] - image[0]).max() <= 0.51 * (3071 - offset) / 65534
    assert np.abs(found[1] - image[1]).max() <= 0.51 * (3071 - offset) / 100 / 65534


def test_many_positions_are_thinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POSITIONS", 20)
    label = blob()
    case = store(tmp_path, "case", label)
    positions = case.foreground[1]
    assert len(positions) == 20 == len(np.unique(positions, axis=0))
    assert (label[tuple(positions.T)] == 1).all()
    # They come from all over the label, not from its first slices.
    assert set(positions[:, 0]) >= {2, 6}


def test_trace_comes_back(tmp_path: Path) -> None:
    plan = make_plan(make_configuration(spacing=(2.0, 1.0, 1.0)))
    case = preprocess_case(loaded(picture_of(blob()), blob()), plan.stage("small"))
    save(tmp_path, "case", case, "key")
    assert StoredCase(tmp_path, "case").trace == case.trace


def test_stored_key(tmp_path: Path) -> None:
    assert stored_key(tmp_path, "case") is None
    store(tmp_path, "case", blob())
    assert stored_key(tmp_path, "case") == "key"
    for text in ("{", "[]", "{}", "3"):
        (tmp_path / "case.json").write_text(text)
        assert stored_key(tmp_path, "case") is None


def test_interrupted_save_is_not_current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A case that is written anew and stopped half-way must not pass for the old or the new one."""
    store(tmp_path, "case", blob())

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_foreground_positions", stop)
    with pytest.raises(KeyboardInterrupt):
        store(tmp_path, "case", blob(shift=1))
    assert stored_key(tmp_path, "case") is None
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("ending", ["image.npy", "label.npy", "foreground.npz", "json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "rubbish", "cut"])
def test_damage_is_one_sentence(tmp_path: Path, ending: str, damage: str) -> None:
    store(tmp_path, "case", blob())
    path = tmp_path / f"case.{ending}"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {"empty": b"", "rubbish": b"{]" + b"rubbish" * 50, "cut": content[: len(content) // 2]}[damage]
        )
    case = StoredCase(tmp_path, "case")
    with pytest.raises(AutosegError) as caught:
        _ = case.shape, case.trace, case.foreground, case.image(), case.label()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_content_changes_with_the_label(tmp_path: Path) -> None:
    store(tmp_path, "case", blob())
    first = StoredCase(tmp_path, "case").content
    store(tmp_path, "case", blob())
    assert StoredCase(tmp_path, "case").content == first
    store(tmp_path, "case", blob(shift=1))
    assert StoredCase(tmp_path, "case").content != first
