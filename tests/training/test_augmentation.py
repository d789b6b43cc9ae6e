"""Augmentation against SciPy and torch, by hand, and by what no augmentation may do."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from autoseg.plans.augmentation import Augmentation
from autoseg.training.augmentation import blur, contrast, gamma, low_resolution, mirror
from autoseg.training.deformation import draw_deformations, reach_limit
from tests.builders import augment, still
from tests.devices import Calls


class Extreme:
    """Instead of a random generator: everything that may happen does, and ranges give their upper end."""

    def __init__(self) -> None:
        self._some = np.random.default_rng(0)

    def integers(self, bound: int) -> int:
        return int(self._some.integers(bound))

    def random(self, size: Any) -> np.ndarray:
        return np.zeros(size)

    def uniform(self, low: float, high: float, size: Any) -> np.ndarray:
        return np.full(size, high)


def extreme(image: torch.Tensor, label: torch.Tensor, patch: list[int], **what: Any) -> tuple:
    return augment(image, label, patch, still(**what), Extreme())  # type: ignore[arg-type]


def some(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.normal(size=shape).astype(np.float32))
    return image, torch.from_numpy(rng.integers(0, 4, (shape[0], *shape[2:])).astype(np.int16))


#: All that can be done at once.
WILD = Augmentation(
    rotation_probability=1,
    scaling_probability=1,
    elastic_probability=1,
    noise_probability=1,
    blur_probability=1,
    brightness_probability=1,
    contrast_probability=1,
    low_resolution_probability=1,
    gamma_probability=1,
    gamma_invert_probability=1,
)


@pytest.mark.parametrize(("loaded", "patch", "start"), [((9, 8, 7), (4, 4, 4), (2, 2, 1)), ((6, 6), (6, 4), (0, 1))])
def test_nothing_on_cuts_the_middle(loaded: tuple, patch: tuple, start: tuple) -> None:
    image, label = some(2, 3, *loaded)
    new_image, new_label = augment(image, label, patch, still(), np.random.default_rng(0))
    box = tuple(slice(s, s + p) for s, p in zip(start, patch, strict=True))
    assert torch.equal(new_image, image[(slice(None), slice(None), *box)])
    assert torch.equal(new_label, label[(slice(None), *box)])
    assert new_label.dtype == label.dtype


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("size", [6, 7])
def test_quarter_turn(axis: int, size: int) -> None:
    """Exactly what ``rot90`` does, image and label in the same sense."""
    image, label = some(1, 2, size, size, size)
    turned, turned_label = extreme(
        image, label, [size] * 3, rotation=90, rotation_axes=[axis], rotation_probability=1, scaling=(1, 1)
    )
    plane = [a for a in range(3) if a != axis]
    candidates = [k for k in (1, -1) if torch.equal(turned_label, label.rot90(k, [a + 1 for a in plane]))]
    assert len(candidates) == 1
    torch.testing.assert_close(turned, image.rot90(candidates[0], [a + 2 for a in plane]), atol=1e-4, rtol=0)


def test_quarter_turn_of_a_slice() -> None:
    image, label = some(1, 1, 6, 6)
    turned, turned_label = extreme(image, label, [6, 6], rotation=90, rotation_probability=1)
    candidates = [k for k in (1, -1) if torch.equal(turned_label, label.rot90(k, [1, 2]))]
    assert len(candidates) == 1
    torch.testing.assert_close(turned, image.rot90(candidates[0], [2, 3]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("zoom", [2.0, 0.8])
@pytest.mark.parametrize("loaded", [12, 13])
def test_zoom_as_scipy(zoom: float, loaded: int) -> None:
    """Above 1 magnifies, around the middle of the plain cut, also where that is half a voxel off the box's."""
    image, label = some(1, 1, loaded, loaded, loaded)
    zoomed, zoomed_label = extreme(image, label, [8] * 3, scaling=(zoom, zoom), scaling_probability=1)
    middle = (loaded - 8) // 2 + 3.5
    arguments: dict[str, Any] = {
        "matrix": np.full(3, 1 / zoom),
        "offset": middle - 3.5 / zoom,
        "output_shape": (8, 8, 8),
        "mode": "grid-constant",
    }
    np.testing.assert_allclose(
        zoomed[0, 0], ndimage.affine_transform(image[0, 0].numpy(), order=1, **arguments), atol=1e-4
    )
    if zoom != 2.0:  # at 2 some voxels lie half-way between two labels
        expected = ndimage.affine_transform(label[0].numpy(), order=0, **arguments)
        assert np.array_equal(zoomed_label[0], expected)


def coordinates(size: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """An image that says where each voxel comes from (a channel an axis, and one of ones); a label that does, too."""
    grid = np.indices(size).astype(np.float32)
    image = torch.from_numpy(np.concatenate([grid, np.ones((1, *size), np.float32)]))[None]
    return image, torch.arange(int(np.prod(size)), dtype=torch.int32).reshape(1, *size)


@pytest.mark.parametrize("size", [(16, 18, 20), (24, 22)])
@pytest.mark.parametrize("seed", range(5))
def test_image_and_label_stay_together(size: tuple, seed: int) -> None:
    """Under rotation, zoom and bending each voxel's label is the one nearest to where its intensity was taken."""
    image, label = coordinates(size)
    patch = [n - 6 for n in size]
    what = still(rotation_probability=1, scaling_probability=1, elastic_probability=1, elastic_spacing=6)
    moved, moved_label = augment(image, label, patch, what, np.random.default_rng(seed))
    inside = moved[0, -1] > 0.9999
    assert inside.float().mean() > 0.3
    taken = moved[0, :-1].numpy()
    labelled = np.stack(np.unravel_index(moved_label[0].numpy(), size))
    assert np.abs(taken - labelled)[:, inside].max() <= 0.5 + 1e-3
    start = np.array([3] * len(size)).reshape(-1, *[1] * len(size))
    assert np.abs(taken - np.indices(patch) - start)[:, inside].max() > 0.5  # it did move


def test_bending_is_bounded_and_smooth() -> None:
    image, label = coordinates((20, 20, 20))
    what = still(elastic_probability=1, elastic_magnitude=3.0, elastic_spacing=4)
    for seed in range(5):
        moved, _ = augment(image, label, [12] * 3, what, np.random.default_rng(seed))
        shift = moved[0, :3].numpy() - np.indices((12, 12, 12)) - 4
        assert np.abs(shift).max() <= 3.0 + 1e-4
        # Neighbouring nodes differ by at most twice the magnitude, over four voxels or a little less.
        assert max(np.abs(np.diff(shift, axis=axis)).max() for axis in (1, 2, 3)) <= 6.0 / 3


@pytest.mark.parametrize("seed", range(3))
def test_in_plane_leaves_the_first_axis_alone(seed: int) -> None:
    image, label = coordinates((6, 20, 20))
    what = still(rotation=180, rotation_axes=[0], rotation_probability=1, scaling_probability=1, elastic_probability=1)
    moved, _ = augment(image, label, [4, 12, 12], what, np.random.default_rng(seed))
    inside = moved[0, -1] > 0.9999
    expected = np.broadcast_to(np.arange(1.0, 5.0)[:, None, None], (4, 12, 12))
    np.testing.assert_allclose(moved[0, 0].numpy()[inside], expected[inside], atol=1e-3)
    assert reach_limit([4, 12, 12], what)[0] == 4


def test_reach_limit() -> None:
    assert reach_limit([8, 9, 10], still()) == [8, 9, 10]
    assert reach_limit([8, 9], still()) == [8, 9]
    zoom = still(scaling_probability=0.2, scaling=(0.9, 1.2))
    assert reach_limit([9, 18, 27], zoom) == [10, 20, 30]
    assert reach_limit([17, 17, 17], still(scaling_probability=0.2, scaling=(0.5, 1.2))) == [20] * 3
    assert reach_limit([8, 8, 8], still(scaling_probability=1, scaling=(1.1, 1.2))) == [8, 8, 8]
    # 10 · (cos 30° + sin 30°) = 13.66
    turn = still(rotation_probability=0.2, rotation=30, rotation_axes=[0])
    assert reach_limit([10, 10, 10], turn) == [10, 14, 14]
    assert reach_limit([10, 10], turn) == [14, 14]
    assert reach_limit([10, 10], still(rotation_probability=0.2, rotation=30, rotation_axes=[])) == [10, 10]


@pytest.mark.parametrize("size", [(12, 12, 12), (12, 12)])
def test_without_rotation_axes_nothing_turns(size: tuple[int, ...]) -> None:
    """In slices, too, which turn in their plane about any axis that is named."""
    image, label = coordinates(size)
    patch, turn = [8] * len(size), {"rotation": 30, "rotation_probability": 1}
    moved, _ = extreme(image, label, patch, **turn, rotation_axes=[])
    np.testing.assert_allclose(moved[0, : len(size)], np.indices(patch) + 2, atol=1e-4)
    turned = [extreme(image, label, patch, **turn, rotation_axes=axes)[0] for axes in ([0], [0, 1, 2])]
    assert not torch.equal(turned[0], moved)
    assert torch.equal(*turned) == (len(size) == 2)


@pytest.mark.parametrize("patch", [[10, 10, 10], [12, 12]])
def test_what_is_loaded_is_enough(patch: list[int]) -> None:
    """A patch turned about one axis and zoomed out sees nothing from beyond the loaded box."""
    what = still(rotation_probability=1, rotation_axes=[1], scaling_probability=1, scaling=(0.85, 1.4))
    size = reach_limit(patch, what)
    image, label = torch.ones(20, 1, *size), torch.ones(20, *size, dtype=torch.int16)
    moved, moved_label = augment(image, label, patch, what, np.random.default_rng(0))
    assert moved.min() > 0.999
    assert (moved_label == 1).all()


def test_zoom_axes_are_those_named() -> None:
    """About the first axis alone an image is zoomed in its plane, unless all axes are named."""
    image, label = coordinates((12, 12, 12))
    what = {"rotation_axes": [0], "scaling": (2.0, 2.0), "scaling_probability": 1}
    flat, _ = extreme(image, label, [8] * 3, **what)
    every, _ = extreme(image, label, [8] * 3, **what, scaling_axes=[0, 1, 2])
    one, _ = extreme(image, label, [8] * 3, **what, scaling_axes=[2])
    middle = 2 + 3.5
    zoomed, plain = middle + (np.arange(8) - 3.5) / 2, np.arange(8) + 2
    for found, lines in ((flat, (plain, zoomed, zoomed)), (every, (zoomed,) * 3), (one, (plain, plain, zoomed))):
        for axis, line in enumerate(lines):
            np.testing.assert_allclose(found[0, axis].movedim(axis, 0)[:, 3, 3], line, atol=1e-4)


@pytest.mark.parametrize("translation", [3.0, 1.5])
@pytest.mark.parametrize("size", [(12, 13, 14), (12, 13)])
def test_translation_as_scipy(size: tuple, translation: float) -> None:
    """At its largest, to the same side along each axis; zeros come in from beyond the image."""
    image, label = some(1, 1, *size)
    moved, moved_label = extreme(image, label, list(size), translation=translation, translation_probability=1)
    expected = ndimage.shift(image[0, 0].numpy(), -translation, order=1, mode="grid-constant")
    np.testing.assert_allclose(moved[0, 0], expected, atol=1e-4)
    if translation == 3.0:  # at half a voxel two labels are as near
        assert np.array_equal(moved_label[0], ndimage.shift(label[0].numpy(), -3, order=0))


def test_translations_of_all_sizes_are_drawn_along_each_axis() -> None:
    image, label = coordinates((30, 30, 30))
    what = still(translation=4.0, translation_probability=1)
    shifts = []
    for seed in range(40):
        moved, moved_label = augment(image, label, [8] * 3, what, np.random.default_rng(seed))
        shift = moved[0, :3].numpy() - np.indices((8, 8, 8)) - 11
        assert np.ptp(shift, axis=(1, 2, 3)).max() < 1e-3
        shifts.append(shift[:, 0, 0, 0])
        labelled = np.stack(np.unravel_index(moved_label[0].numpy(), (30, 30, 30)))
        assert np.abs(moved[0, :3].numpy() - labelled).max() <= 0.5 + 1e-3
    assert np.abs(shifts).max() <= 4.0 + 1e-3
    # Uniform in ±4: a deviation of 4/√3 = 2.31 along each axis.
    assert np.std(shifts, axis=0) == pytest.approx([2.31] * 3, abs=0.5)
    assert reach_limit([8, 9, 10], what) == [16, 17, 18]


def test_draws_without_a_translation_are_those_of_earlier_versions() -> None:
    """What the code drew before there was one: rotations, zooms, bending, and what is drawn after them."""
    rng = np.random.default_rng(19)
    half = Augmentation(rotation_probability=0.5, scaling_probability=0.5, elastic_probability=0.5)
    drawn = draw_deformations(3, (6, 8, 10), half, rng)
    found = [float(one.matrix.sum()) for one in drawn if one.matrix is not None]
    found += [float(np.abs(one.nodes).sum()) for one in drawn if one.nodes is not None]
    assert [one.matrix is None for one in drawn] == [False, True, False]
    expected = [2.231595739093419, 2.4490717404454787, 22.349982083119116, 0.788941189244398]
    assert [*found, float(rng.random())] == pytest.approx(expected, rel=1e-12)


def test_gaussian_shift_and_scale() -> None:
    """Each channel of each sample its own number, with the paper's deviations (Rahimpour et al., section 2.2)."""
    image, label = some(400, 2, 4, 5)
    for name, std in (("gaussian_shift", 0.05), ("gaussian_scale", 0.01)):
        what = still(transforms={name: {"probability": 1}})
        new, _ = augment(image, label, [4, 5], what, np.random.default_rng(0))
        change = new - image if name == "gaussian_shift" else new / image - 1
        assert change.flatten(2).std(2).max() < 1e-3  # one number a channel
        numbers = change.flatten(2).mean(2)
        assert numbers.std().item() == pytest.approx(std, rel=0.1)
        assert numbers.mean().item() == pytest.approx(0, abs=std / 8)
        assert abs(np.corrcoef(numbers.T)[0, 1]) < 0.2  # channels are independent
    other = still(transforms={"gaussian_shift": {"probability": 1, "std": 2.0}})
    new, _ = augment(image, label, [4, 5], other, np.random.default_rng(0))
    assert (new - image).std().item() == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize("space", [(9, 8, 7), (12, 10)])
def test_a_bias_field_is_a_smooth_factor(space: tuple[int, ...]) -> None:
    """Its logarithm is a polynomial of third order (NumPy fits it), as strong as asked; zeros stay."""
    image, label = some(3, 2, *space)
    image = image.abs() + 2
    image[:, :, 0, 0] = 0  # outside of a mask; also the darkest of the patch
    what = still(transforms={"bias_field": {"probability": 1, "strength": (0.3, 0.3)}})
    new, new_label = augment(image, label, list(space), what, np.random.default_rng(0))
    assert torch.equal(new_label, label)
    assert torch.equal(new[image == 0], image[image == 0])
    grids = [grid.ravel() for grid in np.meshgrid(*(np.linspace(-1, 1, size) for size in space), indexing="ij")]
    orders = [order for order in np.ndindex(*(4,) * len(space)) if 0 < sum(order) <= 3]
    basis = np.stack([np.prod([g**o for g, o in zip(grids, order, strict=True)], axis=0) for order in orders], axis=1)
    fields = []
    for sample in range(3):
        for channel in range(2):
            seen = (image[sample, channel] != 0).numpy().ravel()
            log = (new[sample, channel] / image[sample, channel]).log().numpy().ravel()
            fitted, *_ = np.linalg.lstsq(basis[seen], log[seen], rcond=None)
            assert np.abs(basis[seen] @ fitted - log[seen]).max() < 1e-4
            assert np.abs(basis @ fitted).max() == pytest.approx(0.3, abs=1e-3)
            fields.append(log[seen])
    assert all(not np.allclose(one, other) for i, one in enumerate(fields) for other in fields[:i])


def test_a_bias_field_starts_from_the_darkest() -> None:
    """Of images with a mean of 0, what is dark changes least, and no more than the brightest by its share."""
    image, label = some(2, 1, 10, 10)
    what = still(transforms={"bias_field": {"probability": 1, "strength": (0.5, 0.5)}})
    new, _ = augment(image, label, [10, 10], what, np.random.default_rng(0))
    low = image.amin((2, 3), keepdim=True)
    factor = ((new - low) / (image - low))[image != low]
    assert np.exp(-0.5) - 1e-4 <= factor.min() < factor.max() <= np.exp(0.5) + 1e-4
    assert torch.equal(new[image == low], image[image == low])


def test_flips_as_often_as_asked() -> None:
    image, label = some(1000, 1, 4, 4)
    for probability in (0.0, 0.1, 1.0):
        what = still(mirror_axes=[0], mirror_probability=probability)
        new, new_label = augment(image, label, [4, 4], what, np.random.default_rng(0))
        flipped = (new == image.flip(2)).flatten(1).all(1)
        assert flipped.float().mean().item() == pytest.approx(probability, abs=0.03)
        assert torch.equal(new_label[flipped], label[flipped].flip(1))


def test_mirroring() -> None:
    image, label = some(16, 1, 4, 5, 6)
    new, new_label = augment(image, label, [4, 5, 6], still(mirror_axes=[0, 2]), np.random.default_rng(0))
    seen = set()
    for sample in range(16):
        for flips in ((), (0,), (2,), (0, 2)):
            if torch.equal(new[sample, 0], image[sample, 0].flip(flips)):
                assert torch.equal(new_label[sample], label[sample].flip(flips))
                seen.add(flips)
                break
        else:
            pytest.fail("a sample is no mirror image of itself")
    assert len(seen) == 4


def test_samples_are_mirrored_together() -> None:
    """No flip for each of hundreds of small ones; four kinds of flips, of which one is none, at most."""
    counts = []
    for many in (40, 200):
        image, label = torch.rand(many, 1, 4, 5), torch.zeros(many, 1, 4, 5)
        with Calls() as calls:
            mirror([image, label], [0, 1], np.random.default_rng(0))
        counts.append(len(calls.found))
    assert counts[0] == counts[1] <= 3 * 3 * 2


def test_blur_as_scipy() -> None:
    image, _ = some(1, 3, 9, 10, 11)
    sigma = np.array([0.5, 0.8, 1.3])
    found = blur(image[0], sigma)
    for channel, width in enumerate(sigma):
        expected = ndimage.gaussian_filter(image[0, channel].numpy(), width, mode="nearest", radius=4)
        np.testing.assert_allclose(found[channel], expected, atol=1e-5)


def test_blur_of_nothing() -> None:
    """A width of 0, which the plan allows, is no blur."""
    image, label = some(2, 1, 6, 6)
    new, _ = augment(image, label, [6, 6], still(blur_probability=1, blur_sigma=(0, 0)), np.random.default_rng(0))
    torch.testing.assert_close(new, image)


def line(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(1, 1, 1, -1)


def test_contrast_by_hand() -> None:
    assert contrast(line(0, 2, 4), torch.tensor([[[[0.5]]]])).ravel().tolist() == [1, 2, 3]
    assert contrast(line(0, 1, 5), torch.tensor([[[[2.0]]]])).ravel().tolist() == [0, 0, 5]


def test_gamma_by_hand() -> None:
    found = gamma(line(0, 2, 4), torch.tensor([[[[2.0]]]])).ravel().numpy()
    curved = np.array([0, 1, 4])
    expected = (curved - curved.mean()) / curved.std() * np.array([0, 2, 4]).std() + 2
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(exponent=st.floats(0.3, 3), seed=st.integers(0, 1000), invert=st.booleans())
def test_gamma_keeps_mean_std_and_order(exponent: float, seed: int, invert: bool) -> None:
    sign = -1 if invert else 1
    image = sign * torch.from_numpy(np.random.default_rng(seed).normal(3, 2, (2, 2, 5, 6)).astype(np.float32))
    found = gamma(image, torch.full((2, 1, 1, 1), exponent))
    for old, new in zip(image.flatten(0, 1), found.flatten(0, 1), strict=True):
        assert new.mean().item() == pytest.approx(old.mean().item(), abs=1e-3)
        assert new.std().item() == pytest.approx(old.std().item(), abs=1e-3)
        assert (new.ravel()[old.ravel().argsort()].diff() >= -1e-4).all()


def test_constant_patches_survive() -> None:
    """Background is constant; nothing divides by its spread."""
    image = torch.zeros(2, 2, 8, 8, 8)
    what = WILD.model_copy(update={"noise_probability": 0.0})
    new, _ = augment(image, torch.zeros(2, 8, 8, 8), [8] * 3, what, np.random.default_rng(0))
    assert torch.isfinite(new).all()
    assert new.abs().max() < 1e-5


def test_low_resolution_by_hand() -> None:
    ramp = torch.arange(8.0).reshape(1, 1, 8).expand(1, 2, 8)
    # 1, 3, 5 and 7 are kept and interpolated at a quarter and three quarters of the way.
    expected = [1, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7]
    found = low_resolution(ramp, np.array([0.5]))
    assert found.shape == (1, 2, 8)
    assert found[0, 0].tolist() == pytest.approx(expected)
    assert torch.equal(low_resolution(ramp, np.array([1.0])), ramp)


def test_brightness_and_noise() -> None:
    image, label = some(2, 2, 20, 20, 20)
    new, _ = extreme(image, label, [20] * 3, brightness_probability=1, brightness=(0.5, 3))
    torch.testing.assert_close(new, 3 * image)
    new, _ = extreme(image, label, [20] * 3, noise_probability=1, noise_std=(0, 0.5))
    noise = new - image
    assert noise.std().item() == pytest.approx(0.5, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert not torch.allclose(noise[0, 0], noise[0, 1], atol=0.1)
    assert not torch.allclose(noise[0, 0], noise[1, 0], atol=0.1)


@pytest.mark.parametrize("size", [(10, 10, 10), (12, 12)])
def test_same_generator_same_result(size: tuple) -> None:
    image, label = some(3, 2, *size)
    before = image.clone(), label.clone()
    patch = [8] * len(size)
    axes = list(range(len(size)))
    what = WILD.model_copy(update={"mirror_axes": axes})
    first = augment(image, label, patch, what, np.random.default_rng([1, 2]))
    torch.rand(5)  # the global generator has no say
    second = augment(image, label, patch, what, np.random.default_rng([1, 2]))
    other = augment(image, label, patch, what, np.random.default_rng([1, 3]))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])
    assert torch.equal(image, before[0])
    assert torch.equal(label, before[1])
    assert first[0].shape == (3, 2, *patch)
    assert first[1].shape == (3, *patch)


def test_samples_do_not_mix() -> None:
    """What happens to a sample depends on no other sample's voxels, nor on another channel's."""
    image, label = some(4, 2, 10, 10, 10)
    other, other_label = image.clone(), label.clone()
    other[1] = 100 * torch.rand(2, 10, 10, 10)
    other[3, 0] = -50
    other_label[1] = 3
    first, first_label = augment(image, label, [8] * 3, WILD, np.random.default_rng(4))
    second, second_label = augment(other, other_label, [8] * 3, WILD, np.random.default_rng(4))
    for sample in (0, 2):
        assert torch.equal(first[sample], second[sample])
        assert torch.equal(first_label[sample], second_label[sample])
    assert torch.equal(first[3, 1], second[3, 1])
    assert not torch.equal(first[1], second[1])


def test_shares_of_samples() -> None:
    """A probability of 0.2 changes about a fifth of the samples, and leaves the others exactly alone."""
    image, label = some(1000, 1, 4, 4)
    for name in ("brightness", "contrast", "noise", "rotation", "scaling"):
        new, _ = augment(image, label, [4, 4], still(**{f"{name}_probability": 0.2}), np.random.default_rng(0))
        changed = (new != image).flatten(1).any(1).float().mean().item()
        assert changed == pytest.approx(0.2, abs=0.04), name


def test_low_resolution_in_plane_leaves_the_first_axis_alone() -> None:
    ramp = torch.arange(8.0).reshape(1, 8, 1, 1).expand(1, 8, 6, 6).contiguous()  # differs along the first axis only
    flat = low_resolution(ramp, np.array([0.5]), in_plane=True)
    torch.testing.assert_close(flat, ramp)
    assert not torch.equal(low_resolution(ramp, np.array([0.5])), ramp)
