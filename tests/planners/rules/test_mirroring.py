"""Which axes may be mirrored."""

import pytest

from autoseg.data.fingerprint import Fingerprint
from planners.rules.mirroring import is_sided, mirror_axes
from planners.rules.recipe import TILTED, Data, recipe


def fingerprint(dimension: int = 3) -> Fingerprint:
    return Fingerprint(dataset="test", dimension=dimension, channels=["a"], labels={"b": 1}, cases=[], intensities={})


@pytest.mark.parametrize(
    "name",
    [
        "kidney_left",
        "Right-Hippocampus",
        "hippocampus L",
        "R_ear",
        "lung (links)",
        "LeftKidney",
        "lungLeft",
        "kidneyL",
        "RKidney",
        "GTVRight",
        "poumonGauche",
        "rib2Left",
    ],
)
def test_a_name_with_a_side_is_sided(name: str) -> None:
    assert is_sided(name)


@pytest.mark.parametrize(
    "name",
    [
        "Anterior",
        "vertebra_L1",
        "liver",
        "tumor",
        "rib",
        "leftover",
        "bright spot",
        "Lesion",
        "Rectum",
        "BrightSpot",
        "brightness",
        "cleft",
        "CleftLip",
        "GTV_R1",
        "GTVR1",
        "LVEF",
        "Leftover",
        "RLN",
    ],
)
def test_a_name_without_a_side_is_not(name: str) -> None:
    assert not is_sided(name)


@pytest.mark.parametrize(
    ("device", "names", "transpose", "dimensions", "expected"),
    [
        ("cuda", ["tumor"], (0, 1, 2), 3, [0, 1, 2]),
        ("cpu", ["tumor"], (0, 1, 2), 3, [2]),
        # The lowest resolution runs from left to right: x comes first, and is no axis of a slice.
        ("cpu", ["tumor"], (2, 0, 1), 3, [0]),
        ("cpu", ["tumor"], (2, 0, 1), 2, []),
        ("cpu", ["tumor"], (0, 1, 2), 2, [1]),
        ("cuda", ["lung_left", "lung_right"], (0, 1, 2), 3, [0, 1]),
        ("cuda", ["lung_left", "lung_right"], (2, 0, 1), 2, [0, 1]),
        ("cpu", ["lung_left", "lung_right"], (0, 1, 2), 3, []),
    ],
)
def test_axes(device: str, names: list[str], transpose: tuple[int, ...], dimensions: int, expected: list[int]) -> None:
    assert mirror_axes(fingerprint(), device, names, transpose, dimensions)[0] == expected


def test_pictures_may_be_mirrored_all_ways() -> None:
    assert mirror_axes(fingerprint(2), "cpu", ["cell"], (0, 1, 2), 2)[0] == [0, 1]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_pictures_of_sided_structures_are_neither_mirrored_nor_turned_over(device: str) -> None:
    axes, why = mirror_axes(fingerprint(2), device, ["lung_left", "lung_right"], (0, 1, 2), 2)
    assert axes == []
    assert "lung_left belongs to one side" in why
    planned = recipe(Data(device, 50, (1, 64, 64), (64, 64), 8, False, axes, why))
    assert planned.augmentation.mirror_axes == []
    assert planned.augmentation.rotation <= TILTED
