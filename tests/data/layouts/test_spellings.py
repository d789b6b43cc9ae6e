from fnmatch import fnmatchcase

import pytest

from autoseg.data.layouts.spellings import (
    escaped,
    expanded,
    leaves_ending_open,
    literalness,
    plainly,
    spelled_freely,
    united,
)


@pytest.mark.parametrize(
    ("patterns", "pattern"),
    [
        (["ct.nii", "ct.nii.gz"], "ct.nii*"),
        (["CT.nii.gz", "ct.nii.gz"], "[Cc][Tt].nii.gz"),
        (["{id}_CT.NII.GZ", "{id}_ct.nii"], "{id}_[Cc][Tt].[Nn][Ii][Ii]*"),
        (["{id}.jpeg", "{id}.jpg"], "{id}.jp*g"),
        (["a.nii.gz", "b.nii.gz"], None),
        (["a.nii.gz", "a.nrrd"], None),
    ],
)
def test_patterns_are_united(patterns, pattern):
    assert united(patterns) == pattern
    if pattern is not None:
        assert all(fnmatchcase(one, pattern) for one in patterns)
        assert literalness(pattern) == literalness(max(patterns, key=len))


@pytest.mark.parametrize("name", ["ct.nii.gz", "CT.nii", "Ct.NII.GZ"])
def test_a_pattern_in_any_spelling(name):
    assert fnmatchcase(f"{{id}}/{name}", spelled_freely("{id}/ct.nii.gz"))
    assert plainly(spelled_freely("{id}/ct.nii.gz")) == "{id}/ct.nii.gz"


def test_only_letters_in_brackets_are_either_case():
    assert escaped("[Cc]t[raw]*") == r"[Cc]t\[raw\][^/]*"
    assert plainly("[ab][Aa]") == "[ab]a"


def test_one_of_several_words():
    assert expanded("{a,b}/{id}_{c,d}*.nii") == [f"{one}/{{id}}_{two}*.nii" for one in "ab" for two in "cd"]
    assert expanded("{id}/{}.nii") == ["{id}/{}.nii"]
    assert plainly("{train,val}/{id}_[Cc][Tt].nii*") == "train/{id}_ct.nii.gz"
    assert literalness("{train,val}/{id}.nii.gz") == len("train/.nii.gz")
    assert escaped("{t.1,[Tt]2}_*") == r"(?:t\.1|[Tt]2)_[^/]*"


def test_which_patterns_leave_the_ending_open():
    assert [leaves_ending_open(pattern) for pattern in ("ct.nii*", "t1*", "*.nii.gz", "[Cc][Tt].[Nn][Ii][Ii]*")] == [
        True,
        False,
        False,
        True,
    ]
