from pathlib import Path

import numpy as np
import pytest

from autoseg.data.dataset import Dataset
from autoseg.data.layouts.case_names import exams_in, kinds_of, without_exam
from tests.builders import write

RNG = np.random.default_rng(0)


def kinds(*names):
    """Case and kind of each name, as parted among all of them."""
    paths = [Path(f"{name}.nii.gz") for name in names]
    found = kinds_of(paths)
    exams = exams_in(found)
    told = {name: without_exam(found[path], exams) for name, path in zip(names, paths, strict=True)}
    return {name: (Path(name).name.removesuffix(kind), kind) for name, kind in told.items()}


def both(*names):
    return [f"{folder}/{name}" for folder in ("images", "labels") for name in names]


@pytest.mark.parametrize(
    "names",
    [
        both(*(f"{site}_{number:04d}" for site in ("UKA", "UKB") for number in range(1, 6))),
        both(*(f"{site}_{number:04d}" for site in ("UKA", "UKB") for number in range(3))),
        both(*(f"case_{number:04d}" for number in range(4))),
        both(*(f"p{patient}_s{number}" for patient in (1, 2) for number in (1, 2, 3))),
        both("p1_L", "p1_R", "p2_L", "p2_R"),
        [f"case_{number:04d}" for number in range(4)],
    ],
    ids=["sites from 1", "sites from 0", "one prefix", "slices", "sides", "scans alone"],
)
def test_a_number_of_the_case_is_no_kind(names):
    assert kinds(*names) == {name: (Path(name).name, "") for name in names}


@pytest.mark.parametrize("suffix", ["", "_n4"])
def test_numbers_from_0000_on_are_channels(suffix):
    names = [f"{case}_{channel:04d}{suffix}" for case in ("a_1", "b_2") for channel in (0, 1)]
    assert {kind for _, kind in kinds(*names).values()} == {f"_0000{suffix}", f"_0001{suffix}"}


def test_numbers_are_channels_where_other_files_name_the_case():
    one = ["images/P1_0000", "images/P1_0001", "labels/P1"]
    assert kinds(*one) == {one[0]: ("P1", "_0000"), one[1]: ("P1", "_0001"), one[2]: ("P1", "")}
    lacking = ["images/P1_0000", "images/P1_0002", "images/P2_0002", "labels/P1", "labels/P2"]
    assert [case for case, _ in kinds(*lacking).values()] == ["P1", "P1", "P2", "P1", "P2"]
    flat = ["P1_0000", "P1_0001", "P1_seg"]
    assert {case for case, _ in kinds(*flat).values()} == {"P1"}


def test_numbers_of_case_and_channel():
    names = [*(f"images/FLARE22_Tr_{i:04d}_0000" for i in range(3)), *(f"labels/FLARE22_Tr_{i:04d}" for i in range(3))]
    found = kinds(*names)
    assert {kind for _, kind in found.values()} == {"_0000", ""}
    assert {case for case, _ in found.values()} == {f"FLARE22_Tr_{i:04d}" for i in range(3)}


def test_a_number_before_words_is_the_case_where_scan_and_label_share_it():
    names = [f"{site}_{i:04d}_{kind}" for site in ("A", "B") for i in range(3) for kind in ("ct", "seg")]
    assert {case for case, _ in kinds(*names).values()} == {f"{site}_{i:04d}" for site in ("A", "B") for i in range(3)}


def test_exams_with_a_label_map_each_are_cases():
    names = [f"P{i}_{when}_{kind}" for i in range(2) for when in ("pre", "post") for kind in ("flair", "seg")]
    assert {case for case, _ in kinds(*names).values()} == {"P0_pre", "P0_post", "P1_pre", "P1_post"}


@pytest.mark.parametrize(
    "kinds_of_a_case",
    [
        ("pre_T1", "post_T1", "seg"),
        ("T1_pre", "T1_post", "seg"),
        ("t1_img", "t1_seg", "t2_img", "t2_seg"),
        ("ct", "ct_seg", "mr", "mr_seg"),
        ("pre_T1", "pre_mask", "post_T1", "post_mask", "tumor_seg"),
    ],
)
def test_sequences_are_no_exams(kinds_of_a_case):
    names = [f"P{i}_{kind}" for i in range(2) for kind in kinds_of_a_case]
    assert {case for case, _ in kinds(*names).values()} == {"P0", "P1"}


def test_exams_of_a_patient_are_read_as_such(tmp_path):
    for case in ("P0_pre", "P0_post", "P1_pre", "P1_post"):
        write(tmp_path / f"{case}_flair.nii.gz", RNG.normal(100, 20, (3, 4, 5)).astype(np.float32))
        write(tmp_path / f"{case}_seg.nii.gz", RNG.integers(0, 2, (3, 4, 5)).astype(np.uint8))
    dataset = Dataset.open(tmp_path)
    assert dataset.channels == ("flair",)
    assert {case.id: case.patient for case in dataset.cases} == {
        "P0_pre": "P0",
        "P0_post": "P0",
        "P1_pre": "P1",
        "P1_post": "P1",
    }
