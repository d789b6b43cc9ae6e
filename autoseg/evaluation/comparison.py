"""Paired statistics: is one method better than another on the same cases, by how much, and how surely.

The tests are those of :mod:`autoseg.evaluation.paired`; here they are done for every column (a metric, a structure) and
every name but the baseline, corrected for all of them together, and shown as a table and in sentences.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table

from autoseg.evaluation.metric import Direction
from autoseg.evaluation.paired import METHODS, Bootstrap, holm, paired_interval, signed_rank
from autoseg.evaluation.summary import Statistics, number
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import write_csv
from autoseg.utils.text import listed

#: Names that a message has before it counts the others.
_LISTED = 5

#: Name → column → case → value; NaN (or infinite) where undefined.
Samples = Mapping[str, Mapping[str, Mapping[str, float]]]


@dataclass(frozen=True)
class ComparisonRow:
    """One name's values in one column, and what distinguishes them from the baseline's.

    Attributes:
        name: of the input.
        column: metric or structure.
        n: cases for which the value is defined; ``mean`` to ``q75`` are over these.
        mean: of them.
        std: sample standard deviation (n − 1).
        q25: lower quartile.
        median: of them.
        q75: upper quartile.
        pairs: cases for which the baseline's value is defined, too; what follows is over these, and NaN for the
            baseline itself or without pairs.
        difference: mean of name − baseline.
        low: lower end of its confidence interval.
        high: upper end.
        p: of the signed-rank test.
        p_holm: corrected for all comparisons of the table.
        effect: rank-biserial correlation; positive where the values are higher than the baseline's.
    """

    name: str
    column: str
    n: int
    mean: float
    std: float
    q25: float
    median: float
    q75: float
    pairs: int
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    effect: float


@dataclass(frozen=True)
class Comparison:
    """Every name against the baseline in every column.

    Attributes:
        rows: for each column, the names in the order given.
        baseline: the name that the others are compared with.
        cases: that all names have.
        omitted: cases that only some names have, and which were left out.
        directions: column → which values are better.
        bootstrap: how the intervals were made; 1 − confidence is the level of significance.
        remarks: sentences about how the inputs were read, such as rows that were left out.
    """

    rows: tuple[ComparisonRow, ...]
    baseline: str
    cases: tuple[str, ...]
    omitted: tuple[str, ...]
    directions: Mapping[str, Direction]
    bootstrap: Bootstrap
    remarks: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """The inputs, in the order given."""
        return list(dict.fromkeys(row.name for row in self.rows))

    @property
    def columns(self) -> list[str]:
        """Metrics or structures, in the baseline's order."""
        return list(dict.fromkeys(row.column for row in self.rows))

    def row(self, name: str, column: str) -> ComparisonRow:
        """The row of this name and column.

        Raises:
            KeyError: there is none.
        """
        for row in self.rows:
            if (row.name, row.column) == (name, column):
                return row
        raise KeyError((name, column))

    @property
    def method(self) -> str:
        """Test and correction in a few words, for below the table."""
        tests = sum(not math.isnan(row.p) for row in self.rows)
        return f"Wilcoxon signed-rank, Holm-corrected over {tests} comparison{'' if tests == 1 else 's'}"

    def verdicts(self) -> list[str]:
        """A sentence for each name but the baseline: where it is significantly better or worse.

        All that share as few cases with the baseline that nothing can be significant have one sentence together.
        """
        sentences = []
        too_few: dict[int, list[str]] = {}
        for name in self.names:
            if name == self.baseline:
                continue
            pairs = max((row.pairs for row in self._tested(name)), default=0)
            # Two of the 2^pairs patterns of signs are as extreme as can be.
            if pairs and 2.0 ** (1 - pairs) >= self._alpha:
                too_few.setdefault(pairs, []).append(name)
            else:
                sentences.append(self._verdict(name))
        return [*sentences, *(self._too_few(names, pairs) for pairs, names in too_few.items())]

    def notes(self) -> list[str]:
        """Sentences about how the inputs were read, and what was left out."""
        notes = list(self.remarks)
        if self.omitted:
            notes.append(
                f"{len(self.omitted)} of {len(self.cases) + len(self.omitted)} cases are not in every input, "
                f"left out: {listed(self.omitted, _LISTED)}."
            )
        for row in self.rows:
            if missing := len(self.cases) - row.n:
                notes.append(f"{row.column} of {row.name} is undefined for {missing} case{'s' if missing > 1 else ''}.")
        return notes + self._unpaired()

    def table(self, title: str | None = None, *, wide: bool = True) -> Table:
        """A table for the terminal, one section a column, the test below; ``wide`` adds p and needs over 80 columns."""
        cases = len(self.cases)
        gap = " " if wide else ""
        some_undefined = any(row.n < cases for row in self.rows)
        headings = [f"mean{gap}±{gap}std", "median", "Δ mean", f"{100 * self.bootstrap.confidence:g} % interval"]
        headings = [*(["n/pairs"] if some_undefined else []), *headings, *(["p"] if wide else [])]
        table = Table(
            title=title or f"{cases} case{'' if cases == 1 else 's'}, compared with {escape(self.baseline)}",
            caption=escape(self.method),
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            padding=(0, 1) if wide else (0, 0, 0, 1),
        )
        table.add_column("", overflow="fold")
        for heading in (*headings, "p Holm", "effect"):
            table.add_column(heading, justify="right", no_wrap=True)
        for column in self.columns:
            rows = [row for row in self.rows if row.column == column]
            digits = _digits(row.mean for row in rows)
            table.add_row(f"[bold]{escape(column)}[/bold]")
            for row in rows:
                cells = [f"{row.n}" if row.pairs == row.n else f"{row.n}/{row.pairs}"] if some_undefined else []
                cells += [f"{number(row.mean, digits)}{gap}±{gap}{number(row.std, digits)}", number(row.median, digits)]
                if row.name != self.baseline:
                    interval = f"{number(row.low, digits)}{gap}…{gap}{number(row.high, digits)}"
                    cells += [_signed(row.difference, digits), interval, *([_p(row.p)] if wide else [])]
                    cells += [_p(row.p_holm), _signed(row.effect, 2)]
                table.add_row(escape(row.name), *cells)
            table.add_section()
        return table

    def to_json(self) -> dict[str, Any]:
        """Everything, for a JSON file; undefined values are null."""
        return {
            "baseline": self.baseline,
            "cases": len(self.cases),
            "omitted": list(self.omitted),
            "confidence": self.bootstrap.confidence,
            "resamples": self.bootstrap.resamples,
            "seed": self.bootstrap.seed,
            "methods": METHODS,
            "better": dict(self.directions),
            "rows": [
                {key: None if _undefined(value) else value for key, value in asdict(row).items()} for row in self.rows
            ],
            "verdicts": self.verdicts(),
            "notes": self.notes(),
        }

    def write_csv(self, path: str | Path) -> None:
        """Write a line for each row; undefined values are empty cells.

        Raises:
            AutosegError: the file can't be written.
        """
        fields = ["column", "name", *(f for f in ComparisonRow.__dataclass_fields__ if f not in ("column", "name"))]
        lines = [["baseline", *fields]]
        for row in self.rows:
            values = [getattr(row, field) for field in fields]
            lines.append([self.baseline, *("" if _undefined(v) else _text(v) for v in values)])
        write_csv(path, lines)

    def _unpaired(self) -> list[str]:
        """Sentences about cases in which one of two has a value and the other none: these the tests leave out."""
        notes = []
        for row in self.rows:
            alone = {row.name: row.n - row.pairs, self.baseline: self.row(self.baseline, row.column).n - row.pairs}
            told = [f"{n} case{'s' if n > 1 else ''} with a value of {name} alone" for name, n in alone.items() if n]
            if told and row.name != self.baseline:
                notes.append(f"{row.column}: the test leaves out {' and '.join(told)}.")
        if notes:
            notes.append(
                "Where absent structures are skipped, one alone has a value if it segments what is absent (Dice of 0) "
                "or the other misses what is there (a distance); evaluate with --empty brats (empty in a plan or grid "
                "file) to count these cases."
            )
        return notes

    @property
    def _alpha(self) -> float:
        return 1 - self.bootstrap.confidence

    def _tested(self, name: str) -> list[ComparisonRow]:
        return [row for row in self.rows if row.name == name and not math.isnan(row.p_holm)]

    def _too_few(self, names: Sequence[str], pairs: int) -> str:
        cases = f"{pairs} case{'s' if pairs > 1 else ''}"
        share = f"{names[0]} and {self.baseline} share {cases}"
        if len(names) > 1:
            share = f"{names[0]} and {len(names) - 1} more share {cases} with {self.baseline}"
        return (
            f"{share}, too few for any difference to be significant at {self._alpha:.2g}; "
            f"{1 + math.floor(1 - math.log2(self._alpha))} are the fewest."
        )

    def _verdict(self, name: str) -> str:
        alpha, tested = self._alpha, self._tested(name)
        if not tested:
            return f"{name} and {self.baseline} have no values of the same cases to compare."
        many = len(tested) > 1
        groups: dict[str, list[ComparisonRow]] = {}
        for row in tested:
            if row.p_holm < alpha:
                groups.setdefault(self._word(row), []).append(row)
        if groups:
            share = f" of {len(tested)} comparisons" if many else ""
            parts = [
                f"significantly {word} than {self.baseline} in "
                + (f"{len(rows)}{share}: " if many else "")
                + ", ".join(self._describe(row) for row in rows)
                for word, rows in groups.items()
            ]
            return f"{name} is {'; '.join(parts)}."
        words = {self._word(row) for row in tested if row.effect}
        how = f"{words.pop()} than" if len(words) == 1 else "different from"
        smallest = min(row.p_holm for row in tested)
        where = f"in any of {len(tested)} comparisons" if many else f"in {tested[0].column}"
        found = f"{'smallest ' if many else ''}corrected p {_equals(smallest)}"
        return f"{name} is not significantly {how} {self.baseline} {where} ({found})."

    def _word(self, row: ComparisonRow) -> str:
        direction = self.directions[row.column]
        if direction == "neither":
            return "higher" if row.effect > 0 else "lower"
        return "better" if (row.effect > 0) == (direction == "more") else "worse"

    def _describe(self, row: ComparisonRow) -> str:
        digits = _digits([row.mean, row.difference])
        # Ranks and means can disagree: better in most cases, and much worse in a few.
        though = "" if row.difference * row.effect > 0 else ", although the mean says otherwise"
        return f"{row.column} (mean {_signed(row.difference, digits)}, corrected p {_equals(row.p_holm)}{though})"


def compare_samples(
    samples: Samples,
    baseline: str | None = None,
    *,
    directions: Mapping[str, Direction] | None = None,
    bootstrap: Bootstrap = Bootstrap(),
) -> Comparison:
    """Compare methods on the same cases.

    Args:
        samples: name → column → case → value. Cases and columns that only some names have are left out; a NaN or an
            infinite value is left out of its own pairs only.
        baseline: name that the others are compared with; None for the first.
        directions: column → whether more or less of it is better; ``more`` where not named.
        bootstrap: how the intervals are made.

    Raises:
        AutosegError: the inputs have no case or no column in common.
        UsageError: nothing to compare, or an unknown baseline.

    Example:
        >>> scores = {f"case_{i}": 0.8 + i / 100 for i in range(10)}
        >>> better = {case: score + 0.01 for case, score in scores.items()}
        >>> compare_samples({"old": {"tumor": scores}, "new": {"tumor": better}}).verdicts()
        ['new is significantly better than old in tumor (mean +0.0100, corrected p = 0.002).']
    """
    names = list(samples)
    baseline = names[0] if baseline is None and names else baseline
    if not names:
        raise UsageError("there is nothing to compare; give two or more evaluations.")
    if baseline is None or baseline not in names:
        raise UsageError(f"--baseline {baseline} is none of the inputs; choose one of {', '.join(names)}.")
    columns = [c for c in samples[baseline] if all(c in samples[name] for name in names)]
    if not columns:
        raise AutosegError(
            "the inputs have nothing in common to compare: "
            + "; ".join(f"{name} has {listed(samples[name], _LISTED) or 'nothing'}" for name in names)
            + "."
        )
    known = {name: {case: None for column in columns for case in samples[name][column]} for name in names}
    cases = [case for case in known[baseline] if all(case in known[name] for name in names)]
    if not cases:
        raise AutosegError(
            "the inputs have no case in common; cases are paired by name: "
            + "; ".join(f"{name} has {listed(known[name], _LISTED) or 'nothing'}" for name in names)
            + "."
        )
    everyone = dict.fromkeys(case for name in names for case in known[name])
    values = {
        (name, column): _defined([samples[name][column].get(case, math.nan) for case in cases])
        for name in names
        for column in columns
    }
    tests = {
        (name, column): _paired(values[name, column] - values[baseline, column], bootstrap)
        for column in columns
        for name in names
        if name != baseline
    }
    corrected = dict(zip(tests, holm([test["p"] for test in tests.values()]), strict=True))
    rows = []
    for column in columns:
        for name in names:
            own = Statistics.of(values[name, column])
            test = tests.get((name, column), {"pairs": own.n, **_NO_TEST})
            rows.append(
                ComparisonRow(
                    name=name,
                    column=column,
                    n=own.n,
                    mean=own.mean,
                    std=own.std,
                    q25=own.q25,
                    median=own.median,
                    q75=own.q75,
                    p_holm=corrected.get((name, column), math.nan),
                    **test,
                )
            )
    compared = set(cases)
    return Comparison(
        rows=tuple(rows),
        baseline=baseline,
        cases=tuple(cases),
        omitted=tuple(case for case in everyone if case not in compared),
        directions={column: (directions or {}).get(column, "more") for column in columns},
        bootstrap=bootstrap,
    )


def _defined(values: Sequence[float]) -> np.ndarray:
    """An infinite value (a distance to nothing) has no mean and no difference: it is as undefined as NaN."""
    array = np.array(values, dtype=np.float64)
    return np.where(np.isfinite(array), array, math.nan)


_NO_TEST: dict[str, Any] = dict.fromkeys(("difference", "low", "high", "p", "effect"), math.nan)


def _paired(differences: np.ndarray, bootstrap: Bootstrap) -> dict[str, Any]:
    differences = differences[~np.isnan(differences)]
    if not len(differences):
        return {"pairs": 0, **_NO_TEST}
    low, high = paired_interval(differences, bootstrap)
    p, effect = signed_rank(differences)
    return {
        "pairs": len(differences),
        "difference": float(differences.mean()),
        "low": low,
        "high": high,
        "p": p,
        "effect": effect,
    }


def _digits(values: Iterable[float]) -> int:
    """Decimals that suit values of this size: 4 for shares (Dice), 2 for millimetres."""
    return 4 if all(abs(value) <= 1 for value in values if not math.isnan(value)) else 2


def _signed(value: float, digits: int) -> str:
    return f"+{number(value, digits)}" if value > 0 else number(value, digits)


def _p(value: float) -> str:
    return "–" if math.isnan(value) else "<0.0001" if value < 1e-4 else f"{value:.2g}"


def _equals(p: float) -> str:
    return f"< {_p(p)[1:]}" if p < 1e-4 else f"= {_p(p)}"


def _undefined(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _text(value: object) -> str:
    return format(value, ".10g") if isinstance(value, float) else str(value)
