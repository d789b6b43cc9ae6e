"""Whose turn it is: cases of a fold, and of groups from elsewhere."""

from collections import Counter

import pytest

from autoseg.training.turns import Turns


def test_every_case_once_a_round() -> None:
    turns = Turns([5])
    rounds = [case for number in range(10) for case in turns.cases(number, 2, seed=1)]
    for first in range(0, 20, 5):
        assert sorted(rounds[first : first + 5]) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("shares", "wanted"), [((0.25,), [60, 20]), ((0.25, 0.25), [40, 20, 20]), ((0.1,), [72, 8])])
def test_groups_get_their_shares(shares: tuple[float, ...], wanted: list[int]) -> None:
    """Of 80 samples in batches of two; the cases of a group come equally often, up to one."""
    counts = [3] * (len(shares) + 1)
    turns = Turns(counts, shares)
    drawn = [case for number in range(40) for case in turns.cases(number, 2, seed=0)]
    assert [sum(case // 3 == group for case in drawn) for group in range(len(counts))] == wanted
    often = Counter(drawn)
    for group in range(len(counts)):
        each = [often[3 * group + case] for case in range(3)]
        assert max(each) - min(each) <= 1


def test_no_place_in_a_batch_is_a_groups_own() -> None:
    """The last patch of a batch is centred on foreground."""
    turns = Turns([3, 3], [0.25])
    last = [turns.cases(number, 2, seed=0)[1] >= 3 for number in range(200)]
    assert 30 <= sum(last) <= 70
