"""What a training is given by the stage before, moved with the image and made wrong at random."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage as ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.plans.augmentation import Augmentation
from autoseg.plans.configuration import Previous
from autoseg.plans.stage import Stage
from autoseg.preprocessing.boxed_case import BoxedCase
from autoseg.preprocessing.fields import PREVIOUS, StoredField
from autoseg.preprocessing.store import StoredCase
from autoseg.training import distortion as module
from autoseg.training.distortion import (
    closed,
    components,
    dilate,
    distort,
    erode,
    opened,
)
from autoseg.training.fields import network_input, with_input_fields
from tests.builders import augment, augment_maps, blob, make_configuration, make_plan, make_recipe, still, store
from tests.devices import DEVICES, waits_noted
from tests.training.loading import loader_of, padded, patches_of

TRUSTED = {"previous_morphology_probability": 0.0, "previous_removal_probability": 0.0}


@pytest.fixture
def case(tmp_path: Path) -> StoredCase:
    return store(tmp_path / "data", "c", blob())


def stage_with(**augmentation: Any) -> Stage:
    """A stage that is given what another one, of the same labels, found."""
    recipe = make_recipe(augmentation=still(**augmentation))
    full = make_configuration(recipe=recipe, previous=Previous(configuration="low"))
    return make_plan(configurations={"low": make_configuration(), "full": full}, recommended="full").stage()


def with_previous(case: StoredCase, tmp_path: Path, label: np.ndarray) -> StoredCase:
    found = store(tmp_path / "previous", case.id, label)
    return StoredCase(case.folder, case.id, (StoredField(PREVIOUS, found, found.content),))


def test_the_label_map_is_a_field(case: StoredCase, tmp_path: Path) -> None:
    found = blob(shift=1)
    handed = with_previous(case, tmp_path, found)
    assert np.array_equal(handed.field(PREVIOUS)[0], found)
    assert np.array_equal(handed.image(), case.image())
    box = (slice(1, 6), slice(2, 9), slice(3, 7))
    assert np.array_equal(handed.field(PREVIOUS, box)[0], found[box])
    given_to = network_input(handed, stage_with()).numpy()
    assert given_to.shape == (3, *found.shape)
    assert np.array_equal(given_to[1], found == 1)
    assert np.array_equal(given_to[2], found == 2)
    assert torch.equal(network_input(case, stage_with()), torch.from_numpy(case.image()))


def test_another_finding_is_another_content(case: StoredCase, tmp_path: Path) -> None:
    first = with_previous(case, tmp_path / "a", blob())
    second = with_previous(case, tmp_path / "b", blob(shift=1))
    assert len({first.content, second.content, case.content}) == 3


def test_it_is_cut_like_the_label_and_zero_beyond_the_image(case: StoredCase, tmp_path: Path) -> None:
    handed = with_previous(case, tmp_path, blob())
    loader = loader_of([handed], patches_of((8, 8, 8), size=(16, 16, 16)), stage=stage_with())
    for number in range(4):
        batch = padded(loader, number)
        assert np.array_equal(batch["fields"][PREVIOUS][:, 0], batch["label"])
        assert (batch["fields"][PREVIOUS] == 0).any()


WILD = {
    "rotation_probability": 0.8,
    "scaling_probability": 0.8,
    "elastic_probability": 0.8,
    "mirror_axes": [0, 1, 2],
    "noise_probability": 0.5,
    "gamma_probability": 0.5,
}


@pytest.mark.parametrize("seed", range(4))
def test_it_moves_with_the_label(seed: int) -> None:
    """A finding equal to the label stays so; image and label are what they are without it."""
    label = torch.from_numpy(np.stack([blob((20, 20, 20)), blob((20, 20, 20), 4)]))
    image = torch.rand((2, 1, 20, 20, 20), generator=torch.Generator().manual_seed(seed))
    stage, rng = stage_with(**WILD, **TRUSTED), np.random.default_rng(seed)
    chosen = stage.recipe.augmentation
    new, maps = augment_maps(image, torch.stack([label, label], dim=1), [12, 12, 12], chosen, rng)
    found, moved = with_input_fields(new, {PREVIOUS: maps[:, 1:]}, stage, rng), maps[:, 0]
    assert found.shape == (2, 3, 12, 12, 12)
    assert torch.equal(found[:, 1] + 2 * found[:, 2], moved.float())
    plain, plain_label = augment(image, label, [12, 12, 12], chosen, np.random.default_rng(seed))
    assert torch.equal(found[:, :1], plain)
    assert torch.equal(moved, plain_label)


def test_it_is_made_wrong_as_often_as_asked() -> None:
    label = torch.from_numpy(blob((16, 16, 16)))
    rng = np.random.default_rng(0)
    for name, share in (("previous_morphology_probability", 0.4), ("previous_removal_probability", 0.36)):
        # Two labels, each removed with 0.2: one at least is with 1 − 0.8².
        chosen = still(**{**TRUSTED, name: 0.4 if "morphology" in name else 0.2, "previous_morphology_radius": (1, 1)})
        changed = [not torch.equal(distort(label, chosen, rng), label) for _ in range(400)]
        # A closed or opened box may be what it was: morphology changes at most as often.
        expected = share if "removal" in name else share * 0.75
        assert np.mean(changed) == pytest.approx(expected, abs=0.09)


@pytest.mark.parametrize("operation", [dilate, erode, opened, closed])
def test_one_label_grows_over_others_or_leaves_background(operation, monkeypatch: pytest.MonkeyPatch) -> None:
    label = torch.from_numpy(blob((16, 16, 16)))
    monkeypatch.setattr(module, "OPERATIONS", (operation,))
    chosen = still(**{**TRUSTED, "previous_morphology_probability": 1.0, "previous_morphology_radius": (2, 2)})
    after = distort(label, chosen, np.random.default_rng(3))
    value = 1 if torch.equal(after == 1, operation((label == 1).float(), 2) > 0) else 2
    assert torch.equal(after == value, operation((label == value).float(), 2) > 0)
    rest = (label != value) & (after != value)
    assert torch.equal(after[rest], label[rest])


def test_only_small_components_go() -> None:
    label = torch.zeros(10, 10, 10, dtype=torch.int16)
    label[:, :, :4] = 1  # 40 % of the patch
    label[0, 0, 8:] = 1
    label[9, 9, 8:] = 2
    chosen = still(previous_morphology_probability=0.0, previous_removal_probability=1.0)
    after = distort(label, chosen, np.random.default_rng(0))
    assert int((after == 1).sum()) == 400
    assert not (after == 2).any()
    everything = still(
        previous_morphology_probability=0.0, previous_removal_probability=1.0, previous_removal_share=0.001
    )
    assert torch.equal(distort(label, everything, np.random.default_rng(0)), label)


def test_nothing_found_stays_nothing() -> None:
    nothing = torch.zeros(6, 6, 6, dtype=torch.int16)
    chosen = still(previous_morphology_probability=1.0, previous_removal_probability=1.0)
    assert torch.equal(distort(nothing, chosen, np.random.default_rng(0)), nothing)


def test_dilation_by_hand() -> None:
    """A point becomes its 7 nearest, then those and all their neighbours: 3³ more on each face than a cube of 3."""
    point = torch.zeros(9, 9, 9)
    point[4, 4, 4] = 1
    assert int(dilate(point, 1).sum()) == 7
    # Seven overlapping cubes of 27: a cube of 27 and 9 more on each of six faces.
    assert int(dilate(point, 2).sum()) == 27 + 6 * 9
    assert torch.equal(erode(dilate(point, 1), 1), point)
    assert torch.equal(erode(torch.ones(5, 5, 5), 2), torch.ones(5, 5, 5))
    assert not opened(point, 1).any()
    assert torch.equal(closed(point, 2), point)
    flat = torch.zeros(5, 5)
    flat[2, 2] = 1
    assert int(dilate(flat, 1).sum()) == 5


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0.0, 0.6), size=st.sampled_from([(7, 8, 9), (9, 11), (1, 1, 8)]))
def test_components_are_scipys(seed: int, share: float, size: tuple[int, ...]) -> None:
    mask = np.random.default_rng(seed).random(size) < share
    mine = components(mask)
    theirs, count = ndimage.label(mask, np.ones([3] * mask.ndim))
    assert np.array_equal(mine > 0, mask)
    assert len(np.unique(mine[mask])) == count == len(set(zip(mine[mask], theirs[mask], strict=True)))
    assert mine.max(initial=0) == count
    # In the order of their last voxels.
    last = [int(np.flatnonzero(mine == number + 1)[-1]) for number in range(count)]
    assert last == sorted(last)


def numbered_before(mask: torch.Tensor) -> torch.Tensor:
    """Components as they were numbered on the device: each voxel takes the largest number around, until none does."""
    current = torch.arange(1, mask.numel() + 1, dtype=torch.float32).reshape(mask.shape) * mask
    while True:
        spread = current
        for axis in range(mask.ndim):
            spread = module._neighbours(spread, axis)
        spread = spread * mask
        if torch.equal(spread, current):
            return current.long()
        current = spread


def distorted_before(label: torch.Tensor, augmentation: Augmentation, rng: np.random.Generator) -> torch.Tensor:
    """A map as it was distorted then."""
    label = label.clone()
    values = [int(value) for value in torch.unique(label) if value != 0]
    low, high = augmentation.previous_morphology_radius
    if rng.random() < augmentation.previous_morphology_probability and values:
        value = values[int(rng.integers(len(values)))]
        operation = module.OPERATIONS[int(rng.integers(len(module.OPERATIONS)))]
        mask = label == value
        changed = operation(mask.float(), int(rng.integers(low, high + 1))) > 0
        label[mask & ~changed] = 0
        label[changed] = value
    for value in values:
        if rng.random() < augmentation.previous_removal_probability:
            numbered = numbered_before(label == value)
            names, sizes = torch.unique(numbered[numbered > 0], return_counts=True)
            small = names[sizes <= augmentation.previous_removal_share * label.numel()]
            if len(small):
                label[numbered == small[int(rng.integers(len(small)))]] = 0
    return label


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16])
@pytest.mark.parametrize("size", [(12, 14, 16), (20, 24)])
def test_the_errors_are_those_of_before(size: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    """The same draws change the same voxels as when components were numbered on the device."""
    chosen = still(
        previous_morphology_probability=0.5,
        previous_morphology_radius=(1, 3),
        previous_removal_probability=0.6,
        previous_removal_share=0.01,
    )
    changes = 0
    for seed in range(20):
        drawn = np.random.default_rng(seed)
        label = torch.from_numpy((drawn.random(size) < 0.3) * drawn.integers(1, 4, size)).to(dtype)
        now, before = np.random.default_rng([seed, 1]), np.random.default_rng([seed, 1])
        given = label.to(device)
        found, wanted = distort(given, chosen, now), distorted_before(label, chosen, before)
        assert (found.device, found.dtype) == (given.device, dtype)
        assert torch.equal(found.cpu(), wanted)
        assert now.bit_generator.state == before.bit_generator.state
        assert torch.equal(given.cpu(), label)
        changes += not torch.equal(wanted, label)
    assert changes > 12


@pytest.mark.parametrize("device", DEVICES)
def test_a_gpu_is_waited_for_once_or_twice(device: str) -> None:
    """However large the structures are; once more only where a component of a changed map is looked for."""
    label = torch.from_numpy(blob((16, 40, 16))).to(device)
    certain = {"previous_morphology_probability": 1.0, "previous_removal_probability": 1.0}
    for changes, most in (
        (TRUSTED, 1),
        ({**TRUSTED, "previous_morphology_probability": 1.0}, 1),
        ({**TRUSTED, "previous_removal_probability": 1.0}, 1),
        (certain, 2),
    ):
        chosen = still(**changes)
        distort(label, chosen, np.random.default_rng(0))
        with waits_noted(device) as waits:
            distort(label, chosen, np.random.default_rng(0))
        # The map goes back from pinned memory; on a CPU, its array as a tensor is noted.
        assert len([call for call in waits if "lift_fresh" not in call]) == most


def test_boxed_case(case: StoredCase) -> None:
    box = (slice(1, 8), slice(2, 9), slice(2, 10))
    boxed = BoxedCase(case.folder, case.id, box=box)
    assert boxed.shape == (7, 7, 8)
    assert np.array_equal(boxed.label(), blob()[box])
    assert np.array_equal(boxed.image(), case.image()[(slice(None), *box)])
    inner = (slice(0, 3), slice(2, 6), slice(1, 4))
    assert np.array_equal(boxed.label(inner), blob()[box][inner])
    assert np.array_equal(boxed.image(inner), boxed.image()[(slice(None), *inner)])
    for value, positions in boxed.foreground.items():
        assert set(map(tuple, positions)) == set(map(tuple, np.argwhere(blob()[box] == value)))
    assert np.array_equal(case.foreground[1], StoredCase(case.folder, case.id).foreground[1])
    assert boxed.content != case.content
    assert BoxedCase(case.folder, case.id, box=(slice(0, 8), *box[1:])).content != boxed.content


@pytest.mark.parametrize("background", ["mask", "healthy"])
def test_patches_of_a_boxed_case_are_centred_where_the_plan_says(tmp_path: Path, background: str) -> None:
    """Positions count from the box; every allowed voxel of the box is met, and none outside it."""
    label = np.zeros((7, 8, 9), np.int16)
    label[2:4, 3:5, 3:6] = 1
    image = np.zeros((1, *label.shape), np.float32)
    image[0, 1:6, 1:7, 1:8] = np.arange(1, 5 * 6 * 7 + 1).reshape(5, 6, 7)
    whole = store(tmp_path / "data", "c", label, image)
    # What is zero around the image was cropped: the stored case is 5×6×7, all of it inside.
    assert whole.shape == (5, 6, 7)
    box = (slice(0, 4), slice(1, 6), slice(2, 7))
    boxed = BoxedCase(whole.folder, whole.id, box=box)
    recipe = make_recipe(sampling={"foreground_share": 0.0, "background": background})
    loader = loader_of([boxed], patches_of((1, 1, 1), 8, sampling=recipe.sampling))
    cut = [padded(loader, number) for number in range(120)]
    found = {float(value) for batch in cut for value in batch["image"].ravel()}
    inside = whole.image()[0][box]
    allowed = inside[whole.label()[box] == 0] if background == "healthy" else inside
    assert found == set(map(float, allowed.ravel()))
    if background == "healthy":
        assert not any(batch["label"].any() for batch in cut)
        assert (whole.label()[box] > 0).any()
