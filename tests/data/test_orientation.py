"""Axes of a volume against SimpleITK's own reorientation."""

import itertools

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.data.image import Geometry
from autoseg.data.orientation import Axes, axes_in

#: All 48 ways in which axes can lie.
CODES = [
    "".join(side[flip] for side, flip in zip(sides, flips, strict=True))
    for sides in itertools.permutations(("LR", "PA", "SI"))
    for flips in itertools.product((0, 1), repeat=3)
]


def lying(code: str) -> sitk.Image:
    image = sitk.GetImageFromArray(np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    image.SetSpacing((1.0, 2.0, 3.0))
    return sitk.DICOMOrient(image, code)


def geometry_of(image: sitk.Image) -> Geometry:
    return Geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


@pytest.mark.parametrize("code", CODES)
def test_against_simpleitk(code: str) -> None:
    image = lying(code)
    canonical = sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS"))
    geometry = geometry_of(image)
    for orientation, expected in (
        ("stored", sitk.GetArrayFromImage(image)),
        ("ras", sitk.GetArrayFromImage(sitk.DICOMOrient(image, "RAS"))),
        ("canonical", canonical),
    ):
        axes = axes_in(orientation, geometry)
        assert np.array_equal(axes.turn(canonical), expected)
        assert np.array_equal(axes.turn(canonical[None]), expected[None])
        assert np.array_equal(axes.turn_back(expected), canonical)


def test_oblique_axes_count_as_the_closest() -> None:
    image = lying("PIR")
    turn = np.array([[np.cos(0.3), -np.sin(0.3), 0], [np.sin(0.3), np.cos(0.3), 0], [0, 0, 1]])
    image.SetDirection((turn @ np.array(image.GetDirection()).reshape(3, 3)).reshape(-1))
    canonical = sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS"))
    axes = axes_in("stored", geometry_of(image))
    assert np.array_equal(axes.turn(canonical), sitk.GetArrayFromImage(image))


def test_a_picture_keeps_its_axes() -> None:
    flat = Geometry((4, 3), (1.0, 1.0), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))
    assert axes_in("stored", flat) == axes_in("ras", flat) == Axes()
