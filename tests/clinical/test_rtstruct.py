"""Contours of an RTSTRUCT become masks: against hand-worked pixels, another library and the area of the contours."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from skimage.measure import points_in_poly

from autoseg.clinical.label_objects import label_object, referenced_series, structures_of
from autoseg.clinical.rtstruct import even_odd
from autoseg.clinical.structure_names import distinct_names, structure_name
from autoseg.utils.errors import AutosegError
from tests.dicom_series import SmallSeries, pydicom, write_rtstruct, write_series

SERIES = SmallSeries()
CLOSED = "CLOSED_PLANAR"


def square(low: float, high: float) -> np.ndarray:
    return np.array([(low, low), (high, low), (high, high), (low, high)], float)


def in_slice(polygon: np.ndarray, slice_: float) -> np.ndarray:
    return np.array([SERIES.point(x, y, slice_) for x, y in polygon])


@pytest.fixture
def grid(tmp_path: Path) -> sitk.Image:
    write_series(tmp_path / "scan", np.zeros((6, 20, 30)))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "scan")))
    return reader.Execute()


def test_a_square_holds_the_pixels_whose_centres_it_holds() -> None:
    expected = np.zeros((6, 7), bool)
    expected[1:4, 1:4] = True
    assert np.array_equal(even_odd([square(0.5, 3.5)], (6, 7)), expected)


def test_squares_side_by_side_share_no_pixel_and_miss_none() -> None:
    left, right = square(0, 3), square(0, 3) + np.array([3, 0])
    both = even_odd([left], (4, 8)).astype(int) + even_odd([right], (4, 8))
    assert both.max() == 1
    assert both.sum() == 3 * 6


def test_an_inner_contour_and_a_keyhole_are_holes() -> None:
    outer, inner = square(0.5, 7.5), square(2.5, 4.5)
    # In along a line from the outer contour's first corner, round the inner one backwards, and out the same way.
    keyhole = np.concatenate([outer, outer[:1], inner[::-1], inner[-1:], outer[:1]])
    found = even_odd([outer, inner], (9, 9))
    assert found.sum() == 49 - 4
    assert not found[3:5, 3:5].any()
    assert np.array_equal(even_odd([keyhole], (9, 9)), found)


def test_a_polygon_beyond_the_image_is_cut_off() -> None:
    assert even_odd([square(-5, 50)], (4, 6)).all()
    assert not even_odd([square(50, 60)], (4, 6)).any()


def test_a_star_has_the_pixels_of_another_library() -> None:
    angles = np.linspace(0, 2 * np.pi, 11)[:-1]
    radii = np.where(np.arange(10) % 2, 4.1, 13.3)
    star = np.stack([15.2 + radii * np.cos(angles), 9.7 + radii * np.sin(angles)], axis=1)
    places = np.array([(x, y) for y in range(20) for x in range(30)], float)
    assert np.array_equal(even_odd([star], (20, 30)), points_in_poly(places, star).reshape(20, 30))


def test_structures_lie_in_the_slices_of_an_oblique_series(tmp_path: Path, grid: sitk.Image) -> None:
    drawn = {
        "GTV/1 ": [(CLOSED, in_slice(square(2.5, 9.5), 1)), (CLOSED, in_slice(square(4.5, 6.5), 1))],
        "gtv_1": [(CLOSED, in_slice(square(2.5, 4.5), 4)), (CLOSED, in_slice(square(10.5, 13.5), 4))],
    }
    path = write_rtstruct(tmp_path / "structures.dcm", drawn)
    assert referenced_series(path) == (SERIES.series,)
    masks = structures_of(path, grid)
    assert list(masks) == ["GTV_1", "gtv_1 2"]
    first, second = (sitk.GetArrayFromImage(mask) for mask in masks.values())
    slices = {float(grid.TransformPhysicalPointToIndex(SERIES.point(0, 0, n))[2]): n for n in (1, 4)}
    assert sorted(slices.values()) == [1, 4]
    at = {n: int(z) for z, n in slices.items()}
    assert first[at[1]].sum() == first.sum() == 49 - 4
    assert second[at[4]].sum() == second.sum() == 4 + 9
    assert masks["GTV_1"].GetDirection() == grid.GetDirection()


def test_points_and_lines_are_left_out_and_said(
    tmp_path: Path, grid: sitk.Image, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = {
        "isocentre": [("POINT", in_slice(square(1, 2)[:1], 2))],
        "tumor": [(CLOSED, in_slice(square(2.5, 4.5), 2)), ("OPEN_PLANAR", in_slice(square(5, 9), 2))],
    }
    path = write_rtstruct(tmp_path / "s.dcm", drawn)
    assert list(structures_of(path, grid)) == ["tumor"]
    assert "1 open planar, 1 point" in " ".join(capsys.readouterr().err.split())
    only = write_rtstruct(tmp_path / "p.dcm", {"isocentre": drawn["isocentre"]})
    with pytest.raises(AutosegError, match="no closed contour"):
        structures_of(only, grid)


def test_contours_of_another_series_are_refused(tmp_path: Path, grid: sitk.Image) -> None:
    crossing = in_slice(square(2, 9), 1)
    crossing[0] = SERIES.point(2, 2, 2)
    with pytest.raises(AutosegError, match=r"tumor crosses 1\.0 slices"):
        structures_of(write_rtstruct(tmp_path / "a.dcm", {"tumor": [(CLOSED, crossing)]}), grid)
    with pytest.raises(AutosegError, match=r"tumor lies 3\.0 slices outside"):
        structures_of(write_rtstruct(tmp_path / "b.dcm", {"tumor": [(CLOSED, in_slice(square(2, 9), 8))]}), grid)


def test_contours_of_a_finer_series_take_the_plane_next_to_a_slice(tmp_path: Path, grid: sitk.Image) -> None:
    drawn = [(CLOSED, in_slice(square(0.5, high), z)) for z, high in ((1.7, 3.5), (2.0, 5.5), (2.3, 7.5))]
    masks = structures_of(write_rtstruct(tmp_path / "a.dcm", {"tumor": drawn}), grid)
    assert sitk.GetArrayFromImage(masks["tumor"]).sum() == 25


@pytest.mark.parametrize("middle", np.arange(1.9, 2.1, 0.0125))
def test_a_hole_is_one_wherever_the_plane_of_both_contours_lies(
    tmp_path: Path, grid: sitk.Image, middle: float
) -> None:
    """Rounded coordinates put the two a little apart; no edge between bins may part them."""
    drawn = [(CLOSED, in_slice(square(2.5, 9.5), middle - 0.004)), (CLOSED, in_slice(square(4.5, 6.5), middle + 0.004))]
    masks = structures_of(write_rtstruct(tmp_path / "a.dcm", {"tumor": drawn}), grid)
    assert sitk.GetArrayFromImage(masks["tumor"]).sum() == 49 - 4


def test_a_contour_that_is_there_twice_is_no_hole(tmp_path: Path, grid: sitk.Image) -> None:
    contour = (CLOSED, in_slice(square(2.5, 9.5), 1))
    masks = structures_of(write_rtstruct(tmp_path / "a.dcm", {"tumor": [contour, contour]}), grid)
    assert sitk.GetArrayFromImage(masks["tumor"]).sum() == 49


def test_damaged_structures_are_one_sentence(tmp_path: Path, grid: sitk.Image) -> None:
    path = write_rtstruct(tmp_path / "a.dcm", {"tumor": [(CLOSED, in_slice(square(2, 9), 1))]})
    dataset = pydicom.dcmread(path)
    del dataset.ROIContourSequence[0].ReferencedROINumber
    dataset.save_as(path)
    with pytest.raises(AutosegError, match="incomplete or damaged as RTSTRUCT"):
        structures_of(path, grid)


def test_a_scan_holds_no_structures(tmp_path: Path) -> None:
    scan = write_series(tmp_path, np.zeros((1, 4, 4)))[0]
    assert label_object(scan) is None
    with pytest.raises(AutosegError, match="neither an RTSTRUCT nor a DICOM-SEG"):
        referenced_series(scan)


def test_names_are_cleaned_and_told_apart() -> None:
    assert structure_name(" GTV \t mass\0", 1) == "GTV mass"
    assert structure_name("..", 3) == "structure 3"
    assert distinct_names(["a", "A", "a 2", "b"]) == ["a", "A 2", "a 2 2", "b"]


@pytest.mark.data
def test_a_sarcoma_has_the_volume_of_its_contours(real_data: Callable[[str], Path]) -> None:
    folder = real_data("rtstruct") / "MR_T1"
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder / "image")))
    masks = structures_of(folder / "mask" / "1-1.dcm", reader.Execute())
    assert list(masks) == ["GTV_Mass", "GTV_Edema"]
    volumes = {
        name: sitk.GetArrayFromImage(mask).sum() * np.prod(mask.GetSpacing()) / 1000 for name, mask in masks.items()
    }
    # Area of the contours by the shoelace formula, times the spacing of the slices.
    assert volumes["GTV_Mass"] == pytest.approx(364.70, rel=0.005)
    assert volumes["GTV_Edema"] == pytest.approx(579.81, rel=0.005)
