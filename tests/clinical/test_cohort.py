"""Raw exams to a dataset and back, with nothing aligned, so that every voxel can be foreseen."""

import errno
import json
import re
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import autoseg
from autoseg.clinical import cohort
from autoseg.clinical.atlas import BrainMask
from autoseg.clinical.cohort import PreparationRequest, prepare_exams
from autoseg.clinical.raw_prediction import is_raw_exam, prepare_like_training
from autoseg.clinical.settings import ExamPreparation
from autoseg.clinical.transforms import PreparedCase, to_native
from autoseg.data.dataset import load_case
from autoseg.data.description import StructureMasks
from autoseg.utils.errors import AutosegError, UsageError

PLAIN = ExamPreparation(coregister=False, skull_strip="none", spacing=(2.0, 2.0, 2.0))


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch, request):
    """Pictures take longer than all else; one test looks at them."""
    if "page" not in request.node.name:
        for name in ("alignment_png", "mask_png"):
            monkeypatch.setattr(f"autoseg.clinical.quality_page.{name}", lambda *_: b"")


def write(path: Path, array: np.ndarray, spacing=(1.0, 1.0, 4.0)) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin((-10, -20, 5))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def exam(folder: Path, *sequences: str, label: bool = True) -> Path:
    block = np.zeros((8, 24, 20), np.uint8)
    block[2:5, 8:16, 6:14] = 1
    block[5:7, 8:16, 6:14] = 4
    brightness = sum(map(ord, folder.name))  # two exams are never alike
    for number, name in enumerate(sequences or ("t1", "t1c", "t2", "flair")):
        write(folder / f"Doe_{name}.nii.gz", block.astype(np.float32) * 10 + 100 * (number + 1) + brightness)
    if label:
        write(folder / "Doe_seg.nii.gz", block)
    return folder


def prepare(source: Path, out: Path, **request):
    return prepare_exams(source, out, PreparationRequest(request.pop("settings", PLAIN), workers=1, **request))


def test_a_dataset_that_can_be_planned(tmp_path: Path) -> None:
    for name in ("Doe_Jane", "Roe_Richard"):
        exam(tmp_path / "exams" / name)
    outcome = prepare(tmp_path / "exams", tmp_path / "data")
    assert (outcome.failed, sorted(outcome.prepared)) == ({}, ["P0001_1", "P0002_1"])
    dataset = autoseg.Dataset.open(tmp_path / "data")
    assert dataset.channels == ("t1", "t1c", "t2", "flair")
    assert dataset.labels == {"label_1": 1, "label_4": 4}
    assert [case.group for case in dataset.cases] == ["P0001", "P0002"]
    assert autoseg.check(dataset) == []
    loaded = load_case(dataset.cases[0], dataset.channels)
    assert loaded.image.shape == (4, 16, 12, 10)
    assert loaded.label is not None
    # 3 slices of 4 mm of 8×8 mm², and 2 of them
    assert [(loaded.label == value).sum() * 8 for value in (1, 4)] == [768, 512]
    assert ExamPreparation.of(dataset.preparation or {}, tmp_path).channels == dataset.channels


def test_no_identifier_outside_of_the_private_table(tmp_path: Path, capsys) -> None:
    exam(tmp_path / "exams" / "Doe_Jane")
    outcome = prepare(tmp_path / "exams", tmp_path / "data")
    (tmp_path / "exams" / "Doe_Jane" / "Doe_t2.nii.gz").write_bytes(b"no image")
    failing = prepare(tmp_path / "exams", tmp_path / "other")
    assert "t2" in failing.failed["P0001_1"]
    told = capsys.readouterr()
    texts = [told.out, told.err, json.dumps(failing.failed), json.dumps(outcome.flags)]
    for folder in ("data", "other"):
        files = [path for path in (tmp_path / folder).rglob("*") if path.is_file()]
        texts += [path.name for path in files] + [path.read_text() for path in files if path.suffix != ".gz"]
    assert not [text for text in texts if "Doe_" in text]
    table = tmp_path / "data_pseudonyms.csv"
    assert "Doe_Jane" in table.read_text()
    assert stat.S_IMODE(table.stat().st_mode) == 0o600


def test_an_exam_keeps_its_name_when_more_are_prepared(tmp_path: Path) -> None:
    exam(tmp_path / "exams" / "b")
    prepare(tmp_path / "exams", tmp_path / "data")
    exam(tmp_path / "exams" / "a")
    outcome = prepare(tmp_path / "exams", tmp_path / "data")
    assert {case: found.folder.name for case, found in outcome.exams.items()} == {"P0002_1": "a", "P0001_1": "b"}
    kept = prepare(tmp_path / "exams", tmp_path / "named", keep_identifiers=True)
    assert sorted(kept.prepared) == ["a_1", "b_1"]


def test_a_label_comes_back_to_its_series(tmp_path: Path) -> None:
    source = exam(tmp_path / "exams" / "a")
    (folder,) = prepare(source, tmp_path / "data").prepared.values()
    back = to_native(sitk.ReadImage(str(folder / "label.nii.gz")), PreparedCase.read(folder), "flair")
    drawn = sitk.ReadImage(str(source / "Doe_seg.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(drawn))
    assert back.GetOrigin() == pytest.approx(drawn.GetOrigin())


def test_one_exam_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    exam(tmp_path / "exams" / "a", "t1", "t2")
    exam(tmp_path / "exams" / "b", "scan")
    outcome = prepare(tmp_path / "exams", tmp_path / "data")
    assert list(outcome.prepared) == ["P0001_1"]
    assert "none of its series is a channel" in outcome.failed["P0002_1"]
    assert "P0002_1" in (tmp_path / "data" / "quality.html").read_text()


def test_channels_by_option_and_by_table(tmp_path: Path) -> None:
    source = exam(tmp_path / "exams" / "a", "x", "y", label=False)
    outcome = prepare(source, tmp_path / "one", channels={"t1c": "y"})
    stored = PreparedCase.read(outcome.prepared["P0001_1"])
    assert {name: one.channel for name, one in stored.series.items()} == {"y": "t1c", "x": None}
    table = tmp_path / "channels.csv"
    table.write_text("exam,channel,series\na,t1c,x\na,flair,y\n")
    outcome = prepare(tmp_path / "exams", tmp_path / "two", table=table)
    assert autoseg.Dataset.open(tmp_path / "two").channels == ("t1c", "flair")
    table.write_text("exam,channel,series\nz,t1c,x\n")
    with pytest.raises(UsageError, match="line 2"):
        prepare(tmp_path / "exams", tmp_path / "three", table=table)
    assert "finds none of its series" in prepare(source, tmp_path / "four", channels={"t1": "z"}).failed["P0001_1"]


def test_a_row_of_the_table_is_one_exam_s(tmp_path: Path) -> None:
    for patient in ("p1", "p2"):
        for visit in ("first", "second"):
            exam(tmp_path / "exams" / patient / visit, "x", "y", label=False)
    table = tmp_path / "channels.csv"

    def channels(*rows: str) -> dict[str, str | None]:
        table.write_text("\n".join(["exam,channel,series", *rows, ""]))
        outcome = prepare(tmp_path / "exams", tmp_path / "data", table=table, channels={"t2": "y"})
        stored = {case: PreparedCase.read(folder) for case, folder in outcome.prepared.items()}
        return {
            case: {one.channel: name for name, one in found.series.items()}.get("t1") for case, found in stored.items()
        }

    assert channels("p2/first,t1,x") == {"P0001_1": None, "P0001_2": None, "P0002_1": "x", "P0002_2": None}
    with pytest.raises(UsageError, match="line 2: 2 exams lie in folders of the name"):
        channels("first,t1,x")
    with pytest.raises(UsageError, match="line 4: an earlier line gives this channel of its exam"):
        channels("p1/first,t1,x", "p2/first,t1,x", "p1/first,t1,y")


def test_the_table_tells_studies_of_one_folder_apart(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    from tests.dicom_series import SmallSeries, write_series

    for number in (1, 2):
        like = SmallSeries(study=f"1.2.6.{number}", series=f"1.2.5.{number}")
        for path in write_series(tmp_path / "e" / "p" / str(number), np.arange(6 * 24 * 20).reshape(6, 24, 20), like):
            found = pydicom.dcmread(path)
            found.StudyDate = f"2020010{number}"
            found.save_as(path)
    table = tmp_path / "channels.csv"

    def channels(*rows: str) -> list[str | None]:
        table.write_text("\n".join(["exam,channel,series,study", *rows, ""]))
        prepared = prepare(tmp_path / "e" / "p", tmp_path / "data", table=table).prepared.values()
        return [PreparedCase.read(folder).series["series 1"].channel for folder in prepared]

    assert channels("p,t2,1,20200102", "p,flair,1,1.2.6.1") == ["flair", "t2"]
    assert channels("p,t2,1,20200102") == ["t1c", "t2"]
    with pytest.raises(UsageError, match="line 2: the folder that it names holds 2 studies"):
        channels("p,t2,1,")
    with pytest.raises(UsageError, match="line 2: its exam has no study of the date or UID"):
        channels("p,t2,1,20200103")


def test_labels_of_two_kinds_and_patterns_that_fit_nothing(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    from tests.dicom_series import SmallSeries, write_rtstruct, write_series

    like = SmallSeries(pixel=(1.0, 1.0))
    write_series(tmp_path / "e" / "1", np.random.default_rng(0).integers(0, 500, (8, 24, 20)), like)
    square = np.array([like.point(x, y, 2) for x, y in ((4, 4), (12, 4), (12, 12))])
    write_rtstruct(tmp_path / "e" / "rs.dcm", {"tumor": [("CLOSED_PLANAR", square)]}, like)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "e" / "1")))
    sitk.WriteImage(reader.Execute() > 250, str(tmp_path / "e" / "seg.nii.gz"))
    assert "--labels PATTERN picks one" in prepare(tmp_path / "e", tmp_path / "a").failed["P0001_1"]
    for name, pattern, label in (("b", "*.dcm", "tumor"), ("c", "*.nii.gz", "label_1")):
        assert prepare(tmp_path / "e", tmp_path / name, labels=pattern).failed == {}
        assert list(autoseg.Dataset.open(tmp_path / name).labels) == [label]
    with pytest.raises(UsageError, match=r"--labels \*tumour\* fits no file"):
        prepare(tmp_path / "e", tmp_path / "d", labels="*tumour*")


def test_a_lacking_sequence_is_filled(tmp_path: Path) -> None:
    exam(tmp_path / "exams" / "a", "t1c", "t2")
    settings = PLAIN.model_copy(update={"fill": {"t1": "t1c"}})
    (folder,) = prepare(tmp_path / "exams", tmp_path / "data", settings=settings).prepared.values()
    assert PreparedCase.read(folder).filled == {"t1": "t1c"}
    pair = [sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{name}.nii.gz"))) for name in ("t1", "t1c")]
    assert np.array_equal(*pair)


def test_a_brain_mask_of_a_file(tmp_path: Path) -> None:
    source = exam(tmp_path / "exams" / "a")
    mask = np.zeros((8, 24, 20), np.uint8)
    mask[:, 4:20, 4:16] = 1
    write(source / "Doe_brainmask.nii.gz", mask)
    settings = PLAIN.model_copy(update={"brain_mask": "*brainmask*"})
    outcome = prepare(tmp_path / "exams", tmp_path / "data", settings=settings)
    dataset = autoseg.Dataset.open(tmp_path / "data")
    loaded = load_case(dataset.cases[0], dataset.channels)
    assert loaded.mask is not None
    assert loaded.mask.sum() * 8 == 32 * 16 * 12
    assert (loaded.image[:, ~loaded.mask] == 0).all()
    (source / "Doe_brainmask.nii.gz").unlink()
    other = prepare(tmp_path / "exams", tmp_path / "other", settings=settings)
    assert outcome.failed == {}
    assert "no file of it fits --brain-mask" in other.failed["P0001_1"]
    assert not [line for line in outcome_log(tmp_path / "data") if "inf" in line]


def test_labels_and_masks_in_another_order_of_axes(tmp_path: Path) -> None:
    """As dcm2niix writes them, whose rows run the other way; and with other axes first."""
    mask, found = np.zeros((8, 24, 20), np.uint8), {}
    mask[1:, 4:20, 4:16] = 1
    settings = PLAIN.model_copy(update={"brain_mask": "*brainmask*"})
    for axes in ("LPS", "LAS", "SRP"):
        source = exam(tmp_path / axes / "a")
        write(source / "Doe_brainmask.nii.gz", mask)
        for name in ("Doe_seg.nii.gz", "Doe_brainmask.nii.gz"):
            image = sitk.DICOMOrient(sitk.ReadImage(str(source / name)), axes)
            sitk.WriteImage(image, str(source / name))
        assert prepare(tmp_path / axes, tmp_path / "data" / axes, settings=settings).failed == {}
        dataset = autoseg.Dataset.open(tmp_path / "data" / axes)
        found[axes] = load_case(dataset.cases[0], dataset.channels)
    for axes in ("LAS", "SRP"):
        for part in ("image", "label", "mask"):
            assert np.array_equal(getattr(found[axes], part), getattr(found["LPS"], part)), (axes, part)


def outcome_log(dataset: Path) -> list[str]:
    """Every step of every exam, as the page tells it."""
    return re.findall("<li>(.*?)</li>", (dataset / "quality.html").read_text())


def test_exams_are_cut_to_the_brain_as_the_others_of_their_dataset(tmp_path: Path, monkeypatch, capsys) -> None:
    def found(image: sitk.Image, _: object) -> BrainMask:
        mask = sitk.Image(image.GetSize(), sitk.sitkUInt8) + 1
        mask.CopyInformation(image)
        return BrainMask(mask, 2.0, 1400.0)

    monkeypatch.setattr("autoseg.clinical.exam_preparation.find_brain", found)
    monkeypatch.setattr("autoseg.clinical.exam_preparation.template", lambda _: None)
    auto = changed(PLAIN, skull_strip="auto")
    told = exam(tmp_path / "told" / "a")  # a FLAIR, and three sequences more
    open_ = exam(tmp_path / "open" / "b", "t1c", "t2")
    for source, other, decided in ((told, open_, "atlas"), (open_, told, "none")):
        data = tmp_path / f"data_{source.name}"
        (folder,) = prepare(source, data, settings=auto).prepared.values()
        assert (folder / "brain_mask.nii.gz").is_file() == (decided == "atlas")
        stored = ExamPreparation.read(data)
        assert stored.skull_strip == decided
        # What is predicted later is as they are, whatever it looks like.
        capsys.readouterr()
        (folder,) = prepare_like_training(other, tmp_path / f"out_{source.name}", stored).prepared.values()
        assert (folder / "brain_mask.nii.gz").is_file() == (decided == "atlas")
        assert ("no brain mask, as asked for" in capsys.readouterr().err) == (decided == "none")
        assert prepare(source, data, settings=auto).failed == {}
        assert "prepared before" in capsys.readouterr().err
    (folder,) = prepare(told, tmp_path / "data_b", settings=auto).prepared.values()
    assert not (folder / "brain_mask.nii.gz").is_file()
    # Exams that disagree from the start.
    shutil.copytree(open_, tmp_path / "told" / "b")
    outcome = prepare(tmp_path / "told", tmp_path / "both", settings=auto)
    assert "no brain mask: nothing says that the exam is of a brain" in capsys.readouterr().err
    (flag,) = outcome.flags["P0002_1"]
    assert "it has no brain mask and other exams have one" in flag
    assert list(outcome.flags) == ["P0002_1"]
    assert flag in (tmp_path / "both" / "quality.html").read_text()
    assert ExamPreparation.read(tmp_path / "both").skull_strip == "auto"
    shutil.rmtree(tmp_path / "both" / "P0001_1")
    assert prepare(tmp_path / "told" / "b", tmp_path / "both", settings=auto).flags == {}


def test_labels_that_are_cut_off_or_outside_of_the_mask_are_flagged(tmp_path: Path) -> None:
    source = exam(tmp_path / "exams" / "a", "t1")
    mask = np.zeros((8, 24, 20), np.uint8)
    mask[:, 4:20, 10:16] = 1  # half of the label, which is at 6 to 14
    write(source / "Doe_brainmask.nii.gz", mask)
    settings = changed(PLAIN, brain_mask="*brainmask*", spacing=None)
    outside = "50% of its label lies outside of the brain mask, where the images are 0"
    lost = "50% of its labelled volume is not in the output, cut off or too small for its voxels"
    for name, values, told in [
        ("masked", {}, {outside}),
        ("cropped", {"crop": True}, {outside}),  # 5 mm round the brain are left: nothing is cut
        ("boxed", {"box": (6, 24, 8)}, {lost}),
        ("whole", {"brain_mask": None}, set()),
    ]:
        flags = prepare(source, tmp_path / name, settings=changed(settings, **values)).flags.get("P0001_1", ())
        assert {flag for flag in flags if "brain mask is doubtful" not in flag} == told


def test_what_a_killed_preparation_left_is_no_case(tmp_path: Path) -> None:
    source = exam(tmp_path / "exams" / "a", "t1")
    prepare(source, tmp_path / "data")
    shutil.copytree(tmp_path / "data" / "P0001_1", tmp_path / "data" / ".P0002_1.tmp")
    prepare(source, tmp_path / "data")
    assert ".P0002_1" not in (tmp_path / "data" / "quality.html").read_text()
    assert [case.id for case in autoseg.Dataset.open(tmp_path / "data").cases] == ["P0001_1"]


def test_an_exam_is_prepared_again_only_where_something_changed(tmp_path: Path, capsys) -> None:
    source = exam(tmp_path / "exams" / "a", "t1", "t2")
    before = "prepared before"

    def again(**request) -> str:
        capsys.readouterr()
        assert prepare(source, tmp_path / "data", **request).failed == {}
        return capsys.readouterr().err

    assert before not in again()
    assert before in again()
    stored = (tmp_path / "data" / "P0001_1" / "transforms.json").read_text()
    assert "Doe" not in stored
    assert before not in again(channels={"t1": "t2"})
    assert before not in again(with_labels=False)
    assert before not in again()
    write(source / "Doe_t2.nii.gz", np.full((8, 24, 20), 7, np.float32))
    assert before not in again()
    assert before in again()
    PreparedCase.read(tmp_path / "data" / "P0001_1").model_copy(update={"source": ""}).write(
        tmp_path / "data" / "P0001_1"
    )  # as earlier versions wrote it
    assert before not in again()
    (tmp_path / "data" / "P0001_1" / "transforms.json").write_text("{}")
    assert before not in again()
    for name in ("t1", "t2"):
        (source / f"Doe_{name}.nii.gz").write_bytes(b"no image")
    assert list(prepare(source, tmp_path / "data").failed) == ["P0001_1"]
    assert not (tmp_path / "data" / "P0001_1").exists()  # of files that are no more


def test_what_was_drawn_into_a_case_outlives_another_preparation(tmp_path: Path, capsys) -> None:
    """A label map drawn in the case's folder, a mask that was corrected; when it is moved the case is made anew."""
    source, mask = exam(tmp_path / "exams" / "a", "t1", label=False), np.ones((8, 24, 20), np.uint8)
    write(source / "brain.nii.gz", mask)
    settings = changed(PLAIN, brain_mask="brain.nii.gz")
    (folder,) = prepare(source, tmp_path / "data", settings=settings).prepared.values()
    drawn = folder / "label.nii.gz"
    for name in ("label.nii.gz", "brain_mask.nii.gz"):
        sitk.WriteImage(sitk.Image(sitk.ReadImage(str(folder / "brain_mask.nii.gz"))) * 0, str(folder / name))
        was, before = (folder / name).read_bytes(), (folder / "t1.nii.gz").read_bytes()
        write(source / "Doe_t1.nii.gz", np.full((8, 24, 20), 7 + len(name), np.float32))
        capsys.readouterr()
        assert prepare(source, tmp_path / "data", settings=settings).failed == {}
        assert f"{name} of its folder was drawn or changed since it was prepared" in capsys.readouterr().err
        assert ((folder / name).read_bytes(), (folder / "t1.nii.gz").read_bytes()) == (was, before)
        (source / "Doe_t1.nii.gz").write_bytes(b"no image")
        assert "label" in prepare(source, tmp_path / "data", settings=settings).failed["P0001_1"] or name != drawn.name
        assert (folder / name).read_bytes() == was
        (folder / name).unlink()
        write(source / "Doe_t1.nii.gz", np.full((8, 24, 20), 8 + len(name), np.float32))
        assert prepare(source, tmp_path / "data", settings=settings).failed == {}
        assert (folder / "t1.nii.gz").read_bytes() != before
        assert (folder / "brain_mask.nii.gz").is_file()


def test_a_label_map_drawn_into_a_case_of_an_earlier_version(tmp_path: Path) -> None:
    """It did not say what it wrote: a label map where no label was taken along is somebody's."""
    source = exam(tmp_path / "exams" / "a", "t1", label=False)
    (folder,) = prepare(source, tmp_path / "data").prepared.values()
    PreparedCase.read(folder).model_copy(update={"written": {}, "source": ""}).write(folder)
    before = (folder / "transforms.json").read_text()
    shutil.copy(folder / "t1.nii.gz", folder / "label.nii.gz")
    prepare(source, tmp_path / "data")
    assert (folder / "transforms.json").read_text() == before
    (folder / "label.nii.gz").unlink()
    prepare(source, tmp_path / "data")
    assert PreparedCase.read(folder).written.keys() == {"t1.nii.gz"}


def test_a_description_that_was_changed_by_hand_stays(tmp_path: Path, capsys) -> None:
    prepare(exam(tmp_path / "exams" / "a", "t1"), tmp_path / "data")
    file = tmp_path / "data" / "autoseg.toml"
    named = file.read_text().replace("label_1", "tumour")
    assert named != file.read_text()
    file.write_text(named)
    exam(tmp_path / "exams" / "b", "t1")
    prepare(tmp_path / "exams", tmp_path / "data")
    assert file.read_text() == named
    assert "was changed by hand, or is of an earlier version, and stays as it is" in capsys.readouterr().err
    assert len(autoseg.Dataset.open(tmp_path / "data").cases) == 2


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_case_outlives_a_machine_that_is_too_small_to_renew_it(tmp_path: Path, monkeypatch, error) -> None:
    source = exam(tmp_path / "exams" / "a", "t1")
    (folder,) = prepare(source, tmp_path / "data").prepared.values()

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(cohort, "prepare_exam", fail)
        outcome = prepare(source, tmp_path / "data", with_labels=False)
    assert list(outcome.failed) == ["P0001_1"]
    assert "made of it before stays" in outcome.failed["P0001_1"]
    assert (folder / "t1.nii.gz").is_file()
    assert [case.id for case in autoseg.Dataset.open(tmp_path / "data").cases] == ["P0001_1"]


def test_days_are_counted_anew_when_an_earlier_exam_comes(tmp_path: Path, monkeypatch) -> None:
    dates = {"later": "20200131", "earlier": "20200101"}
    found = cohort.find_exams
    dated = [lambda e: replace(e, patient="one", date=dates[e.folder.name])]
    monkeypatch.setattr(cohort, "find_exams", lambda *a: [change(e) for e in found(*a) for change in dated])
    exam(tmp_path / "exams" / "later", "t1")
    prepare(tmp_path / "exams" / "later", tmp_path / "data")
    exam(tmp_path / "exams" / "earlier", "t1")
    prepare(tmp_path / "exams" / "earlier", tmp_path / "data")
    assert [PreparedCase.read(tmp_path / "data" / f"P0001_{n}").day for n in (1, 2)] == [30, 0]


def test_folders_that_hold_something_else_are_left_alone(tmp_path: Path) -> None:
    source = exam(tmp_path / "exams" / "a")
    prepare(source, tmp_path / "data")
    with pytest.raises(AutosegError, match="other settings"):
        prepare(source, tmp_path / "data", settings=changed(PLAIN, n4=True))
    with pytest.raises(AutosegError, match="something else"):
        prepare(source, source)


def test_wrong_usage_leaves_nothing_and_settings_bind_only_prepared_exams(tmp_path: Path) -> None:
    source = exam(tmp_path / "exams" / "a", "t1")
    for told, wrong in (("--workers 0", {"workers": 0}), ("does not exist", {"table": tmp_path / "no.csv"})):
        with pytest.raises(UsageError, match=told):
            prepare_exams(source, tmp_path / "data", PreparationRequest(PLAIN, **wrong))
    assert [path.name for path in tmp_path.iterdir()] == ["exams"]
    assert prepare(source, tmp_path / "data", channels={"t1": "none"}).prepared == {}
    assert list(prepare(source, tmp_path / "data", settings=changed(PLAIN, n4=False, crop=True)).prepared) == [
        "P0001_1"
    ]


def changed(settings: ExamPreparation, **values: object) -> ExamPreparation:
    return settings.model_copy(update=values)


def test_structures_that_differ_in_punctuation_are_masks_of_their_own(tmp_path: Path, capsys) -> None:
    pytest.importorskip("pydicom")
    from tests.dicom_series import SmallSeries, write_rtstruct, write_series

    drawn = {"a": {"GTV 1": 1, "GTV_1": 4}, "b": {"GTV_1": 2}}
    for number, (name, structures) in enumerate(drawn.items()):
        like = SmallSeries(pixel=(2.0, 2.0), study=f"1.2.6.{number}", series=f"1.2.5.{number}")
        write_series(tmp_path / "e" / name, np.random.default_rng(number).integers(0, 500, (6, 24, 20)), like)
        corners = [(5, 5), (14, 5), (14, 17), (5, 17)]
        squares = {
            structure: [("CLOSED_PLANAR", np.array([like.point(c, r, k) for c, r in corners]))]
            for structure, k in structures.items()
        }
        write_rtstruct(tmp_path / "e" / name / "rs.dcm", squares, like)
    settings = changed(PLAIN, spacing=None, orient=False)

    def slices() -> dict[str, dict[str, list[int]]]:
        prepare(tmp_path / "e", tmp_path / "data", settings=settings)
        labels = {case.id: case.label for case in autoseg.Dataset.open(tmp_path / "data").cases}
        return {
            case: {
                name: np.flatnonzero(sitk.GetArrayFromImage(sitk.ReadImage(str(file))).any((1, 2))).tolist()
                for name, file in label.masks.items()
            }
            for case, label in labels.items()
            if isinstance(label, StructureMasks)
        }

    expected = {"P0001_1": {"GTV 1": [1], "GTV_1": [4]}, "P0001_2": {"GTV_1": [2]}}
    assert slices() == expected
    # As earlier versions wrote it: one file for both, and a name without a fingerprint.
    folder = tmp_path / "data" / "P0001_1"
    told = json.loads((folder / "labels.json").read_text())
    (folder / told["structures"]["GTV 1"]).unlink()
    told["structures"]["GTV 1"] = told["structures"]["GTV_1"] = "structure_GTV_1.nii.gz"
    (folder / "labels.json").write_text(json.dumps(told))
    capsys.readouterr()
    assert slices() == expected
    assert capsys.readouterr().err.count("prepared before") == 1  # the other one
    told = json.loads((folder / "labels.json").read_text())
    (folder / told["structures"]["GTV_1"]).unlink()
    (folder / told["structures"]["GTV 1"]).rename(folder / "structure_GTV_1.nii.gz")
    (folder / "labels.json").write_text(json.dumps({**told, "structures": {"GTV 1": "structure_GTV_1.nii.gz"}}))
    assert slices() == {"P0001_1": {"GTV 1": [1]}, "P0001_2": {"GTV_1": [2]}}


def test_dicom_in_and_a_structure_set(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    from tests.dicom_series import PATIENT, PATIENT_ID, SmallSeries, write_rtstruct, write_series

    like = SmallSeries(pixel=(2.0, 2.0))
    voxels = np.random.default_rng(0).integers(0, 500, (6, 24, 20))
    write_series(tmp_path / "exam" / "t1c", voxels, like)
    for path in write_series(
        tmp_path / "exam" / "loc", voxels[:3], replace(like, series="1.2.77", description="localizer")
    ):
        found = pydicom.dcmread(path)
        found.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        found.save_as(path)
    corners = [(5, 5), (14, 5), (14, 17), (5, 17)]
    square = [("CLOSED_PLANAR", np.array([like.point(c, r, k) for c, r in corners])) for k in (1, 2, 3)]
    write_rtstruct(tmp_path / "exam" / "rs" / "rs.dcm", {"GTV Mass": square}, like)
    settings = changed(PLAIN, spacing=(1.0, 1.0, 1.0))
    outcome = prepare(tmp_path / "exam", tmp_path / "data", settings=settings)
    assert outcome.failed == {}
    dataset = autoseg.Dataset.open(tmp_path / "data")
    assert dataset.channels == ("t1c",)
    loaded = load_case(dataset.cases[0], dataset.channels)
    assert loaded.label is not None
    # 18 mm × 24 mm × 3 slices of 5 mm, with edges rounded off
    assert loaded.label.astype(bool).sum() == pytest.approx(18 * 24 * 15, rel=0.08)
    texts = [path.read_text() for path in (tmp_path / "data").rglob("*") if path.suffix in (".json", ".html", ".toml")]
    assert not [text for text in texts if PATIENT.split("^")[0] in text or PATIENT_ID in text]
    assert PATIENT_ID in (tmp_path / "data_pseudonyms.csv").read_text()


@pytest.mark.parametrize(
    ("steps", "shape"),
    [
        ({"n4": True}, (16, 12, 10)),
        ({"crop": True, "spacing": (1.0, 1.0, 4.0)}, (8, 24, 20)),
        ({"box": (16, 14, 12)}, (12, 14, 16)),
        ({"spacing": None, "orient": False}, (8, 24, 20)),
        ({"interpolation": "nearest", "labels": "nearest"}, (16, 12, 10)),
    ],
)
def test_every_step_can_be_switched(tmp_path: Path, steps: dict, shape: tuple[int, ...]) -> None:
    exam(tmp_path / "exams" / "a", "t1")
    outcome = prepare(tmp_path / "exams", tmp_path / "data", settings=changed(PLAIN, **steps))
    assert outcome.failed == {}
    dataset = autoseg.Dataset.open(tmp_path / "data")
    loaded = load_case(dataset.cases[0], dataset.channels)
    assert loaded.image.shape[1:] == shape
    assert loaded.label is not None
    assert set(np.unique(loaded.label)) == {0, 1, 4}


def test_labels_that_do_not_agree_are_told_and_the_page_is_there(tmp_path: Path, capsys) -> None:
    for name in ("a", "b"):
        exam(tmp_path / "exams" / name, "t1")
    outcome = prepare(tmp_path / "exams", tmp_path / "data")
    files = [folder / "labels.json" for folder in outcome.prepared.values()]
    values = {"values": [0, 1], "structures": {}}
    # As if one were of DICOM and had a structure, the other of a label map.
    files[0].write_text(json.dumps({"values": [], "names": {}, "structures": {"GTV": "structure_GTV.nii.gz"}}))
    prepare(tmp_path / "exams", tmp_path / "data")
    assert "P0002_1: its label map is left out" in capsys.readouterr().err
    for file, name in zip(files, ("edema", "core"), strict=True):
        file.write_text(json.dumps(values | {"names": {"1": name}}))
    (tmp_path / "data" / "quality.html").unlink()
    with pytest.raises(AutosegError, match="label value 1 is edema in one exam and core in another"):
        prepare(tmp_path / "exams", tmp_path / "data")
    assert (tmp_path / "data" / "quality.html").is_file()


def test_exams_of_a_cohort_in_several_processes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        exam(tmp_path / "exams" / name, "t1")
    outcome = prepare_exams(tmp_path / "exams", tmp_path / "data", PreparationRequest(PLAIN, workers=2))
    assert sorted(outcome.prepared) == ["P0001_1", "P0002_1"]


def test_the_exams_of_a_folder_are_one_patient_s(tmp_path: Path) -> None:
    for visit in ("first", "second"):
        exam(tmp_path / "exams" / "a" / visit, "t1")
    prepare(tmp_path / "exams", tmp_path / "data")
    assert [(c.id, c.group) for c in autoseg.Dataset.open(tmp_path / "data").cases] == [
        ("P0001_1", "P0001"),
        ("P0001_2", "P0001"),
    ]


def test_the_page_shows_every_channel_and_the_mask(tmp_path: Path) -> None:
    source = exam(tmp_path / "exams" / "a", "t1", "flair")
    write(source / "Doe_brainmask.nii.gz", np.pad(np.ones((4, 12, 10), np.uint8), ((2, 2), (6, 6), (5, 5))))
    settings = changed(PLAIN, brain_mask="*brainmask*")
    outcome = prepare(tmp_path / "exams", tmp_path / "data", settings=settings)
    page = (outcome.dataset / "quality.html").read_text()
    assert page.count("data:image/png;base64,iVBOR") == 2
    assert "http" not in page.replace("http-equiv", "")


def test_which_folders_are_raw(tmp_path: Path) -> None:
    source = exam(tmp_path / "exams" / "a")
    assert not is_raw_exam(tmp_path / "exams")  # all on one grid
    write(source / "Doe_t2.nii.gz", np.ones((5, 9, 9), np.float32), (2.0, 2.0, 5.0))
    assert is_raw_exam(tmp_path / "exams")
    prepare(source, tmp_path / "data")
    assert not is_raw_exam(tmp_path / "data")
