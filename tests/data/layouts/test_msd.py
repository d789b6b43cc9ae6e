import numpy as np
import pytest

from autoseg.data.dataset import Dataset, load_case
from autoseg.data.layouts import msd
from autoseg.utils.errors import AutosegError


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


@pytest.mark.data
def test_hippocampus(real_data):
    dataset = Dataset.open(real_data("hippocampus"))
    assert len(dataset.cases) == 200
    assert dataset.labels == {"Anterior": 1, "Posterior": 2}
    assert dataset.modalities == {"MRI": "MRI"}
    assert all(path.is_file() for case in dataset.cases for path in case.files)
