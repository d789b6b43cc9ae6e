"""A study's results in the layout that its grid file asks for, as the table of a paper."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autoseg.evaluation.paired import signed_rank
from autoseg.evaluation.summary import Statistics, number
from autoseg.study.results import MEAN, SettingResult, StudyTable
from autoseg.study.table_layout import CASE, MEASURE, SETTING, TableLayout

if TYPE_CHECKING:
    from typing import Self

#: Column of the mean over the cases, where they are an axis.
AVERAGE = "AVG"

#: From which p on a difference is not significant (Rahimpour et al., table 2).
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class PaperCell:
    """A cell of a table.

    Attributes:
        text: that stands there.
        values: case → value behind it; empty where nothing is trained yet.
        bold: whether it is significantly better than the others of its row.
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
            cells = [places.cell({**at, **dict(zip(layout.columns, column, strict=True))}) for column in columns]
            if any(cell.text for cell in cells):
                named = [layout.named(value) for value in row]
                rows.append((named, _compared(cells) if layout.compare == "wilcoxon" else cells))
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
        evaluations = [one for result in self.results for one in result.evaluations.values()]
        return list(dict.fromkeys(case for evaluation in evaluations for case in evaluation.cases))

    def cell(self, at: Mapping[str, str]) -> PaperCell:
        """The cell at a value of each axis: of the best of the settings that are there."""
        measure = at.get(MEASURE, self.measures[0])
        here = [
            result
            for result in self.results
            if all(result.setting.place.get(a, "") == value for a, value in at.items() if a not in (MEASURE, CASE))
        ]
        known = [(result, values) for result in here if (values := cell_values(result, measure))]
        if not known:
            state = {result.status for result in here}
            return PaperCell("failed" if "failed" in state else "–" if here else "", {})
        result, values = max(known, key=lambda pair: np.nan_to_num(Statistics.of(pair[1].values()).mean, nan=-math.inf))
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
    """Case → value of a measure: of a structure, or the mean over those that the setting segments."""
    metric, structure = _parsed(measure)
    return result.values(metric).get(structure or _only(result), {}) if result.evaluations else {}


def _parsed(measure: str) -> tuple[str, str]:
    metric, _, structure = measure.partition(" ")
    return metric, structure


def _only(result: SettingResult) -> str:
    """The column of the mean, or the only structure's."""
    targets = next(iter(result.evaluations.values())).targets
    return MEAN if len(targets) > 1 else targets[0]


def _compared(cells: list[PaperCell]) -> list[PaperCell]:
    """The row with its best cell bold, where it differs significantly from every other one."""
    means = [Statistics.of(cell.values.values()).mean for cell in cells]
    known = [index for index, mean in enumerate(means) if not math.isnan(mean)]
    if len(known) < 2:
        return cells
    best = max(known, key=lambda index: means[index])
    for other in known:
        pairs = [
            cells[best].values[case] - cells[other].values[case]
            for case in cells[best].values
            if case in cells[other].values
        ]
        differences = np.array([pair for pair in pairs if not math.isnan(pair)])
        if other != best and (not len(differences) or signed_rank(differences)[0] >= SIGNIFICANT):
            return cells
    return [PaperCell(cell.text, cell.values, index == best) for index, cell in enumerate(cells)]


def _heading(axis: str) -> str:
    return "" if axis in (SETTING, MEASURE, CASE) else axis.split(".")[-1]


def _note(table: StudyTable, layout: TableLayout) -> str:
    cases = {case for r in table.results for e in r.evaluations.values() for case in e.cases}
    what: str = layout.statistic
    if what == "std of seeds":
        what = "standard deviation, over the seeds, of the mean"
    measures = "" if MEASURE in layout.axes else f" of {', '.join(layout.measures or ['dice'])}"
    where = "test cases, by the ensemble of the folds" if layout.of == "test" else "validation cases of the folds"
    note = f"{what.capitalize()}{measures}{' (%)' if layout.percent else ''} over {len(cases)} {where}."
    if layout.compare == "wilcoxon":
        note += f" Bold: better than every other column of its row (Wilcoxon's signed-rank test, p < {SIGNIFICANT:g})."
    return note
