"""TIFF stacks: nnU-Net keeps the size of their voxels in a file beside them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from autoseg.data.dataset import Dataset, load_case
from autoseg.data.image import UnusableImage, geometry_remarks, read_geometry, read_image, write_image
from autoseg.utils.errors import AutosegError
from tests.builders import write

STACK = np.arange(4 * 5 * 6, dtype=np.uint16).reshape(4, 5, 6)


def test_the_file_of_a_case_says_the_size_of_voxels(tmp_path: Path, write_json) -> None:
    """``CASE.json`` for the images ``CASE_0000.tif``, … and for the label ``CASE.tif``; along z, y and x."""
    write(tmp_path / "imagesTr" / "a_0000.tif", STACK)
    write(tmp_path / "labelsTr" / "a.tif", (STACK > 60).astype(np.uint8))
    for folder in ("imagesTr", "labelsTr"):
        write_json(tmp_path / folder / "a.json", {"spacing": [5, 0.5, 0.25]})
    write_json(
        tmp_path / "dataset.json",
        {"channel_names": {"0": "EM"}, "labels": {"background": 0, "cell": 1}, "file_ending": ".tif"},
    )
    case = Dataset.open(tmp_path).cases[0]
    loaded = load_case(case, ["EM"])
    assert loaded.spacing == (5, 0.5, 0.25)
    assert loaded.geometry == read_geometry(case.channels["EM"].path).geometry
    assert loaded.geometry.spacing == (0.25, 0.5, 5)
    assert loaded.label is not None


def test_without_that_file_a_voxel_is_one_millimetre(tmp_path: Path, write_json) -> None:
    """As in nnU-Net: dots per inch are those of a screen, and slices have none."""
    path = tmp_path / "a_0000.tif"
    tifffile.imwrite(path, STACK, photometric="minisblack", resolution=(72, 72), resolutionunit="INCH")
    image = read_image(path)
    assert image.spacing == image.geometry.spacing == read_geometry(path).geometry.spacing == (1, 1, 1)
    assert np.array_equal(image.array[0], STACK)
    [remark] = geometry_remarks(path, image.geometry)
    assert remark == (
        "its header says 0.3528×0.3528 mm and nothing of slices; without a.json beside it voxels are taken as 1×1×1 mm"
    )
    write_json(tmp_path / "a.json", {"spacing": [5, 0.5, 0.25]})
    assert geometry_remarks(path, read_geometry(path).geometry) == []
    assert read_image(path).spacing == (5, 0.5, 0.25)
    plain = write(tmp_path / "plain.tif", STACK)
    assert geometry_remarks(plain, read_geometry(plain).geometry) == []


def test_without_that_file_and_flat_pictures(tmp_path: Path, write_json) -> None:
    assert read_image(write(tmp_path / "a.tif", STACK)).spacing == pytest.approx((1, 1, 1))
    write_json(tmp_path / "a.json", {"other": 1})
    assert read_image(tmp_path / "a.tif").spacing == pytest.approx((1, 1, 1))
    write_json(tmp_path / "flat.json", {"spacing": [5, 5, 5]})
    assert read_image(write(tmp_path / "flat.tif", STACK[0])).spacing == pytest.approx((1, 1, 1))


@pytest.mark.parametrize("spacing", [[1, 1], [1, 1, 0], "abc", None, [1, 1, "x"]])
def test_a_size_that_is_none_is_refused(tmp_path: Path, write_json, spacing: object) -> None:
    path = write(tmp_path / "a.tif", STACK)
    write_json(tmp_path / "a.json", {"spacing": spacing})
    with pytest.raises(UnusableImage, match=r'a\.tif: "spacing" in a\.json is .*Correct a\.json'):
        read_image(path)


def test_results_keep_it(tmp_path: Path, write_json) -> None:
    write_json(tmp_path / "a.json", {"spacing": [5, 0.5, 0.25]})
    image = read_image(write(tmp_path / "a_0000.tif", STACK))
    write_image(tmp_path / "out" / "a.tif", (STACK > 60).astype(np.uint8), image.geometry)
    written = read_image(tmp_path / "out" / "a.tif")
    assert written.geometry == image.geometry
    assert np.array_equal(written.array[0], STACK > 60)


def test_results_leave_what_else_the_file_of_a_case_says(tmp_path: Path, write_json) -> None:
    """It may hold the microscope's own keys, and lie where results are written."""
    beside = write_json(tmp_path / "a.json", {"lens": "x20", "spacing": [5, 0.5, 0.25]})
    before = beside.read_bytes()
    image = read_image(write(tmp_path / "a_0000.tif", STACK))
    write_image(tmp_path / "a.tif", (STACK > 60).astype(np.uint8), image.geometry)
    assert beside.read_bytes() == before
    for told in ({"lens": "x20"}, {"lens": "x20", "spacing": [1, 2, 3]}):
        write_json(beside, told)
        write_image(tmp_path / "a.tif", (STACK > 60).astype(np.uint8), image.geometry)
        assert json.loads(beside.read_text()) == {"lens": "x20", "spacing": [5, 0.5, 0.25]}
    plain = replace(image.geometry, spacing=(1.0, 1.0, 1.0))
    write_image(tmp_path / "a.tif", (STACK > 60).astype(np.uint8), plain)
    assert read_image(tmp_path / "a.tif").spacing == (1, 1, 1), "not what was told before"
    write_json(beside, [1, 2])
    with pytest.raises(AutosegError, match=r"a\.json holds no table of keys"):
        write_image(tmp_path / "a.tif", (STACK > 60).astype(np.uint8), image.geometry)
