"""What a series is, from words alone, from times alone, and where they contradict each other."""

import pytest

from autoseg.clinical.recognition import is_brain, recognise_sequence, words_of
from autoseg.clinical.series import SequenceFacts


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("T1post", "t1c"),
        ("B Ax T1 +C", "t1c"),
        ("t1_mprage_sag_p2_iso KM", "t1c"),
        ("AX 3D BRAVO +C", "t1c"),
        ("T1 GD", "t1c"),
        ("T1pre_reg", "t1"),
        ("T1 axial w/o contrast", "t1"),
        ("MPRAGE", "t1"),
        ("T1 posterior fossa", "t1"),
        ("Ax T1 FLAIR", "t1"),
        ("SAG T2 SPACE FLAIR", "flair"),
        ("t2_tirm_tra_dark-fluid", "flair"),
        ("T2 TSE tra", "t2"),
        ("3-plane loc", "localizer"),
        ("ep2d_diff_3scan_trace", "diffusion"),
        ("AX T2* GRE", "susceptibility"),
        ("TOF 3D multi-slab", "angiography"),
        ("STIR cor", "fat-suppressed inversion"),
        ("perfusion DSC", "perfusion"),
        ("t1_se_tra ohne KM", "t1"),
        ("T1 tra nach KM", "t1c"),
        ("T1 vor KM", "t1"),
        ("t1 nativ", "t1"),
        ("3D T1 sans gado", "t1"),
        ("AX T1 GADO", "t1c"),
        ("T1 injecté", "t1c"),
        ("AX T1 GAD", "t1c"),
        ("T1 +GAD", "t1c"),
        ("AX T1 PRE GAD", "t1"),
        ("T1 pre contrast", "t1"),
        ("T1 precontrast", "t1"),
        ("T1 non-contrast", "t1"),
        ("T1 no gad", "t1"),
        ("T1 C-", "t1"),
        ("T1 C+", "t1c"),
        ("T1 Dotarem", "t1c"),
        ("T1 post op", "t1"),
        ("T1 preop post gd", "t1c"),
        ("MP RAGE", "t1"),
        ("SAG MP_RAGE post", "t1c"),
        ("AX T1 SPACE", "t1"),
        ("AX T2 FSE", "t2"),
        ("AX FLAIR post contrast", "flair"),
        ("T1 subtraktion", "derived"),
        ("T1 soustraction", "derived"),
        ("T1 map", "derived"),
        ("t1_vibe_fa15", "t1"),
        ("Lokalizer", "localizer"),
        ("Repérage", "localizer"),
        ("Pha_Images", "susceptibility"),
        ("mIP_Images(SW)", "angiography"),
        ("AX PD", "proton density"),
        ("AX DP TSE", "proton density"),
        ("CISS 3D", "steady-state sequence"),
        ("t1_vibe_dixon_tra_F", "fat image"),
        ("t1_vibe_dixon_tra_W", "t1"),
        ("t1_vibe_dixon_opp", "fat image"),
        ("", "unknown"),
    ],
)
def test_words(description: str, expected: str) -> None:
    assert recognise_sequence(SequenceFacts(modality="MR", description=description)).sequence == expected


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        # TR/TE/TI of TCIA Brain-Tumor-Progression's exams, and of common 3D and inverted T1 sequences.
        (SequenceFacts(repetition_time=500, echo_time=9.5, contrast="10ml multihance"), "t1c"),
        (SequenceFacts(repetition_time=500, echo_time=9.5), "t1"),
        (SequenceFacts(repetition_time=4000, echo_time=92), "t2"),
        (SequenceFacts(repetition_time=10000, echo_time=90, inversion_time=2600), "flair"),
        (SequenceFacts(repetition_time=1900, echo_time=2.5, inversion_time=900, scanning_sequence=("GR", "IR")), "t1"),
        (SequenceFacts(repetition_time=8, echo_time=3, scanning_sequence=("GR",)), "t1"),
        (SequenceFacts(repetition_time=2200, echo_time=24, inversion_time=900, scanning_sequence=("SE", "IR")), "t1"),
        (SequenceFacts(repetition_time=4000, echo_time=80, scanning_sequence=("EP",)), "unknown"),
        (SequenceFacts(repetition_time=4000, echo_time=40, inversion_time=150), "fat-suppressed inversion"),
        (SequenceFacts(repetition_time=4000, echo_time=92, diffusion_weighting=1000), "diffusion"),
        (SequenceFacts(repetition_time=25, echo_time=4, angiography=True), "angiography"),
        (SequenceFacts(image_type=("DERIVED", "PRIMARY", "ADC")), "derived"),
        (SequenceFacts(planes=3), "localizer"),
        (SequenceFacts(modality="CT"), "ct"),
        (SequenceFacts(repetition_time=3000, echo_time=15, scanning_sequence=("SE",)), "proton density"),
        (SequenceFacts(repetition_time=250, echo_time=2.5, flip_angle=70, scanning_sequence=("GR",)), "t1"),
        (SequenceFacts(repetition_time=5, echo_time=2, scanning_sequence=("GR",), repetitions=40), "dynamic"),
        (SequenceFacts(description="T1 VIBE", image_type=("ORIGINAL", "PRIMARY", "M", "OPP_PHASE")), "derived"),
        # Words and times together.
        (
            SequenceFacts(description="t2_fl2d_tra", repetition_time=600, echo_time=20, scanning_sequence=("GR",)),
            "susceptibility",
        ),
        (
            SequenceFacts(description="t2_tirm_cor", repetition_time=4000, echo_time=40, inversion_time=150),
            "fat-suppressed inversion",
        ),
        (SequenceFacts(description="PD/T2 TSE", repetition_time=3000, echo_time=90), "t2"),
        (SequenceFacts(description="PD/T2 TSE", repetition_time=3000, echo_time=15), "proton density"),
    ],
)
def test_times_and_types_where_descriptions_are_blank(facts: SequenceFacts, expected: str) -> None:
    assert recognise_sequence(facts).sequence == expected


def test_a_contradiction_is_doubtful() -> None:
    found = recognise_sequence(SequenceFacts(description="T2 TSE", repetition_time=500, echo_time=10))
    assert (found.sequence, found.certain) == ("t2", False)
    assert "TR 500" in found.reason
    both = recognise_sequence(SequenceFacts(description="T1 pre+post"))
    assert (both.sequence, both.certain) == ("t1", False)
    assert not recognise_sequence(SequenceFacts(description="T1 native", contrast="Gadovist")).certain


def test_no_agent_is_none_whatever_its_words() -> None:
    for word in ("NONE", "no", "without", "0", "ohne KM", "No contrast given", "sans", "-"):
        facts = SequenceFacts(repetition_time=500, echo_time=10, contrast=word)
        assert recognise_sequence(facts).sequence == "t1"


def test_the_name_of_a_whole_exam_s_protocol_tells_only_what_the_description_leaves_open() -> None:
    def found(description: str, protocol: str, **facts: str) -> str:
        return recognise_sequence(SequenceFacts(description=description, protocol=protocol, **facts)).sequence

    assert found("AX T1", "BRAIN W/WO CONTRAST") == "t1"
    assert found("AX T1", "BRAIN W/WO CONTRAST", contrast="Gadovist") == "t1c"
    assert found("AX T1 PRE", "BRAIN WITH CONTRAST") == "t1"
    assert found("AX T2", "BRAIN + MRA + PERFUSION") == "t2"
    assert found("AX", "t1_mprage") == "t1"
    assert found("", "3-plane loc") == "localizer"


def test_reasons_quote_no_header_text() -> None:
    facts = SequenceFacts(
        description="T1 post Doe Jane", protocol="Doe", contrast="Doe", repetition_time=500, echo_time=9
    )
    assert "Doe" not in recognise_sequence(facts).reason


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("BraTS-GLI-00001-000-t1n", "t1"),
        ("BraTS-GLI-00001-000-t2f", "flair"),
        ("p1_T1_Gd", "t1c"),
        ("x_t1ce", "t1c"),
        ("00000057_brain_t2w", "t2"),
        ("sub-01_T1w", "t1"),
        ("scan_ct", "ct"),
    ],
)
def test_file_names(name: str, expected: str) -> None:
    assert recognise_sequence(SequenceFacts(description=words_of(name))).sequence == expected


def test_a_brain_is_told_by_headers_or_by_its_sequences() -> None:
    def exam(*facts: SequenceFacts) -> bool:
        return is_brain([(one, recognise_sequence(one)) for one in facts])

    assert exam(SequenceFacts(description="T1", body_part="BRAIN"))
    assert exam(SequenceFacts(description="flair"))
    assert not exam(SequenceFacts(description="T1 axial thigh"))
    assert not exam(SequenceFacts(description="flair", body_part="KNEE"))
    for part in ("HEADNECK", "HEAD AND NECK", "Head/Neck", "Kopf-Hals"):
        assert not exam(SequenceFacts(description="T1", body_part=part))
    assert not exam(SequenceFacts(modality="CT", description="CT head & neck", body_part="HEAD"))
    assert exam(SequenceFacts(modality="CT", description="CT head", body_part="HEAD"))
    assert exam(SequenceFacts(description="T1 brain", body_part="HEADNECK"))
