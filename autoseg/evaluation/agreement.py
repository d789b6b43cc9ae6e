"""How far annotations of the same cases agree, and models with them: what is reported of the measured pairs."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from autoseg.evaluation.comparison import Comparison, compare_samples
from autoseg.evaluation.consensus import Consensus
from autoseg.evaluation.metric import METRICS
from autoseg.evaluation.paired import Bootstrap
from autoseg.evaluation.summary import Statistics, number
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import read_json, write_csv, write_json

#: The name that the consensus has beside the raters'.
CONSENSUS = "consensus"


@dataclass(frozen=True)
class PairRow:
    """What two label maps of one case have in common: metric → value, NaN where undefined."""

    case: str
    first: str
    second: str
    target: str
    values: dict[str, float]


@dataclass(frozen=True)
class Agreement:
    """Every pair of raters, and every model with every rater, in every case.

    Attributes:
        rows: one a case, pair and target.
        raters: names.
        models: names.
        targets: names.
        metrics: names of symmetric metrics.
        consensus: how the raters were united, if they were.
    """

    rows: tuple[PairRow, ...]
    raters: tuple[str, ...]
    models: tuple[str, ...]
    targets: tuple[str, ...]
    metrics: tuple[str, ...]
    consensus: Consensus | None = None

    @property
    def cases(self) -> list[str]:
        """Names of the cases, each once."""
        return list(dict.fromkeys(row.case for row in self.rows))

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Raters with raters, raters with the consensus, models with raters, models with the consensus."""
        return list(self._values)

    def values(self, first: str, second: str, target: str, metric: str = "dice") -> dict[str, float]:
        """Case → value of one pair; in whatever order the two are named."""
        pair = (first, second) if (first, second) in self._values else (second, first)
        return {case: found[metric] for case, found in self._values.get(pair, {}).get(target, {}).items()}

    def with_others(self, name: str, target: str, metric: str = "dice") -> dict[str, float]:
        """Case → mean over the raters (but ``name`` itself) of the agreement with ``name``."""
        return _case_means(self.values(name, rater, target, metric) for rater in self.raters if rater != name)

    def between_raters(self, target: str, metric: str = "dice") -> dict[str, float]:
        """Case → mean over all pairs of raters."""
        return _case_means(self.values(*pair, target, metric) for pair in combinations(self.raters, 2))

    def comparison(self, metric: str = "dice", bootstrap: Bootstrap = Bootstrap()) -> Comparison:
        """Does a model agree with a rater as well as the other raters do?

        For each rater and target, a model's values with the rater are compared, case by case, with the mean of the
        other raters' values with that rater (with two raters: the inter-rater value itself).

        Args:
            metric: which.
            bootstrap: how the confidence intervals are made.

        Raises:
            AutosegError: no model was given.
        """
        if not self.models:
            raise AutosegError("there is no model to compare with the raters; give one with --model.")
        columns = [(f"{target}, {rater}", target, rater) for target in self.targets for rater in self.raters]
        samples = {
            "the other raters": {name: self.with_others(rater, target, metric) for name, target, rater in columns},
            **{
                model: {name: self.values(model, rater, target, metric) for name, target, rater in columns}
                for model in self.models
            },
        }
        directions = {name: METRICS.find(metric).better for name, *_ in columns}
        return compare_samples(samples, directions=directions, bootstrap=bootstrap)

    def table(self, metric: str = "dice") -> Table:
        """A table for the terminal: mean ± standard deviation over cases of every pair and of their means."""
        cases = len(self.cases)
        digits = METRICS.find(metric).digits
        title = f"{METRICS.find(metric).title}, {cases} case{'' if cases == 1 else 's'}" + (
            ": mean ± standard deviation" * (cases > 1)
        )
        table = Table(title=title)
        table.add_column("", overflow="fold")
        for target in self.targets:
            table.add_column(escape(target), justify="right")
        for name, first, second in self._lines():
            if not name:
                table.add_section()
                continue
            cells = []
            for target in self.targets:
                found = Statistics.of(self._line(first, second, target, metric).values())
                text = number(found.mean, digits) + (f" ± {number(found.std, digits)}" if found.n > 1 else "")
                cells.append(text if found.n in (0, cases) else f"{text} (n {found.n})")
            table.add_row(escape(name), *cells)
        return table

    def to_json(self, compared: Comparison | None = None) -> dict[str, Any]:
        """What ``agreement.json`` holds; undefined values are null."""
        means = [
            {
                "pair": name,
                "target": target,
                "metric": metric,
                **{
                    key: None if np.isnan(value) else value
                    for key, value in vars(Statistics.of(self._line(first, second, target, metric).values())).items()
                },
            }
            for name, first, second in self._lines()
            if name
            for target in self.targets
            for metric in self.metrics
        ]
        return {
            "cases": len(self.cases),
            "raters": list(self.raters),
            "models": list(self.models),
            "consensus": self.consensus,
            "agreement": means,
            "comparison": compared.to_json() if compared else None,
        }

    def write(self, folder: str | Path, compared: Comparison | None = None) -> None:
        """Write ``agreement.csv`` (a row a case, pair and target) and ``agreement.json`` (means and test)."""
        lines = [["case", "first", "second", "target", *self.metrics]]
        for row in self.rows:
            cells = ["" if np.isnan(row.values[m]) else format(row.values[m], ".10g") for m in self.metrics]
            lines.append([row.case, row.first, row.second, row.target, *cells])
        write_csv(Path(folder) / "agreement.csv", lines)
        write_json(Path(folder) / "agreement.json", self.to_json(compared))

    @classmethod
    def read(cls, folder: str | Path) -> "Agreement":
        """What :meth:`write` wrote.

        Raises:
            AutosegError: the files are missing or damaged.
        """
        try:
            summary = read_json(Path(folder) / "agreement.json")
            with open(Path(folder) / "agreement.csv", encoding="utf-8", newline="") as file:
                lines = list(csv.DictReader(file))
            metrics = tuple(dict.fromkeys(line["metric"] for line in summary["agreement"]))
            targets = tuple(dict.fromkeys(line["target"] for line in summary["agreement"]))
            rows = tuple(
                PairRow(
                    line["case"],
                    line["first"],
                    line["second"],
                    line["target"],
                    {metric: float(line[metric] or "nan") for metric in metrics},
                )
                for line in lines
            )
            return cls(rows, tuple(summary["raters"]), tuple(summary["models"]), targets, metrics, summary["consensus"])
        except (OSError, KeyError, TypeError, ValueError):
            raise AutosegError(
                f"{folder} holds no readable agreement.json and agreement.csv; run autoseg agreement again."
            ) from None

    @cached_property
    def _values(self) -> dict[tuple[str, str], dict[str, dict[str, dict[str, float]]]]:
        """Pair → target → case → metric → value."""
        found: dict[tuple[str, str], dict[str, dict[str, dict[str, float]]]] = {
            pair: {} for pair in pairs_of(self.raters, self.models, self.consensus is not None)
        }
        for row in self.rows:
            found[row.first, row.second].setdefault(row.target, {})[row.case] = row.values
        return {pair: values for pair, values in found.items() if values}

    def _lines(self) -> Iterator[tuple[str, str, str]]:
        """Lines of the table: heading, and whose values; an empty ``second`` is the mean over the raters."""
        for first, second in self.pairs:
            if second in self.raters and first in self.raters:
                yield f"{first} – {second}", first, second
        if len(self.raters) > 2:
            yield "raters, mean of pairs", "", ""
        for model in self.models:
            yield "", "", ""
            for second in (*self.raters, *([CONSENSUS] if self.consensus else [])):
                if (model, second) in self._values:
                    yield f"{model} – {second}", model, second
            yield f"{model}, mean of raters", model, ""
        if self.consensus:
            yield "", "", ""
            for rater in self.raters:
                yield f"{rater} – {CONSENSUS}", rater, CONSENSUS

    def _line(self, first: str, second: str, target: str, metric: str) -> dict[str, float]:
        if not first:
            return self.between_raters(target, metric)
        return self.values(first, second, target, metric) if second else self.with_others(first, target, metric)


def pairs_of(raters: Sequence[str], models: Sequence[str], consensus: bool) -> list[tuple[str, str]]:
    """Who is compared with whom: raters, raters and the consensus, models and each of these."""
    pairs = list(combinations(raters, 2))
    against = [*raters, *([CONSENSUS] if consensus else [])]
    pairs += [(rater, CONSENSUS) for rater in raters if consensus]
    return pairs + [(model, second) for model in models for second in against]


def _case_means(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Case → mean over those parts that have it defined."""
    gathered: dict[str, list[float]] = {}
    for part in parts:
        for case, value in part.items():
            gathered.setdefault(case, []).append(value)
    return {
        case: float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")
        for case, values in gathered.items()
    }
