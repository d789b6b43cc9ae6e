"""Evaluation: the measured values of every case and target, and what is reported of them."""

import csv
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from autoseg.evaluation.masks import by_convention
from autoseg.evaluation.metric import METRICS
from autoseg.evaluation.protocol import STANDARD_METRICS, TOLERANCE_MM, Empty
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import read_json, write_csv, write_json

if TYPE_CHECKING:
    from typing import Self

#: Of the standard metrics, those in a table for a terminal of 80 columns, and for a wide one or a page.
NARROW_TABLE = ("dice", "nsd", "hd95", "assd")
WIDE_TABLE = (*NARROW_TABLE, "sensitivity", "precision", "difference_ml")

#: Metrics that fit into a table for a narrow terminal.
_MANY = 6


@dataclass(frozen=True)
class Row:
    """The values of one case and one target: metric name → value, NaN where it is undefined."""

    case: str
    target: str
    values: dict[str, float]


@dataclass(frozen=True)
class Statistics:
    """The distribution of one metric over the cases for which it is defined.

    ``std`` is the sample standard deviation (n − 1); quartiles are interpolated linearly.
    """

    n: int
    mean: float
    std: float
    minimum: float
    q25: float
    median: float
    q75: float
    maximum: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Self":
        """Summarise values; NaN ones are left out."""
        array = np.asarray([value for value in values if not np.isnan(value)], dtype=np.float64)
        if not len(array):
            return cls(0, *[float("nan")] * 7)
        quartiles = np.quantile(array, [0.0, 0.25, 0.5, 0.75, 1.0])
        std = float(array.std(ddof=1)) if len(array) > 1 else float("nan")
        return cls(len(array), float(array.mean()), std, *(float(q) for q in quartiles))


@dataclass(frozen=True)
class Evaluation:
    """Measured values of cases × targets.

    Attributes:
        rows: one a case and target, cases in the order evaluated.
        targets: names, in the order reported.
        tolerance_mm: of the normalised surface Dice.
        empty: convention for empty masks (:mod:`autoseg.evaluation.protocol`).
    """

    rows: tuple[Row, ...]
    targets: tuple[str, ...]
    tolerance_mm: float = TOLERANCE_MM
    empty: Empty = "skip"

    @property
    def cases(self) -> list[str]:
        """Names of the cases, each once."""
        return list(self._of_case)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics measured, in the order of the files' columns."""
        return tuple(self.rows[0].values) if self.rows else STANDARD_METRICS

    def values(self, metric: str, target: str) -> np.ndarray:
        """All cases' values of a metric for one target, NaN where undefined."""
        return np.array([row.values[metric] for row in self._of_target.get(target, ())], dtype=np.float64)

    def case_mean(self, case: str, metric: str = "dice") -> float:
        """Mean over a case's targets, undefined ones left out; NaN where all are."""
        return _mean(row.values[metric] for row in self._of_case.get(case, ()))

    def mean(self, metric: str = "dice", target: str | None = None) -> float:
        """Mean over cases of one target, or the mean of all targets' means; undefined values are left out."""
        if target is not None:
            return _mean(self.values(metric, target))
        return _mean(self.mean(metric, name) for name in self.targets)

    def statistics(self) -> dict[str, dict[str, Statistics]]:
        """Target → metric → distribution."""
        return {
            target: {metric: Statistics.of(self.values(metric, target)) for metric in self.metrics}
            for target in self.targets
        }

    def counts(self, target: str) -> dict[str, int]:
        """How many cases there are, and in how many of them which mask is empty."""
        predicted, real = self.values("prediction_ml", target) > 0, self.values("reference_ml", target) > 0
        return {
            "cases": len(real),
            "missed": int(np.sum(real & ~predicted)),
            "false_alarms": int(np.sum(predicted & ~real)),
            "absent": int(np.sum(~predicted & ~real)),
        }

    def counting_absent(self, empty: Empty) -> "Evaluation":
        """By this convention, ``skip`` or ``brats``, whichever of the two it was measured by."""
        if empty == self.empty:
            return self
        rows = tuple(replace(row, values=by_convention(row.values, empty)) for row in self.rows)
        return replace(self, rows=rows, empty=empty)

    @classmethod
    def merge(cls, parts: "Iterable[Evaluation]") -> "Evaluation":
        """Put the folds of a cross-validation together.

        Raises:
            AutosegError: nothing to merge, a case in two parts, or parts measured in different ways.
        """
        parts = list(parts)
        if not parts:
            raise AutosegError("there are no evaluations to merge; train a fold first.")
        first = parts[0]
        for part in parts[1:]:
            if part._how() != first._how():
                raise AutosegError(
                    "the folds were evaluated with different targets, metrics, tolerances or conventions; "
                    "evaluate them again."
                )
        cases = [case for part in parts for case in part.cases]
        if len(set(cases)) != len(cases):
            twice = sorted(case for case, times in Counter(cases).items() if times > 1)
            raise AutosegError(f"the case {twice[0]} was evaluated in two folds; each belongs to one.")
        rows = tuple(row for part in parts for row in part.rows)
        return cls(rows, first.targets, first.tolerance_mm, first.empty)

    def to_json(self) -> dict[str, Any]:
        """What ``summary.json`` holds; undefined values are null."""
        return {
            "cases": len(self.cases),
            "tolerance_mm": self.tolerance_mm,
            "empty": self.empty,
            "mean": {metric: _null(self.mean(metric)) for metric in self.metrics},
            "targets": {
                target: {
                    **self.counts(target),
                    "metrics": {
                        metric: {key: _null(value) for key, value in vars(statistics).items()}
                        for metric, statistics in metrics.items()
                    },
                }
                for target, metrics in self.statistics().items()
            },
        }

    def write(self, folder: str | Path) -> None:
        """Write ``metrics.csv`` (a row a case and target), ``summary.csv`` and ``summary.json``."""
        folder = Path(folder)
        rows = [[row.case, row.target, *(_cell(row.values[metric]) for metric in self.metrics)] for row in self.rows]
        write_csv(folder / "metrics.csv", [["case", "target", *self.metrics], *rows])
        fields = tuple(Statistics.__dataclass_fields__)
        lines = [
            [target, metric, *(_cell(getattr(statistics, field)) for field in fields)]
            for target, metrics in self.statistics().items()
            for metric, statistics in metrics.items()
        ]
        write_csv(folder / "summary.csv", [["target", "metric", *fields], *lines])
        write_json(folder / "summary.json", self.to_json())

    @classmethod
    def read(cls, folder: str | Path) -> "Evaluation":
        """Read what :meth:`write` wrote.

        Raises:
            AutosegError: a file is missing or damaged.
        """
        folder = Path(folder)
        summary = read_json(folder / "summary.json")
        path = folder / "metrics.csv"
        try:
            with open(path, newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                metrics = [name for name in reader.fieldnames or () if name not in ("case", "target")]
                if not set(summary.get("mean", ())) <= set(metrics):
                    raise ValueError("columns are missing")
                rows = tuple(
                    Row(line["case"], line["target"], {m: float(line[m] or "nan") for m in metrics}) for line in reader
                )
            return cls(rows, tuple(summary["targets"]), float(summary["tolerance_mm"]), summary["empty"])
        except FileNotFoundError:
            raise AutosegError(f"{path} does not exist; evaluate again.") from None
        except (KeyError, TypeError, ValueError) as error:
            raise AutosegError(f"{path} or its summary.json is damaged ({error!r}); evaluate again.") from None

    def table(self, title: str | None = None, *, wide: bool = False) -> Table:
        """A table for the terminal: mean ± standard deviation of each target, and the number of cases.

        Where a metric is undefined for some cases, the number for which it is defined stands behind it. The standard
        metrics are too many for a table (:data:`NARROW_TABLE`, :data:`WIDE_TABLE`); of others, all are shown, but of
        more than six in a narrow one the first four.
        """
        metrics = self.metrics
        if metrics == STANDARD_METRICS:
            metrics = WIDE_TABLE if wide else NARROW_TABLE
        elif len(metrics) > _MANY:
            # Volumes are always measured, so that misses can be counted.
            metrics = tuple(name for name in metrics if METRICS.find(name).kind != "volume")
            metrics = metrics if wide or len(metrics) <= _MANY else metrics[: len(NARROW_TABLE)]
        digits = {metric: METRICS.find(metric).digits for metric in metrics}
        cases = len(self.cases)
        table = Table(title=title or f"{cases} case{'' if cases == 1 else 's'}: mean ± standard deviation")
        table.add_column("target", overflow="fold")
        for metric in metrics:
            tolerance = f" {self.tolerance_mm:g} mm" if METRICS.find(metric).uses_tolerance else ""
            table.add_column(METRICS.find(metric).title + tolerance, justify="right")
        for target, found in self.statistics().items():
            table.add_row(escape(target), *(_mean_and_std(found[metric], digits[metric], cases) for metric in metrics))
        if len(self.targets) > 1:
            table.add_section()
            table.add_row("mean", *(number(self.mean(metric), digits[metric]) for metric in metrics))
        for target in self.targets:
            counts = self.counts(target)
            notes = [f"{counts[key]} {word}" for key, word in _NOTES.items() if counts[key]]
            if notes:
                line = escape(f"{target}: {', '.join(notes)}")
                table.caption = "\n".join(filter(None, [str(table.caption or ""), line]))
        return table

    @cached_property
    def _of_case(self) -> dict[str, list[Row]]:
        """Case → its rows, in order."""
        return _grouped((row.case, row) for row in self.rows)

    @cached_property
    def _of_target(self) -> dict[str, list[Row]]:
        """Target → its rows, in order."""
        return _grouped((row.target, row) for row in self.rows)

    def _how(self) -> tuple[object, ...]:
        """All that must be alike for two parts to be put together."""
        return self.targets, self.metrics, self.tolerance_mm, self.empty


_NOTES = {"missed": "missed", "false_alarms": "false alarms", "absent": "absent from both"}


def number(value: float, digits: int) -> str:
    """A value for people: rounded, a dash where it is undefined."""
    return "–" if np.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def _mean_and_std(statistics: Statistics, digits: int, cases: int) -> str:
    text = number(statistics.mean, digits)
    if statistics.n > 1:
        text += f" ± {number(statistics.std, digits)}"
    return text if statistics.n in (0, cases) else f"{text} (n {statistics.n})"


def _grouped(named: Iterable[tuple[str, Row]]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for name, row in named:
        found.setdefault(name, []).append(row)
    return found


def _mean(values: Iterable[float]) -> float:
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")


def _null(value: float) -> float | None:
    return None if np.isnan(value) else value


def _cell(value: float) -> str:
    return "" if np.isnan(value) else format(value, ".10g")
