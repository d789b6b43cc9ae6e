"""Images of different scanners on one scale of intensities."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.data.landmarks import PERCENTILES, landmarks, matched
from autoseg.plans.preprocessing import LANDMARKS, Preprocessing

RAMP = np.arange(0, 1001, dtype=np.float32)


def test_by_hand() -> None:
    """1 to 1000 once each: the percentiles of a ramp; the zero does not count."""
    assert landmarks(RAMP) == pytest.approx([1 + 9.99 * p for p in PERCENTILES])
    assert landmarks(np.array([0.0, np.nan, np.inf])) == []


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.floats(0.2, 5), st.floats(-50, 500))
def test_another_gain_and_offset_vanish(gain: float, offset: float) -> None:
    """An image that differs by a line from the standard's becomes the standard's image, beyond the landmarks, too."""
    rng = np.random.default_rng(0)
    image = rng.gamma(2.0, 100.0, 5000).astype(np.float32) + 1
    image[:500] = 0
    other = np.where(image == 0, 0, gain * image + offset).astype(np.float32)
    other[(image != 0) & (other == 0)] = 1e-3
    found = matched(other, landmarks(image))
    np.testing.assert_allclose(found, image, rtol=2e-3, atol=0.5)
    assert np.array_equal(found == 0, image == 0)


def test_landmarks_become_the_standards() -> None:
    """Whatever the shape of the histogram; and order is kept."""
    rng = np.random.default_rng(1)
    standard = landmarks(rng.gamma(3.0, 80.0, 20_000).astype(np.float32) + 5)
    image = (rng.beta(2.0, 5.0, 20_000) * 900 + 20).astype(np.float32)
    found = matched(image, standard)
    np.testing.assert_allclose(landmarks(found), standard, rtol=1e-3)
    order = np.argsort(image)
    assert np.all(np.diff(found[order]) >= -1e-3)


def test_what_has_no_scale_stays() -> None:
    for image in (np.zeros((2, 3, 4), np.float32), np.full((2, 3, 4), 7, np.float32)):
        assert np.array_equal(matched(image, [float(p) for p in PERCENTILES]), image)


def test_in_a_plan() -> None:
    assert len(PERCENTILES) == LANDMARKS
    with pytest.raises(ValueError, match=r"harmonize\.t1 must have 11 intensities in ascending order"):
        Preprocessing(harmonize={"t1": [3.0, 1.0]})
