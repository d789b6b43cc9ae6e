import re

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.data.checks import check
from autoseg.data.dataset import Dataset, load_case
from autoseg.data.layouts import nnunet
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import read_json
from tests.builders import write


def describe(folder, write_json, **changes):
    data = {
        "channel_names": {"0": "CT", "1": "PET"},
        "labels": {"background": 0, "tumour": 1},
        "file_ending": ".nrrd",
        "numTraining": 2,
        **changes,
    }
    write_json(folder / "dataset.json", data)
    return folder


def test_reads_files_by_number(tmp_path, write_volume, write_json):
    for name in ("case_1", "case_2", "BraTS-GLI-00001-000", "BraTS-GLI-00001-001"):
        for number in range(2):
            write_volume(tmp_path / f"imagesTr/{name}_{number:04d}.nrrd", np.full((2, 3, 4), number, np.int16))
        write_volume(tmp_path / f"labelsTr/{name}.nrrd", np.ones((2, 3, 4), np.uint8))
    (tmp_path / "imagesTr" / "case_2_0001.nrrd").unlink()
    write_volume(tmp_path / "imagesTs/new_0000.nrrd", np.ones((2, 3, 4), np.int16))
    dataset = Dataset.open(describe(tmp_path, write_json))
    assert dataset.layout == "nnunet"
    assert dataset.channels == ("CT", "PET")
    assert dataset.file_ending == ".nrrd"
    assert set(dataset.case("case_1").channels) == {"CT", "PET"}
    assert set(dataset.case("case_2").channels) == {"CT"}, "a case may lack a channel"
    assert [case.id for case in dataset.unlabelled] == ["new"]
    assert {c.group for c in dataset.cases} == {"", "BraTS-GLI-00001"}, "two time points are one patient"
    assert load_case(dataset.case("case_1"), dataset.channels).image[:, 0, 0, 0].tolist() == [0, 1]


def test_regions_and_ignore(tmp_path, write_json):
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}
    dataset = nnunet.read(describe(tmp_path, write_json, labels=labels, regions_class_order=[1, 2, 3]))
    assert dataset.regions == {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}
    assert dataset.labels == {"label_1": 1, "label_2": 2, "enhancing": 3}
    assert dataset.ignore_label == 4


def test_labels_without_lists_are_no_regions(tmp_path, write_json):
    dataset = nnunet.read(describe(tmp_path, write_json, labels={"background": 0, "a": 1, "b": [2]}))
    assert dataset.labels == {"a": 1, "b": 2}
    assert dataset.regions == {}


def test_one_picture_holds_red_green_and_blue(tmp_path, write_json):
    colours = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "labelsTr").mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(colours, isVector=True), str(tmp_path / "imagesTr/street_0000.png"))
    sitk.WriteImage(
        sitk.GetImageFromArray((colours[..., 0] > 20).astype(np.uint8)), str(tmp_path / "labelsTr/street.png")
    )
    names = {"0": "R", "1": "G", "2": "B"}
    dataset = Dataset.open(describe(tmp_path, write_json, channel_names=names, file_ending=".png"))
    loaded = load_case(dataset.cases[0], ["B", "R"])
    np.testing.assert_array_equal(loaded.image[:, 0], np.moveaxis(colours, -1, 0)[[2, 0]])
    assert loaded.label is not None
    assert loaded.label.shape == (1, 4, 5)


def test_an_image_or_label_without_its_partner_stays_a_case(tmp_path, write_volume, write_json):
    write_volume(tmp_path / "imagesTr/a_0000.nrrd", np.ones((2, 3, 4), np.int16))
    write_volume(tmp_path / "labelsTr/b.nrrd", np.ones((2, 3, 4), np.uint8))
    dataset = nnunet.read(describe(tmp_path, write_json))
    assert [case.id for case in dataset.cases] == ["a", "b"]
    assert dataset.case("b").channels == {}


def test_images_of_channels_without_a_name_are_refused(tmp_path, write_volume, write_json):
    write_volume(tmp_path / "imagesTr/a_0002.nrrd", np.ones((2, 3, 4), np.int16))
    with pytest.raises(AutosegError, match=r"names 2 channel\(s\).*a_0002\.nrrd"):
        nnunet.read(describe(tmp_path, write_json))


def test_listed_files(tmp_path, write_json):
    listed = {"x": {"images": ["here/1.nrrd", "there/2.nrrd"], "label": "labels/x.nrrd"}}
    dataset = nnunet.read(describe(tmp_path, write_json, dataset=listed))
    assert dataset.case("x").channels["PET"].path == tmp_path / "there/2.nrrd"


def test_listed_files_may_name_environment_variables(tmp_path, write_json, monkeypatch):
    """As in nnU-Net: an absolute folder, or one below that of dataset.json; what is not set stays as it is written."""
    monkeypatch.setenv("SCANS", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("LABELS", "seen")
    monkeypatch.delenv("NOT_SET", raising=False)
    listed = {"x": {"images": ["$SCANS/1.nrrd", "$NOT_SET/2.nrrd"], "label": "${LABELS}/x.nrrd"}}
    case = nnunet.read(describe(tmp_path / "data", write_json, dataset=listed)).case("x")
    assert case.channels["CT"].path == tmp_path / "elsewhere/1.nrrd"
    assert case.channels["PET"].path == tmp_path / "data/$NOT_SET/2.nrrd"
    assert case.label == tmp_path / "data/seen/x.nrrd"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file_ending": None}, "file_ending"),
        ({"channel_names": {"a": "CT"}}, "channel_names"),
        ({"labels": {"tumour": "one"}}, "whole number"),
        ({"labels": {"tumour": []}}, "no value"),
        ({"labels": None}, "labels"),
        ({"dataset": {"x": {}}}, r"dataset\.x"),
    ],
)
def test_a_wrong_description_is_one_sentence(tmp_path, write_json, change, message):
    with pytest.raises(AutosegError, match=message):
        nnunet.read(describe(tmp_path, write_json, **change))


@pytest.mark.parametrize("volumes", ["series", "vectors"])
def test_one_file_holds_all_channels(tmp_path, write_json, volumes):
    """As the Decathlon's 4D volumes, or those with a vector in each voxel; a case may have one file a channel."""
    parts = [sitk.GetImageFromArray(np.full((2, 3, 4), number, np.float32)) for number in range(4)]
    (tmp_path / "imagesTr").mkdir()
    together = sitk.JoinSeries(parts) if volumes == "series" else sitk.Compose(parts)
    sitk.WriteImage(together, str(tmp_path / "imagesTr/a_0000.nii.gz"))
    for number, part in enumerate(parts):
        sitk.WriteImage(part, str(tmp_path / f"imagesTr/b_{number:04d}.nii.gz"))
    sitk.WriteImage(parts[0], str(tmp_path / "imagesTr/c_0000.nii.gz"))
    names = {str(number): name for number, name in enumerate(("t1", "t1c", "t2", "flair"))}
    dataset = nnunet.read(describe(tmp_path, write_json, channel_names=names, file_ending=".nii.gz"))
    assert set(dataset.case("c").channels) == {"t1"}, "a case that lacks channels is another thing"
    for case in ("a", "b"):
        found = load_case(dataset.case(case).model_copy(update={"label": None}), dataset.channels)
        assert found.present == (True,) * 4
        assert found.image[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("other", [".nii", ".NII.GZ", ".mha"])
def test_images_of_another_ending_are_not_left_out(tmp_path, write_volume, write_json, other):
    path = write_volume(tmp_path / "imagesTr" / "a_0000.nii.gz", np.ones((2, 3, 4), np.int16))
    path.rename(path.with_name(f"b_0000{other}"))
    write_volume(tmp_path / "imagesTr" / "a_0000.nii.gz", np.ones((2, 3, 4), np.int16))
    describe(tmp_path, write_json, channel_names={"0": "CT"}, file_ending=".nii.gz")
    message = rf'"file_ending" is \.nii\.gz, but imagesTr holds images that end in {re.escape(other)}, as b_0000'
    with pytest.raises(AutosegError, match=message):
        nnunet.read(tmp_path)
    (tmp_path / "imagesTr" / f"b_0000{other}").rename(tmp_path / "imagesTr" / f"thumbnail{other}")
    assert [case.id for case in nnunet.read(tmp_path).cases] == ["a"]


def test_one_channel_without_its_number(tmp_path, write_json):
    for name in ("a", "b_12"):
        write(tmp_path / "imagesTr" / f"{name}.nii.gz", np.ones((2, 3, 4), np.uint8))
        write(tmp_path / "labelsTr" / f"{name}.nii.gz", np.ones((2, 3, 4), np.uint8))
    about = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "x": 1}, "file_ending": ".nii.gz"}
    write_json(tmp_path / "dataset.json", about)
    dataset = Dataset.open(tmp_path)
    assert [case.id for case in dataset.cases] == ["a", "b_12"]
    assert dataset.cases[0].channels["CT"].path.name == "a.nii.gz"


def test_labels_of_3d_slicer(tmp_path, write_json):
    write(tmp_path / "imagesTr" / "a_0000.nrrd", np.ones((2, 3, 4), np.uint8))
    write(tmp_path / "labelsTr" / "a.seg.nrrd", np.ones((2, 3, 4), np.uint8))
    write(tmp_path / "imagesTs" / "t_0000.nrrd", np.ones((2, 3, 4), np.uint8))
    write(tmp_path / "labelsTs" / "t.seg.nrrd", np.ones((2, 3, 4), np.uint8))
    about = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "x": 1}, "file_ending": ".nrrd"}
    write_json(tmp_path / "dataset.json", about)
    (case,) = Dataset.open(tmp_path).cases
    assert (case.id, case.label.name) == ("a", "a.seg.nrrd")
    (test,) = Dataset.open(tmp_path).labelled_test_cases
    assert (test.id, test.label.name) == ("t", "t.seg.nrrd")


@pytest.mark.parametrize("names", [[1], ["MRI"], {}, {"1": "MRI"}, "MRI", 3])
def test_channels_that_are_not_named_by_number(tmp_path, write_volume, write_json, names):
    write_volume(tmp_path / "imagesTr/a_0000.nrrd", np.ones((2, 3, 4), np.int16))
    with pytest.raises(AutosegError, match='"channel_names" must name the channels by number from 0 on'):
        Dataset.open(describe(tmp_path, write_json, channel_names=names))


def test_images_of_no_case_are_told(tmp_path, write_volume, write_json):
    """By names that are not like the others'; a label map without its image is said already, and so are results."""
    for name in ("imagesTr/a_0000", "imagesTs/t_0000", "imagesTs/neu", "imagesTs/neu2_001", "imagesTr/b", "imagesTr/c"):
        write_volume(tmp_path / f"{name}.nii.gz", np.random.default_rng(len(name)).normal(size=(2, 3, 4)))
    write_volume(tmp_path / "imagesTs/neu3.nii", np.ones((2, 3, 4), np.int16))
    write_volume(tmp_path / "imagesTs/t.nii.gz", np.ones((2, 3, 4), np.uint8))
    for name in ("a", "b"):
        write_volume(tmp_path / f"labelsTr/{name}.nii.gz", np.ones((2, 3, 4), np.uint8))
    write_json(tmp_path / "imagesTs" / "predictions.json", {"files": ["t.nii.gz"]})
    describe(tmp_path, write_json, channel_names={"0": "CT"}, file_ending=".nii.gz")
    dataset = Dataset.open(tmp_path)
    names = ["imagesTr/c.nii.gz", "imagesTs/neu.nii.gz", "imagesTs/neu2_001.nii.gz", "imagesTs/neu3.nii"]
    assert [path.relative_to(tmp_path).as_posix() for path in dataset.strays] == names
    (warning,) = [problem for problem in check(dataset, workers=1) if "belong" in problem.what]
    assert warning.severity == "warning"
    assert warning.what == f"4 images belong to no case, by their names: {', '.join(names[:3])} and 1 more"
    assert "strays" not in dataset.model_dump(), "a run keeps what it learned from, and studies know their data again"
    write_json(tmp_path / "dataset.json", {**read_json(tmp_path / "dataset.json"), "dataset": {}})
    assert [path.parent.name for path in nnunet.read(tmp_path).strays] == ["imagesTs"] * 3, "a list may leave some out"


def test_scans_of_a_test_set_with_a_training_case_s_name_are_told(tmp_path, write_volume, write_json):
    """They may be another patient's; a copy of the training case's scan is none."""
    rng = np.random.default_rng(0)
    volumes = {name: rng.normal(size=(2, 3, 4)) for name in ("a", "b", "other a", "t")}
    for name in ("a", "b"):
        write_volume(tmp_path / f"imagesTr/{name}_0000.nii.gz", volumes[name])
        write_volume(tmp_path / f"labelsTr/{name}.nii.gz", np.ones((2, 3, 4), np.uint8))
    for name, volume in (("a", "other a"), ("b", "b"), ("t", "t")):
        write_volume(tmp_path / f"imagesTs/{name}_0000.nii.gz", volumes[volume])
    describe(tmp_path, write_json, channel_names={"0": "CT"}, file_ending=".nii.gz")
    dataset = Dataset.open(tmp_path)
    assert [case.id for case in dataset.unlabelled] == ["t"]
    assert dataset.namesakes == (tmp_path / "imagesTs" / "a_0000.nii.gz",)
    (warning,) = [problem for problem in check(dataset, workers=1) if "training case" in problem.what]
    assert warning.severity == "warning"
    assert "1 images of the test set have the name of a training case" in warning.what
    assert "imagesTs/a_0000.nii.gz" in warning.what
