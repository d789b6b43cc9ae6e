"""DICOM series: ordered by position, checked, read as SimpleITK and pydicom read them."""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.data.checks import examine
from autoseg.data.dataset import ChannelFile, Dataset
from autoseg.data.dicom import is_dicom
from autoseg.data.image import UnusableImage, read_geometry, read_image
from autoseg.data.layouts.layout import recognise_layout
from autoseg.utils.errors import AutosegError
from tests.dicom_series import OBLIQUE, PATIENT_ID, SmallSeries, pydicom, write_enhanced, write_rtstruct, write_series

RNG = np.random.default_rng(0)
VOXELS = RNG.integers(-500, 1500, (7, 6, 9)).astype(np.int16)
SERIES = SmallSeries()


def edited(paths: Sequence[Path], change: Callable[..., None]) -> None:
    for number, path in enumerate(paths):
        dataset = pydicom.dcmread(path)
        change(number, dataset)
        dataset.save_as(path)


def test_slices_are_put_in_order_on_their_oblique_grid(tmp_path: Path) -> None:
    write_series(tmp_path, VOXELS)
    image = read_image(tmp_path)
    header = read_geometry(tmp_path)
    assert header.geometry == image.geometry
    assert image.geometry.size == (9, 6, 7)
    assert image.geometry.spacing == pytest.approx((0.8, 1.5, 5.0))
    assert image.geometry.origin == pytest.approx(SERIES.corner)
    assert np.reshape(image.geometry.direction, (3, 3))[:, 2] == pytest.approx(SERIES.normal)
    # Reading brings axes to the closest of space: here those of the series already, but for the smallest turn.
    assert np.array_equal(image.array[0], VOXELS)


def test_a_slice_that_the_user_may_not_read_is_not_left_out(tmp_path: Path, forbid: Callable[[Path], None]) -> None:
    """Without the first or last one a series looks whole; and no other file counts as DICOM that can't be opened."""
    series = [write_series(tmp_path / name, VOXELS) for name in ("one", "two")]
    forbid(series[0][0])
    assert not is_dicom(series[0][0])
    for found in (lambda: read_geometry(tmp_path / "one"), lambda: read_image(tmp_path / "one")):
        with pytest.raises(UnusableImage, match=f"{series[0][0].name}: you may not read it. Ask for the right to"):
            found()
    dataset = Dataset.open(tmp_path)
    assert len(dataset.unlabelled[0].channels) == 2


def test_the_same_voxels_as_its_nifti(tmp_path: Path) -> None:
    write_series(tmp_path / "series", VOXELS)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "series")))
    sitk.WriteImage(reader.Execute(), str(tmp_path / "scan.nii.gz"))
    one, other = read_image(tmp_path / "series"), read_image(tmp_path / "scan.nii.gz")
    assert one.geometry.differs_from(other.geometry) is None
    assert np.array_equal(one.array, other.array)


@pytest.mark.parametrize("compression", ["RLELossless", "JPEG2000Lossless"])
def test_compressed_and_rescaled_values_are_the_same_by_both_readers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    if compression == "JPEG2000Lossless":
        pytest.importorskip("openjpeg")

    def scaled(number: int, dataset: "pydicom.Dataset") -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = 2.0, -7.0
        dataset.compress(getattr(pydicom.uid, compression))

    large = np.kron(VOXELS, np.ones((1, 8, 8), np.int16))  # JPEG 2000 halves the plane five times
    edited(write_series(tmp_path, large), scaled)
    assert np.array_equal(read_image(tmp_path).array[0], large * 2.0 - 7)

    def refuse(reader: object) -> None:
        raise RuntimeError("no codec")

    monkeypatch.setattr(sitk.ImageSeriesReader, "Execute", refuse)
    assert np.array_equal(read_image(tmp_path).array[0], large * 2.0 - 7)


@pytest.mark.parametrize("with_pydicom", [True, False])
def test_every_slice_keeps_its_own_slope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_pydicom: bool) -> None:
    """As in PET: the type of the first slice's values can't hold those of the others."""
    slopes = np.array([1, 0.25, 1.5, 60, 1, 1, 2])[:, None, None]
    like = write_series(tmp_path, VOXELS)

    def scaled(number: int, dataset: "pydicom.Dataset") -> None:
        place = int(dataset.InstanceNumber) - 1
        dataset.RescaleSlope, dataset.RescaleIntercept = float(slopes[place, 0, 0]), -3.0 * place

    edited(like, scaled)
    if not with_pydicom:
        monkeypatch.setitem(sys.modules, "pydicom", None)
    found = read_image(tmp_path)
    assert found.array.dtype == np.float32
    assert np.array_equal(found.array[0], VOXELS * slopes - 3 * np.arange(7)[:, None, None])


def test_a_series_with_one_slope_keeps_its_type(tmp_path: Path) -> None:
    write_series(tmp_path, VOXELS)
    assert np.issubdtype(read_image(tmp_path).array.dtype, np.integer)


def test_frames_of_an_enhanced_file_are_put_in_order(tmp_path: Path) -> None:
    order = [3, 0, 6, 1, 5, 2, 4]
    path = write_enhanced(tmp_path / "enhanced.dcm", VOXELS, order)
    for given in (path, tmp_path):
        image = read_image(given)
        assert np.array_equal(image.array[0], VOXELS * 3.0 + np.arange(7)[:, None, None])
        assert image.geometry.origin == pytest.approx(SERIES.corner)
        assert image.geometry.spacing == pytest.approx((0.8, 1.5, 5.0))


def move(path: Path, slice_: float) -> None:
    dataset = pydicom.dcmread(path)
    dataset.ImagePositionPatient = [f"{v:.8g}" for v in SERIES.point(0, 0, slice_)]
    dataset.save_as(path)


def test_what_is_no_regular_stack_is_refused_in_one_sentence(tmp_path: Path) -> None:
    def fault(name: str, change: Callable[[list[Path]], None]) -> str:
        paths = write_series(tmp_path / name, VOXELS)
        change(paths)
        with pytest.raises(AutosegError) as caught:
            read_image(tmp_path / name)
        text = str(caught.value)
        assert len(re.findall(r"\. |\.$", text)) == 2, "what is wrong, and what to do"
        assert PATIENT_ID not in text
        return text

    def tilt(paths: list[Path]) -> None:
        for number, path in enumerate(paths):
            dataset = pydicom.dcmread(path)
            at = SERIES.point(0, number * 0.4, number)
            dataset.ImagePositionPatient = [f"{v:.8g}" for v in at]
            dataset.save_as(path)

    def turn(paths: list[Path]) -> None:
        edited(paths[:1], lambda _, dataset: setattr(dataset, "ImageOrientationPatient", [1, 0, 0, 0, 1, 0]))

    def cut_off(paths: list[Path]) -> None:
        paths[3].write_bytes(paths[3].read_bytes()[:-60])

    def two_series(paths: list[Path]) -> None:
        edited(paths[:2], lambda _, dataset: setattr(dataset, "SeriesInstanceUID", "1.2.3.4"))

    def flat(paths: list[Path]) -> None:
        edited(paths, lambda _, dataset: setattr(dataset, "PixelSpacing", [0, 0]))

    assert "give its pixels no size" in fault("flat", flat)
    assert "a slice is missing between 014.dcm and 028.dcm" in fault("missing", lambda paths: paths[3].unlink())
    assert "several slices of its series lie at one place (014.dcm" in fault("twice", lambda paths: move(paths[3], 2))
    assert "unequally spaced, from 3.5 to 6.5 mm" in fault("uneven", lambda paths: move(paths[3], 3.3))
    assert "sheared by 6.8 degrees (gantry tilt). Straighten it" in fault("tilted", tilt)
    assert "lie in several directions, as localizers do" in fault("localizer", turn)
    assert "021.dcm: it is incomplete or damaged" in fault("cut", cut_off)
    assert "it holds 2 DICOM series (of 2 and 5 files)" in fault("two", two_series)


def test_what_is_no_series_is_refused(tmp_path: Path) -> None:
    path = write_series(tmp_path / "a" / "series", VOXELS)[0]
    with pytest.raises(UnusableImage, match=r"one slice of a DICOM series of 7.*Give the folder of the series"):
        read_image(path)
    with pytest.raises(UnusableImage, match=r"folder of folders of DICOM files\. Give the folder of one series"):
        read_image(tmp_path / "a")


def test_a_folder_of_exams_is_a_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for shift, exam in enumerate(("one", "three")):
        for number, (folder, text) in enumerate((("3-x", "T1 post"), ("4-flair", ""), ("5-loc", "localizer"))):
            like = SmallSeries(series=f"1.2.{number}", study=f"1.3.{len(exam)}", description=text)
            write_series(tmp_path / exam / folder, VOXELS + number + 5 * shift, like)
    dataset = Dataset.open(tmp_path)
    assert (dataset.layout, dataset.channels) == ("dicom", ("t1c", "flair", "5-loc"))
    assert {case.id for case in dataset.unlabelled} == {"one", "three"}
    assert dataset.case("one").channels["t1c"].path == tmp_path / "one" / "3-x"
    assert [problem.what for problem in examine(dataset, workers=1).problems if problem.severity == "error"] == []
    (tmp_path / "three" / "3-x" / "014.dcm").unlink()
    (problem,) = (found for found in examine(dataset, workers=1).problems if found.severity == "error")
    assert (problem.case, problem.what) == ("three", "a slice is missing between 007.dcm and 021.dcm")
    write_series(tmp_path / "three" / "6-again", VOXELS, SmallSeries(series="1.2.9", study="1.3.5"))
    assert set(Dataset.open(tmp_path).case("three").channels) == {"3-x", "flair", "5-loc", "6-again"}
    assert "3-x, 6-again are all t1c; say which with --channel t1c=FOLDER" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("description", "agent", "folder", "channel"),
    [
        ("T1 MPRAGE post GD", "", "4", "t1c"),
        ("t1_space_sag_KM", "", "4", "t1c"),
        ("T1 MPRAGE", "Gadovist", "4", "t1c"),
        ("T1 MPRAGE", "NONE", "4", "t1"),
        ("T1 nativ", "Gadovist", "4", "t1"),
        ("Ax T1 FLAIR", "", "4", "t1"),
        ("T2 FLAIR", "Gadovist", "4", "flair"),
        ("T2 localizer", "", "2_loc", "2_loc"),
        ("T2 localizer", "", "2_T2_localizer", "2_T2_localizer"),
        ("T1 SUB", "", "8_subtraction", "8_subtraction"),
        ("T2* GRE", "", "9", "9"),
        ("T2 STIR", "", "9", "t2"),
        ("", "", "5_T1_KM", "t1c"),
        ("", "", "sub-01_T1w", "t1"),
    ],
)
def test_what_a_plain_series_is_called(tmp_path: Path, description: str, agent: str, folder: str, channel: str) -> None:
    def told(_: int, dataset: pydicom.Dataset) -> None:
        dataset.ContrastBolusAgent = agent

    edited(write_series(tmp_path / "exam" / folder, VOXELS[:3], SmallSeries(description=description)), told)
    (case,) = Dataset.open(tmp_path / "exam").unlabelled
    assert list(case.channels) == [channel]


def test_what_lies_beside_scans_is_no_scan(tmp_path: Path) -> None:
    """A disk's table of contents, structures and a segmentation, in folders of their own and beside the slices."""
    exam = tmp_path / "exam"
    paths = write_series(exam / "1", VOXELS)
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    square = np.array([SERIES.point(x, y, 2) for x, y in ((1, 1), (4, 1), (4, 4))])
    for folder in (exam / "1", exam / "structures"):
        write_rtstruct(folder / "RS.dcm", {"tumor": [("CLOSED_PLANAR", square)]})
    for folder in (exam / "1", exam / "segmentation"):
        dataset = pydicom.dcmread(paths[0])
        dataset.Modality, dataset.SeriesInstanceUID = "SEG", "1.2.77"
        folder.mkdir(exist_ok=True)
        dataset.save_as(folder / "SEG.dcm")
    (case,) = Dataset.open(tmp_path).unlabelled
    assert case.channels == {"t1c": ChannelFile(path=exam / "1")}
    assert np.array_equal(read_image(exam / "1").array[0], VOXELS)


def test_pictures_beside_series_are_no_images(tmp_path: Path) -> None:
    """A preview beside the slices, and those of a viewer; a volume of another format makes it a folder of images."""
    series = tmp_path / "exam" / "1"
    write_series(series, VOXELS)
    for path in (tmp_path / "preview.png", series / "preview.png", tmp_path / "viewer" / "logo.jpg"):
        path.parent.mkdir(exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((6, 7), np.uint8)), str(path))
    dataset = Dataset.open(tmp_path)
    assert dataset.layout == "dicom"
    assert [case.channels for case in dataset.unlabelled] == [{"t1c": ChannelFile(path=series)}]
    assert np.array_equal(read_image(series).array[0], VOXELS)
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(tmp_path / "scan.nii.gz"))
    assert recognise_layout(tmp_path) != "dicom"


def test_a_file_that_only_says_that_it_is_dicom_is_named(tmp_path: Path) -> None:
    path = tmp_path / "IM0001"
    path.write_bytes(bytes(128) + b"DICM" + b"cut off")
    for read in (read_geometry, read_image):
        with pytest.raises(AutosegError, match=r"IM0001 can't be read as an image \(.+\); replace the file"):
            read(path)


@pytest.mark.parametrize("lost", ["preamble", "file meta", "file meta, implicit types"])
def test_files_without_the_preamble_are_dicom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    for path in write_series(tmp_path, VOXELS):
        assert path.read_bytes()[128:132] == b"DICM"
        if lost == "preamble":
            path.write_bytes(path.read_bytes()[132:])
        else:
            bare = pydicom.Dataset()
            bare.update(pydicom.dcmread(path))
            bare.save_as(path, implicit_vr="implicit" in lost, little_endian=True)
        assert path.read_bytes()[:1] == (b"\x02" if lost == "preamble" else b"\x08")
        assert is_dicom(path)
    assert np.array_equal(read_image(tmp_path).array[0], VOXELS)

    def refuse(reader: object) -> None:
        raise RuntimeError("no codec")

    monkeypatch.setattr(sitk.ImageSeriesReader, "Execute", refuse)
    assert np.array_equal(read_image(tmp_path).array[0], VOXELS)


@pytest.mark.parametrize("start", [[], [8], [8, 5, 10, 0], [8, 5, 4, 0, 8, 1], [2, 0, 4, 0, 0, 0, 7, 3]])
def test_numbers_are_no_dicom(tmp_path: Path, start: list[int]) -> None:
    """Voxels of 16 bits in a file without header, which may begin as a first element does."""
    voxels = np.zeros(500, "<i2")
    voxels[: len(start)] = start
    voxels.tofile(tmp_path / "scan.raw")
    assert not is_dicom(tmp_path / "scan.raw")


def test_plain_series_need_no_further_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "plain", VOXELS)
    write_enhanced(tmp_path / "enhanced" / "a.dcm", VOXELS, range(7))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert np.array_equal(read_image(tmp_path / "plain").array[0], VOXELS)
    needed = r"a\.dcm: .* install pydicom with pip install '\.\[clinical\]'"
    for given in (tmp_path / "enhanced", tmp_path / "enhanced" / "a.dcm"):
        for read in (read_image, read_geometry):
            with pytest.raises(UnusableImage, match=needed):
                read(given)


def test_series_of_several_studies_in_one_folder_are_exams(tmp_path: Path) -> None:
    for number in (1, 2):
        like = SmallSeries(series=f"1.2.{number}", study=f"1.3.{number}", axes=OBLIQUE)
        write_series(tmp_path / f"scan{number}", VOXELS, like)
    assert {case.id: list(case.channels) for case in Dataset.open(tmp_path).unlabelled} == {
        "scan1": ["t1c"],
        "scan2": ["t1c"],
    }
