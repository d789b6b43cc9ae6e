import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.data.checks import check
from autoseg.data.dataset import Dataset
from autoseg.data.layouts.layout import datasets_below, recognise_layout
from autoseg.data.layouts.propose import propose
from autoseg.runs.splits import make_splits
from autoseg.utils.errors import AutosegError, UsageError
from tests.builders import write

RNG = np.random.default_rng(0)


def scan():
    return RNG.normal(100, 20, (3, 4, 5)).astype(np.float32)


def labels(most, shape=(3, 4, 5)):
    return RNG.integers(0, most + 1, shape).astype(np.uint8)


@pytest.fixture
def planning(tmp_path):
    """Planning scans: organs, and targets that are a label map without a word for it."""
    for name in ("train_pt_1", "train_pt_2", "test_pt_1"):
        write(tmp_path / name / "ct.nii.gz", scan())
        write(tmp_path / name / "seg.nii.gz", labels(7))
        write(tmp_path / name / "ptv.nii.gz", labels(3))
    return tmp_path


def test_a_second_label_map_is_no_channel(planning):
    dataset = Dataset.open(planning)
    assert dataset.layout == "proposed"
    assert dataset.channels == ("ct",)
    assert len(dataset.cases) == 3
    assert {case.label.name for case in dataset.cases} == {"seg.nii.gz"}
    assert "--label ptv" in propose(planning)


def test_the_second_label_map_may_be_chosen(planning):
    dataset = Dataset.open(planning, choices={"label": "ptv"})
    assert {case.label.name for case in dataset.cases} == {"ptv.nii.gz"}
    assert dataset.channels == ("ct",)
    with pytest.raises(UsageError, match="--label x is none of the label maps"):
        Dataset.open(planning, choices={"label": "x"})
    with pytest.raises(UsageError, match="--label ct"):
        Dataset.open(planning, choices={"label": "ct"})


@pytest.fixture
def eyes(tmp_path):
    """Three people's eyes with vessels by two observers who mostly agree, one file with alpha."""
    drawn = np.zeros((20, 20), np.uint8)
    drawn[5:12] = 255
    for name in ("Image_01L", "Image_01R", "Image_02L", "Image_02R", "Image_03L"):
        colours = RNG.integers(0, 255, (20, 20, 4 if name == "Image_03L" else 3)).astype(np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(colours, isVector=True), str(tmp_path / f"{name}.png"))
        for who in ("1stHO", "2ndHO"):
            write(tmp_path / f"{name}_{who}.png", drawn)
    return tmp_path


def test_pictures_with_two_observers(eyes):
    dataset = Dataset.open(eyes)
    assert dataset.channels == ("red", "green", "blue")
    assert dataset.labels == {"foreground": 255}
    assert [(p.severity, p.what) for p in check(dataset, workers=1)] == [
        ("warning", "the pictures of 1 of 5 cases hold an alpha channel, which is left out")
    ]
    assert set(dataset.cases[0].raters) == {"1stho", "2ndho"}
    assert len({case.group for case in dataset.cases}) == 3
    for split in make_splits(dataset, 3):
        sides = [{name[:-1] for name in part} for part in split.values()]
        assert sides[0].isdisjoint(sides[1])


def test_sites_are_one_dataset(tmp_path):
    for site, name in (("ge", "S1"), ("ge", "S2"), ("philips", "S3"), ("philips", "S4"), ("siemens", "S1")):
        write(tmp_path / site / name / "t1.nii.gz", scan())
        write(tmp_path / site / name / "mask.nii.gz", labels(1))
    dataset = Dataset.open(tmp_path)
    assert len(dataset.cases) == 5
    assert "ge_S1" in {case.id for case in dataset.cases}, "two sites have an S1"
    assert datasets_below(tmp_path) == []


def test_validation_cases_beside_training_cases_are_one_dataset(tmp_path):
    for part, names in (("train", "abc"), ("val", "de"), ("test", "xy")):
        for name in names:
            write(tmp_path / part / "images" / f"{name}.nii.gz", scan())
            write(tmp_path / part / "labels" / f"{name}.nii.gz", labels(1))
    assert datasets_below(tmp_path) == []
    dataset = Dataset.open(tmp_path)
    assert dataset.channels == ("image",)
    assert [case.id for case in dataset.cases] == ["a", "b", "c", "d", "e"]
    assert check(dataset, workers=1) == []
    assert 'image = "{train,val}/images/{id}.nii.gz"' in propose(tmp_path)


def test_folders_of_other_labels_are_several_datasets(planning, tmp_path_factory):
    top = tmp_path_factory.mktemp("top")
    planning.rename(top / "organs")
    for name in ("a", "b"):
        write(top / "tumors" / name / "t1.nii.gz", scan())
        write(top / "tumors" / name / "mask.nii.gz", labels(1))
    assert recognise_layout(top) is None
    with pytest.raises(AutosegError, match=r"holds several datasets.*organs \(proposed\), tumors \(proposed\)"):
        Dataset.open(top)


def test_masks_of_other_places_are_structures(tmp_path):
    for name in ("a1", "b2"):
        left, right = np.zeros((2, 3, 4, 5), np.uint8)
        left[0], right[2] = 1, 1
        write(tmp_path / name / "ct.nii.gz", scan())
        write(tmp_path / name / "liver_mask.nii.gz", left)
        write(tmp_path / name / "spleen_mask.nii.gz", right)
    assert Dataset.open(tmp_path).labels == {"liver": 1, "spleen": 2}


def test_segments_of_3d_slicer_have_names(tmp_path):
    for name in ("p1", "p2"):
        write(tmp_path / f"{name}.nrrd", scan())
        segments = sitk.GetImageFromArray(labels(2))
        for number, segment in enumerate(("Tumor [core]", "Edema")):
            segments.SetMetaData(f"Segment{number}_Name", segment)
            segments.SetMetaData(f"Segment{number}_LabelValue", str(number + 1))
        sitk.WriteImage(segments, str(tmp_path / f"{name}.seg.nrrd"))
    dataset = Dataset.open(tmp_path)
    assert dataset.labels == {"Tumor [core]": 1, "Edema": 2}
    assert [case.id for case in dataset.cases] == ["p1", "p2"]


def test_several_words_of_a_kind(tmp_path):
    for name in ("p1", "p2"):
        for kind, array in (("t2W", scan()), ("T1_post", scan()), ("tumor_mask", labels(1))):
            write(tmp_path / f"{name}_{kind}.nii.gz", array)
    dataset = Dataset.open(tmp_path)
    assert [case.id for case in dataset.cases] == ["p1", "p2"]
    assert set(dataset.channels) == {"t2", "t1c"}
    assert dataset.cases[0].label.name == "p1_tumor_mask.nii.gz"


@pytest.mark.parametrize(("native", "enhanced"), [("T1_ax_pre", "T1_ax_post"), ("t1_mprage", "t1_mprage_km")])
def test_native_and_enhanced_scans_are_told_apart(tmp_path, native, enhanced):
    for name in ("p1", "p2"):
        for kind, array in ((native, scan()), (enhanced, scan()), ("seg", labels(1))):
            write(tmp_path / name / f"{kind}.nii.gz", array)
    files = {name: file.path.name for name, file in Dataset.open(tmp_path).cases[0].channels.items()}
    assert files == {"t1": f"{native}.nii.gz", "t1c": f"{enhanced}.nii.gz"}


def test_a_stray_picture_makes_no_channels_of_case_folders(planning):
    before = Dataset.open(planning)
    write(planning / "overview.png", RNG.integers(0, 255, (20, 20)).astype(np.uint8))
    assert Dataset.open(planning) == before
    assert "# Left out, as few cases have them: overview.png." in propose(planning)


def test_scans_beside_folders_of_several_people(tmp_path):
    for name in ("p1", "p2"):
        write(tmp_path / f"{name}.nii.gz", scan())
        for who in ("rater1", "rater2", "rater3"):
            write(tmp_path / who / f"{name}_seg.nii.gz", labels(2))
    dataset = Dataset.open(tmp_path)
    assert [case.id for case in dataset.cases] == ["p1", "p2"]
    assert len(dataset.cases[0].raters) == 3


def test_a_label_map_whose_name_is_part_of_another(tmp_path):
    for name in ("p1", "p2"):
        for kind, array in (("ct", scan()), ("seg", labels(2)), ("tumor_seg", labels(3))):
            write(tmp_path / name / f"{name}_{kind}.nii.gz", array)
    for chosen in ("seg", "tumor_seg"):
        dataset = Dataset.open(tmp_path, choices={"label": chosen})
        assert {case.label.name for case in dataset.cases} == {f"p{i}_{chosen}.nii.gz" for i in (1, 2)}


def test_results_in_the_datasets_folder_are_no_part_of_it(planning, write_json):
    before = Dataset.open(planning)
    for case in before.cases:
        write(planning / "results" / f"{case.id}.nii.gz", labels(1))
    write_json(planning / "results" / "predictions.json", {"files": [f"{case.id}.nii.gz" for case in before.cases]})
    assert Dataset.open(planning) == before


def test_linked_and_unfetched_files(tmp_path):
    for number in range(9):
        for kind, array in (("images", scan()), ("labels", labels(1))):
            path = tmp_path / "data" / kind / f"c{number}.nii.gz"
            if number > 5:  # git-annex' links to files that were not fetched come first
                write(tmp_path / "elsewhere" / kind / f"c{number}.nii.gz", array)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.symlink_to(tmp_path / "annex" / f"{number}.nii.gz")
    for kind in ("images", "labels"):
        for file in (tmp_path / "elsewhere" / kind).iterdir():
            (tmp_path / "data" / kind / file.name).symlink_to(file)
    dataset = Dataset.open(tmp_path / "data")
    assert dataset.channels == ("image",)
    assert len(dataset.cases) == 9
    broken = {problem.case for problem in check(dataset, workers=1) if problem.severity == "error"}
    assert broken == {f"c{number}" for number in range(6)}


def test_linked_case_folders(tmp_path):
    for name in ("a", "b", "c"):
        for kind, array in (("ct", scan()), ("seg", labels(1))):
            write(tmp_path / "elsewhere" / name / f"{kind}.nii.gz", array)
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / name).symlink_to(tmp_path / "elsewhere" / name)
    assert [case.id for case in Dataset.open(tmp_path / "data").cases] == ["a", "b", "c"]


@pytest.mark.parametrize("locked", ["p1", "p1/scans", "p1/scans/raw/deep", "images"])
def test_a_folder_that_may_not_be_entered_is_named(tmp_path, lock, locked):
    for name in ("p1", "p2", "p3"):
        write(tmp_path / "cases" / name / "scans" / "ct.nii.gz", scan())
        write(tmp_path / "cases" / name / "scans" / "seg.nii.gz", labels(1))
        (tmp_path / "cases" / name / "scans" / "raw" / "deep").mkdir(parents=True)
        write(tmp_path / "kinds" / "images" / f"{name}.nii.gz", scan())
        write(tmp_path / "kinds" / "masks" / f"{name}.nii.gz", labels(1))
    root = tmp_path / ("kinds" if locked == "images" else "cases")
    assert len(Dataset.open(root).cases) == 3
    lock(root / locked)
    with pytest.raises(AutosegError, match=f"{root / locked}: you may not enter this folder"):
        Dataset.open(root)


def test_folders_of_label_maps_or_scans_are_no_dataset(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / "labels" / f"{name}.nii.gz", labels(2))
        write(tmp_path / "scans" / f"{name}.nii.gz", scan())
    assert recognise_layout(tmp_path / "labels") is None
    assert recognise_layout(tmp_path / "scans") is None
    assert recognise_layout(tmp_path) == "proposed"


def test_names_in_other_case_and_with_another_ending_are_one_channel(tmp_path):
    for number, (ct, seg) in enumerate(
        [("ct.nii.gz", "seg.nii.gz"), ("ct.nii", "seg.nii"), ("CT.nii.gz", "Seg.nii.gz"), ("ct.nii.gz", "seg.nii")]
    ):
        write(tmp_path / f"p{number}" / ct, scan())
        write(tmp_path / f"p{number}" / seg, labels(1))
        (tmp_path / f"p{number}" / "ct.nii.gz.part").touch()
    dataset = Dataset.open(tmp_path)
    assert dataset.channels == ("ct",)
    assert [set(case.channels) for case in dataset.cases] == [{"ct"}] * 4
    assert not any(case.raters for case in dataset.cases)


def test_flat_names_in_other_case_are_one_channel(tmp_path):
    for name in ("p1_CT.nii.gz", "p2_ct.nii", "p3_ct.nii.gz"):
        write(tmp_path / name, scan())
    for name in ("p1_gtv.nii.gz", "p2_GTV.nii", "p3_gtv.nii.gz"):
        write(tmp_path / name, labels(1))
    dataset = Dataset.open(tmp_path)
    assert dataset.channels == ("ct",)
    assert [case.id for case in dataset.cases] == ["p1", "p2", "p3"]
    assert [set(case.channels) for case in dataset.cases] == [{"ct"}] * 3


def test_two_spellings_in_one_case_stay_two_channels(tmp_path):
    for name in ("p1", "p2"):
        for kind in ("t1.nii.gz", "T1.nii.gz", "seg.nii.gz"):
            write(tmp_path / name / kind, labels(2) if "seg" in kind else scan())
    assert len(Dataset.open(tmp_path).channels) == 2


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "channels", "cases", "patients"),
    [
        ("headneck_ct", ("ct",), 34, 34),
        ("sarcoma", ("t1",), 26, 26),
        ("retina", ("red", "green", "blue"), 20, 10),
    ],
)
def test_real_folders(real_data, name, channels, cases, patients):
    dataset = Dataset.open(real_data(name))
    assert dataset.channels == channels
    assert len(dataset.cases) == cases
    assert len({case.patient for case in dataset.cases}) == patients
