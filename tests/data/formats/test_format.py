import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from autoseg.data.dataset import Dataset, load_case
from autoseg.data.file_names import holds_fractions, image_ending, is_image, is_picture, result_ending
from autoseg.data.formats.format import FORMATS, ImageFormat, format_of
from autoseg.data.geometry import Geometry, Header, Image
from autoseg.data.image import read_geometry, read_image, write_image
from autoseg.utils.errors import AutosegError

EYE = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def _read(path: Path) -> Image:
    array = np.load(path)
    size = tuple(reversed(array.shape))
    return Image(array[None], (1.0, 1.0, 1.0), Geometry(size, (1.0,) * 3, (0.0,) * 3, EYE))


def _read_header(path: Path) -> Header:
    return Header(_read(path).geometry, 1, "numbers")


def _write(path: Path, array: np.ndarray, geometry: Geometry) -> None:
    with open(path, "wb") as file:
        np.save(file, array)


@pytest.fixture
def voxels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A format that nothing in autoseg names."""
    FORMATS.names()
    monkeypatch.setattr(FORMATS, "_things", dict(FORMATS._things))
    FORMATS.register("voxels", ImageFormat((".vox.npy",), _read_header, _read, _write))


@pytest.mark.usefixtures("voxels")
def test_a_registered_format_is_opened_and_written(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    for case in "ab":
        (tmp_path / case).mkdir()
        np.save(tmp_path / case / "t1.vox.npy", array)
        np.save(tmp_path / case / "seg.vox.npy", array % 2)
    (tmp_path / "autoseg.toml").write_text(
        '[channels]\nt1 = "t1.vox.npy"\n[label]\nfile = "seg.vox.npy"\nvalues = { odd = 1 }\n'
    )
    dataset = Dataset.open(tmp_path)
    assert dataset.file_ending == ".vox.npy"
    loaded = load_case(dataset.cases[0], dataset.channels)
    np.testing.assert_array_equal(loaded.image[0], array)
    np.testing.assert_array_equal(loaded.label, array % 2)
    out = tmp_path / f"result{result_ending(dataset.file_ending)}"
    write_image(out, array + 1, loaded.geometry)
    np.testing.assert_array_equal(np.load(out), array + 1)
    assert read_geometry(out).geometry == loaded.geometry


@pytest.mark.usefixtures("voxels")
def test_an_unreadable_file_of_a_registered_format_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.vox.npy").write_text("no array")
    with pytest.raises(AutosegError, match=r"a\.vox\.npy can't be read as an image"):
        read_image(tmp_path / "a.vox.npy")


def test_endings_in_any_case() -> None:
    assert image_ending(Path("a.NII.GZ")) == ".NII.GZ"
    assert image_ending(Path("a.nhdr")) == ".nhdr"
    assert image_ending(Path("a.csv")) is None
    assert not is_image(Path("._a.nii.gz"))
    assert format_of(".NII") is FORMATS.find("nifti")
    assert format_of(None) is None


def test_what_formats_hold() -> None:
    assert [ending for ending in (".png", ".jpg", ".bmp", ".tif", ".nii.gz", None) if not holds_fractions(ending)] == [
        ".png",
        ".jpg",
        ".bmp",
    ]
    assert is_picture(".TIFF")
    assert not is_picture(".nrrd")


@pytest.mark.parametrize(
    "module",
    [
        "autoseg.data.checks",
        "autoseg.data.dataset",
        "autoseg.data.fingerprint",
        "autoseg.data.layouts.propose",
        "autoseg.data.phantom",
        "autoseg.utils.parallel",
        "autoseg.cli.demo",
        "autoseg.cli.inspect",
    ],
)
def test_heavy_packages_are_imported_where_they_are_used(module: str) -> None:
    code = (
        f"import sys, {module}; from autoseg.data.layouts.layout import by_rank; by_rank()\n"
        "print([n for n in ('torch', 'SimpleITK', 'scipy', 'matplotlib') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
