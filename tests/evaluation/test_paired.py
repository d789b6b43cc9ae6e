"""Statistics of paired differences against hand-worked numbers and brute force."""

import math
import warnings
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.evaluation.paired import Bootstrap, holm, signed_rank

#: Heights in eighths of an inch of crossed minus self-fertilised maize plants: Darwin's experiment.
DARWIN = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]


def exact(differences: list[float]) -> float:
    """Two-sided p by counting all patterns of signs, ranks of ties averaged; no zeros among the differences."""
    sizes = np.abs(differences)
    ranks = [np.mean([k + 1 for k, v in enumerate(sorted(sizes)) if v == size]) for size in sizes]
    expected = sum(ranks) / 2
    seen = abs(sum(r for r, d in zip(ranks, differences, strict=True) if d > 0) - expected)
    patterns = list(product((0, 1), repeat=len(ranks)))
    sums = [sum(r for r, s in zip(ranks, signs, strict=True) if s) for signs in patterns]
    return sum(abs(s - expected) >= seen - 1e-9 for s in sums) / len(patterns)


def test_darwins_maize() -> None:
    """The negative ones have the ranks 14 and 10 of 15: R₋ = 24, R₊ = 96; p = 0.0413 (R's wilcox.test)."""
    p, effect = signed_rank(np.array(DARWIN, float))
    assert p == pytest.approx(0.0413, abs=5e-5)
    assert effect == pytest.approx((96 - 24) / 120)


def test_zero_differences_are_left_out() -> None:
    """Signed ranks of 1, −2, 3, 4 are 1, −2, 3, 4: 8 of 10 favourable; with the zeros gone, p counts 16 patterns."""
    p, effect = signed_rank(np.array([0.0, 0.1, 0.0, -0.2, 0.3, 0.4]))
    assert effect == pytest.approx(0.6)
    assert p == pytest.approx(exact([0.1, -0.2, 0.3, 0.4])) == 0.375


def test_ties_in_decimals_are_ties() -> None:
    differences = np.array([0.3, 0.2, 0.7, 0.9]) - np.array([0.2, 0.1, 0.8, 0.6])
    assert len(set(np.abs(differences))) == 4  # 0.3 − 0.2 is not 0.2 − 0.1 in binary
    p, effect = signed_rank(differences)
    assert effect == pytest.approx((2 + 2 + 4 - 2) / 10)
    assert p == pytest.approx(exact([1, 1, -1, 3]))


@given(st.lists(st.integers(-4, 4).filter(bool), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_small_samples_are_tested_exactly(differences: list[int]) -> None:
    assert signed_rank(np.array(differences, float))[0] == pytest.approx(exact(differences))


def test_holm_by_hand() -> None:
    """0.005·4, then 0.01·3 = 0.03, 0.03·2 = 0.06, and 0.04·1 raised to the 0.06 before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    found = holm([0.04, math.nan, 0.01])
    assert found[::2] == pytest.approx([0.04, 0.02])
    assert math.isnan(found[1])


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    """400 skewed samples of known mean 1: 95 % intervals of n = 40 cover some 93 % (the bootstrap's known deficit)."""
    draws = np.random.default_rng(1).exponential(size=(400, 40))
    intervals = [Bootstrap(0.95, 500, 0).interval(sample) for sample in draws]
    assert 0.89 <= np.mean([low <= 1 <= high for low, high in intervals]) <= 0.97


def test_interval_is_student_s_for_normal_values() -> None:
    values = np.random.default_rng(3).normal(0.1, 1.0, 400)
    half = 1.966 * values.std(ddof=1) / 20  # t of 399 degrees of freedom
    low, high = Bootstrap(0.95, 10_000, 0).interval(values)
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


@given(st.lists(st.sampled_from([0.0, 0.0, 0.1, -0.1, 0.5, 0.123]), min_size=2, max_size=12))
@settings(max_examples=60, deadline=None)
def test_interval_is_defined_for_whatever_differences(values: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        low, high = Bootstrap(0.95, 200, 0).interval(np.array(values))
    assert min(values) - 1e-12 <= low <= high <= max(values) + 1e-12
