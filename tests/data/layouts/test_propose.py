import numpy as np
import pytest

from autoseg.data.layouts.manifest import parse, read_described
from autoseg.data.layouts.propose import propose
from autoseg.utils.errors import AutosegError

SCAN = np.random.default_rng(0).normal(100, 30, (3, 4, 5)).astype(np.float32)
LABEL = np.random.default_rng(1).integers(0, 3, (3, 4, 5)).astype(np.uint8)


@pytest.fixture
def proposed(tmp_path, write_volume):
    """Write files (scan, or label where the name says so) and read them as proposed."""

    def make(*names, path=tmp_path):
        for name in names:
            is_label = any(word in name for word in ("seg", "label", "mask", "rater", "OTMulti"))
            array = LABEL if is_label else SCAN
            if name.endswith(".png"):
                array = np.clip(array[0], 0, 255).astype(np.uint8)
            write_volume(tmp_path / name, array)
        return read_described(path, parse(propose(path), path))

    return make


def test_case_folders_with_recurring_names(proposed):
    dataset = proposed(
        *(f"pat{i}/{name}.nii.gz" for i in (1, 2) for name in ("Flair_norm", "T1c_norm", "OTMultiClass", "brainmask"))
    )
    assert dataset.channels == ("flair", "t1c")
    assert [case.id for case in dataset.cases] == ["pat1", "pat2"]
    assert dataset.cases[0].label.name == "OTMultiClass.nii.gz"
    assert dataset.cases[0].mask.name == "brainmask.nii.gz"
    assert dataset.labels == {"label_1": 1, "label_2": 2}


def test_names_that_repeat_the_case_and_a_date(proposed):
    dataset = proposed(*(f"p{i}/p{i}_{kind}_2020010{i}.nii.gz" for i in (1, 2, 3) for kind in ("t1", "t1ce", "seg")))
    assert set(dataset.channels) == {"t1", "t1c"}
    assert dataset.case("p2").channels["t1"].path.name == "p2_t1_20200102.nii.gz", "t1 is not taken for t1ce"
    assert dataset.case("p2").label.name == "p2_seg_20200102.nii.gz"


def test_nested_case_folders(proposed):
    dataset = proposed(*(f"{site}/p{i}/{n}.nii.gz" for i, site in enumerate("ab") for n in ("t2", "seg")))
    assert [case.id for case in dataset.cases] == ["p0", "p1"]


def test_flat_files_with_a_common_ending(proposed):
    dataset = proposed("a_1_flair.nii.gz", "a_1_seg.nii.gz", "b_2_flair.nii.gz", "b_2_seg.nii.gz")
    assert dataset.channels == ("flair",)
    assert [case.id for case in dataset.cases] == ["a_1", "b_2"]


def test_folders_by_kind(proposed):
    dataset = proposed("images/001.png", "images/002.png", "masks/001.png", "masks/002.png")
    assert dataset.channels == ("image",)
    assert [case.id for case in dataset.cases] == ["001", "002"]
    assert dataset.cases[0].label.parent.name == "masks"


def test_one_exam_with_raters(proposed, tmp_path):
    names = ("t1.nii.gz", "flair.nii.gz", "seg_fused.nii.gz", "raters/one.nii.gz", "raters/two.nii.gz")
    dataset = proposed(*(f"exam/{name}" for name in names), path=tmp_path / "exam")
    (case,) = dataset.cases
    assert case.id == "exam"
    assert case.label.name == "seg_fused.nii.gz"
    assert set(case.raters) == {"one", "two"}


def test_images_only(proposed):
    dataset = proposed("scan_a.nii.gz", "other.nii.gz")
    assert dataset.channels == ("image",)
    assert len(dataset.unlabelled) == 2


def test_table(proposed, tmp_path):
    (tmp_path / "t.csv").write_text("age,exam,flair,segmentation\n60,e1,x/f.nii.gz,x/seg.nii.gz\n60,e2,y/f.nii.gz,\n")
    dataset = proposed("x/f.nii.gz", "x/seg.nii.gz", "y/f.nii.gz", path=tmp_path / "t.csv")
    assert [case.id for case in dataset.cases] == ["e1"]
    assert [case.id for case in dataset.unlabelled] == ["e2"]


def test_nothing_to_describe(tmp_path, proposed):
    with pytest.raises(AutosegError, match="no image files"):
        propose(tmp_path)
    with pytest.raises(AutosegError, match="neither a folder"):
        propose(tmp_path / "gone")
    with pytest.raises(AutosegError, match="looks like a label map"):
        proposed("a_seg.nii.gz", "b_seg.nii.gz")


def _nnunet(folder, names, channels):
    return [f"images{folder}/{name}_{number:04d}.nii.gz" for name in names for number in range(channels)]


def _decathlon(folder, names, channels):
    return [f"images{folder}/{name}.nii.gz" for name in names]


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("tested", [1, 3])
@pytest.mark.parametrize(("named", "channels"), [(_nnunet, 1), (_nnunet, 2), (_decathlon, 1)])
def test_a_test_set_is_no_channel(proposed, tmp_path, named, channels, tested, labelled):
    """Folders of nnU-Net and of the Decathlon whose dataset.json was lost; ``labelsTs`` are no rater's."""
    train, test = ([f"{part}_{number:03d}" for number in range(count)] for part, count in (("c", 3), ("t", tested)))
    labels = [f"labelsTr/{name}.nii.gz" for name in train]
    labels += [f"labelsTs/{name}.nii.gz" for name in test if labelled]
    dataset = proposed(*named("Tr", train, channels), *named("Ts", test, channels), *labels)
    assert len(dataset.channels) == channels
    assert [case.id for case in dataset.cases] == train
    assert dataset.unlabelled == ()
    assert {file.path.parent.name for case in dataset.cases for file in case.channels.values()} == {"imagesTr"}
    assert {case.label.parent.name for case in dataset.cases} == {"labelsTr"}
    assert all(len(case.channels) == channels and not case.raters for case in dataset.cases)
    text = propose(tmp_path)
    assert "looks like nnU-Net raw data (or a Decathlon task) without its dataset.json" in text
    assert "# Left out as a test set, whose cases are not learned from: imagesTs/" in text


#: Places of scans and label maps, with words for the parts, of which the last is the test set's.
PARTS = [
    ("{part}/images/{case}.nii.gz", "{part}/labels/{case}.nii.gz", ("train", "val", "test")),
    ("{part}/images/{case}.nii.gz", "{part}/masks/{case}_mask.nii.gz", ("Training", "Validation", "Test")),
    ("images/{part}/{case}.nii.gz", "labels/{part}/{case}.nii.gz", ("train", "valid", "test")),
    ("images_{part}/{case}.nii.gz", "labels_{part}/{case}.nii.gz", ("train", "dev", "test")),
    ("images{part}/{case}.nii.gz", "labels{part}/{case}.nii.gz", ("Tr", "Val", "Ts")),
    ("{part}/{case}_flair.nii.gz", "{part}/{case}_seg.nii.gz", ("train", "val", "test")),
]


def _in_parts(scan, label, words, cases, labelled=(True, True, True)):
    names = []
    for part, found, drawn in zip(words, cases, labelled, strict=True):
        for kind in (scan, label) if drawn else (scan,):
            names += [kind.format(part=part, case=case) for case in found]
    return names


@pytest.mark.parametrize("tested", [False, True])
@pytest.mark.parametrize("validated", [1, 3])
@pytest.mark.parametrize(("scan", "label", "words"), PARTS)
def test_validation_cases_are_cases_like_the_others(proposed, tmp_path, scan, label, words, validated, tested):
    """Neither further channels nor a second rater's label maps; a test set stays one."""
    learned, others = ["c1", "c2", "c3", "c4"], [f"v{number}" for number in range(validated)]
    dataset = proposed(*_in_parts(scan, label, words, (learned, others, ["x1", "x2"]), (True, True, tested)))
    assert len(dataset.channels) == 1
    assert [case.id for case in dataset.cases] == [*learned, *others]
    assert dataset.unlabelled == ()
    for case in dataset.cases:
        part = words[0] if case.id in learned else words[1]
        assert not case.raters
        assert all(part in path.relative_to(tmp_path).as_posix() for path in case.files)


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize(("scan", "label", "words"), PARTS)
def test_validation_cases_that_are_called_like_training_cases(proposed, tmp_path, scan, label, words, labelled):
    """Each part numbers its cases from 1 on; a test set's are left out all the same."""
    numbered = [[f"{number:03d}" for number in range(1, count + 1)] for count in (5, 2, 2)]
    dataset = proposed(*_in_parts(scan, label, words, numbered, (True, labelled, True)))
    learned = [f"{words[0]}_001", f"{words[0]}_002", "003", "004", "005"]
    validated = [f"{words[1]}_001", f"{words[1]}_002"]
    assert len(dataset.channels) == 1
    assert sorted(case.id for case in dataset.cases) == sorted([*learned, *(validated if labelled else [])])
    assert [case.id for case in dataset.unlabelled] == ([] if labelled else validated)
    for case in (*dataset.cases, *dataset.unlabelled):
        part = words[0] if case.id in learned else words[1]
        assert not case.raters
        assert all(part in path.relative_to(tmp_path).as_posix() for path in case.files)


def test_scans_of_other_cases_than_the_labels(proposed):
    """Whatever their folder is called; a scan that only some labelled cases have is a channel."""
    names = [f"{folder}/{name}.nii.gz" for folder in ("mr", "labels") for name in ("a", "b", "c")]
    dataset = proposed(*names, "ct/b.nii.gz", "ct/d.nii.gz", "new/e.nii.gz", "new/f.nii.gz")
    assert dataset.channels == ("ct", "mr")
    assert [case.id for case in dataset.cases] == ["a", "b", "c"]
    assert [case.id for case in dataset.unlabelled] == ["d"]


def test_a_folder_of_tests_alone_is_what_there_is(proposed):
    dataset = proposed(*(f"test/{kind}/{name}.png" for kind in ("images", "masks") for name in ("a", "b")))
    assert [case.id for case in dataset.cases] == ["a", "b"]
    assert dataset.channels == ("image",)
