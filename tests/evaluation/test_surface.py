"""Surface distances against hand-worked shapes, brute force and the package whose conventions they follow."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from autoseg.evaluation.surface import _contour_lengths, _surface, _surface_areas, surface_distances

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the package uses names that SciPy 2 will lack
    import surface_distance
    from surface_distance import lookup_tables

SPACINGS = st.tuples(*[st.floats(0.3, 6)] * 3)


def _pair(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(st.tuples(*[st.integers(2, 7)] * 3))
    masks = arrays(bool, shape, elements=st.booleans()).filter(np.any)
    return draw(masks), draw(masks)


PAIRS = st.composite(_pair)()


def _cuboid(shape: tuple[int, ...], corner: tuple[int, ...], size: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(start, start + length) for start, length in zip(corner, size, strict=True))] = True
    return mask


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.3, 0.7, 1.13)])
def test_areas_are_those_of_the_reference_package_for_all_256_patterns(
    spacing: tuple[float, float, float],
) -> None:
    # Its bits run the other way round, which mirrors the pattern and keeps the area.
    theirs = lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
    np.testing.assert_allclose(_surface_areas(*spacing), theirs, atol=1e-5)


def test_contour_lengths_are_those_of_the_reference_package() -> None:
    theirs = lookup_tables.create_table_neighbour_code_to_contour_length((0.7, 2.0))
    np.testing.assert_allclose(_contour_lengths(0.7, 2.0), theirs, atol=1e-12)


def test_area_of_a_flat_face_is_exact() -> None:
    # A slab through the whole array in y and x: inside, each corner of its two faces carries dy·dx.
    mask = _cuboid((6, 40, 40), (2, 0, 0), (2, 40, 40))
    positions, areas = _surface(mask, (3.0, 0.5, 2.0))
    inner = np.all((positions[:, 1:] > 1) & (positions[:, 1:] < 19), axis=1)
    np.testing.assert_allclose(areas[inner], 0.5 * 2.0, rtol=1e-6)


def test_area_of_a_ball_comes_near_the_true_one() -> None:
    z, y, x = np.ogrid[-20:21, -40:41, -20:21]
    ball = (z * 1.0) ** 2 + (y * 0.5) ** 2 + (x * 1.0) ** 2 <= 16**2
    _, areas = _surface(ball, (1.0, 0.5, 1.0))
    assert areas.sum() == pytest.approx(4 * np.pi * 16**2, rel=0.15)  # steps make it larger


@pytest.mark.parametrize(("axis", "expected"), [(0, 3 * 2.5), (1, 3 * 0.5), (2, 3 * 1.0)])
def test_a_shifted_cube_is_as_far_as_it_was_shifted(axis: int, expected: float) -> None:
    cube = _cuboid((20, 20, 20), (5, 5, 5), (8, 8, 8))
    distances = surface_distances(np.roll(cube, 3, axis), cube, (2.5, 0.5, 1.0))
    assert distances.hausdorff() == pytest.approx(expected)
    assert distances.hausdorff(95) == pytest.approx(expected)
    assert 0 < distances.average() < expected


def test_surface_dice_counts_area_within_the_tolerance() -> None:
    small, large = _cuboid((20,) * 3, (6, 6, 6), (8, 8, 8)), _cuboid((20,) * 3, (6, 6, 6), (8, 8, 10))
    distances = surface_distances(small, large, (1.0, 1.0, 1.0))
    assert distances.dice(2.0) == 1.0
    assert 0.6 < distances.dice(1.0) < 1.0
    # On the larger cuboid the face two voxels out (64 mm²) and part of the sides are further than 1 mm away.
    far = distances.reference_areas[distances.from_reference > 1.0].sum()
    assert far == pytest.approx(64, abs=16)


def test_a_distance_of_the_tolerance_is_within_it() -> None:
    """Five voxels of 0.4 mm and a tolerance of 2 mm, as five of 1 mm and 5 mm, where nothing is rounded."""
    large, small = _cuboid((14,) * 3, (0, 0, 0), (12, 12, 12)), _cuboid((14,) * 3, (5, 5, 5), (2, 2, 2))
    exact = surface_distances(large, small, (1.0, 1.0, 1.0))
    assert exact.from_reference.max() == 5.0
    rounded = surface_distances(large, small, (0.4, 0.4, 0.4))
    assert rounded.from_reference.max() > 2.0
    for tolerance in (5.0, 6.0, 7.0):
        assert rounded.dice(0.4 * tolerance) == pytest.approx(exact.dice(tolerance), rel=1e-5)
    assert exact.dice(5.0) > exact.dice(4.999)


@settings(deadline=None, max_examples=60)
@given(PAIRS, SPACINGS)
def test_agrees_with_the_reference_package(
    pair: tuple[np.ndarray, np.ndarray], spacing: tuple[float, float, float]
) -> None:
    prediction, reference = pair
    ours = surface_distances(prediction, reference, spacing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = surface_distance.compute_surface_distances(reference, prediction, spacing)
    assert ours.hausdorff() == pytest.approx(surface_distance.compute_robust_hausdorff(theirs, 100))
    average = np.mean(surface_distance.compute_average_surface_distance(theirs))
    assert ours.average() == pytest.approx(average, rel=1e-5, abs=1e-9)
    # A tolerance that no distance equals: rounding decides there.
    assert ours.dice(1.2345) == pytest.approx(
        surface_distance.compute_surface_dice_at_tolerance(theirs, 1.2345), rel=1e-5
    )


@settings(deadline=None, max_examples=40)
@given(PAIRS, SPACINGS)
def test_agrees_with_a_distance_transform(
    pair: tuple[np.ndarray, np.ndarray], spacing: tuple[float, float, float]
) -> None:
    def corners(mask: np.ndarray) -> np.ndarray:
        mixed = np.zeros(tuple(n + 1 for n in mask.shape), bool)
        padded = np.pad(mask, 1)
        for index in np.ndindex(mixed.shape):
            block = padded[tuple(slice(i, i + 2) for i in index)]
            mixed[index] = block.any() and not block.all()
        return mixed

    prediction, reference = (corners(mask) for mask in pair)
    ours = surface_distances(*pair, spacing)
    to_reference = ndimage.distance_transform_edt(~reference, sampling=spacing)[prediction]
    to_prediction = ndimage.distance_transform_edt(~prediction, sampling=spacing)[reference]
    np.testing.assert_allclose(ours.from_prediction, np.sort(to_reference), atol=1e-9)
    np.testing.assert_allclose(ours.from_reference, np.sort(to_prediction), atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(PAIRS, SPACINGS, st.floats(0.2, 5))
def test_scaling_space_scales_distances_and_nothing_else(
    pair: tuple[np.ndarray, np.ndarray], spacing: tuple[float, float, float], factor: float
) -> None:
    one = surface_distances(*pair, spacing)
    scaled = surface_distances(*pair, (spacing[0] * factor, spacing[1] * factor, spacing[2] * factor))
    assert scaled.hausdorff() == pytest.approx(one.hausdorff() * factor, rel=1e-6)
    assert scaled.average() == pytest.approx(one.average() * factor, rel=1e-5, abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(PAIRS, SPACINGS)
def test_symmetric_and_zero_for_the_same(
    pair: tuple[np.ndarray, np.ndarray], spacing: tuple[float, float, float]
) -> None:
    prediction, reference = pair
    forth = surface_distances(prediction, reference, spacing)
    back = surface_distances(reference, prediction, spacing)
    assert forth.average() == pytest.approx(back.average())
    assert forth.hausdorff(95) == back.hausdorff(95)
    assert forth.dice(1.0) == pytest.approx(back.dice(1.0))
    same = surface_distances(prediction, prediction, spacing)
    assert (same.hausdorff(), same.average(), same.dice(0.0)) == (0.0, 0.0, 1.0)


def test_a_single_slice_is_measured_in_its_plane() -> None:
    square = _cuboid((1, 20, 20), (0, 5, 5), (1, 8, 8))
    moved = np.roll(square, 2, axis=2)
    ours = surface_distances(moved, square, (99.0, 0.5, 1.5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = surface_distance.compute_surface_distances(square[0], moved[0], (0.5, 1.5))
    assert ours.hausdorff() == pytest.approx(3.0)
    assert ours.average() == pytest.approx(np.mean(surface_distance.compute_average_surface_distance(theirs)), rel=1e-6)
    assert ours.hausdorff(95) == surface_distance.compute_robust_hausdorff(theirs, 95)
