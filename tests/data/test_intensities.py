"""What is said against the intensities of a scan."""

import numpy as np
import pytest

from autoseg.data.intensities import doubt_about

SCAN = np.abs(np.random.default_rng(0).normal(100, 20, (20, 30, 40))).astype(np.float32)


def changed(value: float, count: int = 1) -> np.ndarray:
    scan = SCAN.copy()
    scan.reshape(-1)[1000 : 1000 + count] = value
    return scan


@pytest.mark.parametrize("value", [0.0, 7.0, -1024.0])
def test_nothing_but_one_value_is_an_error(value: float) -> None:
    doubt = doubt_about("t1", np.full((3, 4, 5), value))
    assert doubt is not None
    assert doubt.severity == "error"
    assert doubt.what.startswith("t1 is empty" if value == 0 else "t1 is constant")


def test_a_colour_that_does_not_occur_is_no_error() -> None:
    doubt = doubt_about("blue", np.zeros((3, 4, 5)), [np.full((3, 4, 5), 7.0), SCAN])
    assert doubt is not None
    assert (doubt.severity, doubt.what) == ("warning", "blue is empty (all voxels are 0)")
    doubt = doubt_about("blue", np.zeros((3, 4, 5)), [np.full((3, 4, 5), 7.0)])
    assert doubt is not None
    assert doubt.severity == "error", "nor does any other colour change"


@pytest.mark.parametrize("value", [1e30, -1e30, 1e5])
def test_a_voxel_that_decides_the_scale_of_all_others_is_named(value: float) -> None:
    doubt = doubt_about("t1", changed(value))
    assert doubt is not None
    assert doubt.severity == "warning"
    assert doubt.what.startswith("1 voxel(s) of t1 are far from all others")
    assert f"{value:.3g}" in doubt.what


def test_what_scans_have_is_no_outlier() -> None:
    assert doubt_about("t1", SCAN) is None
    assert doubt_about("t1", changed(500.0, 50)) is None, "a vessel"
    ct = SCAN - 1100
    ct[:, :, :10] = -3024  # padding
    ct[5, 5, :20] = 3071  # metal
    assert doubt_about("ct", ct) is None
    assert doubt_about("mask", (SCAN > 150).astype(np.uint8)) is None
