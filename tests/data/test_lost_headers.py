"""Label maps that lost their header get their image's, in a new file."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from autoseg.cli.main import app
from autoseg.data.dataset import Dataset
from autoseg.data.image import read_geometry, read_image
from autoseg.data.lost_headers import restore_headers
from autoseg.utils.errors import AutosegError
from tests.builders import blob, picture_of, write

OBLIQUE = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, -1.0)
PLACE = {"spacing": (0.9, 1.1, 2.0), "origin": (-80.0, 90.5, 33.0), "direction": OBLIQUE}
RAS = (-1, 0, 0, 0, -1, 0, 0, 0, 1)


@pytest.fixture
def root(tmp_path: Path, write_json) -> Path:
    """Four cases: right, lost as by SimpleITK, lost as by nibabel, and one that lies elsewhere."""
    label = blob().astype(np.uint8)
    places = {"good": PLACE, "sitk": {}, "nibabel": {"direction": RAS}, "moved": {**PLACE, "origin": (0, 0, 0)}}
    for number, (name, place) in enumerate(places.items()):
        write(tmp_path / "data" / "imagesTr" / f"{name}_0000.nii.gz", picture_of(blob(), seed=number), **PLACE)
        write(tmp_path / "data" / "labelsTr" / f"{name}.nii.gz", label, **place)
    told = {"channel_names": {"0": "mr"}, "labels": {"background": 0, "a": 1, "b": 2}, "file_ending": ".nii.gz"}
    return write_json(tmp_path / "data" / "dataset.json", told).parent


def test_new_files_have_the_images_header_and_the_old_stay(root: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in root.rglob("*.*")}
    written = restore_headers(Dataset.open(root), tmp_path / "fixed")
    assert sorted(path.name for path in written) == ["nibabel.nii.gz", "sitk.nii.gz"]
    for path in written:
        assert path.parent == tmp_path / "fixed" / "labelsTr"
        scan = root / "imagesTr" / path.name.replace(".nii", "_0000.nii")
        assert read_geometry(path).geometry.differs_from(read_geometry(scan).geometry) is None
        assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), blob())
        assert np.array_equal(read_image(path).array[0] == 0, read_image(scan).array[0] < 1), "voxel for voxel"
    assert {path: path.read_bytes() for path in root.rglob("*.*")} == before
    with pytest.raises(AutosegError, match="exists already"):
        restore_headers(Dataset.open(root), tmp_path / "fixed")
    with pytest.raises(AutosegError, match="exists already"):
        restore_headers(Dataset.open(root), root)
    assert {path: path.read_bytes() for path in root.rglob("*.*")} == before


def test_inspect_offers_it_and_does_it(root: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["inspect", str(root), "--workers", "1"], terminal_width=200)
    assert result.exit_code == 1
    plain = " ".join(result.output.replace("│", " ").split())
    assert plain.count("lost its") == 2
    result = CliRunner().invoke(app, ["inspect", str(root), "--workers", "1", "--fix", str(tmp_path / "fixed")])
    assert len(list((tmp_path / "fixed").rglob("*.nii.gz"))) == 2
    assert result.exit_code == 1, "the old ones are still there"
