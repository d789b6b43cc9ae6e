"""How a grid file lays its table out: which settings make rows and columns, and which number stands in a cell."""

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from typing import Self

#: Axes that are no axes of settings: the measures of a table, and the cases.
MEASURE, CASE = "measure", "case"

#: The axis whose values are the names of the ``[[setting]]`` tables.
SETTING = "setting"


class TableLayout(BaseModel):
    """A ``[[table]]`` of a grid file.

    Where several settings fall into one cell, the best of them stands there with what it has of its own: so a table has
    a row for each loss, with the weights that were best.

    Attributes:
        title: above the table.
        rows: axes whose values' combinations are the rows: ``setting``, an axis of the grid (its path), ``measure`` or
            ``case``.
        columns: axes of the columns, likewise.
        measures: ``METRIC`` (the mean over the structures) or ``METRIC STRUCTURE`` each. By default the Dice of every
            structure where they are an axis; else the mean Dice.
        statistic: over the cases, each averaged over the seeds: ``mean``, ``median``, ``mean ± std``,
            ``mean (median)``; or ``std of seeds``: of the means that the seeds reach.
        percent: hundredfold, with two decimals, as papers print a Dice.
        of: the ``validation`` cases of the folds, or the ``test`` cases by the ensemble of the folds.
        compare: ``wilcoxon``: in each row the best cell of a measure is bold where its cases differ from those of every
            other column of that measure (Wilcoxon's signed-rank test, p < 0.05, not corrected).
        where: axis → the values that count; settings with others are left out.
        names: what is printed in place of a value, such as ``deepmedic = "DeepMedic"``; also of each part of several
            joined by +.
    """

    model_config = ConfigDict(extra="forbid")

    title: str = ""
    rows: list[str] = Field(default_factory=lambda: [SETTING], min_length=1)
    columns: list[str] = Field(default_factory=lambda: [MEASURE], min_length=1)
    measures: list[str] = Field(default_factory=list)
    statistic: Literal["mean", "median", "mean ± std", "mean (median)", "std of seeds"] = "mean ± std"
    percent: bool = False
    of: Literal["validation", "test"] = "validation"
    compare: Literal["none", "wilcoxon"] = "none"
    where: dict[str, list[str]] = Field(default_factory=dict)
    names: dict[str, str] = Field(default_factory=dict)

    @property
    def axes(self) -> list[str]:
        """Those of the rows, then those of the columns."""
        return [*self.rows, *self.columns]

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that it shows."""
        return list(dict.fromkeys(measure.split(" ", 1)[0] for measure in self.measures)) or ["dice"]

    def named(self, value: str) -> str:
        """What is printed for a value of an axis."""
        if value in self.names:
            return self.names[value]
        return " + ".join(self.names.get(part, part) for part in value.split("+")) if "+" in value else value

    @model_validator(mode="after")
    def _agree(self) -> "Self":
        twice = [axis for axis in self.axes if self.axes.count(axis) > 1]
        if twice:
            raise ValueError(f"{twice[0]} is an axis twice; an axis makes rows or columns")
        if self.compare != "none" and CASE in self.axes:
            raise ValueError("compare goes over the cases, which are an axis here; leave one of them out")
        if self.statistic == "std of seeds" and CASE in self.axes:
            raise ValueError("std of seeds is that of means over the cases, which are an axis here")
        return self
