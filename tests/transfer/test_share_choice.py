"""How much of a source is kept, by scores that are given."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.runs.run import SOURCE
from autoseg.transfer.share_choice import choose_share, share_for_each, with_a_say

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
    """Differences 0.20, −0.16, 0.02: mean 0.02, error 0.18 / √3. The plain best stands beside the source."""
    found = choose_share({0.0: {"a": 0.8, "b": 0.44, "c": 0.62}, SOURCE: dict.fromkeys("abc", 0.6)}, "abc")
    assert (found.share, found.best) == (SOURCE, 0.0)
    assert (found.difference, found.error) == (pytest.approx(0.02), pytest.approx(0.18 / math.sqrt(3)))


def test_two_cases_that_happen_to_be_alike_decide_nothing() -> None:
    """Differences 0.050 and 0.051 have an error of 0.0005; a third like them makes the gain count."""
    tuned = {"a": 0.65, "b": 0.651, "c": 0.652}
    scores = {0.0: tuned, SOURCE: dict.fromkeys("abc", 0.6)}
    found = choose_share(scores, "ab")
    assert (found.share, found.best) == (SOURCE, 0.0)
    assert (found.difference, found.error) == (pytest.approx(0.0505), pytest.approx(0.0005))
    assert choose_share(scores, "abc").share == 0.0


def test_nothing_held_out_decides_nothing() -> None:
    assert choose_share(GAINS, ["a"]).share == SOURCE
    assert math.isnan(choose_share(GAINS, []).difference)
    undefined = {share: {**of, "b": math.nan} for share, of in GAINS.items()}
    assert choose_share(undefined, "ab").share == SOURCE
    assert choose_share(undefined, "abcd").cases == 3


def test_of_equals_the_one_nearer_to_the_source() -> None:
    alike = {"a": 0.7, "b": 0.8, "c": 0.7}
    same = {0.0: alike, 0.5: alike, SOURCE: {"a": 0.5, "b": 0.6, "c": 0.5}}
    assert choose_share(same, "abc").share == 0.5


def test_no_case_chooses_its_own_share() -> None:
    """Fold 1 gains by tuning, fold 2 loses: each gets what the other one chose."""
    scores = {
        0.0: {"a": 0.9, "b": 0.8, "e": 0.9, "c": 0.1, "d": 0.2, "f": 0.1},
        SOURCE: {"a": 0.5, "b": 0.4, "e": 0.5, "c": 0.5, "d": 0.6, "f": 0.5},
    }
    assert share_for_each(scores, ["abe", "cdf"], "abcdef") == dict.fromkeys("abe", SOURCE) | dict.fromkeys("cdf", 0.0)
    # Two cases on the other side decide nothing.
    assert share_for_each(scores, ["ab", "cdf"], "abcdef")["c"] == SOURCE
    # One fold alone: each case by the others of it.
    assert share_for_each(GAINS, ["abcd"], "abcd") == dict.fromkeys("abcd", 0.0)
    assert share_for_each(GAINS, ["abc"], "abc") == dict.fromkeys("abc", SOURCE)  # two other cases decide nothing


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
        before, after = (share_for_each(of, groups, scores[SOURCE]) for of in (scores, changed))
        assert before[names[which]] == after[names[which]]


def test_a_patient_in_two_folds_has_no_say_in_either() -> None:
    """With splits of one's own: p gains so much that he would decide for the others' fold, and his own."""
    scores = {
        0.0: {"p": 1.0, "a": 0.4, "b": 0.4, "c": 0.4, "d": 0.4, "e": 0.4},
        SOURCE: {"p": 0.1, "a": 0.5, "b": 0.5, "c": 0.51, "d": 0.5, "e": 0.51},
    }
    found = share_for_each(scores, [["p", "a", "b"], ["p", "c", "d", "e"]], list(scores[SOURCE]))
    assert found["p"] == SOURCE


def test_cases_that_the_source_has_learned_have_no_say() -> None:
    """On b, c and d tuning gains; on a, which the source was trained on, it loses more than all of that."""
    scores = {0.0: {"a": 0.2, "b": 0.6, "c": 0.61, "d": 0.62}, SOURCE: {"a": 1.0, "b": 0.5, "c": 0.5, "d": 0.5}}
    assert choose_share(scores, "abcd").share == SOURCE
    assert choose_share(scores, with_a_say("abcd", {"a"})).share == 0.0
    # Two others decide nothing: all have their say, as a tuning that wins even so is better.
    assert with_a_say("abcd", {"a", "b"}) == list("abcd")
    shares = share_for_each(
        scores | {0.0: scores[0.0] | {"e": 0.6}, SOURCE: scores[SOURCE] | {"e": 0.5}}, ["abcde"], "bcde"
    )
    assert shares == dict.fromkeys("abcde", 0.0)
