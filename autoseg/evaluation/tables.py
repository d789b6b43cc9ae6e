"""Read values of cases from finished evaluations and from other tools' tables, and compare them.

An input is one of:

* a folder that ``autoseg evaluate`` wrote, or its ``metrics.csv`` (one row a case and target);
* a run folder: the cross-validation of its recommended configuration, or of the only one that has any;
* any CSV with one row a case and one column a metric, as challenge servers return them. Rows such as ``Mean`` and
  ``75quantile`` are summaries, and left out.
"""

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from autoseg.evaluation.cases import COUNTED
from autoseg.evaluation.comparison import Comparison, compare_samples
from autoseg.evaluation.masks import by_convention
from autoseg.evaluation.metric import METRICS, Direction
from autoseg.evaluation.naming import Inputs, name_inputs
from autoseg.evaluation.paired import Bootstrap
from autoseg.evaluation.protocol import TOLERANCE_MM, Empty
from autoseg.runs.run import Run
from autoseg.runs.trained_folds import folds_of_plan
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import read_json_table, refuse_unwritable_file
from autoseg.utils.text import listed

if TYPE_CHECKING:
    from typing import Self

#: Metrics of our own evaluations that are compared where none are named.
_DEFAULT_METRICS = ("dice",)

#: Column → case → value.
Columns = dict[str, dict[str, float]]

_STATISTIC = "mean|average|avg|median|std|stdev|stddev|standarddeviation"
#: What a summary row is called, in lower case without punctuation: ``Mean``, ``StdDev``, ``25quantile``.
_SUMMARY = re.compile(
    rf"(overall|total|global)?({_STATISTIC})(all|overall|total)?"
    r"|\d+(st|nd|rd|th)?(quantile|quartile|percentile|perc|pct)|(quantile|quartile|percentile|perc|pct)\d+"
)
#: Names that could be a patient's, too: summaries only in a file that has one of the others.
_PERHAPS_SUMMARY = re.compile(r"min|minimum|max|maximum|sd|se|sem|var|variance|iqr|sum|total|count|n|all")
#: Likewise ``P95`` and ``Q1``: only where every row of that letter is one of the usual, as patients are numbered so.
_NUMBERED = re.compile(r"[pq]\d+")
_USUAL_QUANTILE = re.compile(r"p(1|5|10|25|50|75|90|95|99)|q(1|2|3|25|75)")

_UNDEFINED = ("", "nan", "na", "n/a", "-", "–", "none", "null")

#: Foreign columns in which less is better: distances and errors, by the words that their names are made of.
_LESS = re.compile(
    r"hd|hausdorff|assd|asd|msd|masd|distance|error|loss|rmse|mae|mse|fps?|fns?|fpr|fnr|fdr|false|avd|aavd|ravd"
)

#: Foreign columns in which neither is: amounts, unless their name also has a word for similarity.
_NEITHER = re.compile(r"volumes?|vol|voxels?|ml|difference|r?vd|counts?|num|numbers?|tps?|tns?")
_ALIKE = re.compile(r"similarity|overlap|agreement|correlation")


@dataclass(frozen=True)
class CaseTable:
    """What was read of one file.

    Attributes:
        columns: column → case → value, NaN where undefined.
        directions: column → which values are better.
        left_out: rows that are no cases.
    """

    columns: Columns
    directions: dict[str, Direction]
    left_out: tuple[str, ...] = ()

    def without(self, exclude: Sequence[str]) -> "Self":
        """The same without some rows, in whatever case they are named; ``left_out`` are those."""
        wanted = {name.strip().lower() for name in exclude}
        rows = dict.fromkeys(case for column in self.columns.values() for case in column if case.lower() in wanted)
        columns = {
            name: {case: value for case, value in column.items() if case not in rows}
            for name, column in self.columns.items()
        }
        return replace(self, columns=columns, left_out=tuple(rows))


def compare(
    inputs: Inputs | Sequence[str | Path],
    *,
    baseline: str | None = None,
    metrics: Sequence[str] | None = None,
    case: str | None = None,
    exclude: Sequence[str] = (),
    bootstrap: Bootstrap = Bootstrap(),
    out: str | Path | None = None,
) -> Comparison:
    """Compare finished evaluations.

    Evaluations by different conventions for absent structures are brought to that of BraTS, where they are ``skip`` and
    ``brats``.

    Args:
        inputs: name → path, or paths (each may be ``NAME=PATH``; otherwise names are made of the paths). Where a
            name has several paths (in a string: with commas), a case's values are averaged over them.
        baseline: name that the others are compared with; None for the first.
        metrics: names of metrics for our own evaluations (None: Dice); columns of other tables.
        case: column with the cases' names, for other tables.
        exclude: further rows that are no cases.
        bootstrap: how the confidence intervals are made.
        out: CSV file for the whole table; None to write nothing.

    Raises:
        AutosegError: a file is missing, damaged or can't be written, or the inputs have no case or column in common.
        UsageError: fewer than two inputs, unknown columns, wrong options, or evaluations whose values mean different
            things (other conventions, or NSD by another tolerance).

    Example:
        >>> autoseg.compare({"plain": "RUN_A", "wide": "RUN_B"}, metrics=["dice", "hd95"])  # doctest: +SKIP
    """
    if out is not None:
        refuse_unwritable_file(out)
    sources = name_inputs(inputs, several=True)
    if len(sources) < 2:
        raise UsageError("there is nothing to compare with; give two or more evaluations.")
    empty, remark = _common_convention([find_table(path) for paths in sources.values() for path in paths], metrics)
    remarks = [remark]
    samples: dict[str, Columns] = {}
    directions: dict[str, Direction] = {}
    left_out: dict[tuple[str, ...], list[Path]] = {}
    for name, paths in sources.items():
        parts = [read_values(path, metrics, case, exclude, empty) for path in paths]
        for path, part in zip(paths, parts, strict=True):
            left_out.setdefault(part.left_out, []).append(path)
        samples[name], remark = _average(name, [part.columns for part in parts])
        remarks.append(remark)
        for part in parts:
            directions.update(part.directions)
    known = {row.lower() for rows in left_out for row in rows}
    for name in exclude:
        if name.strip().lower() not in known:
            raise UsageError(f"--exclude {name} is no row of any input; write it as it stands in the case column.")
    for rows, files in left_out.items():
        if rows:
            others = f" and {len(files) - 1} more" if len(files) > 1 else ""
            remarks.append(f"{files[0]}{others}: left out the rows {', '.join(rows)}, which are no cases.")
    found = compare_samples(samples, baseline, directions=directions, bootstrap=bootstrap)
    found = replace(found, remarks=tuple(filter(None, remarks)))
    if out is not None:
        found.write_csv(out)
    return found


def read_values(
    path: str | Path,
    metrics: Sequence[str] | None = None,
    case: str | None = None,
    exclude: Sequence[str] = (),
    empty: Empty = "skip",
) -> CaseTable:
    """Read an evaluation folder, a run folder or a CSV.

    Args:
        path: evaluation folder, run folder or CSV.
        metrics: names of metrics, or columns of a foreign table.
        case: column of a foreign table that has the cases' names.
        exclude: names of rows that are no cases, besides those recognised.
        empty: ``brats`` to count absent structures so in our own evaluations; else they are as they were measured.

    Raises:
        AutosegError: missing or damaged.
        UsageError: a foreign table without, or with unknown, columns; an unknown metric.
    """
    file = find_table(Path(path))
    header, lines = _read(file)
    ours = header[:2] == ["case", "target"] and any(name in METRICS for name in header[2:])
    if ours and case in (None, "case"):
        found = _read_ours(file, header, lines, metrics or _DEFAULT_METRICS, empty)
        return found.without(exclude)
    return _read_foreign(file, header, lines, metrics, case, exclude)


def find_table(path: Path) -> Path:
    """The CSV of an input.

    Raises:
        AutosegError: there is none, or it is of a run's folds, and one of them is gone.
        UsageError: a run folder with several cross-validations, none of them recommended.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise AutosegError(f"{path} does not exist.")
    for inside in ("metrics.csv", "crossval/metrics.csv", "validation/metrics.csv"):
        if (path / inside).is_file():
            if inside.startswith("crossval") and (path.parent / "plan.json").is_file():
                _refuse_other_folds(Run(path.parent), path.name, path / inside)
            return path / inside
    if not (path / "plan.json").is_file():
        raise AutosegError(f"{path} has no metrics.csv; give a folder that 'autoseg evaluate --out' wrote, or a CSV.")
    run = Run.open(path)
    plan = run.plan
    # An earlier stage may segment one region only.
    whole = [stage.name for stage in plan.stages if stage.result == plan.target]
    found = {name: file for name in whole if (file := path / name / "crossval" / "metrics.csv").is_file()}
    if not found:
        raise AutosegError(f"{path} has no cross-validation yet; {run.how_to_validate(plan.recommended)}.")
    if len(found) > 1 and plan.recommended not in found:
        raise UsageError(f"{path} has several cross-validations; name one: {', '.join(str(path / n) for n in found)}.")
    name = plan.recommended if plan.recommended in found else next(iter(found))
    _refuse_other_folds(run, name, found[name])
    return found[name]


def _refuse_other_folds(run: Run, configuration: str, table: Path) -> None:
    """Refuse a cross-validation with a fold that was trained otherwise since, or is being trained.

    Folds that came since make no other table of it: that of all is written when the last of them has ended.
    """
    stage = next((stage for stage in run.plan.stages if stage.name == configuration), None)
    told = read_json_table(table.with_name("summary.json")).get("folds")
    if stage is None or not isinstance(told, list):
        return
    now = [fold.number for fold in folds_of_plan(run, stage) if fold.validated]
    if not set(told) <= set(now):
        raise AutosegError(
            f"{table} is of the folds {listed(told)}, but trained and validated under the present plan are "
            f"{listed(now) or 'none'}; {run.how_to_train(configuration)}, which writes it anew, or give {table.parent} "
            "to compare it as it is."
        )


def _common_convention(files: Sequence[Path], metrics: Sequence[str] | None) -> tuple[Empty, str]:
    """The convention by which our own evaluations count absent structures, together: ``brats`` where some do; a remark.

    Where all were measured by one convention, or nothing depends on it, ``skip``: values stay as they were measured.

    Raises:
        UsageError: their values mean different things.
    """
    told = {file: found for file in files if (found := _protocol_of(file)) is not None}
    compared = [METRICS.find(name) for name in metrics or _DEFAULT_METRICS if name in METRICS]
    if any(metric.uses_tolerance for metric in compared):
        for file, (_, tolerance) in told.items():
            first, (_, other) = next(iter(told.items()))
            if tolerance != other:
                raise UsageError(
                    f"{first} has surfaces within {other:g} mm and {file} within {tolerance:g} mm, which can't be "
                    "compared; evaluate one of them again with the other's --tolerance."
                )
    if not any(metric.kind in ("overlap", "distance") for metric in compared):
        return "skip", ""
    file_of: dict[Empty, Path] = {}
    for file, (empty, _) in told.items():
        file_of.setdefault(empty, file)
    if len(file_of) < 2:
        return "skip", ""
    if set(file_of) != {"skip", "brats"}:
        (empty, file), (other_empty, other_file) = list(file_of.items())[:2]
        raise UsageError(
            f"{file} counts absent structures as --empty {empty} does and {other_file} as {other_empty}, which "
            "can't be compared; evaluate one of them again with the other's --empty."
        )
    return "brats", f"Absent structures are counted by --empty brats in all inputs, also in {file_of['skip']}."


def _protocol_of(file: Path) -> tuple[Empty, float] | None:
    """Convention for absent structures and tolerance of one of our evaluations; None of tables that don't say."""
    summary = file.with_name("summary.json")
    found = read_json_table(summary) if file.name == "metrics.csv" else {}
    if found.get("empty") not in get_args(Empty):
        return None
    tolerance = found.get("tolerance_mm", TOLERANCE_MM)
    return found["empty"], float(tolerance) if isinstance(tolerance, int | float) else TOLERANCE_MM


def direction_of(metric: str) -> Direction:
    """Whether more or less of a metric is better: as registered, or by the words of its name for others."""
    if metric in METRICS:
        return METRICS.find(metric).better
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", metric).lower())
    if any(_LESS.fullmatch(word) for word in words):
        return "less"
    amount = any(_NEITHER.fullmatch(word) for word in words) and not any(_ALIKE.fullmatch(word) for word in words)
    return "neither" if amount else "more"


def summaries(names: Sequence[str]) -> set[str]:
    """Those of a table's rows that summarise the others.

    A name that could be a patient's, too (``max``, ``P95``), is one only beside others that could not.
    """
    bare = {name: re.sub(r"[\W_]", "", name).lower() for name in names}
    found = {name for name, plain in bare.items() if _SUMMARY.fullmatch(plain)}
    if not found:
        return found
    found |= {name for name, plain in bare.items() if _PERHAPS_SUMMARY.fullmatch(plain)}
    for letter in "pq":
        numbered = {name: plain for name, plain in bare.items() if _NUMBERED.fullmatch(plain) and plain[0] == letter}
        if all(_USUAL_QUANTILE.fullmatch(plain) for plain in numbered.values()):
            found |= set(numbered)
    return found


def _average(name: str, parts: Sequence[Columns]) -> tuple[Columns, str]:
    """Mean of each case over several files; a value that is undefined in one of them is undefined; and a remark."""
    if len(parts) == 1:
        return parts[0], ""
    columns = [column for column in parts[0] if all(column in part for part in parts)]
    if not columns:
        raise AutosegError(f"the {len(parts)} files of {name} have no column in common.")
    files = [{case for column in columns for case in part[column]} for part in parts]
    everyone, common = set.union(*files), set.intersection(*files)
    omitted = len(everyone) - len(common)
    remark = f"{name}: left out {omitted} of {len(everyone)} cases, not in all of its {len(parts)} files."
    means = {
        column: {
            case: sum(part[column].get(case, math.nan) for part in parts) / len(parts)
            for case in parts[0][column]
            if case in common
        }
        for column in columns
    }
    return means, remark if omitted else ""


def _read_ours(
    file: Path, header: list[str], lines: list[list[str]], metrics: Sequence[str], empty: Empty
) -> CaseTable:
    for metric in metrics:
        if metric not in header[2:]:
            raise UsageError(f"--metrics {metric} is unknown in {file}; choose of {', '.join(header[2:])}.")
    needed = [*metrics, *(COUNTED if empty == "brats" else ())]
    if missing := [name for name in needed if name not in header]:
        raise UsageError(f"{file} has no {missing[0]}, which says where a structure is absent; evaluate again.")
    columns: Columns = {}
    directions: dict[str, Direction] = {}
    targets = dict.fromkeys(line[1] for line in lines)
    for metric in metrics:
        for target in targets:
            name = target if len(metrics) == 1 else f"{metric} {target}"
            columns[name], directions[name] = {}, direction_of(metric)
    for number, line in enumerate(lines, start=2):
        case, target = line[:2]
        values = {name: _value(line[header.index(name)], file, number, name) for name in needed}
        if empty == "brats":
            values |= by_convention({name: value for name, value in values.items() if name in METRICS}, empty)
        for metric in metrics:
            column = columns[target if len(metrics) == 1 else f"{metric} {target}"]
            if case in column:
                raise AutosegError(f"{file}, line {number}: case {case} has {target} twice; evaluate again.")
            column[case] = values[metric]
    return CaseTable(columns, directions)


def _read_foreign(
    file: Path,
    header: list[str],
    lines: list[list[str]],
    metrics: Sequence[str] | None,
    case: str | None,
    exclude: Sequence[str],
) -> CaseTable:
    if case is None or not metrics:
        raise UsageError(
            f"{file} is no table of autoseg's; say which column names the case and which to compare with "
            f"--case COLUMN --metrics COLUMN,COLUMN; its columns are {', '.join(header)}."
        )
    for option, column in (("--case", case), *(("--metrics", metric) for metric in metrics)):
        if column not in header:
            raise UsageError(f"{option} {column} is no column of {file}; its columns are {', '.join(header)}.")
    where = header.index(case)
    of_others = summaries([line[where].strip() for line in lines])
    wanted = {name.strip().lower() for name in exclude}
    left_out: list[str] = []
    columns: Columns = {metric: {} for metric in metrics}
    for number, line in enumerate(lines, start=2):
        name = line[where].strip()
        if not name or name.lower() in wanted or name in of_others:
            left_out.append(name or f"(line {number})")
            continue
        for metric in metrics:
            if name in columns[metric]:
                raise AutosegError(
                    f"{file}, line {number}: the case {name} is there twice; keep one, or choose another --case column."
                )
            columns[metric][name] = _value(line[header.index(metric)], file, number, metric)
    if not columns[metrics[0]]:
        raise AutosegError(f"{file} has no cases: {listed(left_out, 10) or 'it has a header only'}.")
    return CaseTable(columns, {metric: direction_of(metric) for metric in metrics}, tuple(left_out))


def _read(file: Path) -> tuple[list[str], list[list[str]]]:
    """Header and lines of a table separated by commas, semicolons or tabs; short lines are filled up."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise AutosegError(f"{file} is no text in UTF-8; save it as a CSV in UTF-8.") from None
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    lines = [line for line in csv.reader(text.splitlines(), delimiter=separator) if any(cell.strip() for cell in line)]
    if not lines:
        raise AutosegError(f"{file} is empty.")
    header = [cell.strip() for cell in lines[0]]
    if separator != ",":  # where commas don't separate cells, they separate decimals
        lines = [lines[0], *([re.sub(r"^(-?\d+),(\d+)$", r"\1.\2", cell) for cell in line] for line in lines[1:])]
    return header, [line + [""] * (len(header) - len(line)) for line in lines[1:]]


def _value(text: str, file: Path, line: int, column: str) -> float:
    text = text.strip()
    if text.lower() in _UNDEFINED:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        raise AutosegError(
            f"{file}, line {line}: '{text}' in column {column} is no number; correct it, or leave the row out with "
            "--exclude NAME."
        ) from None
    return value if math.isfinite(value) else math.nan
