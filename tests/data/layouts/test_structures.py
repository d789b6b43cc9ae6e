import numpy as np
import pytest

from autoseg.data.checks import check
from autoseg.data.dataset import Dataset, load_case
from autoseg.utils.errors import AutosegError
from tests.builders import write

SCAN = np.random.default_rng(0).normal(0, 100, (4, 5, 6)).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    """Two cases with a liver and a spleen that do not touch, and one without masks."""
    for number, name in enumerate(("s0001", "s0002", "s0003")):
        write(tmp_path / name / "ct.nii.gz", SCAN + number)
        if number < 2:
            liver, spleen = np.zeros((2, *SCAN.shape), np.uint8)
            liver[0], spleen[2] = 1, 1
            write(tmp_path / name / "segmentations" / "liver.nii.gz", liver)
            write(tmp_path / name / "segmentations" / "spleen.nii.gz", spleen)
    return tmp_path


def test_masks_become_one_label_map(folder):
    dataset = Dataset.open(folder)
    assert dataset.layout == "structures"
    assert dataset.channels == ("ct",)
    assert dataset.modalities == {"ct": "CT"}
    assert dataset.labels == {"liver": 1, "spleen": 2}
    assert dataset.regions == {}
    assert [case.id for case in dataset.cases] == ["s0001", "s0002"]
    assert [case.id for case in dataset.unlabelled] == ["s0003"]
    label = load_case(dataset.cases[0], ["ct"]).label
    assert [int(label[z].max()) for z in range(4)] == [1, 0, 2, 0]
    assert check(dataset, workers=1) == []
    assert Dataset.model_validate_json(dataset.model_dump_json()) == dataset


def test_overlaps_become_regions(folder):
    spleen = np.zeros(SCAN.shape, np.uint8)
    spleen[0, 0] = 1
    write(folder / "s0002" / "segmentations" / "spleen.nii.gz", spleen)
    dataset = Dataset.open(folder)
    assert dataset.regions == {"liver": (1, 3), "spleen": (2, 3)}
    assert check(dataset, workers=1) == []


@pytest.mark.parametrize(
    ("earlier", "corrected"),
    [("ct.nii", "ct.nii.gz"), ("segmentations/liver.nii", "segmentations/liver.nii.gz"), ("ct.nii.gz", "CT.mha")],
)
def test_two_files_of_one_thing_are_refused(folder, earlier, corrected):
    """As a scan of before beside the corrected one; neither is picked without a word."""
    for name in (earlier, corrected):
        write(folder / "s0002" / name, SCAN if "ct" in earlier else (SCAN > 0).astype(np.uint8))
    with pytest.raises(AutosegError) as told:
        Dataset.open(folder)
    for name in ("case s0002", folder / "s0002" / earlier, folder / "s0002" / corrected, "the same thing twice"):
        assert str(name) in str(told.value)


@pytest.mark.parametrize("layout", [None, "structures"])
def test_masks_that_may_not_be_looked_for_are_named(folder, lock, layout):
    lock(folder / "s0002" / "segmentations")
    with pytest.raises(AutosegError, match="segmentations: you may not enter this folder"):
        Dataset.open(folder, layout)


def test_a_missing_mask_is_said(folder):
    (folder / "s0002" / "segmentations" / "spleen.nii.gz").unlink()
    (problem,) = check(Dataset.open(folder), workers=1)
    assert problem.severity == "warning"
    assert "1 of 2 cases have no mask of spleen" in problem.what


def test_a_label_map_among_the_masks_is_an_error_of_the_check(folder):
    write(folder / "s0002" / "segmentations" / "spleen.nii.gz", np.arange(120, dtype=np.uint8).reshape(SCAN.shape))
    (problem,) = check(Dataset.open(folder), workers=1)
    assert problem.case == "s0002"
    assert "a mask of one structure" in problem.what


def test_sites_above_the_cases(folder, tmp_path_factory):
    top = tmp_path_factory.mktemp("top")
    folder.rename(top / "siteA")
    assert [case.id for case in Dataset.open(top).cases] == ["siteA_s0001", "siteA_s0002"]
