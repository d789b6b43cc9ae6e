"""Resampling against scikit-image, SciPy and SimpleITK, and by what must hold for any shape."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.transform import resize

from autoseg.plans.preprocessing import Resampling
from autoseg.preprocessing.resample import (
    nearest_index,
    resample_image,
    resample_label,
    resample_mask,
    resampled_shape,
    separate_axis,
    target_spacing,
)
from autoseg.preprocessing.scores import resample_scores

SHAPES = st.tuples(*[st.integers(1, 7)] * 3)
SLABS = st.tuples(st.integers(1, 3), st.integers(1, 150), st.integers(1, 150))


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_same_shape_is_left_alone() -> None:
    image, label = noise(2, 4, 5, 6), np.arange(120, dtype=np.int16).reshape(4, 5, 6)
    scores = torch.from_numpy(image[0])
    for axis in (None, 0):
        assert np.array_equal(resample_image(image, (4, 5, 6), axis, 3), image)
        assert np.array_equal(resample_label(label, (4, 5, 6), axis, 1), label)
        assert torch.equal(resample_scores(scores, (4, 5, 6), axis), scores)


def test_cubic_as_scikit_image() -> None:
    image = noise(2, 6, 7, 8)
    ours = resample_image(image, (9, 5, 12), None, 3)
    assert ours.dtype == np.float32
    for channel in range(2):
        theirs = resize(image[channel], (9, 5, 12), order=3, mode="edge", anti_aliasing=False)
        np.testing.assert_allclose(ours[channel], theirs, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(old=SLABS, new=SLABS, turned=st.integers(0, 2), order=st.sampled_from([1, 3]))
@example(old=(2, 150, 140), new=(2, 97, 149), turned=0, order=3)
def test_any_shape_as_scikit_image(old: tuple, new: tuple, turned: int, order: int) -> None:
    """Of sharp edges, too, at which a spline overshoots and is cut off; long lines go block by block."""
    old, new = (shape[turned:] + shape[:turned] for shape in (old, new))
    image = np.where(noise(*old) > 0.5, 1000, noise(*old)).astype(np.float32)
    ours = resample_image(image[None], new, None, order)[0]
    theirs = resize(image, new, order=order, mode="edge", anti_aliasing=False)
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * 1000)
    assert image.min() <= ours.min()
    assert ours.max() <= image.max()


def test_linear_inside_as_simpleitk() -> None:
    """The voxel grids cover the same box: the new grid's first centre lies half a voxel inside its edge."""
    image = noise(6, 7, 8)
    shape = (12, 14, 16)
    ours = resample_image(image[None], shape, None, 1)[0]
    reference = sitk.Image(shape[::-1], sitk.sitkFloat32)
    reference.SetSpacing([0.5] * 3)
    reference.SetOrigin([-0.25] * 3)
    theirs = sitk.GetArrayFromImage(sitk.Resample(sitk.GetImageFromArray(image), reference, sitk.Transform()))
    np.testing.assert_allclose(ours[1:-1, 1:-1, 1:-1], theirs[1:-1, 1:-1, 1:-1], atol=1e-4)


def shares_of(label: np.ndarray, shape: tuple[int, int, int], axis: int | None) -> dict[int, np.ndarray]:
    """Label → what a linear resampling makes of its mask, by scikit-image."""
    found = {}
    for value in np.unique(label):
        mask = (label == value).astype(np.float64)
        if axis is None:
            found[int(value)] = resize(mask, shape, order=1, mode="edge", anti_aliasing=False)
            continue
        planes = np.moveaxis(mask, axis, 0)
        size = tuple(n for a, n in enumerate(shape) if a != axis)
        planes = np.stack([resize(plane, size, order=1, mode="edge", anti_aliasing=False) for plane in planes])
        found[int(value)] = np.moveaxis(planes[nearest_index(len(planes), shape[axis])], 0, axis)
    return found


@settings(max_examples=80, deadline=None)
@given(old=SHAPES, new=SHAPES, axis=st.sampled_from([None, 0, 1, 2]), labels=st.integers(1, 6), seed=st.integers(0, 99))
def test_labels_as_masks_one_by_one(
    old: tuple[int, int, int], new: tuple[int, int, int], axis: int | None, labels: int, seed: int
) -> None:
    """The label of the largest share, the smallest of those that tie but for rounding."""
    values = np.array([-2, 0, 1, 7, 300, 2**20])[:labels]
    label = np.random.default_rng(seed).choice(values, old)
    found = resample_label(label, new, axis, 1)
    assert found.dtype == label.dtype
    if old == new:
        return
    shares = shares_of(label, new, axis)
    largest = np.max(list(shares.values()), axis=0)
    own = np.zeros(new)
    for value, share in shares.items():
        own[found == value] = share[found == value]
    np.testing.assert_allclose(own, largest, atol=1e-6)
    for value, share in shares.items():
        clear = np.all([other < share - 1e-5 for name, other in shares.items() if name != value], axis=0)
        assert (found[clear] == value).all()


def test_ties_go_to_the_smaller_label() -> None:
    """Twice as many voxels in the row: ¾ and ¼ of the neighbours; at thrice a voxel lies half-way between two."""
    row = np.array([[[5, 2]]], np.int16)
    assert resample_label(row, (1, 1, 4), None, 1).ravel().tolist() == [5, 5, 2, 2]
    assert resample_label(row, (1, 1, 3), None, 1).ravel().tolist() == [5, 2, 2]


def test_many_points_between_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are weighed in parts, which changes nothing."""
    label = np.random.default_rng(0).integers(0, 5, (9, 8, 7))
    whole = resample_label(label, (13, 6, 11), None, 1)
    monkeypatch.setattr("autoseg.preprocessing.resample._POINTS", 10)
    assert np.array_equal(resample_label(label, (13, 6, 11), None, 1), whole)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_separate_axis_plane_by_plane(axis: int) -> None:
    """Along the axis every plane is one of the old planes, and inside a plane nothing else has a say."""
    image = noise(5, 6, 7)
    shape = tuple(n + 3 for n in image.shape)
    ours = np.moveaxis(resample_image(image[None], shape, axis, 3)[0], axis, 0)
    old = np.moveaxis(image, axis, 0)
    count, new = len(old), shape[axis]
    for index, plane in enumerate(ours):
        nearest = int((index + 0.5) * count / new)
        theirs = resize(old[nearest], plane.shape, order=3, mode="edge", anti_aliasing=False)
        np.testing.assert_allclose(plane, theirs, atol=1e-5)


def test_nearest_as_scipy() -> None:
    line = np.arange(7, dtype=np.float32)
    ours = resample_image(np.tile(line[:, None, None], (1, 1, 2, 2)), (11, 2, 2), 0, 3)[0, :, 0, 0]
    theirs = ndimage.zoom(line, 11 / 7, order=0, grid_mode=True, mode="nearest")
    assert np.array_equal(ours, theirs)


@settings(max_examples=25, deadline=None)
@given(
    old=SHAPES, new=SHAPES, axis=st.sampled_from([None, 0, 1, 2]), order=st.sampled_from([0, 1]), seed=st.integers(0)
)
def test_label_keeps_values(old: tuple, new: tuple, axis: int | None, order: int, seed: int) -> None:
    label = np.random.default_rng(seed % 2**32).choice(np.array([0, 2, 7, 255], np.int16), old)
    result = resample_label(label, new, axis, order)
    assert result.shape == new
    assert result.dtype == np.int16
    assert set(np.unique(result)) <= set(np.unique(label))


@settings(max_examples=25, deadline=None)
@given(old=SHAPES, new=SHAPES, axis=st.sampled_from([None, 0, 1, 2]), value=st.floats(-100, 100, width=32))
def test_constant_stays_constant(old: tuple, new: tuple, axis: int | None, value: float) -> None:
    constant = np.full((1, *old), value, np.float32)
    np.testing.assert_allclose(resample_image(constant, new, axis, 3), value, rtol=1e-4, atol=1e-4)
    scores = resample_scores(torch.from_numpy(constant[0]), new, axis)
    assert scores.shape == new
    np.testing.assert_allclose(scores, value, rtol=1e-5, atol=1e-5)


def test_label_is_the_largest_linear_share() -> None:
    """1, 1, 2, 2 on three voxels: their centres lie at 1/6, 1.5 and 2.83; the middle one ties: the smaller wins."""
    label = np.array([1, 1, 2, 2], np.int16).reshape(1, 1, 4)
    assert resample_label(label, (1, 1, 3), None, 1).ravel().tolist() == [1, 1, 2]
    # A third label may win between two others without being the mean of them.
    label = np.array([0, 3, 1], np.int16).reshape(1, 1, 3)
    assert resample_label(label, (1, 1, 6), None, 1).ravel().tolist() == [0, 0, 3, 3, 1, 1]


def test_scores_linear_as_scikit_image() -> None:
    scores = noise(5, 6, 7)
    ours = resample_scores(torch.from_numpy(scores), (8, 9, 10), None).numpy()
    theirs = resize(scores, (8, 9, 10), order=1, mode="edge", anti_aliasing=False)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    ours = resample_scores(torch.from_numpy(scores), (8, 9, 10), 1).numpy()
    theirs = resample_image(scores[None], (8, 9, 10), 1, 1)[0]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_label_and_scores_use_one_grid() -> None:
    """A blob that goes to the target grid and back as scores keeps its centre of mass to a tenth of a voxel."""
    label = np.zeros((12, 14, 16), np.float32)
    label[3:8, 4:9, 6:12] = 1
    for axis in (None, 0):
        there = resample_image(label[None], (18, 21, 24), axis, 1)[0]
        back = resample_scores(torch.from_numpy(there), (12, 14, 16), axis).numpy()
        np.testing.assert_allclose(ndimage.center_of_mass(back), ndimage.center_of_mass(label), atol=0.1)


@pytest.mark.parametrize(
    ("spacing", "target", "axis"),
    [
        ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), None),
        ((5.0, 1.0, 1.0), (1.0, 1.0, 1.0), 0),  # the image's own
        ((1.0, 1.0, 1.0), (1.0, 4.0, 1.0), 1),  # the target's
        ((1.0, 1.0, 6.0), (9.0, 1.0, 1.0), 2),  # the image's comes first
        ((3.0, 1.0, 1.0), (1.0, 1.0, 1.0), None),  # exactly the ratio is not beyond it
        ((0.9, 0.3, 0.3), (0.3, 0.3, 0.3), None),  # … nor where three times the one is rounded below the other
        ((5.0, 5.0, 1.0), (1.0, 1.0, 1.0), None),  # two coarse axes
    ],
)
def test_separate_axis(spacing: tuple, target: tuple, axis: int | None) -> None:
    assert separate_axis(spacing, target, Resampling()) == axis
    assert separate_axis(spacing, target, Resampling(separate_axis="never")) is None


def test_shape_and_spacing() -> None:
    assert target_spacing((3.0, 1.0, 2.0), (None, 0.5, 4.0)) == (3.0, 0.5, 4.0)
    assert resampled_shape((10, 20, 30), (3.0, 1.0, 2.0), (3.0, 0.5, 4.0)) == (10, 40, 15)
    # Multiplied before it is divided, it would be 51 and 50: nnU-Net has these.
    assert resampled_shape((101, 33, 1), (0.2, 0.6, 1), (0.4, 0.4, 1)) == (50, 49, 1)
    assert resampled_shape((1, 1, 1), (1.0, 1.0, 1.0), (50.0, 50.0, 50.0)) == (1, 1, 1)


@settings(max_examples=30, deadline=None)
@given(old=SHAPES, new=SHAPES, seed=st.integers(0, 99))
def test_mask_as_nearest_interpolation(old: tuple, new: tuple, seed: int) -> None:
    mask = np.random.default_rng(seed).random(old) < 0.5
    expected = torch.nn.functional.interpolate(torch.tensor(mask)[None, None].float(), size=new, mode="nearest-exact")
    assert np.array_equal(resample_mask(mask, new), expected[0, 0].bool().numpy())
