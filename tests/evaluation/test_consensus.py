"""Consensus label maps against votes counted by hand and an EM of our own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.evaluation.consensus import consensus_of
from autoseg.utils.errors import UsageError


def column(*values: int) -> np.ndarray:
    return np.array(values, np.int32).reshape(1, 1, -1)


def test_votes_by_hand() -> None:
    maps = [
        column(1, 1, 1, 0, 4, 0, 1),
        column(1, 1, 2, 0, 4, 4, 2),
        column(1, 2, 4, 0, 0, 0, 1),
        column(1, 2, 0, 0, 0, 0, 2),
        column(1, 2, 0, 0, 4, 0, 0),
    ]
    #            all, 3:2, 2 of background, none, 3:2, 1:4, and 2:2:1, which is a tie
    assert consensus_of(maps, "majority").tolist() == [[[1, 2, 0, 0, 4, 0, 0]]]


def test_two_raters_vote_for_what_both_say() -> None:
    assert consensus_of([column(1, 1, 2, 0), column(1, 2, 2, 1)], "majority").tolist() == [[[1, 0, 2, 0]]]


@given(st.lists(st.lists(st.sampled_from([0, 3, 70, 900]), min_size=6, max_size=6), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_votes_counted_by_numpy(rows: list[list[int]]) -> None:
    found = consensus_of([column(*row) for row in rows], "majority")[0, 0].tolist()
    for voxel, label in enumerate(found):
        votes = sorted((sum(row[voxel] == value for row in rows), value) for value in {row[voxel] for row in rows})
        tie = len(votes) > 1 and votes[-1][0] == votes[-2][0]
        assert label == (0 if tie else votes[-1][1])


def expectation_maximisation(maps: list[np.ndarray], rounds: int = 200) -> np.ndarray:
    """Warfield 2004 for one label, equations 14, 15, 18 and 19, with the mean map's share as prior."""
    decisions = np.stack([labels.ravel() > 0 for labels in maps]).astype(float)
    prior = decisions.mean()
    p, q = np.full(len(maps), 0.99), np.full(len(maps), 0.99)
    for _ in range(rounds):
        a = prior * np.prod(np.where(decisions > 0, p[:, None], 1 - p[:, None]), axis=0)
        b = (1 - prior) * np.prod(np.where(decisions > 0, 1 - q[:, None], q[:, None]), axis=0)
        weight = a / (a + b)
        p = (decisions * weight).sum(axis=1) / weight.sum()
        q = ((1 - decisions) * (1 - weight)).sum(axis=1) / (1 - weight).sum()
    return (weight > 0.5).reshape(maps[0].shape)


@pytest.fixture
def raters() -> tuple[np.ndarray, list[np.ndarray]]:
    """A truth of labels 0 and 5, three careful raters (3 % of voxels wrong) and four careless ones (35 %)."""
    random = np.random.default_rng(4)
    truth = np.zeros((8, 20, 20), np.int32)
    truth[2:6, 4:16, 4:16] = 5
    wrong = [random.random(truth.shape) < rate for rate in (0.03, 0.03, 0.03, 0.35, 0.35, 0.35, 0.35)]
    return truth, [np.where(flip, 5 - truth, truth) for flip in wrong]


def test_staple_is_the_em_of_its_paper(raters: tuple[np.ndarray, list[np.ndarray]]) -> None:
    _, maps = raters
    found = consensus_of(maps, "staple")
    assert set(np.unique(found)) == {0, 5}
    assert np.mean((found > 0) == expectation_maximisation(maps)) > 0.999


def test_staple_trusts_the_careful_ones(raters: tuple[np.ndarray, list[np.ndarray]]) -> None:
    truth, maps = raters
    errors = {method: np.mean(consensus_of(maps, method) != truth) for method in ("majority", "staple")}
    assert errors["staple"] < 0.25 * errors["majority"]


@pytest.mark.parametrize("method", ["majority", "staple"])
def test_agreed_maps_stay_as_they_are(method: str) -> None:
    labels = np.random.default_rng(0).choice([0, 1, 2, 40], (3, 6, 7)).astype(np.int32)
    assert np.array_equal(consensus_of([labels] * 3, method), labels)  # type: ignore[arg-type]
    nothing = np.zeros_like(labels)
    assert not consensus_of([nothing, nothing - 1], method).any()  # type: ignore[arg-type]


def test_wrong_usage() -> None:
    with pytest.raises(UsageError, match="--consensus mean is unknown; choose majority or staple"):
        consensus_of([column(1)], "mean")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at least one label map"):
        consensus_of([], "majority")
