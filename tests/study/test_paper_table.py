"""Tables in a paper's layout, against examples worked by hand."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from autoseg.data.dataset import Dataset
from autoseg.evaluation.protocol import STANDARD_METRICS
from autoseg.evaluation.summary import Evaluation, Row
from autoseg.planning.request import Request
from autoseg.study import StudyTable, prepare
from autoseg.study.paper_table import PaperTable
from autoseg.study.present import laid_out, markdown
from autoseg.study.results import SettingResult
from autoseg.study.table_layout import TableLayout
from autoseg.utils.errors import UsageError

Grid = Callable[[str], Path]

LOSSES = """
folds = [0]
[[setting]]
name = "wce"
grid = { "recipe.loss.omega" = [0.25, 0.75] }
[[setting]]
name = "comb"
set = { batch_size = 3 }
[grid]
planner = ["one", "two"]
"""


def measured(dice: Sequence[float], target: str = "outer", **more: float) -> Evaluation:
    """The Dice of some cases, everything else undefined."""
    nothing = dict.fromkeys((*STANDARD_METRICS, *more), math.nan)
    rows = [Row(f"c{n}", target, {**nothing, **more, "dice": value}) for n, value in enumerate(dice)]
    return Evaluation(tuple(rows), (target,))


@pytest.fixture
def tabled(dataset: Dataset, grid: Grid, tmp_path: Path, planned: list[str]) -> Callable[..., StudyTable]:
    def tabled(text: str, found: dict[str, Any]) -> StudyTable:
        """A study's table with the evaluations of each setting: one, or one a seed."""
        study = prepare(dataset, grid(text), tmp_path / "out", Request(device="cpu", workers=1))
        results = []
        for setting in study.settings:
            of = found.get(setting.name, [])
            by_seed = {(seed, 0): one for seed, one in enumerate(of if isinstance(of, list) else [of])}
            status = "done" if by_seed else "unfinished"
            results.append(SettingResult(setting, study.plans[setting.name], status, "", 1, 1, 1, by_seed))
        return StudyTable(study, tuple(results), None)

    return tabled


def distances(hd95: Sequence[float], dice: Sequence[float], ml: float = 1.0) -> Evaluation:
    """HD95, Dice and predicted volume of some cases."""
    nothing = dict.fromkeys(STANDARD_METRICS, math.nan)
    rows = [
        Row(f"c{n}", "outer", {**nothing, "hd95": far, "dice": value, "prediction_ml": ml})
        for n, (far, value) in enumerate(zip(hd95, dice, strict=True))
    ]
    return Evaluation(tuple(rows), ("outer",))


def texts(table: PaperTable) -> list[list[str]]:
    return [[*names, *(cell.text for cell in cells)] for names, cells in table.rows]


def test_the_best_weights_of_each_loss(tabled: Callable[..., StudyTable]) -> None:
    """As Rahimpour's table 1: a row a loss, a column a model, each with the weight that was best."""
    table = tabled(
        LOSSES,
        {
            "wce_omega=0.25_one": measured([0.5, 0.7]),
            "wce_omega=0.75_one": measured([0.6, 0.8]),
            "wce_omega=0.25_two": measured([0.9, 0.9]),
            "wce_omega=0.75_two": measured([0.1, 0.9]),
            "comb_one": measured([0.80, 0.84]),
        },
    )
    layout = TableLayout(
        rows=["setting"],
        columns=["planner"],
        statistic="mean",
        percent=True,
        names={"wce": "L_WCE", "one": "DeepMedic", "two": "U-Net", "omega": "ω"},
    )
    found = PaperTable.of(table, layout)
    assert found.headings == ["", "DeepMedic", "U-Net"]
    assert texts(found) == [["L_WCE", "70.00 (ω=0.75)", "90.00 (ω=0.25)"], ["comb", "82.00", "–"]]
    assert found.note.startswith("Mean of dice (%) over 2 validation cases")
    crossed = PaperTable.of(
        table,
        TableLayout(
            rows=["planner", "recipe.loss.omega"], columns=["setting"], statistic="median", where={"setting": ["wce"]}
        ),
    )
    assert crossed.headings == ["planner", "omega", "wce"]
    assert texts(crossed)[0] == ["one", "0.25", "0.6000"]
    assert len(crossed.rows) == 4


def test_a_setting_counts_when_all_of_it_is_trained(dataset: Dataset, grid: Grid, tmp_path: Path, planned: Any) -> None:
    """What some folds gave is no result: it neither stands in the table nor is the best of a cell."""
    text = 'folds = [0, 1]\n[[setting]]\nname = "a"\n[[setting]]\nname = "b"\n[grid]\nbatch_size = [2, 3]\n'
    study = prepare(dataset, grid(text), tmp_path / "out", Request(device="cpu", workers=1))
    high, low = measured([0.9]), measured([0.5, 0.7])
    found: dict[str, tuple[Any, str, int, Evaluation | None]] = {
        "a_batch_size=2": ("done", "", 2, low),
        "a_batch_size=3": ("failed", "seed 0: out of memory", 1, high),
        "b_batch_size=2": ("unfinished", "1 of 2 trained", 1, high),
        "b_batch_size=3": ("unfinished", "0 of 2 trained", 0, None),
    }
    results = [
        SettingResult(one, study.plans[one.name], status, note, 1, 1, trained, {} if own is None else {(0, 0): own})
        for one in study.settings
        for status, note, trained, own in [found[one.name]]
    ]
    table = StudyTable(study, tuple(results), None)
    layout = TableLayout(rows=["setting"], columns=["batch_size"], statistic="mean", compare="wilcoxon")
    assert texts(PaperTable.of(table, layout)) == [["a", "0.6000", "failed"], ["b", "1 of 2 trained", "–"]]
    best = PaperTable.of(table, TableLayout(rows=["setting"], columns=["measure"], statistic="mean"))
    assert [cells[0].text for _, cells in best.rows] == ["0.6000 (batch_size=2)", "1 of 2 trained"]
    assert best.note.startswith("Mean over 2 validation cases")
    cases = PaperTable.of(table, TableLayout(rows=["setting", "batch_size"], columns=["case"], statistic="mean"))
    assert cases.headings[2:] == ["c0", "c1", "AVG"]
    assert texts(cases)[1][2:] == ["failed"] * 3


def test_significantly_better_is_bold(tabled: Callable[..., StudyTable]) -> None:
    """Bold by Wilcoxon's test, computed by scipy; a difference that could be chance is not."""
    text = 'folds = [0]\n[grid]\nplanner = ["one", "two"]\nbatch_size = [2, 3]\n'
    worse = [0.50, 0.52, 0.61, 0.63, 0.70, 0.72, 0.80]
    better = [value + 0.01 * (n + 1) for n, value in enumerate(worse)]
    mixed = [value + (0.05 if n % 2 else -0.04) for n, value in enumerate(worse)]
    assert stats.wilcoxon(better, worse).pvalue < 0.05 < stats.wilcoxon(mixed, worse).pvalue
    table = tabled(
        text,
        {
            "one_batch_size=2": measured(worse),
            "two_batch_size=2": measured(better),
            "one_batch_size=3": measured(worse),
            "two_batch_size=3": measured(mixed),
        },
    )
    layout = TableLayout(rows=["batch_size"], columns=["planner"], compare="wilcoxon")
    found = PaperTable.of(table, layout)
    assert [[cell.bold for cell in cells] for _, cells in found.rows] == [[False, True], [False, False]]
    assert "**0.6800 ± 0.1299**" in "\n".join(found.markdown())
    assert laid_out(table, layout).row_count == 2


def test_what_is_better_by_its_mean_and_worse_by_the_test_is_not_bold(tabled: Callable[..., StudyTable]) -> None:
    """One is a little better in 28 of 30 cases, the other has the better mean, as those two were missed."""
    few = [0.80 + n / 1000 for n in range(30)]
    many = [0.0 if n < 2 else value + 0.002 + n / 10000 for n, value in enumerate(few)]
    assert sum(few) > sum(many)
    assert stats.wilcoxon(many, few, alternative="greater").pvalue < 0.05
    table = tabled(
        'folds = [0]\n[grid]\nplanner = ["one", "two"]\n',
        {name: distances([1 - value for value in dice], dice) for name, dice in (("one", few), ("two", many))},
    )
    for measure in ("dice", "hd95"):
        layout = TableLayout(rows=["setting"], columns=["planner"], measures=[measure], compare="wilcoxon")
        assert not any(cell.bold for _, cells in PaperTable.of(table, layout).rows for cell in cells)


def test_the_smallest_distance_is_the_best(tabled: Callable[..., StudyTable]) -> None:
    """In the choice of a cell's setting and in bold; of volumes neither more nor less is."""
    near, far = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], [3.0, 4.5, 6.0, 7.5, 9.0, 10.5, 12.0]
    low, high = [0.50, 0.52, 0.61, 0.63, 0.70, 0.72, 0.80], [0.60, 0.63, 0.73, 0.76, 0.84, 0.87, 0.96]
    assert stats.wilcoxon(near, far).pvalue < 0.05
    table = tabled(
        'folds = [0]\n[grid]\nplanner = ["one", "two"]\nbatch_size = [2, 3]\n',
        {
            "one_batch_size=2": distances(far, high, ml=3),
            "two_batch_size=2": distances(near, low, ml=9),
            "one_batch_size=3": distances([math.nan] * 7, high),
            "two_batch_size=3": distances([*far[:6], math.nan], low),
        },
    )
    compared = TableLayout(rows=["batch_size"], columns=["planner"], measures=["hd95"], compare="wilcoxon")
    found = PaperTable.of(table, compared)
    assert [[cell.bold for cell in cells] for _, cells in found.rows] == [[False, True], [False, False]]
    # Means of 4 and 7.5 mm; of the second row, nothing and 6.75 mm.
    chosen = TableLayout(rows=["batch_size"], columns=["measure"], measures=["hd95", "prediction_ml"], statistic="mean")
    assert texts(PaperTable.of(table, chosen)) == [
        ["2", "4.0000 (planner=two)", "3.0000 (planner=one)"],
        ["3", "6.7500 (planner=two)", "1.0000 (planner=one)"],
    ]
    # Each measure for itself: by Dice the first is better, by distance the second, by volume none.
    measures = ["dice", "hd95", "prediction_ml"]
    both = TableLayout(rows=["batch_size"], columns=["planner", "measure"], measures=measures, compare="wilcoxon")
    found = PaperTable.of(table, both)
    assert found.headings[1:] == [f"{planner} {measure}" for planner in ("one", "two") for measure in measures]
    assert [cell.bold for cell in found.rows[0][1]] == [True, False, False, False, True, False]
    assert "every other column of its row and measure" in found.note


def test_measures_are_not_compared_with_each_other(tabled: Callable[..., StudyTable]) -> None:
    table = tabled(
        'folds = [0]\n[[setting]]\nname = "net"\n',
        {"net": distances([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], [0.5, 0.52, 0.61, 0.63, 0.7, 0.72, 0.8])},
    )
    found = PaperTable.of(table, TableLayout(measures=["dice", "hd95"], compare="wilcoxon"))
    assert [cell.bold for cell in found.rows[0][1]] == [False, False]
    assert "Bold" not in found.note


def test_measures_and_structures_as_columns(tabled: Callable[..., StudyTable]) -> None:
    """As Yildiz's table 4: metrics as means over the structures, then the Dice of each; and Wacker's table 1."""
    nothing = dict.fromkeys((*STANDARD_METRICS, "accuracy"), math.nan)
    rows = [
        Row(case, target, {**nothing, "dice": dice, "accuracy": 0.9, "precision": dice / 2})
        for case, values in (("a", (0.8, 0.4)), ("b", (0.6, 0.1)), ("c", (0.1, 0.4)))
        for target, dice in zip(("outer", "inner"), values, strict=True)
    ]
    table = tabled('folds = [0]\n[[setting]]\nname = "ce"\n', {"ce": Evaluation(tuple(rows), ("outer", "inner"))})
    layout = TableLayout(measures=["accuracy", "precision", "dice", "dice inner"], statistic="mean", percent=True)
    found = PaperTable.of(table, layout)
    assert found.headings == ["", "accuracy", "precision", "dice", "dice inner"]
    assert texts(found) == [["ce", "90.00", "20.00", "40.00", "30.00"]]
    by_structure = PaperTable.of(table, TableLayout(statistic="mean (median)"))
    assert by_structure.headings == ["", "dice outer", "dice inner"]
    assert texts(by_structure) == [["ce", "0.5000 (0.6000)", "0.3000 (0.4000)"]]
    with_cases = PaperTable.of(table, TableLayout(columns=["case"], measures=["dice outer"], names={"a": "P1"}))
    assert with_cases.headings == ["", "P1", "b", "c", "AVG"]
    assert texts(with_cases) == [["ce", "0.8000", "0.6000", "0.1000", "0.5000 ± 0.3606"]]


def test_deviation_over_seeds(tabled: Callable[..., StudyTable]) -> None:
    """Of the seeds' means: 0.5, 0.6 and 0.7."""
    table = tabled(
        'folds = [0]\nseeds = [0, 1, 2]\n[[setting]]\nname = "net"\n',
        {"net": [measured([0.4, 0.6]), measured([0.5, 0.7]), measured([0.6, 0.8])]},
    )
    found = PaperTable.of(table, TableLayout(statistic="std of seeds", percent=True, measures=["dice outer"]))
    assert texts(found) == [["net", "10.00"]]
    assert "over the seeds" in found.note


def test_a_row_of_its_own_regions(tabled: Callable[..., StudyTable]) -> None:
    """As Rahimpour's table 2: tasks with other sequences each; what was not asked for is no row."""
    text = """
folds = [0]
[[setting]]
name = "whole"
regions = ["outer"]
grid = { channels = [["mr"]] }
[[setting]]
name = "core"
regions = ["inner"]
[[table]]
rows = ["setting", "channels"]
columns = ["planner"]
[grid]
planner = ["one", "two"]
"""
    table = tabled(text, {"whole_mr_one": measured([0.5]), "core_two": measured([0.25], "inner")})
    found = PaperTable.of(table, table.study.grid.table[0])
    assert texts(found) == [["whole", "mr", "0.5000", "–"], ["core", "", "–", "0.2500"]]
    assert "## study" in markdown(table)
    assert [structure.name for structure in table.study.structures] == ["outer", "inner"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[table]]\nrows = ["planer"]\n', "table.0: planer is no axis .did you mean planner"),
        ('[[table]]\nmeasures = ["dicee"]\ncolumns = ["planner"]\n', "dicee is unknown"),
        ('[[table]]\nrows = ["planner"]\ncolumns = ["planner"]\n', "planner is an axis twice"),
        ('[[table]]\ncolumns = ["case"]\ncompare = "wilcoxon"\n', "compare goes over the cases"),
        ('[[table]]\nmeasures = ["dice lung"]\n', "dice lung names lung; the study evaluates outer, inner"),
        ('[[table]]\nof = "test"\n', "needs test cases; give test_share"),
    ],
)
def test_wrong_layouts(
    dataset: Dataset, grid: Grid, tmp_path: Path, planned: list[str], text: str, message: str
) -> None:
    whole = "folds = [0]\n" + text + '[grid]\nplanner = ["one", "two"]\n'
    with pytest.raises(UsageError, match=message):
        prepare(dataset, grid(whole), tmp_path / "out", Request(device="cpu", workers=1))


def test_axes_of_a_setting_are_not_common_ones(
    dataset: Dataset, grid: Grid, tmp_path: Path, planned: list[str]
) -> None:
    text = '[[setting]]\nname = "a"\ngrid = { batch_size = [2] }\n[grid]\nbatch_size = [2, 3]\n'
    with pytest.raises(UsageError, match=r"setting a: grid\.batch_size is an axis under \[grid\], too"):
        prepare(dataset, grid(text), tmp_path / "out", Request(device="cpu", workers=1))
