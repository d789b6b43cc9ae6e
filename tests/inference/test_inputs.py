"""What there is to predict: datasets, folders of images, single files."""

import locale
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.data.dataset import Case, ChannelFile, Dataset
from autoseg.inference.channel_numbers import ChannelNumbers
from autoseg.inference.inputs import cases_to_predict, single_case
from autoseg.utils.errors import AutosegError, UsageError
from tests.builders import make_configuration, make_plan, make_recipe, write

VOLUME = np.ones((3, 4, 5), np.float32)
ONE, TWO = make_plan(), make_plan(channels=("t1", "t2"))
RGB = make_plan(channels=("red", "green", "blue"))


def folder(path: Path, *names: str) -> Path:
    for name in names:
        write(path / name, VOLUME)
    return path


def found(path: Path, plan, **options) -> dict[str, dict[str, tuple[str, int | None]]]:
    return {
        case.id: {name: (file.path.name, file.component) for name, file in case.channels.items()}
        for case in cases_to_predict(path, plan, **options)
    }


def picture(path: Path, components: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((6, 7, components), np.uint8), isVector=True), str(path))
    return path


def test_one_case_an_image(tmp_path: Path) -> None:
    folder(tmp_path, "b.nii.gz", "a.mha", "c.x.nrrd")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "._a.mha").write_text("left by a Mac")
    assert found(tmp_path, ONE) == {
        "a": {"mr": ("a.mha", None)},
        "b": {"mr": ("b.nii.gz", None)},
        "c.x": {"mr": ("c.x.nrrd", None)},
    }


def test_channels_by_number(tmp_path: Path) -> None:
    folder(tmp_path, "p_0000.nii.gz", "p_0001.nii.gz", "q_1_0001.nii.gz")
    assert found(tmp_path, TWO) == {
        "p": {"t1": ("p_0000.nii.gz", None), "t2": ("p_0001.nii.gz", None)},
        "q_1": {"t2": ("q_1_0001.nii.gz", None)},
    }


def test_numbers_of_a_single_channel(tmp_path: Path) -> None:
    """nnU-Net's ending is taken off; other numbers are part of the name, and no image is left out."""
    assert list(found(folder(tmp_path / "a", "p_0000.nii.gz", "q_0000.nii.gz"), ONE)) == ["p", "q"]
    assert list(found(folder(tmp_path / "b", "scan_0000.nii.gz", "scan_0001.nii.gz"), ONE)) == [
        "scan_0000",
        "scan_0001",
    ]
    assert list(found(folder(tmp_path / "c", "scan_0017.nii.gz"), ONE)) == ["scan_0017"]


@pytest.mark.parametrize("names", [("mr",), ("t1", "mr"), ("t1", "mr", "t2")])
def test_a_file_is_called_as_in_its_folder(tmp_path: Path, write_json, names: tuple[str, ...]) -> None:
    """Whether its number is a channel's, or the case's, and whether the training data had one channel or several."""
    known = sequences(tmp_path / "data", write_json, *names)
    scans = tmp_path / "data" / "imagesTs"
    path = scans / f"z_{names.index('mr'):04d}.nii.gz"
    assert found(path, ONE, like=known) == found(scans, ONE, like=known) == {"z": {"mr": (path.name, None)}}
    numbered = folder(tmp_path / "site", "SITE_0000.nii.gz", "SITE_0001.nii.gz")
    (tmp_path / "site" / "SITE.nii.gz").write_bytes(b"a result")
    write_json(tmp_path / "site" / "predictions.json", {"files": ["SITE.nii.gz"]})
    together = {name for file in numbered.glob("SITE_*") for name in found(file, ONE)}
    assert together == set(found(numbered, ONE)) == {"SITE_0000", "SITE_0001"}


def test_files_that_hold_all_channels(tmp_path: Path) -> None:
    """RGB pictures, named as nnU-Net does or freely; volumes with the channels as fourth axis."""
    picture(tmp_path / "rgb" / "p_0000.png")
    colours = {name: ("p_0000.png", index) for index, name in enumerate(RGB.channel_names)}
    assert found(tmp_path / "rgb", RGB) == {"p": colours}
    assert found(tmp_path / "rgb" / "p_0000.png", RGB) == {"p": colours}
    volumes = sitk.JoinSeries([sitk.GetImageFromArray(VOLUME)] * 2)
    (tmp_path / "4d").mkdir()
    sitk.WriteImage(volumes, str(tmp_path / "4d" / "x.nii.gz"))
    (tmp_path / "4d" / "y.nii.gz").write_bytes(b"damaged")
    assert found(tmp_path / "4d", TWO) == {
        "x": {"t1": ("x.nii.gz", 0), "t2": ("x.nii.gz", 1)},
        "y": {"t1": ("y.nii.gz", 0), "t2": ("y.nii.gz", 1)},
    }


def test_single_image(tmp_path: Path) -> None:
    path = write(tmp_path / "a.b.nii.gz", VOLUME)
    assert found(path, ONE) == {"a.b": {"mr": ("a.b.nii.gz", None)}}
    with pytest.raises(UsageError, match="--channel t2=PATH is missing"):
        cases_to_predict(path, TWO)


def test_nothing_to_predict(tmp_path: Path) -> None:
    with pytest.raises(AutosegError, match="does not exist"):
        cases_to_predict(tmp_path / "nowhere", ONE)
    with pytest.raises(AutosegError, match="no dataset and no images"):
        cases_to_predict(tmp_path, ONE)
    folder(tmp_path, "a.nii.gz", "b.nii.gz")
    with pytest.raises(AutosegError, match="name them CASE_0000 for t1, CASE_0001 for t2"):
        cases_to_predict(tmp_path, TWO)


def test_two_images_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(AutosegError, match=r"two images of a \(a\.mha, a\.nii\.gz\)"):
        cases_to_predict(folder(tmp_path, "a.nii.gz", "a.mha"), ONE)


def dataset(root: Path, write_json, test: bool) -> Path:
    for name in ("x", "y"):
        write(root / "imagesTr" / f"{name}_0000.nii.gz", VOLUME)
        write(root / "labelsTr" / f"{name}.nii.gz", VOLUME.astype(np.uint8))
    if test:
        write(root / "imagesTs" / "z_0000.nii.gz", VOLUME)
    return write_json(
        root / "dataset.json",
        {
            "channel_names": {"0": "mr"},
            "labels": {"background": 0, "one": 1},
            "numTraining": 2,
            "file_ending": ".nii.gz",
        },
    ).parent


def test_dataset(tmp_path: Path, write_json) -> None:
    with_test, without = dataset(tmp_path / "a", write_json, True), dataset(tmp_path / "b", write_json, False)
    assert list(found(with_test, ONE)) == ["z"]
    assert list(found(with_test, ONE, everything=True)) == ["x", "y", "z"]
    assert list(found(without, ONE)) == ["x", "y"]
    assert list(found(with_test / "imagesTs", ONE)) == ["z"]


def test_a_test_set_whose_names_are_training_cases_is_not_taken_for_none(tmp_path: Path, write_json) -> None:
    """Else the training cases would be predicted instead of new scans."""
    root = dataset(tmp_path, write_json, False)
    write(root / "imagesTs" / "x_0000.nii.gz", VOLUME + 1)
    with pytest.raises(AutosegError, match=r"training case \(x_0000\.nii\.gz\); rename them, or predict .*imagesTs"):
        cases_to_predict(root, ONE)
    assert list(found(root / "imagesTs", ONE)) == ["x"]


def test_scans_of_a_test_set_are_not_left_out(tmp_path: Path, write_json) -> None:
    """Those whose names are not like the others' are named, where they would be predicted."""
    root = dataset(tmp_path, write_json, True)
    write(root / "imagesTr" / "thumbnail.nii.gz", VOLUME)
    assert list(found(root, ONE)) == ["z"]
    with pytest.raises(AutosegError, match=r"imagesTr holds images that belong to no case .*\(thumbnail\.nii\.gz\)"):
        cases_to_predict(root, ONE, everything=True)
    for name in ("new.nii.gz", "new2_001.nii.gz", "new3.nii"):
        write(root / "imagesTs" / name, VOLUME)
    message = r"imagesTs holds .*\(new\.nii\.gz, new2_001\.nii\.gz, new3\.nii\); name them like z_0000\.nii\.gz"
    with pytest.raises(AutosegError, match=message):
        cases_to_predict(root, ONE)


def test_broken_dataset_says_what_is_broken(tmp_path: Path, write_json) -> None:
    root = dataset(tmp_path, write_json, True)
    write_json(root / "dataset.json", {"channel_names": {"0": "mr"}, "labels": {}})
    with pytest.raises(AutosegError, match="file_ending"):
        cases_to_predict(root, ONE)
    with pytest.raises(UsageError, match="--layout nope"):
        cases_to_predict(root, ONE, layout="nope")


def test_single_case(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.nii.gz", VOLUME), write(tmp_path / "b.nii.gz", VOLUME)
    case = single_case({"t2": b, "t1": a}, [TWO.stage()])
    assert case.id == "b"
    assert case.channels["t1"].path == a
    assert single_case({"t1": a, "t2": b}, [TWO.stage()], "patient").id == "patient"
    with pytest.raises(UsageError, match="the plan's channels are t1, t2"):
        single_case({"flair": a}, [TWO.stage()])
    with pytest.raises(UsageError, match="--channel t2=PATH is missing"):
        single_case({"t1": a}, [TWO.stage()])
    allowing = TWO.model_copy(update={"allow_missing_channels": True})
    assert set(single_case({"t1": a}, [allowing.stage()]).channels) == {"t1"}
    dropping = make_configuration(recipe=make_recipe(channel_dropout=0.1))
    mixed = make_plan(channels=("t1", "t2"), configurations={"small": dropping, "strict": make_configuration()})
    assert set(single_case({"t1": a}, [mixed.stage()]).channels) == {"t1"}
    with pytest.raises(UsageError, match="--channel t2=PATH is missing"):
        single_case({"t1": a}, [mixed.stage("strict")])
    with pytest.raises(AutosegError, match="does not exist"):
        single_case({"t1": tmp_path / "c.nii.gz", "t2": b}, [TWO.stage()])
    assert single_case({"t1": a, "t2": b}, [TWO.stage()], mask=a).mask == a
    with pytest.raises(AutosegError, match=r"mask\.nii\.gz does not exist"):
        single_case({"t1": a, "t2": b}, [TWO.stage()], mask=tmp_path / "mask.nii.gz")


def test_a_single_case_is_called_as_in_its_folder(tmp_path: Path, write_json) -> None:
    """Where the numbers of all its files are those of their channels."""
    known = sequences(tmp_path / "data", write_json, "t2", "t1")
    numbers = ChannelNumbers.of([TWO], [known])
    first, second = (tmp_path / "data" / "imagesTs" / f"z_000{number}.nii.gz" for number in range(2))
    stages = [TWO.stage()]
    assert single_case({"t1": second, "t2": first}, stages, numbers=numbers).id == "z"
    assert single_case({"t1": first, "t2": second}, stages, numbers=numbers).id == "z_0000"
    other = write(tmp_path / "y_0001.nii.gz", VOLUME)
    assert single_case({"t1": other, "t2": first}, stages, numbers=numbers).id == "y_0001"
    assert single_case({"t1": second, "t2": first}, stages, "patient", numbers=numbers).id == "patient"


def test_series_with_dots_in_their_names_are_told_apart(tmp_path: Path) -> None:
    """Folders are called by SeriesInstanceUID in archives' exports, and files by SOPInstanceUID."""
    names = ["1.2.840.1.1001", "1.2.840.1.1002", "Dr.Who"]
    folders = [dicom(tmp_path / name, 4) for name in names]
    assert [single_case({"mr": path}, [ONE.stage()]).id for path in folders] == names
    assert [case.id for path in folders for case in cases_to_predict(path, ONE)] == names
    alone = [dicom(tmp_path / f"alone{n}", 1) for n in range(2)]
    files = [(folder / "0.dcm").rename(folder / f"1.2.{n}") for n, folder in enumerate(alone)]
    assert [single_case({"mr": path}, [ONE.stage()]).id for path in files] == ["1.2.0", "1.2.1"]


def test_single_case_of_several_plans(tmp_path: Path) -> None:
    """Every plan's channels are known; those are needed that a plan can't do without."""
    a, b = write(tmp_path / "a.nii.gz", VOLUME), write(tmp_path / "b.nii.gz", VOLUME)
    assert set(single_case({"mr": a, "t1": b, "t2": b}, [ONE.stage(), TWO.stage()]).channels) == {"mr", "t1", "t2"}
    with pytest.raises(UsageError, match="--channel t1=PATH is missing; the plan needs mr, t1, t2"):
        single_case({"mr": a}, [ONE.stage(), TWO.stage()])
    with pytest.raises(UsageError, match="the plan's channels are mr, t1, t2"):
        single_case({"flair": a}, [ONE.stage(), TWO.stage()])
    allowing = TWO.model_copy(update={"allow_missing_channels": True})
    assert set(single_case({"mr": a, "t2": b}, [ONE.stage(), allowing.stage()]).channels) == {"mr", "t2"}
    with pytest.raises(UsageError, match="--channel mr=PATH is missing; the plan needs mr"):
        single_case({"t1": a}, [ONE.stage(), allowing.stage()])


def test_a_datasets_other_names_of_a_sequence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for case in ("p", "q"):
        folder(tmp_path / case, "T1CE.nii.gz", "fl.nii.gz")
    (tmp_path / "q" / "T1CE.nii.gz").unlink()
    text = '[channels]\n"T1-Gd" = "T1CE.nii.gz"\nFLAIR = "fl.nii.gz"\n'
    (tmp_path / "autoseg.toml").write_text(text)
    plan = make_plan(channels=("t1", "t1c", "flair"))
    assert found(tmp_path, plan) == {
        "p": dict.fromkeys(("T1-Gd", "t1c"), ("T1CE.nii.gz", None))
        | dict.fromkeys(("FLAIR", "flair"), ("fl.nii.gz", None)),
        "q": dict.fromkeys(("FLAIR", "flair"), ("fl.nii.gz", None)),
    }
    assert "T1-Gd is taken for t1c, FLAIR is taken for flair." in capsys.readouterr().err
    # Names that are the plan's own are left alone.
    assert found(tmp_path, make_plan(channels=("T1-Gd", "FLAIR")))["p"].keys() == {"T1-Gd", "FLAIR"}


LABEL = np.zeros((3, 4, 5), np.uint8)
LABEL[1, 1, 1] = 1


def test_several_channels_a_case_for_a_model_of_one(tmp_path: Path) -> None:
    folder(tmp_path, *(f"{case}_000{n}.nii.gz" for case in "pq" for n in range(4)))
    with pytest.raises(AutosegError, match=r"2 cases of 4 channels \(p_0000\.nii\.gz, .*q_0003\.nii\.gz\)"):
        cases_to_predict(tmp_path, ONE)
    # The same numbers that don't begin with 0000 are dates, time points, slices.
    assert len(found(folder(tmp_path / "b", *(f"{case}_20{n}.nii.gz" for case in "pq" for n in (19, 20))), ONE)) == 4


def test_label_maps_among_the_scans(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("p_0000", "q_0000"):
        write(tmp_path / f"{name}.nii.gz", rng.normal(size=(3, 4, 5)).astype(np.float32))
    write(tmp_path / "p_seg.nii.gz", LABEL)
    for plan in (ONE, TWO):
        with pytest.raises(AutosegError, match=r"label maps among the scans \(p_seg\.nii\.gz\)"):
            cases_to_predict(tmp_path, plan)
    # A scan that is only called so is one.
    write(tmp_path / "p_seg.nii.gz", rng.normal(size=(3, 4, 5)).astype(np.float32))
    assert set(found(tmp_path, ONE)) == {"p_0000", "p_seg", "q_0000"}


@pytest.mark.parametrize("word", ["gtv", "PTV1", "p_GTVp", "Segmentierung", "seg2", "mask1", "p_maske", "p_Inner"])
def test_label_maps_by_other_words(tmp_path: Path, word: str) -> None:
    scan = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    write(tmp_path / "p.nii.gz", scan)
    write(tmp_path / f"{word}.nii.gz", LABEL)
    with pytest.raises(AutosegError, match="label maps among the scans"):
        cases_to_predict(tmp_path, ONE)
    write(tmp_path / f"{word}.nii.gz", scan)
    assert set(found(tmp_path, ONE)) == {"p", word}


def test_results_beside_the_scans_are_told_by_predictions_json(
    tmp_path: Path, write_json, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same whether the file lists them, or (of an earlier version) names the cases only."""
    scans = folder(tmp_path, "p_0000.nii.gz", "q_0000.nii.gz")
    for name in ("p", "q", "p_probability_tumor"):
        write(tmp_path / f"{name}.nii.gz", LABEL)
    files = ["p.nii.gz", "q.nii.gz", "p_probability_tumor.nii.gz"]
    for told in ({"cases": {"p": {}}, "kept_from_before": ["q"]}, {"files": files}):
        write_json(tmp_path / "predictions.json", told)
        assert found(scans, ONE) == {"p": {"mr": ("p_0000.nii.gz", None)}, "q": {"mr": ("q_0000.nii.gz", None)}}
        assert "3 results of an earlier prediction (predictions.json) left out" in capsys.readouterr().err


def dicom(path: Path, slices: int) -> Path:
    path.mkdir(parents=True)
    before = locale.setlocale(locale.LC_ALL)
    for number in range(slices):
        image = sitk.GetImageFromArray(np.full((1, 8, 9), number, np.int16))
        tags = {
            "0020|000e": "1.2.3.4.5",
            "0008|0018": f"1.2.3.4.5.{number + 1}",
            "0020|000d": "1.2.3",
            "0008|0060": "MR",
        }
        for tag, value in {**tags, "0020|0013": str(number), "0020|0032": f"0\\0\\{number}"}.items():
            image.SetMetaData(tag, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(path / f"{number}.dcm"))
        writer.Execute(image)
    locale.setlocale(locale.LC_ALL, before)  # writing DICOM sets that of the whole process
    return path


def test_a_dicom_series_is_a_channel(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    series = dicom(tmp_path / "exams" / "series", 4)
    for path in (series, tmp_path / "exams"):
        (case,) = cases_to_predict(path, ONE)
        assert case.channels == {"mr": ChannelFile(path=series)}
    assert single_case({"mr": series}, [ONE.stage()]).id == "series"
    slice_of_four = rf"1\.dcm: it is one slice of a DICOM series of 4\. Give the folder of the series, {series}\."
    for give in (lambda path: cases_to_predict(path, ONE), lambda path: single_case({"mr": path}, [ONE.stage()])):
        with pytest.raises(AutosegError, match=slice_of_four):
            give(series / "1.dcm")
    with pytest.raises(AutosegError, match=r"exams: it is a folder of folders of DICOM files"):
        single_case({"mr": tmp_path / "exams"}, [ONE.stage()])
    with pytest.raises(AutosegError, match=r"it is a folder\. Give the image file, or the folder of a DICOM series"):
        single_case({"mr": folder(tmp_path / "plain", "a.nii.gz")}, [ONE.stage()])
    assert "HDF5" not in "".join(capfd.readouterr()), "what SimpleITK prints of a folder"
    alone = dicom(tmp_path / "alone", 1)
    assert single_case({"mr": alone / "0.dcm"}, [ONE.stage()]).channels["mr"].path == alone / "0.dcm"


def test_channels_of_two_patients_are_refused(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    from tests.dicom_series import PATIENT_ID, SmallSeries, write_series

    def series(name: str, patient: str) -> Path:
        for path in write_series(tmp_path / name, np.zeros((3, 4, 5)), SmallSeries(series=f"1.2.{len(name)}")):
            dataset = pydicom.dcmread(path)
            dataset.PatientID = patient
            dataset.save_as(path)
        return tmp_path / name

    patients = {"a": PATIENT_ID, "bb": PATIENT_ID, "ccc": "7", "dddd": ""}
    one, same, other, unknown = (series(name, patient) for name, patient in patients.items())
    plain = write(tmp_path / "plain.nii.gz", VOLUME)
    for second in (same, unknown, plain):
        assert single_case({"t1": one, "t2": second}, [TWO.stage()]).id == "a"
    with pytest.raises(UsageError, match=r"--channel t1 and --channel t2 are DICOM of different patients") as caught:
        single_case({"t1": one, "t2": other}, [TWO.stage()])
    assert PATIENT_ID not in str(caught.value)


def test_a_dicom_series_of_another_sequence_is_not_taken(tmp_path: Path) -> None:
    series = dicom(tmp_path / "exam" / "t1_post", 4)
    (case,) = cases_to_predict(tmp_path, make_plan(channels=("flair",)))
    assert case.channels == {"t1c": ChannelFile(path=series)}


@pytest.mark.parametrize("name", ["training", "Kohorte_12.03.2024"])
@pytest.mark.parametrize("case", ["{id}/{id}_flair", "{id}/flair", "scans/{id}-flair"])
def test_a_folder_laid_out_like_the_training_data(tmp_path: Path, case: str, name: str) -> None:
    """The training data were described by an autoseg.toml, and may be gone by now."""
    plan = make_plan(channels=("t1", "fluid"))
    patterns = {"fluid": f"{case}.nii.gz", "t1": f"{case.replace('flair', 'T1')}.nii.gz"}
    label = "masks/{id}.nii.gz"

    def lay_out(root: Path, *names: str) -> Path:
        for name in names:
            folder(root, *(pattern.format(id=name) for pattern in patterns.values()))
        return root

    training = lay_out(tmp_path / name, "a", "b", "c")
    for one in "abc":
        write(training / label.format(id=one), LABEL)
    manifest = "\n".join(f'{channel} = "{pattern}"' for channel, pattern in patterns.items())
    (training / "autoseg.toml").write_text(f'[channels]\n{manifest}\n[label]\nfile = "{label}"\nvalues = {{ x = 1 }}\n')
    dataset = Dataset.open(training)
    shutil.rmtree(training)
    scans = lay_out(tmp_path / "new", "p", "q")
    (scans / patterns["t1"].format(id="q")).unlink()
    files = {name: (Path(pattern.format(id="p")).name, None) for name, pattern in patterns.items()}
    assert found(scans, plan, like=dataset) == {
        "p": files,
        "q": {"fluid": (Path(patterns["fluid"].format(id="q")).name, None)},
    }
    with pytest.raises(AutosegError):
        cases_to_predict(folder(tmp_path / "other", "x/a.nii.gz", "y/b.nii.gz"), plan, like=dataset)


def test_a_folder_laid_out_like_the_files_of_a_table(tmp_path: Path) -> None:
    plan = make_plan(channels=("fluid", "t1"))
    for name in "ab":
        folder(tmp_path / "training", *(f"{name}/{name}_{kind}.nii.gz" for kind in ("x", "y")))
        write(tmp_path / "training" / name / "z.nii.gz", LABEL)
    rows = [f"{name},{name}/{name}_x.nii.gz,{name}/{name}_y.nii.gz,{name}/z.nii.gz" for name in "ab"]
    (tmp_path / "training" / "scans.csv").write_text("\n".join(["id,one,two,seg", *rows]))
    (tmp_path / "training" / "autoseg.toml").write_text(
        'csv = "scans.csv"\n[channels]\nfluid = "one"\nt1 = "two"\n[label]\nfile = "seg"\nvalues = { x = 1 }\n'
    )
    dataset = Dataset.open(tmp_path / "training")
    new = folder(tmp_path / "new", *(f"{name}/{name}_{kind}.nii.gz" for name in "pq" for kind in ("x", "y")))
    assert found(new, plan, like=dataset) == {
        name: {"fluid": (f"{name}_x.nii.gz", None), "t1": (f"{name}_y.nii.gz", None)} for name in "pq"
    }


def test_files_in_another_spelling_than_the_training_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        write(tmp_path / "training" / name / "t1.nii.gz", VOLUME)
        write(tmp_path / "training" / name / "t2.nii.gz", VOLUME)
        write(tmp_path / "training" / name / "seg.nii.gz", LABEL)
    dataset = Dataset.open(tmp_path / "training")
    new = folder(
        tmp_path / "new",
        *(f"{case}/{name}" for case, name in (("p", "t1.nii.gz"), ("q", "T1.nii"), ("r", "t1.nii.gz"))),
        *(f"{case}/{name}" for case, name in (("p", "t2.nii.gz"), ("q", "T2.nii.gz"), ("r", "T2.nii"), ("x", "y.nii"))),
    )
    assert found(new, TWO, like=dataset) == {
        "p": {"t1": ("t1.nii.gz", None), "t2": ("t2.nii.gz", None)},
        "q": {"t1": ("T1.nii", None), "t2": ("T2.nii.gz", None)},
        "r": {"t1": ("t1.nii.gz", None), "t2": ("T2.nii", None)},
    }
    assert "x left out" in capsys.readouterr().err


def test_a_training_file_in_two_spellings_is_found_by_its_own(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / "training" / name / "t1.nii.gz", VOLUME)
        write(tmp_path / "training" / name / "seg.nii.gz", LABEL)
    dataset = Dataset.open(tmp_path / "training")
    new = folder(tmp_path / "new", "p/t1.nii.gz", "p/T1.nii.gz", "q/t1.nii.gz", "q/t1.nii")
    assert found(new, make_plan(channels=("t1",)), like=dataset) == {n: {"t1": ("t1.nii.gz", None)} for n in "pq"}


def test_case_folders_of_other_sequences_are_told(tmp_path: Path) -> None:
    """A T1 with contrast is no native one."""
    rng = np.random.default_rng(0)
    for name in ("p", "q"):
        for kind in ("T1_ax_post", "T2"):
            write(tmp_path / name / f"{kind}.nii.gz", rng.normal(size=(3, 4, 5)).astype(np.float32))
    with pytest.raises(AutosegError, match=r"its scans seem to be t1c, t2, and the model takes t1, t2"):
        cases_to_predict(tmp_path, TWO)


def test_folders_without_a_scan_of_the_model_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"{case}/{name}.nii.gz" for case in ("p", "q", "r") for name in ("T1", "T2")]
    found(folder(tmp_path, *names, "x/y.nii.gz"), TWO)
    assert "x left out" in capsys.readouterr().err


def test_case_folders_of_which_nothing_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scans = folder(tmp_path, *(f"{case}/{case}_{name}.nii.gz" for case in ("p", "q") for name in ("T1", "T2")))
    assert found(scans, TWO)["q"] == {"t1": ("q_T1.nii.gz", None), "t2": ("q_T2.nii.gz", None)}
    assert "scans are taken to be " in capsys.readouterr().err


def test_alpha_is_left_out_of_pictures(tmp_path: Path) -> None:
    """As in training, whether all pictures have it or some."""
    colours = {name: ("a.png", index) for index, name in enumerate(("red", "green", "blue"))}
    picture(tmp_path / "some" / "a.png", 4)
    picture(tmp_path / "some" / "b.png", 3)
    assert found(tmp_path / "some", RGB)["a"] == colours
    assert found(tmp_path / "some" / "a.png", RGB) == {"a": colours}


def test_a_folder_above_several_datasets(tmp_path: Path) -> None:
    for name in ("sub-1", "sub-2"):
        write(tmp_path / "bids" / name / "anat" / f"{name}_T1w.nii.gz", VOLUME)
        write(tmp_path / "brats" / f"BraTS2021_0000{name[-1]}" / f"BraTS2021_0000{name[-1]}_t1.nii.gz", VOLUME)
    with pytest.raises(AutosegError, match=r"several datasets; give one of them: bids \(bids\), brats \(brats\)"):
        cases_to_predict(tmp_path, ONE)


def test_runs_of_other_channels_find_their_own(tmp_path: Path) -> None:
    """The channels of all runs, each once and in their order: in numbered images, datasets and folders of cases."""
    runs = [TWO, make_plan(channels=("t1", "flair"))]
    numbered = folder(tmp_path / "numbered", *(f"p_000{number}.nii.gz" for number in range(3)))
    assert found(numbered, runs)["p"] == {
        "t1": ("p_0000.nii.gz", None),
        "t2": ("p_0001.nii.gz", None),
        "flair": ("p_0002.nii.gz", None),
    }
    files = {"t1": ("T1.nii.gz", None), "t2": ("T2.nii.gz", None), "flair": ("FLAIR.nii.gz", None)}
    for layout in ("described", "proposed"):
        scans = folder(tmp_path / layout, *(f"{case}/{name}" for case in "pq" for name, _ in files.values()))
        if layout == "described":
            (scans / "autoseg.toml").write_text(
                '[channels]\nT1w = "T1.nii.gz"\nT2w = "T2.nii.gz"\nt2f = "FLAIR.nii.gz"\n'
            )
        assert {name: found(scans, runs)["q"][name] for name in files} == files
    volumes = sitk.JoinSeries([sitk.GetImageFromArray(VOLUME)] * 3)
    sitk.WriteImage(volumes, str(tmp_path / "4d.nii.gz"))
    parts = {"t1": ("4d.nii.gz", 0), "t2": ("4d.nii.gz", 1), "flair": ("4d.nii.gz", 2)}
    assert found(tmp_path / "4d.nii.gz", runs) == {"4d": parts}


def test_a_folder_laid_out_like_the_training_data_of_several_runs(tmp_path: Path) -> None:
    """Each run saw its own channels, under names that no word tells; a case may lack those of one run."""
    datasets = []
    for name in ("one", "two"):
        scans = folder(tmp_path / f"training_{name}", *(f"{case}/{case}-{name}.nii.gz" for case in "abc"))
        (scans / "autoseg.toml").write_text(
            f'[channels]\n{name} = "{{id}}/{{id}}-{name}.nii.gz"\n[label]\nfile = "masks/{{id}}.nii.gz"\n'
            "values = { x = 1 }\n"
        )
        for case in "abc":
            write(scans / "masks" / f"{case}.nii.gz", LABEL)
        datasets.append(Dataset.open(scans))
    new = folder(tmp_path / "new", "p/p-one.nii.gz", "p/p-two.nii.gz", "q/q-one.nii.gz")
    runs = [make_plan(channels=("one",)), make_plan(channels=("two",))]
    assert found(new, runs, like=datasets) == {
        "p": {"one": ("p-one.nii.gz", None), "two": ("p-two.nii.gz", None)},
        "q": {"one": ("q-one.nii.gz", None)},
    }


def test_one_image_for_a_run_that_takes_missing_channels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is the channel that its name tells, by nnU-Net's number or by the sequence; never just the first one."""
    lenient = make_plan(channels=("t1", "t1c", "FLAIR"), allow_missing_channels=True)
    for name, channel in (
        ("p_flair", "FLAIR"),
        ("p_T1_Gd", "t1c"),
        ("p_0002", "FLAIR"),
        ("p_flair_0002", "FLAIR"),
        ("sub-01_T1w", "t1"),
        ("sub-01_ce-gadolinium_T1w", "t1c"),
    ):
        path = write(tmp_path / f"{name}.nii.gz", VOLUME)
        assert found(path, lenient) == {name.removesuffix("_0002"): {channel: (path.name, None)}}
        assert f"{path.name} is taken for {channel}." in capsys.readouterr().err
    # Nothing told, another sequence, two channels told, and an agent in another sequence.
    for name in ("p", "p_T2", "p_0003", "p_flair_0000", "sub-01_ce-gadolinium_FLAIR"):
        path = write(tmp_path / f"{name}.nii.gz", VOLUME)
        with pytest.raises(
            UsageError, match=rf"{name}\.nii\.gz: its name does not tell .*t1, t1c, FLAIR.*--channel NAME="
        ):
            cases_to_predict(path, lenient)
    needing_one = make_plan(channels=("FLAIR",))
    assert found(tmp_path / "p.nii.gz", [lenient, needing_one]) == {"p": {"FLAIR": ("p.nii.gz", None)}}


def sequences(root: Path, write_json, *names: str) -> Dataset:
    """An nnU-Net dataset of these channels, with a test set."""
    for number in range(len(names)):
        folder(root, *(f"imagesTr/{case}_000{number}.nii.gz" for case in "xy"), f"imagesTs/z_000{number}.nii.gz")
    for case in "xy":
        write(root / "labelsTr" / f"{case}.nii.gz", LABEL)
    channels = {str(number): name for number, name in enumerate(names)}
    labels = {"background": 0, "one": 1}
    write_json(root / "dataset.json", {"channel_names": channels, "labels": labels, "file_ending": ".nii.gz"})
    return Dataset.open(root)


@pytest.mark.parametrize(
    "names", [("t1c", "flair"), ("flair", "t2", "t1c", "t1"), ("flair",), ("t1", "t1c", "t2", "flair")]
)
def test_numbers_are_those_of_the_training_data(
    tmp_path: Path, write_json, names: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever channels a plan has, in whatever order: the folder of the test set gives what the dataset gives."""
    known = sequences(tmp_path / "data", write_json, "t1", "t1c", "t2", "flair")
    moved = known.model_validate_json(known.model_dump_json().replace(str(tmp_path), "/elsewhere"))
    plan = make_plan(channels=names)
    (whole,) = cases_to_predict(tmp_path / "data", plan, like=known)
    capsys.readouterr()
    for like in (known, moved, [known, moved]):
        (case,) = cases_to_predict(tmp_path / "data" / "imagesTs", plan, like=like)
        assert case.id == "z"
        assert case.channels == {name: whole.channels[name] for name in names}
        said = capsys.readouterr().err
        assert ("CASE_0003 for flair" in said) == (names != ("t1", "t1c", "t2", "flair"))
    # Without what is known of the training data: the plan's order.
    if len(names) > 1:
        (case,) = cases_to_predict(tmp_path / "data" / "imagesTs", plan)
        assert [case.channels[name].path.name for name in names] == [f"z_000{n}.nii.gz" for n in range(len(names))]


def test_numbers_that_training_data_know_and_names_that_tell(
    tmp_path: Path, write_json, capsys: pytest.CaptureFixture[str]
) -> None:
    known = sequences(tmp_path / "data", write_json, "t1", "t1c", "t2", "flair")
    lenient = make_plan(channels=("t1c", "flair"), allow_missing_channels=True)
    path = write(tmp_path / "p_0003.nii.gz", VOLUME)
    assert found(path, lenient, like=known) == {"p": {"flair": ("p_0003.nii.gz", None)}}
    with pytest.raises(UsageError, match="its name does not tell"):
        cases_to_predict(write(tmp_path / "p_0000.nii.gz", VOLUME), lenient, like=known)
    # nnU-Net calls the only channel 0000.
    flair = make_plan(channels=("flair",))
    assert list(found(tmp_path / "p_0000.nii.gz", flair, like=known)) == ["p"]
    assert "p_0000.nii.gz is taken for flair; of its number is t1 in the training data" in capsys.readouterr().err
    alone = folder(tmp_path / "alone", "p_0000.nii.gz", "q_0000.nii.gz")
    assert list(found(alone, flair, like=known)) == ["p", "q"]
    assert "images are taken for flair; of their number is t1 in the training data" in capsys.readouterr().err
    with pytest.raises(AutosegError, match="name them CASE_0001 for t1c, CASE_0003 for flair"):
        cases_to_predict(
            folder(tmp_path / "no", "a.nii.gz", "b_0002.nii.gz"), make_plan(channels=("t1c", "flair")), like=known
        )


def test_places_in_a_file_are_those_of_the_training_data(tmp_path: Path) -> None:
    """A volume with four sequences holds them in the dataset's order, whatever the plan's is."""
    names = ("t1", "t1c", "t2", "flair")
    case = Case(
        id="x",
        label=Path("x"),
        channels={name: ChannelFile(path=Path("x.nii.gz"), component=n) for n, name in enumerate(names)},
    )
    known = Dataset(name="d", root=Path(), layout="decathlon", channels=names, labels={"one": 1}, cases=(case,))
    volumes = sitk.JoinSeries([sitk.GetImageFromArray(VOLUME)] * 4)
    (tmp_path / "4d").mkdir()
    path = tmp_path / "4d" / "p.nii.gz"
    sitk.WriteImage(volumes, str(path))
    for wanted in (("flair", "t1c"), ("flair", "t1", "t2", "t1c"), ("t2",)):
        expected = {"p": {name: ("p.nii.gz", names.index(name)) for name in wanted}}
        for given in (path, path.parent):
            assert found(given, make_plan(channels=wanted), like=known) == expected


def test_runs_whose_training_data_are_numbered_otherwise(
    tmp_path: Path, write_json, capsys: pytest.CaptureFixture[str]
) -> None:
    datasets = [
        sequences(tmp_path / "a", write_json, "t1", "t2"),
        sequences(tmp_path / "b", write_json, "t1", "flair"),
    ]
    plans = [make_plan(channels=("t1", "t2")), make_plan(channels=("t1", "flair"))]
    scans = folder(tmp_path / "new", *(f"p_000{number}.nii.gz" for number in range(3)))
    assert {name: file for name, (file, _) in found(scans, plans, like=datasets)["p"].items()} == {
        "t1": "p_0000.nii.gz",
        "t2": "p_0001.nii.gz",
        "flair": "p_0002.nii.gz",
    }
    assert "CASE_0002 for flair, in the order of the plans, as training data number them otherwise" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "files",
    [
        ["{id}/t1_0001.nii.gz", "{id}/flair_0002.nii.gz"],  # numbers of something else
        ["{id}_t1.nii.gz", "{id}_flair.nii.gz"],
        ["{id}_0007.nii.gz", "{id}_0007.nii"],
    ],
)
def test_training_data_without_numbers_of_channels(tmp_path: Path, files: list[str]) -> None:
    cases = tuple(
        Case(
            id=name,
            label=Path("x"),
            channels={
                channel: ChannelFile(path=Path(file.format(id=name)))
                for channel, file in zip(("t1", "flair"), files, strict=True)
            },
        )
        for name in "ab"
    )
    known = Dataset(name="d", root=Path(), layout="manifest", channels=("t1", "flair"), labels={"one": 1}, cases=cases)
    numbers = ChannelNumbers.of([make_plan(channels=("flair", "t1"))], [known])
    assert (numbers.channels, numbers.why) == ({0: "flair", 1: "t1"}, "")


def test_two_images_of_one_numbered_channel(tmp_path: Path) -> None:
    folder(tmp_path, "a_0000.mha", "a_0000.nii.gz", "a_0001.nii.gz")
    with pytest.raises(AutosegError, match=r"two images of a, t1 \(a_0000\.mha, a_0000\.nii\.gz\); remove one"):
        cases_to_predict(tmp_path, TWO)


def bids(root: Path, *kinds: str) -> Path:
    return folder(root, *(f"sub-{subject}/anat/sub-{subject}_{kind}.nii.gz" for subject in (1, 2) for kind in kinds))


def test_enhanced_and_native_scans_of_bids_are_told_apart(tmp_path: Path) -> None:
    """Whatever lies beside them, and by runs that call enhanced scans T1w, since they saw no others."""
    native, enhanced = "T1w", "ce-gadolinium_T1w"
    folders = {
        kinds: bids(tmp_path / "-".join(kinds), *kinds) for kinds in ((native,), (enhanced,), (native, enhanced))
    }
    of_native, of_enhanced = Dataset.open(folders[native,]), Dataset.open(folders[enhanced,])
    of_before = of_enhanced.model_copy(
        update={
            "channels": (native,),
            "unlabelled": (),
            "cases": tuple(
                case.model_copy(update={"channels": {native: case.channels[enhanced]}})
                for case in of_enhanced.unlabelled
            ),
        }
    )
    scans = {kind: (f"sub-2_{kind}.nii.gz", None) for kind in (native, enhanced)}
    both = folders[native, enhanced]

    def taken(path: Path, channel: str, like: Dataset) -> tuple[str, int | None] | None:
        return found(path, make_plan(channels=(channel,)), like=like)["sub-2"].get(channel)

    assert taken(folders[native,], native, of_native) == taken(both, native, of_native) == scans[native]
    assert taken(folders[enhanced,], native, of_native) is None
    assert taken(folders[enhanced,], enhanced, of_enhanced) == taken(both, enhanced, of_enhanced) == scans[enhanced]
    assert taken(folders[native,], enhanced, of_enhanced) is None
    assert taken(folders[enhanced,], native, of_before) == taken(both, native, of_before) == scans[enhanced]
    (both / "sub-2" / "anat" / f"sub-2_{enhanced}.nii.gz").unlink()
    assert taken(both, native, of_before) is None
