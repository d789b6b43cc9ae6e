"""The way to the output space and back: exact by hand on shifts, and round trips of volumes."""

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.clinical.output_space import cut_to, output_grid, sampled_image
from autoseg.clinical.settings import ExamPreparation
from autoseg.clinical.transforms import (
    PreparedCase,
    SpatialGrid,
    StoredSeries,
    affine_of,
    inverse_of,
    resample_labels,
    to_native,
    transform_of,
)
from autoseg.utils.errors import AutosegError, UsageError

OBLIQUE = sitk.Euler3DTransform((0, 0, 0), 0.2, -0.1, 0.3, (4, -3, 2))


def grid(size=(40, 44, 12), spacing=(1.0, 1.0, 5.5), direction=None) -> SpatialGrid:
    axes = np.eye(3).ravel() if direction is None else direction
    return SpatialGrid(size=size, spacing=spacing, origin=(-20, -22, -30), direction=tuple(axes))


def ball(on: SpatialGrid, centre, radius) -> sitk.Image:
    index = np.stack(np.meshgrid(*(np.arange(n) for n in reversed(on.size)), indexing="ij")[::-1], -1)
    axes = np.asarray(on.direction).reshape(3, 3) * np.asarray(on.spacing)
    inside = np.linalg.norm(index @ axes.T + np.asarray(on.origin) - centre, axis=-1) <= radius
    image = sitk.GetImageFromArray(inside.astype(np.uint8))
    image.CopyInformation(on.empty())
    return image


def test_a_matrix_and_its_inverse() -> None:
    matrix = affine_of(OBLIQUE)
    point = (3.0, -7.0, 11.0)
    there = transform_of(matrix).TransformPoint(point)
    assert there == pytest.approx(OBLIQUE.TransformPoint(point))
    assert transform_of(inverse_of(matrix)).TransformPoint(there) == pytest.approx(point)


def test_a_label_moves_by_whole_voxels() -> None:
    labels = sitk.GetImageFromArray(np.pad(np.array([[[1, 2]]], np.uint8), ((1, 1), (1, 1), (1, 3))))
    found = resample_labels(labels, SpatialGrid.of(labels), sitk.TranslationTransform(3, (-2.0, 0.0, 0.0)))
    assert sitk.GetArrayFromImage(found)[1, 1].tolist() == [0, 0, 0, 1, 2, 0]


def test_a_label_keeps_its_volume_on_a_grid_of_twice_the_spacing() -> None:
    """All points of the coarse grid lie midway between voxels, where label and background are often equal."""
    fine = grid((80, 80, 80), (0.5, 0.5, 0.5))
    coarse = output_grid(fine.empty(), ExamPreparation())
    assert coarse.size == (40, 40, 40)
    ratios = []
    for shift in np.random.default_rng(0).uniform(-1, 1, (6, 3)):
        labels = ball(fine, ball_centre(fine) + shift, 8) + 3 * ball(fine, ball_centre(fine) + shift, 4)
        found = sitk.GetArrayFromImage(resample_labels(labels, coarse, sitk.Transform(3, sitk.sitkIdentity)))
        drawn = sitk.GetArrayFromImage(labels)
        assert set(np.unique(found)) == {0, 1, 4}
        ratios.append([8 * (found == value).sum() / (drawn == value).sum() for value in (1, 4)])
    # To the background, the ties cost 2.6 % of the shell and 7.4 % of the core.
    assert np.mean(ratios, axis=0) == pytest.approx([1.0, 1.0], abs=0.04)
    assert np.mean(ratios, axis=0)[0] == pytest.approx(1, abs=0.01)


def test_a_ball_comes_back_to_thick_oblique_slices() -> None:
    turn = np.asarray(OBLIQUE.GetMatrix())
    native, fine = grid(direction=turn), grid((60, 60, 90), (1.0, 1.0, 1.0))
    matrix = affine_of(OBLIQUE)
    centre = np.asarray(OBLIQUE.TransformPoint(ball_centre(native)))
    case = PreparedCase(
        case="c", reference="s", output=fine.model_copy(update={"origin": tuple(centre - 30)}),
        series={"s": StoredSeries(channel="t1", grid=native, to_output=matrix)},
    )  # fmt: skip
    back = sitk.GetArrayFromImage(to_native(ball(case.output, centre, 10), case, "t1")) > 0
    drawn = sitk.GetArrayFromImage(ball(native, ball_centre(native), 10)) > 0
    assert 2 * (back & drawn).sum() / (back.sum() + drawn.sum()) > 0.94


def ball_centre(on: SpatialGrid) -> np.ndarray:
    axes = np.asarray(on.direction).reshape(3, 3) * np.asarray(on.spacing)
    return np.asarray(on.origin) + axes @ ((np.asarray(on.size) - 1) / 2)


def test_stored_cases_are_read_back_and_damage_is_named(tmp_path) -> None:
    case = PreparedCase(case="c", reference="s", output=grid(), series={"s": StoredSeries(channel="t1", grid=grid())})
    case.write(tmp_path)
    assert PreparedCase.read(tmp_path) == case
    with pytest.raises(UsageError, match=r"--to-native t2: c has no such series; it has s \(t1\)"):
        case.find("t2")
    (tmp_path / "transforms.json").write_text('{"case": 1}')
    with pytest.raises(AutosegError, match="damaged"):
        PreparedCase.read(tmp_path)


def test_a_filled_channel_goes_back_to_the_series_it_was_copied_from() -> None:
    series = {"s": StoredSeries(channel="t1c", grid=grid())}
    case = PreparedCase(case="c", reference="s", output=grid(), series=series, filled={"t1": "t1c"})
    assert case.find("t1").channel == "t1c"


def test_the_output_grid_covers_the_reference_in_canonical_axes() -> None:
    # Axes to the right, to the head, to the back.
    image = grid((10, 20, 30), (2.0, 3.0, 4.0), (-1, 0, 0, 0, 0, 1, 0, 1, 0)).empty(sitk.sitkFloat32)
    found = output_grid(image, ExamPreparation())
    assert found.size == (20, 120, 60)
    assert found.direction == pytest.approx(tuple(np.eye(3).ravel()))
    middle = np.asarray(image.TransformContinuousIndexToPhysicalPoint([4.5, 9.5, 14.5]))
    assert ball_centre(found) == pytest.approx(middle)
    kept = output_grid(image, ExamPreparation(orient=False, spacing=None))
    assert kept == SpatialGrid.of(image)


def test_a_box_and_a_crop() -> None:
    whole = grid((60, 60, 60), (1.0, 1.0, 1.0))
    region = ball(whole, ball_centre(whole) + 3, 8)
    boxed = cut_to(whole, region, ExamPreparation(box=(32, 30, 100)))
    assert boxed.size == (32, 30, 100)
    assert np.abs(ball_centre(boxed) - ball_centre(whole) - 3).max() <= 0.5
    assert cut_to(whole, region, ExamPreparation(crop=True)).size == (26, 26, 26)  # 16 and 5 on both sides


def test_splines_keep_the_range_of_values() -> None:
    array = np.zeros((12, 44, 40), np.float32)
    array[5:7] = 100
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(grid().empty())
    fine = output_grid(image, ExamPreparation())
    found = sitk.GetArrayFromImage(sampled_image(image, fine, sitk.Transform(3, sitk.sitkIdentity), "spline"))
    assert (found.min(), found.max()) == (0, 100)
    nearest = sitk.GetArrayFromImage(sampled_image(image, fine, sitk.Transform(3, sitk.sitkIdentity), "nearest"))
    assert set(np.unique(nearest)) == {0, 100}


@pytest.mark.parametrize("interpolation", ["spline", "nearest"])
def test_outside_of_the_field_of_view_is_air(interpolation: str) -> None:
    """0 of an MR image, the lowest value of CT, where 0 is water."""
    still = sitk.Transform(3, sitk.sitkIdentity)
    larger = grid().model_copy(update={"size": (60, 44, 12)})
    for low, air in ((0, 0), (7, 0), (-1000, -1000)):
        array = np.full((12, 44, 40), 50, np.float32)
        array[:3] = low
        image = sitk.GetImageFromArray(array)
        image.CopyInformation(grid().empty())
        found = sitk.GetArrayFromImage(sampled_image(image, larger, still, interpolation))
        assert (found[:, :, 45:] == air).all()
