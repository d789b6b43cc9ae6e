"""Comparisons of several names in several columns: pairing, correction, sentences, tables."""

import csv
import io
import json
import math
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from autoseg.evaluation.comparison import compare_samples
from autoseg.evaluation.paired import Bootstrap, holm
from autoseg.utils.errors import AutosegError, UsageError


def scores(values: list[float]) -> dict[str, float]:
    return {f"case_{index}": value for index, value in enumerate(values)}


def shown(table: object, width: int = 120) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(table)
    return console.export_text()


def test_nothing_differs() -> None:
    same = scores([0.8, 0.9, 0.7, 0.8, 0.6, 0.5, 0.4])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row = compare_samples({"a": {"t": same}, "b": {"t": same}}).row("b", "t")
    assert (row.difference, row.low, row.high, row.p, row.p_holm, row.effect) == (0, 0, 0, 1, 1, 0)


def test_rows_pair_cases_by_name() -> None:
    old = {"b": 0.5, "a": 0.6, "only old": 0.0, "c": math.nan, "d": 0.9}
    new = {"a": 0.7, "b": 0.8, "c": 0.1, "d": math.nan, "only new": 1.0}
    found = compare_samples({"old": {"t": old}, "new": {"t": new}})
    assert found.cases == ("b", "a", "c", "d")
    assert set(found.omitted) == {"only old", "only new"}
    row = found.row("new", "t")
    assert (row.n, row.pairs) == (3, 2)
    assert row.mean == pytest.approx((0.7 + 0.8 + 0.1) / 3)
    assert row.difference == pytest.approx((0.1 + 0.3) / 2)
    assert found.row("old", "t").n == 3
    assert math.isnan(found.row("old", "t").p)
    assert found.notes() == [
        "2 of 6 cases are not in every input, left out: only old, only new.",
        "t of old is undefined for 1 case.",
        "t of new is undefined for 1 case.",
        "t: the test leaves out 1 case with a value of new alone and 1 case with a value of old alone.",
        found.notes()[-1],
    ]
    assert "evaluate with --empty brats" in found.notes()[-1]


def test_false_alarms_that_are_no_pairs_are_said() -> None:
    """By ``skip`` a false alarm has a Dice of 0, and what is rightly left empty none: no pair, and no difference."""
    right = {"seen": 0.8, "absent 1": math.nan, "absent 2": math.nan, "alike": math.nan}
    found = compare_samples({"a": {"t": right}, "b": {"t": {**right, "absent 1": 0.0, "absent 2": 0.0}}})
    assert (found.row("b", "t").pairs, found.row("b", "t").difference) == (1, 0.0)
    assert "t: the test leaves out 2 cases with a value of b alone." in found.notes()
    # The same undefined in both is no one's advantage.
    assert len(compare_samples({"a": {"t": right}, "b": {"t": right}}).notes()) == 2


def test_an_infinite_value_is_left_out_of_its_pair() -> None:
    old, new = scores([1.0, math.inf, math.inf, 4.0]), scores([2.0, math.inf, 3.0, 6.0])
    row = compare_samples({"old": {"t": old}, "new": {"t": new}}).row("new", "t")
    assert (row.n, row.pairs, row.difference) == (3, 2, 1.5)


def test_a_case_in_one_column_only_is_undefined_in_the_other() -> None:
    samples = {"a": {"x": {"1": 1.0, "2": 2.0}, "y": {"1": 1.0}}, "b": {"x": {"1": 2.0, "2": 2.0}, "y": {"2": 5.0}}}
    found = compare_samples(samples)
    assert found.cases == ("1", "2")
    assert found.row("b", "y").pairs == 0
    assert math.isnan(found.row("b", "y").p_holm)
    assert found.row("b", "x").p_holm == found.row("b", "x").p


def test_correction_is_over_names_and_columns() -> None:
    rng = np.random.default_rng(0)
    samples = {n: {c: scores(list(rng.normal(k, 1, 20))) for c in "xy"} for k, n in enumerate(["a", "b", "c"])}
    found = compare_samples(samples)
    tested = [row for row in found.rows if row.name != "a"]
    assert len(tested) == 4
    assert [row.p_holm for row in tested] == pytest.approx(holm([row.p for row in tested]))


def test_swapping_the_baseline_swaps_the_signs() -> None:
    rng = np.random.default_rng(0)
    samples = {name: {"t": scores(list(rng.uniform(size=25)))} for name in "ab"}
    forth, back = compare_samples(samples).row("b", "t"), compare_samples(samples, "b").row("a", "t")
    assert (back.difference, back.effect) == pytest.approx((-forth.difference, -forth.effect))
    assert back.p == pytest.approx(forth.p)
    assert (back.low, back.high) == pytest.approx((-forth.high, -forth.low), abs=0.01)


def test_the_seed_decides_the_interval() -> None:
    rng = np.random.default_rng(0)
    samples = {name: {"t": scores(list(rng.uniform(size=25)))} for name in "ab"}
    assert (
        compare_samples(samples, bootstrap=Bootstrap(seed=1)).to_json()["rows"]
        == compare_samples(samples, bootstrap=Bootstrap(seed=1)).to_json()["rows"]
    )
    assert (
        compare_samples(samples, bootstrap=Bootstrap(seed=1)).row("b", "t").low
        != compare_samples(samples, bootstrap=Bootstrap(seed=2)).row("b", "t").low
    )


GOOD = [0.5 + index / 100 for index in range(20)]


@pytest.mark.parametrize(
    ("shift", "direction", "expected"),
    [
        (0.02, "more", "b is significantly better than a in t (mean +0.0200, corrected p < 0.0001)."),
        (-0.02, "more", "b is significantly worse than a in t (mean −0.0200, corrected p < 0.0001)."),
        (-0.02, "less", "b is significantly better than a in t (mean −0.0200, corrected p < 0.0001)."),
        (0.02, "less", "b is significantly worse than a in t (mean +0.0200, corrected p < 0.0001)."),
        (0.02, "neither", "b is significantly higher than a in t (mean +0.0200, corrected p < 0.0001)."),
        (0.0, "more", "b is not significantly different from a in t (corrected p = 1)."),
    ],
)
def test_sentence(shift: float, direction: str, expected: str) -> None:
    samples = {"a": {"t": scores(GOOD)}, "b": {"t": scores([value + shift for value in GOOD])}}
    assert compare_samples(samples, directions={"t": direction}).verdicts() == [expected]  # type: ignore[dict-item]


def test_sentence_about_several_columns() -> None:
    up, down = [value + 0.02 for value in GOOD], [value - 0.02 for value in GOOD]
    slightly = [value + (0.003 if index % 2 else -0.002) for index, value in enumerate(GOOD)]
    samples = {
        "a": dict.fromkeys(("x", "y", "z"), scores(GOOD)),
        "b": {"x": scores(up), "y": scores(down), "z": scores(slightly)},
        "c": dict.fromkeys(("x", "y", "z"), scores(slightly)),
    }
    first, second = compare_samples(samples).verdicts()
    assert first.startswith("b is significantly better than a in 1 of 3 comparisons: x (mean +0.0200")
    assert "; significantly worse than a in 1 of 3 comparisons: y (mean −0.0200" in first
    assert second.startswith("c is not significantly better than a in any of 3 comparisons (smallest corrected p = 0.")


def test_sentence_where_ranks_and_means_disagree() -> None:
    """Better by a little in 19 cases, and hopeless in one."""
    values = [value + 0.01 + index / 1e4 for index, value in enumerate(GOOD)]
    values[3] = 0.0
    found = compare_samples({"a": {"t": scores(GOOD)}, "b": {"t": scores(values)}})
    assert found.row("b", "t").difference < 0
    assert "significantly better" in found.verdicts()[0]
    assert found.verdicts()[0].endswith("although the mean says otherwise).")


def test_sentence_about_too_few_cases() -> None:
    """Of the 2⁵ patterns of signs, two are extreme: p can't fall below 2/32 = 0.0625."""
    a, b = [0.1, 0.2, 0.3, 0.4, 0.5], [0.9, 0.95, 0.9, 0.9, 0.92]
    found = compare_samples({"a": {"t": scores(a)}, "b": {"t": scores(b)}})
    assert found.row("b", "t").p == pytest.approx(0.0625)
    assert found.verdicts() == [
        "b and a share 5 cases, too few for any difference to be significant at 0.05; 6 are the fewest."
    ]
    three = compare_samples({name: {"t": scores(values)} for name, values in {"a": a, "b": b, "c": b}.items()})
    assert three.verdicts() == [
        "b and 1 more share 5 cases with a, too few for any difference to be significant at 0.05; 6 are the fewest."
    ]
    six = compare_samples({"a": {"t": scores([*a, 0.6])}, "b": {"t": scores([*b, 0.99])}})
    assert six.row("b", "t").p == pytest.approx(2 / 64)
    assert "significantly better" in six.verdicts()[0]


def test_one_input_is_described() -> None:
    found = compare_samples({"a": {"t": scores([1.0, 2.0, 6.0])}})
    assert (found.row("a", "t").mean, found.row("a", "t").median) == (3.0, 2.0)
    assert found.verdicts() == []


def test_table_shows_every_name_in_every_column() -> None:
    samples = {
        "plain": {"WT": scores(GOOD), "HD95 [mm]": scores([10 * v for v in GOOD])},
        "pretrained": {"WT": scores([v + 0.02 for v in GOOD]), "HD95 [mm]": scores([10 * v for v in GOOD[::-1]])},
    }
    text = shown(compare_samples(samples).table())
    assert text.count("plain") == 2 + 1  # and in the title
    assert text.count("pretrained") == 2
    assert "0.6150 ± 0.0592" in text
    assert re.search(r"\+0.0200 +0.0200 … 0.0200 +<0.0001 +<0.0001 +\+1.00", text)
    assert "<0.0001" in text
    assert "HD95 [mm]" in text
    assert "5.95 ± 0.59" in text


def test_table_says_how_many_cases_are_defined_and_fits_a_narrow_terminal() -> None:
    samples = {"not_pretrained": {"TC": scores([math.nan, *GOOD])}, "pretrained": {"TC": scores([*GOOD, math.nan])}}
    found = compare_samples(samples)
    assert re.search(r"not_pretrained +20 ", shown(found.table(), 120))
    assert re.search(r"pretrained +20/19 ", shown(found.table(), 120))
    assert "…" in shown(found.table(wide=False), 80)
    lines = shown(compare_samples({name: {"TC": scores(GOOD)} for name in samples}).table(wide=False), 80).splitlines()
    assert sum(re.search(r"pretrained +0.5950±0.0592  0.5950", line) is not None for line in lines) == 2
    assert max(map(len, lines)) <= 80


def test_json_and_csv_hold_everything(tmp_path: Path) -> None:
    samples = {"a": {"t": scores(GOOD)}, "b": {"t": scores([*GOOD[:-1], math.nan])}}
    found = compare_samples(samples)
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert data["rows"][0]["p"] is None
    assert data["rows"][1]["pairs"] == 19
    assert data["verdicts"] == found.verdicts()
    found.write_csv(tmp_path / "out.csv")
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [(line["baseline"], line["column"], line["name"]) for line in lines] == [("a", "t", "a"), ("a", "t", "b")]
    assert lines[0]["p"] == ""
    assert float(lines[1]["mean"]) == pytest.approx(np.mean(GOOD[:-1]))


def test_nothing_in_common() -> None:
    with pytest.raises(AutosegError, match=r"no case in common.*a has 1; b has 2"):
        compare_samples({"a": {"t": {"1": 0.5}}, "b": {"t": {"2": 0.5}}})
    with pytest.raises(AutosegError, match="nothing in common to compare: a has x; b has y"):
        compare_samples({"a": {"x": {"1": 0.5}}, "b": {"y": {"1": 0.5}}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "z"}, "--baseline z is none of the inputs; choose one of a, b"),
    ],
)
def test_wrong_options(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compare_samples({"a": {"t": scores(GOOD)}, "b": {"t": scores(GOOD)}}, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": 1.0}, "--confidence 1.0 is no level"),
        ({"resamples": 5}, "--resamples 5 are too few"),
    ],
)
def test_wrong_intervals(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Bootstrap(**options)


def test_the_table_names_the_test_and_counts_comparisons() -> None:
    """Two methods, two columns, one without any value to compare: three tests."""
    nothing = dict.fromkeys(scores(GOOD), math.nan)
    samples = {
        "a": {"t": scores(GOOD), "u": scores(GOOD)},
        "b": {"t": scores(GOOD), "u": scores(GOOD)},
        "c": {"t": scores(GOOD), "u": nothing},
    }
    found = compare_samples(samples, bootstrap=Bootstrap(resamples=200))
    assert found.table().caption == "Wilcoxon signed-rank, Holm-corrected over 3 comparisons"
    alone = compare_samples({"a": {"t": scores(GOOD)}, "b": {"t": scores(GOOD)}}, bootstrap=Bootstrap(resamples=200))
    assert alone.method.endswith("over 1 comparison")


@pytest.mark.parametrize(
    ("differences", "low", "high"),
    [
        ([0.01, 0.03], -0.10706, 0.14706),  # 0.02 ± 12.706 · 0.01
        ([0.01, 0.02, 0.03, 0.04, 0.05], 0.010368, 0.049632),  # 0.03 ± 2.7764 · 0.015811 / √5
    ],
)
def test_the_interval_of_a_few_cases_is_student_s(differences: list[float], low: float, high: float) -> None:
    """By hand, with t of the tables: two cases say little of others, which a bootstrap does not know."""
    values = {"a": {"t": scores([0.5] * len(differences))}, "b": {"t": scores([0.5 + one for one in differences])}}
    found = compare_samples(values)
    assert (found.row("b", "t").low, found.row("b", "t").high) == pytest.approx((low, high), abs=1e-5)
    assert "below 10 Student's t" in found.to_json()["methods"]["interval"]
