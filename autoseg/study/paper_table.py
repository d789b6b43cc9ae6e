"""A study's results in the layout that its grid file asks for, as the table of a paper."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from autoseg.evaluation.metric import METRICS
from autoseg.evaluation.paired import signed_rank
from autoseg.evaluation.summary import Statistics, number
from autoseg.study.results import MEAN, SettingResult, StudyTable
from autoseg.study.table_layout import CASE, MEASURE, SETTING, TableLayout

if TYPE_CHECKING:
    from typing import Self

#: Column of the mean over the cases, where they are an axis.
AVERAGE = "AVG"

#: What a metric's value is worth: its sign where larger or smaller ones are better, nothing where neither are.
_SIGN = {"more": 1, "less": -1, "neither": 0}

#: From which p on a difference is not significant (Rahimpour et al., table 2).
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class PaperCell:
    """A cell of a table.

    Attributes:
        text: that stands there.
        values: case → value behind it; empty where not all is trained yet.
        bold: whether it is significantly better than the others of its row that show the same measure.
    """

    text: str
    values: Mapping[str, float]
    bold: bool = False


@dataclass(frozen=True)
class PaperTable:
    """A table as it is printed.

    Attributes:
        title: above it.
        headings: of the axes of the rows, then of the columns.
        rows: the row's values of its axes, and its cells.
        note: below it: what stands in a cell.
    """

    title: str
    headings: list[str]
    rows: list[tuple[list[str], list[PaperCell]]]
    note: str

    @classmethod
    def of(cls, table: StudyTable, layout: TableLayout) -> "Self":
        """Lay out the results of a study."""
        if layout.of == "test" and table.tested is not None:
            table = table.tested
        places = _Places(table, layout)
        headings = [layout.named(_heading(axis)) for axis in layout.rows]
        columns = places.combinations(layout.columns)
        headings += [" ".join(layout.named(value) for value in column if value) for column in columns]
        rows = []
        for row in places.combinations(layout.rows):
            at = dict(zip(layout.rows, row, strict=True))
            spots = [{**at, **dict(zip(layout.columns, column, strict=True))} for column in columns]
            cells = [places.cell(spot) for spot in spots]
            if any(cell.text for cell in cells):
                if layout.compare == "wilcoxon":
                    cells = _compared(cells, [places.measure(spot) for spot in spots])
                rows.append(([layout.named(value) for value in row], cells))
        return cls(layout.title or table.study.grid.name, headings, rows, _note(table, layout))

    def markdown(self) -> list[str]:
        """Lines of GitHub's Markdown."""
        axes = len(self.headings) - (len(self.rows[0][1]) if self.rows else 0)
        lines = [self.headings, ["---"] * axes + ["---:"] * (len(self.headings) - axes)]
        for names, cells in self.rows:
            lines.append([*names, *(f"**{cell.text}**" if cell.bold else cell.text for cell in cells)])
        found = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines]
        return [f"## {self.title}", "", *found, "", self.note, ""]

    def to_json(self) -> dict[str, object]:
        """Texts of the whole table."""
        return {
            "title": self.title,
            "headings": self.headings,
            "rows": [[*names, *(cell.text for cell in cells)] for names, cells in self.rows],
            "bold": [[cell.bold for cell in cells] for _, cells in self.rows],
            "note": self.note,
        }


class _Places:
    """Which settings, measure and case belong to a row and a column.

    Args:
        table: results.
        layout: of the table.
    """

    def __init__(self, table: StudyTable, layout: TableLayout) -> None:
        self.layout = layout
        self.results = [
            result
            for result in table.results
            if all(result.setting.place.get(axis, "") in values for axis, values in layout.where.items())
        ]
        structures = [structure.name for structure in table.study.structures]
        self.measures = layout.measures
        if not self.measures:
            self.measures = [f"dice {name}" for name in structures] if MEASURE in layout.axes else ["dice"]

    def combinations(self, axes: Sequence[str]) -> list[tuple[str, ...]]:
        """The values of these axes that settings have together, with every measure and case; each in the file's order.

        The first axis varies slowest, so that the rows of a model stand together.
        """
        of_settings = [axis for axis in axes if axis not in (MEASURE, CASE)]
        places = dict.fromkeys(tuple(r.setting.place.get(axis, "") for axis in of_settings) for r in self.results)
        orders = [list(dict.fromkeys(values)) for values in zip(*places, strict=True)]
        found = sorted(places, key=lambda place: [order.index(at) for order, at in zip(orders, place, strict=True)])
        others = {MEASURE: self.measures, CASE: [*self._cases(), AVERAGE]}
        choices = [others[axis] for axis in axes if axis in others]
        combined = []
        for place in found:
            for rest in itertools.product(*choices):
                of_place, of_rest = iter(place), iter(rest)
                combined.append(tuple(next(of_rest) if axis in others else next(of_place) for axis in axes))
        return combined

    def _cases(self) -> list[str]:
        done = [result for result in self.results if result.status == "done"]
        evaluations = [one for result in done for one in result.evaluations.values()]
        return list(dict.fromkeys(case for evaluation in evaluations for case in evaluation.cases))

    def measure(self, at: Mapping[str, str]) -> str:
        """The measure at a value of each axis."""
        return at.get(MEASURE, self.measures[0])

    def cell(self, at: Mapping[str, str]) -> PaperCell:
        """The cell at a value of each axis: of the best of the settings that are there."""
        measure = self.measure(at)
        here = [
            result
            for result in self.results
            if all(result.setting.place.get(a, "") == value for a, value in at.items() if a not in (MEASURE, CASE))
        ]
        known = [(result, values) for result in here if (values := cell_values(result, measure))]
        if not known:
            return PaperCell(_state(here), {})
        result, values = max(known, key=lambda pair: _worth(measure, pair[1]))
        if at.get(CASE, AVERAGE) != AVERAGE:
            values = {case: value for case, value in values.items() if case == at[CASE]}
        text = self._text(result, measure, values)
        return PaperCell(f"{text} ({self._own(result)})" if len(here) > 1 and self._own(result) else text, values)

    def _text(self, result: SettingResult, measure: str, values: Mapping[str, float]) -> str:
        found = Statistics.of(values.values())
        factor, digits = (100, 2) if self.layout.percent else (1, 4)

        def shown(value: float) -> str:
            return number(factor * value, digits)

        if self.layout.statistic == "std of seeds":
            metric, structure = _parsed(measure)
            return shown(result.between_seeds(structure or _only(result), metric))
        if self.layout.statistic == "mean ± std" and found.n > 1:
            return f"{shown(found.mean)} ± {shown(found.std)}"
        if self.layout.statistic == "mean (median)" and found.n > 1:
            return f"{shown(found.mean)} ({shown(found.median)})"
        return shown(found.median if self.layout.statistic == "median" else found.mean)

    def _own(self, result: SettingResult) -> str:
        """What a setting has that the table's axes don't say, such as ``omega=0.75, focal_gamma=1.5``."""
        left = {axis: v for axis, v in result.setting.place.items() if axis not in (SETTING, *self.layout.axes)}
        return ", ".join(
            f"{self.layout.named(axis.split('.')[-1])}={self.layout.named(value)}" for axis, value in left.items()
        )


def cell_values(result: SettingResult, measure: str) -> dict[str, float]:
    """Case → value of a measure: of a structure, or the mean over those that the setting segments.

    Empty unless all of the setting's trainings are done: those of some seeds or folds are no result of the setting.
    """
    if result.status != "done" or not result.evaluations:
        return {}
    metric, structure = _parsed(measure)
    return result.values(metric).get(structure or _only(result), {})


def _state(results: Sequence[SettingResult]) -> str:
    """What stands in a cell without a value: ``failed``, ``1 of 2 trained``, or a dash; nothing without a setting."""
    if any(result.status == "failed" for result in results):
        return "failed"
    begun = [result.note for result in results if result.status == "unfinished" and result.trained and result.note]
    return begun[0] if begun else "–" if results else ""


def _parsed(measure: str) -> tuple[str, str]:
    metric, _, structure = measure.partition(" ")
    return metric, structure


def _only(result: SettingResult) -> str:
    """The column of the mean, or the only structure's."""
    targets = next(iter(result.evaluations.values())).targets
    return MEAN if len(targets) > 1 else targets[0]


def _worth(measure: str, values: Mapping[str, float]) -> float:
    """What is larger the better the values of a measure are: the sign says whether more of it is better, or less."""
    mean = Statistics.of(values.values()).mean
    return -math.inf if math.isnan(mean) else _SIGN[METRICS.find(_parsed(measure)[0]).better] * mean


def _compared(cells: Sequence[PaperCell], measures: Sequence[str]) -> list[PaperCell]:
    """A row whose best cell of each measure is bold, where it differs significantly from every other one of it."""
    best = set()
    for measure in dict.fromkeys(measures):
        of_measure = [index for index, own in enumerate(measures) if own == measure]
        found = _best(measure, [cells[index].values for index in of_measure])
        if found is not None:
            best.add(of_measure[found])
    return [replace(cell, bold=index in best) for index, cell in enumerate(cells)]


def _best(measure: str, cells: Sequence[Mapping[str, float]]) -> int | None:
    """Which cell's values are better than those of every other cell; None where there is none or nothing is better.

    Means and ranks can disagree, where few cases decide the mean: better by the test's ranks is meant, too.
    """
    worth = [_worth(measure, values) for values in cells]
    known = [index for index, value in enumerate(worth) if value > -math.inf]
    sign = _SIGN[METRICS.find(_parsed(measure)[0]).better]
    if len(known) < 2 or not sign:
        return None
    best = max(known, key=lambda index: worth[index])
    for other in known:
        pairs = [cells[best][case] - cells[other][case] for case in cells[best] if case in cells[other]]
        differences = np.array([pair for pair in pairs if not math.isnan(pair)])
        if other == best:
            continue
        p, effect = signed_rank(differences)
        if p >= SIGNIFICANT or sign * effect <= 0:
            return None
    return best


def _heading(axis: str) -> str:
    return "" if axis in (SETTING, MEASURE, CASE) else axis.split(".")[-1]


def _note(table: StudyTable, layout: TableLayout) -> str:
    done = [result for result in table.results if result.status == "done"]
    cases = {case for r in done for e in r.evaluations.values() for case in e.cases}
    what: str = layout.statistic
    if what == "std of seeds":
        what = "standard deviation, over the seeds, of the mean"
    measures = "" if MEASURE in layout.axes else f" of {', '.join(layout.measures or ['dice'])}"
    where = "test cases, by the ensemble of the folds" if layout.of == "test" else "validation cases of the folds"
    note = f"{what.capitalize()}{measures}{' (%)' if layout.percent else ''} over {len(cases)} {where}."
    if layout.compare == "wilcoxon" and layout.columns != [MEASURE]:
        others = f"every other column of its row{' and measure' if MEASURE in layout.columns else ''}"
        note += f" Bold: better than {others} (Wilcoxon's signed-rank test, p < {SIGNIFICANT:g})."
    return note
