"""Which series of an exam becomes a channel, and which is the reference."""

from dataclasses import replace

import pytest

from autoseg.clinical.choice import choose_reference, choose_series
from autoseg.clinical.exams import Exam
from autoseg.clinical.series import SequenceFacts, Series
from autoseg.data.geometry import Geometry
from autoseg.utils.errors import AutosegError


def series(number: int, description: str, spacing=(1.0, 1.0, 5.0), fault: str = "", **facts) -> Series:
    grid = Geometry((200, 200, 20), spacing, (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    told = SequenceFacts(modality="MR", description=description, number=number, **facts)
    return Series(f"series {number}", (), grid, told, dicom=True, fault=fault)


def exam(tmp_path, *found: Series) -> Exam:
    return Exam(tmp_path, "p", found)


def test_the_finest_of_several_is_chosen_and_said(tmp_path) -> None:
    found = exam(tmp_path, series(1, "T1 post"), series(2, "T1 MPRAGE +C", (1.0, 1.0, 1.0)), series(3, "loc"))
    chosen = choose_series(found, {}, None)
    assert chosen.channels["t1c"].name == "series 2"
    assert any("series 2 is taken for t1c and not series 1" in reason for reason in chosen.reasons)
    assert chosen.flags == ()


def test_a_derived_series_gives_way_to_an_original(tmp_path) -> None:
    fine = series(1, "FLAIR MPR", (1.0, 1.0, 1.0), image_type=("DERIVED", "SECONDARY", "MPR"))
    assert choose_series(exam(tmp_path, fine, series(2, "FLAIR")), {}, None).channels["flair"].name == "series 2"


def test_two_t1_without_a_word_about_contrast_are_doubtful(tmp_path) -> None:
    chosen = choose_series(exam(tmp_path, series(1, "T1 ax"), series(2, "T1 ax")), {}, None)
    assert "--channel t1c=2" in chosen.flags[0]
    settled = choose_series(exam(tmp_path, series(1, "T1 ax"), series(2, "T1 ax")), {"t1c": "2"}, None)
    assert {name: one.name for name, one in settled.channels.items()} == {"t1": "series 1", "t1c": "series 2"}
    assert settled.flags == ()


def test_a_damaged_series_is_a_fault_only_where_it_is_the_only_one(tmp_path) -> None:
    broken = series(1, "T2", fault="a slice is missing between its slices 2 and 3")
    with pytest.raises(AutosegError, match=r"series 1 \(t2\) can't be used: a slice is missing"):
        choose_series(exam(tmp_path, broken, series(2, "T1")), {}, None)
    chosen = choose_series(exam(tmp_path, broken, series(2, "T2")), {}, None)
    assert chosen.channels["t2"].name == "series 2"
    assert "a slice is missing" in chosen.flags[0]


def test_names_of_series_by_number_description_and_pattern(tmp_path) -> None:
    found = exam(tmp_path, series(7, "scan A"), series(8, "scan B"))
    for wanted in ("7", "series 7", "scan A", "*a"):
        assert choose_series(found, {"t1": wanted}, None).channels["t1"].name == "series 7"
    with pytest.raises(AutosegError, match="finds several of its series"):
        choose_series(found, {"t1": "scan*"}, None)


def test_series_of_one_number_are_named_by_what_settles_them(tmp_path) -> None:
    """Two echoes or planes of one series: ``5`` is both, ``5.2`` is one."""
    found = exam(tmp_path, replace(series(5, "T1"), name="series 5.1"), replace(series(5, "T1"), name="series 5.2"))
    (flag,) = choose_series(found, {}, None).flags
    assert "--channel t1c=5.2 " in flag
    assert choose_series(found, {"t1c": "5.2"}, None).channels["t1c"].name == "series 5.2"
    with pytest.raises(AutosegError, match="finds several"):
        choose_series(found, {"t1c": "5"}, None)


def test_a_series_is_one_channel_and_no_channel_is_called_as_another_file(tmp_path) -> None:
    found = exam(tmp_path, series(1, "T1"), series(2, "T2"))
    with pytest.raises(AutosegError, match="name one series, series 1; --fill b=a makes a copy"):
        choose_series(found, {"a": "1", "b": "1"}, None)
    for name in ("label", "brain_mask", "structure_1"):
        with pytest.raises(AutosegError, match=f"a file of the case is called {name}"):
            choose_series(found, {name: "1"}, None)


def test_a_damaged_series_that_nobody_wants_stops_nothing(tmp_path) -> None:
    found = exam(tmp_path, series(1, "T2", fault="a slice is missing"), series(2, "T1 post"))
    assert list(choose_series(found, {}, ("t1c",)).channels) == ["t1c"]


def test_flair_before_contrast_is_better_than_after(tmp_path) -> None:
    found = exam(tmp_path, series(1, "FLAIR post gd", (0.9, 0.9, 4.0)), series(2, "FLAIR"))
    chosen = choose_series(found, {}, None)
    assert chosen.channels["flair"].name == "series 2"
    assert any("the other was measured after contrast" in reason for reason in chosen.reasons)


def test_the_reference_has_the_thinnest_slices_then_the_smallest_voxels(tmp_path) -> None:
    thick = {"t2": series(1, "", (0.4, 0.4, 5.0)), "t1c": series(2, "", (1.0, 1.0, 1.0))}
    assert choose_reference(thick, None) == "t1c"
    ties = {name: series(1, "", (0.9, 0.9, 5.5)) for name in ("t2", "flair", "t1c", "t1")}
    assert choose_reference(ties, None) == "t1c"
    assert choose_reference(ties, "flair") == "flair"
    with pytest.raises(AutosegError, match="has no ct to be the reference"):
        choose_reference(ties, "ct")


def test_the_first_of_several_measurements_may_be_before_contrast(tmp_path) -> None:
    phases = series(1, "T1 VIBE", (1.0, 1.0, 1.0), contrast="Gadovist", repetitions=5)
    chosen = choose_series(exam(tmp_path, phases), {}, None)
    assert chosen.channels == {"t1c": phases}
    (flag,) = chosen.flags
    assert "measured 5 times, the first may be before contrast); --channel t1c=1 settles it" in flag
    # A static one is better, however coarse, whether it is sure what it is or not.
    for description in ("T1 post", "T1 pre+post"):
        static = series(2, description, (1.0, 1.0, 5.0), contrast="Gadovist")
        assert choose_series(exam(tmp_path, phases, static), {}, None).channels["t1c"] == static
    reasons = choose_series(exam(tmp_path, phases, static), {}, None).reasons
    assert any("the other was measured several times" in reason for reason in reasons)
    native = series(3, "T1 VIBE", (1.0, 1.0, 1.0), repetitions=5)
    assert choose_series(exam(tmp_path, native), {}, None).flags == ()
