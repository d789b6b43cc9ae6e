from zlib import crc32

import numpy as np
import pytest
from typer.testing import CliRunner

from autoseg.cli.main import app
from autoseg.data.checks import check
from autoseg.data.dataset import Dataset
from autoseg.data.fingerprint import fingerprint
from autoseg.data.layouts import brats
from autoseg.evaluation.folders import dataset_structures
from autoseg.utils.errors import AutosegError, UsageError


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def test_2018_with_grades(tmp_path):
    for grade, name in (("HGG", "Brats18_2013_11_1"), ("LGG", "Brats18_TCIA09_141_1")):
        touch(tmp_path / grade / name, *(f"{name}_{kind}.nii.gz" for kind in ("t1", "t1ce", "t2", "flair", "seg")))
    touch(tmp_path, "survival_data.csv")
    dataset = Dataset.open(tmp_path)
    assert dataset.layout == "brats"
    assert dataset.channels == ("t1", "t1c", "t2", "flair")
    assert dataset.labels == {"necrosis": 1, "edema": 2, "enhancing": 4}
    assert dataset.regions == {"whole_tumor": (1, 2, 4), "tumor_core": (1, 4), "enhancing_tumor": (4,)}
    assert [case.id for case in dataset.cases] == ["Brats18_2013_11_1", "Brats18_TCIA09_141_1"]
    assert dataset.cases[0].channels["t1c"].path.name == "Brats18_2013_11_1_t1ce.nii.gz"


def test_2020_and_its_stray_label(tmp_path):
    name = "BraTS20_Training_355"
    touch(tmp_path / name, *(f"{name}_{kind}.nii" for kind in ("t1", "t1ce", "t2", "flair")), "W39_1998.09.19_Segm.nii")
    dataset = brats.read(tmp_path)
    assert dataset.cases[0].label == tmp_path / name / "W39_1998.09.19_Segm.nii"


def test_2021(tmp_path):
    touch(tmp_path / "BraTS2021_00000", "BraTS2021_00000_t1ce.nii.gz", "BraTS2021_00000_seg.nii.gz")
    dataset = Dataset.open(tmp_path)
    assert dataset.channels == ("t1c",)
    assert dataset.labels["enhancing"] == 4


def test_2023_time_points_and_missing_parts(tmp_path):
    touch(
        tmp_path / "BraTS-GLI-00001-000",
        *(f"BraTS-GLI-00001-000-{k}.nii.gz" for k in ("t1n", "t1c", "t2w", "t2f", "seg")),
    )
    touch(tmp_path / "BraTS-GLI-00001-001", *(f"BraTS-GLI-00001-001-{k}.nii.gz" for k in ("t1c", "t2f", "seg")))
    touch(tmp_path / "BraTS-MET-00002-000", "BraTS-MET-00002-000-t2w.nii.gz")
    dataset = Dataset.open(tmp_path)
    assert dataset.labels == {"necrosis": 1, "edema": 2, "enhancing": 3}
    assert [case.group for case in dataset.cases] == ["BraTS-GLI-00001", "BraTS-GLI-00001"]
    assert list(dataset.case("BraTS-GLI-00001-001").channels) == ["t1c", "flair"]
    assert [case.id for case in dataset.unlabelled] == ["BraTS-MET-00002-000"]


def test_both_namings_together_are_refused(tmp_path):
    touch(tmp_path / "a", "BraTS2021_00000_t1.nii.gz")
    touch(tmp_path / "b", "BraTS-GLI-00001-000-t1n.nii.gz")
    with pytest.raises(AutosegError, match="mixes BraTS"):
        brats.read(tmp_path)


def test_two_files_of_a_kind_are_refused(tmp_path):
    touch(tmp_path / "a", "BraTS2021_00000_t1.nii.gz", "BraTS2021_00000_t1.nii")
    with pytest.raises(AutosegError, match="twice"):
        brats.read(tmp_path)


def test_other_folders_are_not_recognised(tmp_path):
    touch(tmp_path / "a", "t1.nii.gz", "._BraTS2021_00000_t1.nii.gz")
    assert not brats.recognise(tmp_path)
    with pytest.raises(AutosegError, match="no files named as in BraTS"):
        Dataset.open(tmp_path, layout="brats")


@pytest.mark.data
def test_real_unlabelled_case(real_data):
    dataset = Dataset.open(real_data("brats23"))
    assert dataset.channels == ("t1", "t1c", "t2", "flair")
    assert not dataset.cases
    (case,) = dataset.unlabelled
    assert case.channels["flair"].path.name == "BraTS-GLI-00001-000-t2f.nii.gz"


def labelled(root, write_volume, name, *values):
    label = np.zeros((2, 3, 4), np.uint8)
    label.flat[: len(values)] = values
    for kind in ("t1n", "t1c", "t2w", "t2f"):
        scan = np.random.default_rng(crc32(f"{name}{kind}".encode())).normal(size=(2, 3, 4))
        write_volume(root / name / f"{name}-{kind}.nii.gz", scan)
    write_volume(root / name / f"{name}-seg.nii.gz", label)
    return root


TREATED = {"non_enhancing": 1, "edema": 2, "enhancing": 3, "resection_cavity": 4}


def test_pediatric_cases_of_2024_are_told_by_the_value_4(tmp_path, write_volume):
    """Their enhancing tumour is 1; 3 is a cyst."""
    for number in range(3):
        labelled(tmp_path, write_volume, f"BraTS-PED-0000{number}-000", 1, 2, 3, *([4] if number == 2 else []))
    dataset = Dataset.open(tmp_path)
    assert dataset.labels == {"enhancing": 1, "non_enhancing": 2, "cyst": 3, "edema": 4}
    assert dataset.regions == {"whole_tumor": (1, 2, 3, 4), "tumor_core": (1, 2, 3), "enhancing_tumor": (1,)}


def test_pediatric_cases_without_a_4_have_to_be_named(tmp_path, write_volume):
    labelled(tmp_path, write_volume, "BraTS-PED-00001-000", 1, 2, 3)
    labelled(tmp_path, write_volume, "BraTS-PED-00002-000", 1, 3)
    dataset = Dataset.open(tmp_path)  # enough to predict
    for use in (
        lambda: check(dataset, workers=1),
        lambda: fingerprint(dataset, 1),
        lambda: dataset_structures(dataset),
    ):
        with pytest.raises(UsageError, match="give --challenge ped2023 or --challenge ped2024"):
            use()
    for command in (["inspect"], ["plan", "--out", str(tmp_path / "run")]):
        result = CliRunner().invoke(app, [command[0], str(tmp_path), *command[1:]])
        assert isinstance(result.exception, UsageError)
    assert not (tmp_path / "run").exists()
    for chosen, enhancing in (("ped2023", 3), ("ped2024", 1)):
        named = Dataset.open(tmp_path, choices={"challenge": chosen})
        assert named.regions["enhancing_tumor"] == (enhancing,)
        result = CliRunner().invoke(app, ["inspect", str(tmp_path), "--challenge", chosen, "--workers", "1"])
        assert result.exit_code == 0, result.output


@pytest.mark.parametrize(("name", "values"), [("BraTS-GLI-02405-100", (1, 2, 3)), ("BraTS-GLI-00001-000", (3, 4))])
def test_gliomas_after_treatment(tmp_path, write_volume, name, values):
    """By the number of the time point or by the value of the cavity."""
    dataset = Dataset.open(labelled(tmp_path, write_volume, name, *values))
    assert dataset.labels == TREATED
    assert dataset.regions["whole_tumor"] == (1, 2, 3)
    assert dataset.regions["resection_cavity"] == (4,)


@pytest.mark.parametrize(
    ("kind", "four"), [("GLI", False), ("MET", False), ("MEN", False), ("SSA", False), ("MET", True)]
)
def test_labels_of_other_challenges(tmp_path, write_volume, kind, four):
    dataset = Dataset.open(labelled(tmp_path, write_volume, f"BraTS-{kind}-00001-000", 1, 2, 3, *([4] if four else [])))
    assert dataset.labels == (TREATED if four else {"necrosis": 1, "edema": 2, "enhancing": 3})
    assert dataset.regions["enhancing_tumor"] == (3,)


def test_a_challenge_that_can_not_be(tmp_path, write_volume):
    labelled(tmp_path / "new", write_volume, "BraTS-GLI-00001-000", 1)
    touch(tmp_path / "old", "BraTS2021_00000_t1.nii.gz")
    for folder, chosen, message in (
        ("new", "gli1999", "choose one of gli2023, gli2024"),
        ("new", "ped2024", "holds cases of BraTS GLI"),
        ("old", "gli2024", "holds cases up to 2021"),
    ):
        with pytest.raises(UsageError, match=message):
            Dataset.open(tmp_path / folder, choices={"challenge": chosen})
    labelled(tmp_path / "new", write_volume, "BraTS-PED-00001-000", 1)
    with pytest.raises(AutosegError, match="mixes BraTS-PED with GLI"):
        Dataset.open(tmp_path / "new")


def test_2017_and_names_of_weightings(tmp_path):
    name = "Brats17_TCIA_121_1"
    touch(tmp_path / "HGG" / name, *(f"{name}_{kind}.nii.gz" for kind in ("t1w", "t1ce", "t2W", "flair", "seg")))
    dataset = Dataset.open(tmp_path)
    assert dataset.layout == "brats"
    assert dataset.channels == ("t1", "t1c", "t2", "flair")
    assert dataset.labels["enhancing"] == 4


def test_linked_folders_of_cases(tmp_path):
    for folder, number in ((tmp_path / "data" / "LGG", 1), (tmp_path / "elsewhere", 2)):
        name = f"BraTS20_Training_00{number}"
        touch(folder / name, *(f"{name}_{kind}.nii.gz" for kind in ("t1", "t1ce", "t2", "flair", "seg")))
    (tmp_path / "data" / "HGG").symlink_to(tmp_path / "elsewhere")
    assert [case.id for case in Dataset.open(tmp_path / "data").cases] == [
        "BraTS20_Training_001",
        "BraTS20_Training_002",
    ]
