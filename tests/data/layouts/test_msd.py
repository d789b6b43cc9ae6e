import json

import numpy as np
import pytest

from autoseg.data.dataset import Dataset, load_case
from autoseg.data.layouts import msd
from autoseg.utils.errors import AutosegError
from tests.builders import write


@pytest.fixture
def folder(tmp_path, write_volume, write_json):
    """Two 4D cases with two channels, one labelled case more without its file, and a test list half of which exists."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        write_volume(tmp_path / "imagesTr" / f"{name}.nii.gz", rng.normal(size=(2, 4, 5, 6)).astype(np.float32))
        write_volume(tmp_path / "labelsTr" / f"{name}.nii.gz", rng.integers(0, 3, (4, 5, 6)).astype(np.uint8))
    write_volume(tmp_path / "imagesTs" / "t.nii.gz", rng.normal(size=(2, 4, 5, 6)).astype(np.float32))
    write_json(
        tmp_path / "dataset.json",
        {
            "name": "Toy",
            "modality": {"1": "ADC", "0": "T2"},
            "labels": {"0": "background", "1": "PZ", "2": "TZ"},
            "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in "ab"],
            "test": ["./imagesTs/t.nii.gz", "./imagesTs/gone.nii.gz"],
        },
    )
    return tmp_path


def test_reads_names_and_files(folder):
    dataset = Dataset.open(folder)
    assert dataset.layout == "msd"
    assert dataset.channels == ("T2", "ADC")
    assert dataset.labels == {"PZ": 1, "TZ": 2}
    assert [case.id for case in dataset.cases] == ["a", "b"]
    assert [case.id for case in dataset.unlabelled] == ["t"]
    assert dataset.cases[0].label == folder / "labelsTr" / "a.nii.gz"


def test_a_test_scan_with_a_training_case_s_name_is_told(folder, write_volume):
    rng = np.random.default_rng(1)
    other = write_volume(folder / "imagesTs" / "a.nii.gz", rng.normal(size=(2, 4, 5, 6)).astype(np.float32))
    description = json.loads((folder / "dataset.json").read_text())
    description["test"] += ["./imagesTs/a.nii.gz", "./imagesTr/b.nii.gz"]
    (folder / "dataset.json").write_text(json.dumps(description))
    dataset = msd.read(folder)
    assert dataset.namesakes == (other,), "b's is the training case itself"
    assert [case.id for case in dataset.unlabelled] == ["t"]


def test_channels_of_a_4d_image_are_its_volumes(folder):
    dataset = Dataset.open(folder)
    expected = np.random.default_rng(0).normal(size=(2, 4, 5, 6)).astype(np.float32)
    loaded = load_case(dataset.cases[0], ["ADC", "T2"])
    np.testing.assert_array_equal(loaded.image, expected[::-1])


def test_the_description_may_be_named_itself(folder):
    assert Dataset.open(folder / "dataset.json").root == folder


def test_channels_of_one_name_are_numbered(tmp_path, write_json):
    write_json(tmp_path / "dataset.json", {"modality": {"0": "MRI", "1": "MRI"}, "labels": {"1": "x"}, "training": []})
    assert Dataset.open(tmp_path).channels == ("MRI_0", "MRI_1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modality": {"1": "T1"}}, "modality"),
        ({"modality": ["T1"]}, "modality"),
        ({"labels": {"one": "x"}}, 'the value of label "x" must be a whole number'),
        ({"labels": {"1": "x", "2": "x"}}, "two labels are called x"),
        ({"training": [{"label": "y"}]}, r"training\[0\]"),
        ({"training": [{"image": "a.nii.gz"}, {"image": "b/a.nii.gz"}]}, "several cases are called a"),
    ],
)
def test_a_wrong_description_is_one_sentence(tmp_path, write_json, change, message):
    data = {"modality": {"0": "T1"}, "labels": {"1": "x"}, "training": [], **change}
    write_json(tmp_path / "dataset.json", data)
    with pytest.raises(AutosegError, match=message):
        msd.read(tmp_path)


def test_nnunet_v1_has_a_file_a_channel(tmp_path, write_json):
    for name in ("a", "b"):
        for number in range(2):
            write(tmp_path / "imagesTr" / f"{name}_{number:04d}.nii.gz", np.full((2, 3, 4), number, np.uint8))
        write(tmp_path / "labelsTr" / f"{name}.nii.gz", np.zeros((2, 3, 4), np.uint8))
    entries = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in "ab"]
    modality = {"0": "T1", "1": "T2"}
    data = {"modality": modality, "labels": {"0": "background", "1": "x"}, "training": entries, "numTest": 0}
    write_json(tmp_path / "dataset.json", data)
    dataset = Dataset.open(tmp_path)
    assert [case.id for case in dataset.cases] == ["a", "b"]
    assert load_case(dataset.cases[0], ["T2", "T1"]).image.reshape(2, -1).max(axis=1).tolist() == [1, 0]


def test_a_datalist_with_a_list_of_images(tmp_path):
    entries = []
    for name in ("p1", "p2"):
        images = [f"{name}/{name}_{kind}.nii.gz" for kind in ("flair", "t1ce")]
        for number, image in enumerate(images):
            write(tmp_path / image, np.full((2, 3, 4), number, np.uint8))
        write(tmp_path / name / f"{name}_seg.nii.gz", np.full((2, 3, 4), 4, np.uint8))
        entries.append({"fold": 0, "image": images, "label": f"{name}/{name}_seg.nii.gz"})
    text = json.dumps({"training": entries})
    (tmp_path / "folds.json").write_text("\ufeff" + text, encoding="utf-8")
    dataset = Dataset.open(tmp_path / "folds.json")
    assert dataset.channels == ("flair", "t1c")
    assert dataset.labels == {"label_4": 4}
    assert [case.id for case in dataset.cases] == ["p1", "p2"]
    assert load_case(dataset.cases[0], ["t1c"]).image.max() == 1


def test_a_datalist_of_case_folders(tmp_path, write_json):
    write_json(
        tmp_path / "dataset.json", {"labels": {"1": "x"}, "training": [{"image": f"p{i}/ct.nii.gz"} for i in (1, 2)]}
    )
    assert [case.id for case in Dataset.open(tmp_path).unlabelled] == ["p1", "p2"]


@pytest.mark.data
def test_hippocampus(real_data):
    dataset = Dataset.open(real_data("hippocampus"))
    assert len(dataset.cases) == 200
    assert dataset.labels == {"Anterior": 1, "Posterior": 2}
    assert dataset.modalities == {"MRI": "MRI"}
    assert all(path.is_file() for case in dataset.cases for path in case.files)
