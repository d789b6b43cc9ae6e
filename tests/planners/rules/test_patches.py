"""The search for patch and batch, with a memory that is a straight line so that many budgets can be tried."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.utils.errors import AutosegError
from planners.rules.patches import MIN_BATCH, choose, largest_batch, patches
from planners.rules.topology import pooling


class Line:
    """Bytes of a typical U-Net: 0.25 GB and some 600 bytes a voxel, a little fewer where kernels are flat."""

    def __init__(self, slope: float = 600.0) -> None:
        self._slope = slope

    def of(self, pooled: Any) -> "Line":
        return Line(600.0 if 1 not in pooled.kernels[0] else 560.0)

    def peak(self, voxels: float) -> float:
        return 0.25e9 + self._slope * voxels


def needed(choice: Any) -> float:
    return Line().of(choice.patch.pooled).peak(choice.batch * choice.patch.voxels)


shapes = st.tuples(st.integers(20, 700), st.integers(60, 700), st.integers(60, 700))
spacings = st.tuples(st.sampled_from([0.5, 1.0, 3.0, 6.0]), st.sampled_from([0.5, 1.0]), st.just(0.7))


@settings(max_examples=15, deadline=None)
@given(shape=shapes, spacing=spacings, cases=st.integers(2, 500))
def test_within_the_budget_filling_it_and_growing(
    shape: tuple[int, ...], spacing: tuple[float, ...], cases: int
) -> None:
    candidates = patches(shape, spacing)
    limits = [largest_batch(cases, shape, patch) for patch in candidates]
    before = 0.0
    for gigabytes in (4, 6, 8, 11, 16, 24, 40, 80):
        budget = gigabytes * 1e9
        choice = choose(candidates, Line(), budget, limits)  # type: ignore[arg-type]
        memory = needed(choice)
        assert before <= memory <= budget
        limit = limits[candidates.index(choice.patch)]
        assert MIN_BATCH <= choice.batch <= limit
        assert memory > 0.85 * budget or choice.patch.share > 0.95 or choice.batch == limit
        before = memory


@settings(max_examples=10, deadline=None)
@given(shape=shapes, spacing=spacings)
def test_every_candidate_fits_its_topology(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    candidates = patches(shape, spacing)
    for patch in candidates:
        assert patch.pooled == pooling(patch.size, spacing)
        assert all(side % divisor == 0 for side, divisor in zip(patch.size, patch.pooled.divisor, strict=True))
    assert any(patch.covers for patch in candidates)


def test_a_small_image_is_covered_and_the_batch_limited() -> None:
    """5 % of 200 × 36×50×35 voxels are 7.03 patches of 40×56×40."""
    candidates = patches((36, 50, 35), (1, 1, 1))
    limits = [largest_batch(200, (36, 50, 35), patch) for patch in candidates]
    choice = choose(candidates, Line(), 8e9, limits)  # type: ignore[arg-type]
    assert choice.patch.size == (40, 56, 40)
    assert choice.batch == round(0.05 * 200 * 36 * 50 * 35 / (40 * 56 * 40)) == 7
    assert "5 %" in choice.batch_reason


def test_what_compute_affords_limits_the_patch() -> None:
    candidates = patches((155, 240, 240), (1, 1, 1))
    choice = choose(candidates, Line(), 8e9, [2] * len(candidates), max_voxels=64**3)  # type: ignore[arg-type]
    assert choice.patch.voxels <= 64**3


def test_too_small_a_budget_says_how_much_is_needed() -> None:
    candidates = patches((155, 240, 240), (1, 1, 1))
    with pytest.raises(AutosegError, match=r"3d_fullres needs 0\.\d+ GB .* --gpu-memory"):
        choose(candidates, Line(), 0.1e9, [2] * len(candidates), math.inf, "3d_fullres")  # type: ignore[arg-type]
