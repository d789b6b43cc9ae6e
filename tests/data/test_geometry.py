"""Where voxels lie: headers that contradict themselves or say nothing, and what counts as the same grid."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.data.checks import check
from autoseg.data.dataset import Case, ChannelFile, Dataset, load_case
from autoseg.data.geometry import Geometry
from autoseg.data.image import UnusableImage, geometry_remarks, read_geometry, read_image
from tests.builders import blob, flat_geometry, picture_of, write
from tests.nifti import patched, with_forms, with_pixdim, with_rows

SCAN = picture_of(blob())
MIRRORED = [[1, 0, 0, 0], [0, -2, 0, 0], [0, 0, 3, 0]]
SHEARED = [[-1, 0, 0.5, 0], [0, -2, 0, 0], [0, 0, 3, 0]]


def scan(path: Path) -> Path:
    """1×2×3 mm in SimpleITK's own axes, by qform and sform."""
    return write(path, SCAN, spacing=(1, 2, 3))


def remarks(path: Path) -> list[str]:
    return geometry_remarks(path, read_geometry(path).geometry)


def dataset(*scans: Path) -> Dataset:
    cases = [Case(id=path.stem, channels={"mr": ChannelFile(path=path)}) for path in scans]
    root = scans[0].parent
    return Dataset(
        name="d", root=root, layout="manifest", channels=("mr",), labels={}, cases=(), unlabelled=tuple(cases)
    )


def test_a_header_that_agrees_with_itself(tmp_path: Path) -> None:
    for name in ("a.nii", "a.nii.gz", "a.mha", "a.nrrd"):
        assert remarks(scan(tmp_path / name)) == []
    oblique = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)
    turned = write(tmp_path / "b.nii", SCAN, spacing=(1, 2, 3), origin=(-80, 90.5, 33), direction=oblique)
    assert remarks(turned) == []
    assert remarks(with_forms(scan(tmp_path / "c.nii"), 0, 1)) == []
    assert remarks(with_forms(scan(tmp_path / "d.nii"), 1, 0)) == []


def test_qform_and_sform_that_disagree_by_a_flip(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = with_rows(scan(tmp_path / "flip.nii"), MIRRORED)
    assert read_geometry(path).geometry.direction[0] == -1, "SimpleITK takes the sform"
    assert remarks(path) == ["by its qform and its sform, voxels lie mirrored against each other; the sform is taken"]
    moved = with_rows(scan(tmp_path / "moved.nii"), [[-1, 0, 0, 40], [0, -2, 0, 0], [0, 0, 3, 0]])
    assert remarks(moved) == ["by its qform and its sform, voxels lie up to 40 voxels apart; the sform is taken"]
    (warning,) = [problem for problem in check(dataset(path), workers=1) if problem.case]
    assert (warning.severity, warning.file) == ("warning", path)
    loaded = load_case(dataset(path).unlabelled[0], ["mr"])
    assert loaded.remarks == (f"{path}: {warning.what}.",), "said at predict, too"


def test_sform_against_pixdim(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = with_pixdim(scan(tmp_path / "a.nii"), 1, 2, 5)
    assert read_geometry(path).geometry.spacing == (1, 2, 5)
    assert remarks(path) == ["voxels of 1×2×5 mm by pixdim, of 1×2×3 mm by the sform; pixdim is taken"]
    assert capfd.readouterr() == ("", ""), "SimpleITK's own warnings are none the user can do anything with"


def test_a_sheared_sform(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = with_rows(scan(tmp_path / "a.nii"), SHEARED)
    assert read_geometry(path).geometry == read_geometry(scan(tmp_path / "b.nii")).geometry
    assert [problem.what for problem in check(dataset(path), workers=1) if problem.case] == [
        "the axes of its sform are not at right angles; the qform is taken"
    ]
    alone = with_forms(with_rows(scan(tmp_path / "c.nii"), SHEARED), 0, 1)
    with pytest.raises(UnusableImage, match=r"c\.nii: its axes are not at right angles \(a sheared sform\)"):
        read_image(alone)
    data = scan(tmp_path / "d.nrrd").read_bytes()
    (tmp_path / "d.nrrd").write_bytes(data.replace(b"(0,0,3)", b"(0.5,0,3)"))
    with pytest.raises(UnusableImage, match=r"d\.nrrd: its axes are not at right angles"):
        read_image(tmp_path / "d.nrrd")
    assert "WARNING" not in capfd.readouterr().err


@pytest.mark.parametrize("size", [0.0, float("nan"), float("inf"), -2.0])
@pytest.mark.parametrize("forms", [0, 1])
def test_voxels_without_a_size_are_refused(tmp_path: Path, size: float, forms: int) -> None:
    path = with_forms(with_pixdim(scan(tmp_path / "a.nii"), 1, 2, size), forms, forms)
    for read in (read_geometry, read_image):
        with pytest.raises(UnusableImage, match=rf"a\.nii: the size of its voxels along z is {size:g} mm"):
            read(path)
    (error,) = [problem for problem in check(dataset(path), workers=1) if problem.case]
    assert (error.severity, error.what) == ("error", f"the size of its voxels along z is {size:g} mm")


def test_other_formats_without_a_size_are_refused(tmp_path: Path) -> None:
    path = scan(tmp_path / "a.mha")
    path.write_bytes(path.read_bytes().replace(b"ElementSpacing = 1 2 3", b"ElementSpacing = 1 2 0"))
    with pytest.raises(UnusableImage, match=r"a\.mha: the size of its voxels is 1×2×0 mm"):
        read_geometry(path)


def test_an_axis_of_one_voxel_needs_no_size(tmp_path: Path) -> None:
    path = with_pixdim(write(tmp_path / "a.nii", SCAN[:1]), 1, 1, 0)
    assert read_geometry(path).geometry.spacing == (1, 1, 1)


def test_headers_of_no_nifti_say_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(b"no image")
    geometry = flat_geometry((3, 4, 5))
    assert geometry_remarks(tmp_path / "a.nii", geometry) == []
    swapped = patched(scan(tmp_path / "b.nii"), 344, "4B", 0, 0, 0, 0)
    assert geometry_remarks(swapped, geometry) == []


def turned(radians: float, size: int = 31) -> Geometry:
    c, s = float(np.cos(radians)), float(np.sin(radians))
    return Geometry((size, size, size), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (c, -s, 0.0, s, c, 0.0, 0.0, 0.0, 1.0))


def test_directions_that_move_no_corner_are_the_same_grid() -> None:
    assert turned(0.0).differs_from(turned(1.1e-3)) is None, "corners 0.05 voxels apart"
    assert turned(0.0).differs_from(turned(0.01)) == "another orientation of the axes", "0.4 voxels"
    assert turned(0.0, 512).differs_from(turned(1.1e-3, 512)) == "another orientation of the axes", "0.8 voxels"


@pytest.mark.parametrize("axes", ["LAS", "RAI", "SRP", "PIR"])
def test_other_orders_of_axes_have_the_same_voxels(tmp_path: Path, axes: str) -> None:
    image = sitk.ReadImage(str(write(tmp_path / "a.nii", SCAN, spacing=(1, 2, 3), origin=(-80, 90.5, 33))))
    sitk.WriteImage(sitk.DICOMOrient(image, axes), str(tmp_path / "b.nii"))
    one, other = (read_geometry(tmp_path / name).geometry for name in ("a.nii", "b.nii"))
    assert one.differs_from(other) is not None
    assert one.same_voxels(other)
    assert other.same_voxels(one)
    shifted = replace(other, origin=(other.origin[0] + 0.5, *other.origin[1:]))
    assert not one.same_voxels(shifted)
    assert not one.same_voxels(replace(other, size=(*other.size[:2], other.size[2] + 1)))
    assert not one.same_voxels(replace(other, spacing=(*other.spacing[:2], 1.1 * other.spacing[2])))
    assert not one.same_voxels(flat_geometry((3, 4)))


def test_sizes_of_voxels_are_compared_by_share() -> None:
    def grid(mm: float) -> Geometry:
        return flat_geometry((3, 4, 5), (mm, mm, mm))

    assert grid(5e-5).differs_from(grid(1e-4)) is not None
    assert grid(0.05).differs_from(grid(0.0501)) is not None
    assert grid(0.05).differs_from(grid(0.05004)) is None
    assert grid(3.0).differs_from(grid(3.002)) is None


def test_a_single_slice_may_be_mirrored_along_its_axis(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    image = sitk.GetImageFromArray(SCAN[:1])
    image.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, -1))
    sitk.WriteImage(image, str(path))
    assert np.array_equal(read_image(path).array[0], SCAN[:1])
