import numpy as np
import pytest

from autoseg.data.checks import check
from autoseg.data.dataset import Dataset, load_case
from autoseg.utils.errors import AutosegError, UsageError
from tests.builders import write

RNG = np.random.default_rng(0)


def scan():
    return RNG.normal(100, 20, (4, 6, 6)).astype(np.float32)


def mask(rows):
    found = np.zeros((4, 6, 6))
    found[:, :rows] = 1
    return found


@pytest.fixture
def folder(tmp_path):
    """Cord and grey matter of three subjects, one of them in two sessions, whose masks are floats."""
    for name in ("sub-1Ses1", "sub-1Ses2", "sub-2", "sub-3"):
        stem = f"{name}_run-1_T2starw"
        write(tmp_path / name / "anat" / f"{stem}.nii.gz", scan())
        if name != "sub-3":
            labels = tmp_path / "derivatives" / "labels" / name / "anat"
            write(labels / f"{stem}_seg-manual.nii.gz", mask(4))
            write(labels / f"{stem}_gmseg-manual.nii.gz", mask(2))
    return tmp_path


def test_suffixes_are_channels_and_masks_nested_regions(folder):
    dataset = Dataset.open(folder)
    assert dataset.layout == "bids"
    assert dataset.channels == ("T2starw",)
    assert [case.id for case in dataset.cases] == ["sub-1Ses1", "sub-1Ses2", "sub-2"]
    assert [case.id for case in dataset.unlabelled] == ["sub-3"]
    assert [case.group for case in dataset.cases] == ["sub-1", "sub-1", ""]
    assert set(dataset.regions["grey_matter"]) < set(dataset.regions["cord"])
    label = load_case(dataset.cases[0], ["T2starw"]).label
    np.testing.assert_array_equal(np.isin(label, dataset.regions["cord"]), mask(4) > 0)
    np.testing.assert_array_equal(np.isin(label, dataset.regions["grey_matter"]), mask(2) > 0)
    assert check(dataset, workers=1) == []


def test_one_of_the_masks_may_be_chosen(folder):
    dataset = Dataset.open(folder, choices={"label": "gmseg"})
    assert dataset.labels == {"gmseg": 1}
    with pytest.raises(UsageError, match="--label x is none of the label maps there: gmseg, seg"):
        Dataset.open(folder, choices={"label": "x"})


@pytest.mark.parametrize(
    "name",
    [
        "sub-2/anat/sub-2_run-1_T2starw",
        "derivatives/labels/sub-2/anat/sub-2_run-1_T2starw_seg-manual",
        "derivatives/labels/sub-2/anat/sub-2_run-1_T2starw_desc-brain_mask",
    ],
)
def test_two_formats_of_one_thing_are_refused(folder, name):
    for ending in (".nii", ".nii.gz"):
        write(folder / f"{name}{ending}", mask(4))
    both = rf"{name}\.nii and .*{name}\.nii\.gz are the same thing twice"
    with pytest.raises(AutosegError, match=rf"case sub-2(_run-1)?: .*{both}"):
        Dataset.open(folder)


def test_the_first_of_several_pipelines_counts(folder):
    name = "sub-2_run-1_T2starw_seg-manual.nii.gz"
    write(folder / "derivatives" / "other" / "sub-2" / "anat" / name, mask(1))
    label = next(case.label for case in Dataset.open(folder).cases if case.id == "sub-2")
    assert label.masks["cord"].parts[-4] == "labels"


def test_sessions_runs_and_a_table_of_labels(tmp_path):
    for session in ("1", "2"):
        for kind in ("T1w", "FLAIR"):
            name = f"sub-01_ses-{session}_{kind}.nii.gz"
            write(tmp_path / "sub-01" / f"ses-{session}" / "anat" / name, scan())
        folder = tmp_path / "derivatives" / "manual" / "sub-01" / f"ses-{session}" / "anat"
        label = RNG.integers(0, 3, (4, 6, 6)).astype(np.uint8)
        write(folder / f"sub-01_ses-{session}_space-T1w_desc-tissue_dseg.nii.gz", label)
        (folder / f"sub-01_ses-{session}_space-T1w_desc-tissue_dseg.tsv").write_text("index\tname\n1\tGM\n2\tWM\n")
    dataset = Dataset.open(tmp_path)
    assert dataset.channels == ("FLAIR", "T1w")
    assert dataset.labels == {"GM": 1, "WM": 2}
    assert [case.id for case in dataset.cases] == ["sub-01_ses-1", "sub-01_ses-2"]
    assert {case.group for case in dataset.cases} == {"sub-01"}


def test_a_channel_on_another_grid_is_left_out_and_said(folder, capsys):
    for name in ("sub-1Ses1", "sub-2"):
        write(folder / name / "anat" / f"{name}_T1w.nii.gz", RNG.normal(size=(3, 3, 3)).astype(np.float32))
    assert Dataset.open(folder).channels == ("T2starw",)
    assert "T1w: left out" in capsys.readouterr().err


def test_without_label_maps_no_channel_is_left_out(tmp_path, capsys):
    """Scans as they come: each on its own grid, and one subject with T2w only."""
    for name, kinds in (("sub-1", {"T1w": (4, 6, 6), "T2w": (3, 3, 3)}), ("sub-2", {"T2w": (3, 3, 3)})):
        for kind, shape in kinds.items():
            image = RNG.normal(size=shape).astype(np.float32)
            write(tmp_path / name / "anat" / f"{name}_{kind}.nii.gz", image)
    dataset = Dataset.open(tmp_path)
    assert dataset.channels == ("T1w", "T2w")
    found = {case.id: {name: file.path.name for name, file in case.channels.items()} for case in dataset.unlabelled}
    assert found == {
        "sub-1": {"T1w": "sub-1_T1w.nii.gz", "T2w": "sub-1_T2w.nii.gz"},
        "sub-2": {"T2w": "sub-2_T2w.nii.gz"},
    }
    assert "left out" not in capsys.readouterr().err


def test_the_contrast_agent_is_told_whether_native_scans_lie_beside_or_not(tmp_path):
    enhanced, native = "acq-3d_ce-gadolinium_T1w", "T1w"
    for number, (kinds, channels) in enumerate(
        (
            ([enhanced], ("ce-gadolinium_T1w",)),
            ([native], ("T1w",)),
            ([enhanced, native], ("T1w", enhanced)),
            (["acq-3d_T1w"], ("T1w",)),
        )
    ):
        root = tmp_path / str(number)
        for kind in kinds:
            write(root / "sub-1" / "anat" / f"sub-1_{kind}.nii.gz", scan())
        assert Dataset.open(root).channels == channels


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("space-MNI_label-L_desc-T1lesion_mask", "L_desc-T1lesion"),
        ("dseg", "dseg"),
        ("T1w_seg", "seg"),
        ("msk", "msk"),
    ],
)
def test_label_maps_beside_the_scans(tmp_path, name, label):
    """ATLAS 2 has them in the subjects' own folders."""
    for subject in ("sub-1", "sub-2"):
        write(tmp_path / subject / "ses-1" / "anat" / f"{subject}_ses-1_T1w.nii.gz", scan())
        write(tmp_path / subject / "ses-1" / "anat" / f"{subject}_ses-1_{name}.nii.gz", mask(2).astype(np.uint8))
    dataset = Dataset.open(tmp_path)
    assert dataset.channels == ("T1w",)
    assert dataset.labels == {label: 1}
    assert len(dataset.cases) == 2


def test_masks_beside_the_scans_are_no_labels_where_derivatives_hold_some(folder):
    for name in ("sub-1Ses1", "sub-2"):
        write(folder / name / "anat" / f"{name}_run-1_mask.nii.gz", mask(5).astype(np.uint8))
        write(folder / name / "anat" / f"{name}_run-1_desc-brain_mask.nii.gz", mask(5).astype(np.uint8))
    dataset = Dataset.open(folder)
    assert set(dataset.regions) == {"cord", "grey_matter"}
    assert dataset.channels == ("T2starw",)
    assert dataset.case("sub-2").mask.name == "sub-2_run-1_desc-brain_mask.nii.gz"


def test_label_maps_in_the_folder_of_a_session(tmp_path, capsys):
    """ISLES 2022: nothing in the name tells which scan they were drawn on, but their grid does."""
    for subject in ("sub-1", "sub-2"):
        stem = f"{subject}_ses-1"
        for kind in ("dwi", "adc"):
            write(tmp_path / subject / "ses-1" / "dwi" / f"{stem}_{kind}.nii.gz", scan())
        write(tmp_path / subject / "ses-1" / "anat" / f"{stem}_FLAIR.nii.gz", np.ones((9, 9, 9), np.float32))
        write(tmp_path / "derivatives" / subject / "ses-1" / f"{stem}_msk.nii.gz", mask(2).astype(np.uint8))
    dataset = Dataset.open(tmp_path)
    assert dataset.channels == ("adc", "dwi")
    assert "FLAIR: left out" in capsys.readouterr().err
    assert [case.label.name for case in dataset.cases] == ["sub-1_ses-1_msk.nii.gz", "sub-2_ses-1_msk.nii.gz"]


def test_scans_without_a_run_are_of_every_run(tmp_path):
    for name in ("sub-1_run-1_T1w", "sub-1_run-2_T1w", "sub-1_FLAIR", "sub-2_T1w", "sub-2_FLAIR", "sub-3_T1w"):
        write(tmp_path / name[:5] / "anat" / f"{name}.nii.gz", scan())
    write(tmp_path / "sub-3" / "anat" / "sub-3_run-2_T1w.nii.gz", scan())
    found = {
        case.id: {n: file.path.name for n, file in case.channels.items()} for case in Dataset.open(tmp_path).unlabelled
    }
    assert found == {
        "sub-1_run-1": {"T1w": "sub-1_run-1_T1w.nii.gz", "FLAIR": "sub-1_FLAIR.nii.gz"},
        "sub-1_run-2": {"T1w": "sub-1_run-2_T1w.nii.gz", "FLAIR": "sub-1_FLAIR.nii.gz"},
        "sub-2": {"T1w": "sub-2_T1w.nii.gz", "FLAIR": "sub-2_FLAIR.nii.gz"},
        "sub-3": {"T1w": "sub-3_T1w.nii.gz"},
        "sub-3_run-2": {"T1w": "sub-3_run-2_T1w.nii.gz"},
    }


@pytest.mark.data
def test_spinal_cord(real_data):
    dataset = Dataset.open(real_data("spinal_cord"))
    assert len(dataset.cases) == 8
    assert len({case.patient for case in dataset.cases}) == 6
    assert set(dataset.regions["grey_matter"]) < set(dataset.regions["cord"])
