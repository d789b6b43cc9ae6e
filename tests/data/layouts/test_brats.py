import pytest

from autoseg.data.dataset import Dataset
from autoseg.data.layouts import brats
from autoseg.utils.errors import AutosegError


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
