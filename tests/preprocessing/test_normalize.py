"""Normalization, worked by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.plans.preprocessing import Normalization
from autoseg.preprocessing.normalize import normalize

LINE = np.array([0, 2, 4, 6], np.float32).reshape(1, 1, 4)
EVERYWHERE = np.ones((1, 1, 4), bool)
NOT_FIRST = np.array([False, True, True, True]).reshape(1, 1, 4)


def apply(channel: np.ndarray, mask: np.ndarray, **scheme: object) -> list[float]:
    result = normalize(channel, Normalization.model_validate(scheme), mask)
    assert result.dtype == np.float32
    assert result.shape == channel.shape
    return [float(v) for v in result.ravel()]


def test_zscore() -> None:
    # mean 3, variance (9 + 1 + 1 + 9) / 4 = 5
    expected = np.array([-3, -1, 1, 3]) / np.sqrt(5)
    assert apply(LINE, EVERYWHERE, scheme="zscore") == pytest.approx(expected)
    # Unmasked, the mask has no say.
    assert apply(LINE, NOT_FIRST, scheme="zscore") == pytest.approx(expected)


def test_zscore_masked() -> None:
    # mean 4, variance 8 / 3 inside; zero outside
    expected = np.array([0, -2, 0, 2]) / np.sqrt(8 / 3)
    assert apply(LINE, NOT_FIRST, scheme="zscore", masked=True) == pytest.approx(expected)


def test_ct() -> None:
    scheme = {"scheme": "ct", "lower": 1, "upper": 5, "mean": 3, "std": 2}
    assert apply(LINE, EVERYWHERE, **scheme) == pytest.approx([-1, -0.5, 0.5, 1])


def test_minmax_and_percentile_and_none() -> None:
    assert apply(LINE, EVERYWHERE, scheme="minmax") == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert apply(LINE, NOT_FIRST, scheme="minmax", masked=True) == pytest.approx([0, 0, 0.5, 1])
    # The 95th percentile of 0, 2, 4, 6 lies at position 2.85: 5.7.
    assert apply(LINE, EVERYWHERE, scheme="percentile") == pytest.approx(np.array([0, 2, 4, 6]) / 5.7)
    assert apply(LINE, EVERYWHERE, scheme="none") == [0, 2, 4, 6]


@pytest.mark.parametrize("scheme", ["zscore", "minmax"])
@pytest.mark.parametrize("masked", [False, True])
@settings(max_examples=20, deadline=None)
@given(value=st.floats(-1e6, 1e6, width=32), size=st.integers(1, 2000))
def test_constant_becomes_zero(scheme: str, masked: bool, value: float, size: int) -> None:
    channel = np.full((1, 1, size), value, np.float32)
    result = normalize(channel, Normalization.model_validate({"scheme": scheme, "masked": masked}), channel > -1e9)
    assert np.abs(result).max() < 1e-2


@pytest.mark.parametrize("scheme", ["zscore", "minmax", "percentile", "none"])
def test_nothing_inside_the_mask(scheme: str) -> None:
    assert apply(LINE, ~EVERYWHERE, scheme=scheme, masked=True) == [0, 0, 0, 0]


def test_input_is_not_changed() -> None:
    channel = LINE.copy()
    for scheme in ("zscore", "minmax", "percentile", "none"):
        normalize(channel, Normalization.model_validate({"scheme": scheme, "masked": True}), NOT_FIRST)
        assert np.array_equal(channel, LINE)
