import pytest

from autoseg.data.description import Case, ChannelFile, Description
from autoseg.data.patients import patient_of, pattern_of, regrouped
from autoseg.utils.errors import UsageError


@pytest.mark.parametrize(
    ("case", "patient"),
    [
        ("sub-10062Ses1", "sub-10062"),
        ("sub-10062Ses2", "sub-10062"),
        ("sub-01_ses-02_run-1", "sub-01"),
        ("Image_01L", "Image_01"),
        ("Image_01R", "Image_01"),
        ("p12_visit2", "p12"),
        ("LUNG1-001_ses-2", "LUNG1-001"),
        ("knee_7_left", "knee_7"),
        ("BraTS-GLI-00001-001", "BraTS-GLI-00001"),
        ("TCGA-FG-6692_t2", "TCGA-FG-6692"),
        ("patient007_frame01", "patient007"),
        ("hippocampus_001", ""),
        ("scan1", ""),
        ("control", ""),
        ("L", ""),
    ],
)
def test_patients_in_names(case, patient):
    assert patient_of(case) == patient


def described(*names):
    cases = tuple(Case(id=n, channels={"t1": ChannelFile(path=n)}, group=patient_of(n)) for n in names)
    return Description(name="x", root=".", layout="x", channels=("t1",), labels={}, cases=(), unlabelled=cases)


def test_the_pattern_is_shown():
    assert "left and right" in pattern_of(described("Image_01L", "Image_01R").unlabelled)
    assert pattern_of(described("a", "b").unlabelled) == ""


def test_the_pattern_can_be_set():
    found = regrouped(described("a1x", "a2x", "b1x"), r"^([a-z])")
    assert [case.group for case in found.unlabelled] == ["a", "a", "b"]
    with pytest.raises(UsageError, match="no regular expression"):
        regrouped(found, "(")
    with pytest.raises(UsageError, match="finds nothing"):
        regrouped(found, "z+")
