"""How much of a source is kept, by scores that are given."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.runs.run import SOURCE
from autoseg.transfer.share_choice import choose_share, share_for_each

#: Of four cases: tuned gains 0.1 ± 0.01 or so, half of it in between.
GAINS = {
    0.0: {"a": 0.71, "b": 0.80, "c": 0.61, "d": 0.50},
    0.5: {"a": 0.65, "b": 0.75, "c": 0.55, "d": 0.45},
    SOURCE: {"a": 0.60, "b": 0.70, "c": 0.50, "d": 0.41},
}


def test_a_gain_in_every_case_is_taken() -> None:
    """Differences 0.11, 0.10, 0.11, 0.09: mean 0.1025, sample deviation 0.009574, error 0.004787."""
    found = choose_share(GAINS, "abcd")
    assert (found.share, found.best, found.cases) == (0.0, 0.0, 4)
    assert found.difference == pytest.approx(0.1025)
    assert found.error == pytest.approx(0.0047871355)
    assert found.means == pytest.approx({0.0: 0.655, 0.5: 0.6, SOURCE: 0.5525})


def test_a_gain_within_one_standard_error_is_not() -> None:
    """Differences 0.20 and −0.16: mean 0.02, error 0.18. The plain best stands beside the source."""
    found = choose_share({0.0: {"a": 0.8, "b": 0.44}, SOURCE: {"a": 0.6, "b": 0.6}}, "ab")
    assert (found.share, found.best) == (SOURCE, 0.0)
    assert (found.difference, found.error) == (pytest.approx(0.02), pytest.approx(0.18))


def test_nothing_held_out_decides_nothing() -> None:
    assert choose_share(GAINS, ["a"]).share == SOURCE
    assert math.isnan(choose_share(GAINS, []).difference)
    undefined = {share: {**of, "b": math.nan} for share, of in GAINS.items()}
    assert choose_share(undefined, "ab").share == SOURCE
    assert choose_share(undefined, "abcd").cases == 3


def test_of_equals_the_one_nearer_to_the_source() -> None:
    same = {0.0: {"a": 0.7, "b": 0.8}, 0.5: {"a": 0.7, "b": 0.8}, SOURCE: {"a": 0.5, "b": 0.6}}
    assert choose_share(same, "ab").share == 0.5


def test_no_case_chooses_its_own_share() -> None:
    """Fold 1 gains by tuning, fold 2 loses: each gets what the other one chose."""
    scores = {
        0.0: {"a": 0.9, "b": 0.8, "c": 0.1, "d": 0.2},
        SOURCE: {"a": 0.5, "b": 0.4, "c": 0.5, "d": 0.6},
    }
    assert share_for_each(scores, ["ab", "cd"]) == {"a": SOURCE, "b": SOURCE, "c": 0.0, "d": 0.0}
    # One fold alone: each case by the others of it.
    assert share_for_each(GAINS, ["abcd"]) == dict.fromkeys("abcd", 0.0)
    assert share_for_each(GAINS, ["ab"]) == dict.fromkeys("ab", SOURCE)  # one other case decides nothing


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(*[st.floats(0, 1)] * 3), min_size=2, max_size=12), st.integers(0, 11), st.floats(0, 1))
def test_a_case_has_no_say_in_its_own_share(values: list[tuple[float, ...]], which: int, other: float) -> None:
    """Whatever a case scores, the share that it is scored by stays."""
    names = [str(number) for number in range(len(values))]
    which %= len(names)
    scores = {share: dict(zip(names, column, strict=True)) for share, column in
              zip((0.0, 0.5, SOURCE), zip(*values, strict=True), strict=True)}  # fmt: skip
    changed = {share: {**of, names[which]: other if share == 0.5 else 0.0} for share, of in scores.items()}
    for groups in ([names], [names[::2], names[1::2]]):
        before, after = share_for_each(scores, groups), share_for_each(changed, groups)
        assert before[names[which]] == after[names[which]]
