"""Names of sequences and structures: what the challenges call them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.data.names import channel_key, output_key, pair, sequence_in


@pytest.mark.parametrize(
    "same",
    [
        ("t1c", "T1ce", "t1gd", "T1-Gd", "t1_post", "T1 km", "ce-gadolinium_T1w"),
        ("flair", "t2f", "FLAIR", "T2-FLAIR"),
        ("t1", "t1n", "T1w"),
        ("t2", "t2w"),
    ],
)
def test_one_sequence_of_many_names(same: tuple[str, ...]) -> None:
    assert {channel_key(name) for name in same} == {same[0]}


def test_different_sequences() -> None:
    assert len({channel_key(name) for name in ("t1", "t1c", "t2", "flair", "adc", "MRI", "0", "1")}) == 8
    assert channel_key("--") == "--"
    assert len({channel_key(name) for name in ("ce-gadolinium_T1w", "T1w", "ce-gadolinium_FLAIR", "FLAIR")}) == 4


def test_the_sequence_in_a_files_name() -> None:
    told = {
        "p1_T1_Gd": "t1c",
        "sub-01_ses-2_T1w": "t1",
        "sub-01_ce-gadolinium_T1w": "t1c",
        "sub-01_ce-gadolinium_T2w": "t2",
        "once-more_T1w": "t1",
        "scan": None,
        "t1_mprage_km": "t1c",
        "T1_MPR_Gd": "t1c",
        "T1_ax_post": "t1c",
        "post_T1": "t1c",
        "ce_t1": "t1c",
        "Gd_T1w": "t1c",
        "postcontrast_T1": "t1c",
        "T1wCE_reg": "t1c",
        "T1_ax_pre": "t1",
        "t1_mprage": "t1",
        "T1_postop": "t1",
        "t1_without_contrast": "t1",
        "t1_with_and_without_contrast": "t1",
        "T2_post": "t2",
    }
    assert {name: sequence_in(name) for name in told} == told


@pytest.mark.parametrize(
    "same",
    [
        ("whole_tumor", "WT", "Whole Tumour"),
        ("tumor_core", "TC", "tumour core"),
        ("enhancing_tumor", "ET", "enhancing"),
        ("edema", "oedema", "ED"),
    ],
)
def test_one_structure_of_many_names(same: tuple[str, ...]) -> None:
    assert {output_key(name) for name in same} == {same[0]}


def test_pairs_by_hand() -> None:
    assert pair(["T1ce", "flair", "pet"], ["t1", "t1gd", "flair"], channel_key) == {"T1ce": "t1gd", "flair": "flair"}
    # The very same name goes before another name of the same thing, and nothing is used twice.
    assert pair(["t1gd", "t1c"], ["t1c", "t1ce"], channel_key) == {"t1gd": "t1ce", "t1c": "t1c"}
    assert pair(["t1gd", "t1c"], ["t1c"], channel_key) == {"t1c": "t1c"}


NAMES = st.lists(st.sampled_from(["t1", "t1n", "t1c", "t1ce", "flair", "t2f", "x"]), unique=True)


@given(names=NAMES, others=NAMES)
def test_pairs_are_one_to_one_and_as_many_as_possible(names: list[str], others: list[str]) -> None:
    found = pair(names, others, channel_key)
    assert len(set(found.values())) == len(found)
    assert all(channel_key(name) == channel_key(other) for name, other in found.items())
    for key in {channel_key(name) for name in names}:
        mine = sum(channel_key(n) == key for n in names)
        theirs = sum(channel_key(n) == key for n in others)
        assert sum(channel_key(n) == key for n in found) == min(mine, theirs)
    assert all(found[name] == name for name in names if name in others)
