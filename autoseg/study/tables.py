"""Tables of a study on disk: one of the settings, one of the cases, and a Markdown page."""

import math
from pathlib import Path

from autoseg.evaluation.protocol import STANDARD_METRICS
from autoseg.study.curves import write_curves
from autoseg.study.preparation import Study
from autoseg.study.present import markdown
from autoseg.study.results import TOGETHER, StudyTable, collect_results
from autoseg.utils.files import write_csv, write_text


def tabulate(study: Study) -> StudyTable:
    """Evaluate and compare the finished trainings, and write the tables; stored evaluations are reused.

    Raises:
        AutosegError: a label map is unreadable.
    """
    table = collect_results(study)
    write_tables(table)
    return table


def write_tables(table: StudyTable) -> None:
    """Write ``table.csv``, ``cases.csv`` and ``table.md``, and the curves of training, into the study's folder.

    Of the test cases there are ``test_table.csv`` and ``test_cases.csv``, where there are some.
    """
    out = table.study.out
    _write_numbers(table, out, "")
    if table.tested is not None:
        _write_numbers(table.tested, out, "test_")
    write_text(out / "table.md", markdown(table))
    write_curves(table.study, out)


def _write_numbers(table: StudyTable, out: Path, prefix: str) -> None:
    """Write every number: a line a setting, and a line a case."""
    records = table.records()
    columns = list(dict.fromkeys(key for record in records for key in record))
    rows = [[_cell(record.get(column, math.nan)) for column in columns] for record in records]
    write_csv(out / f"{prefix}table.csv", [columns, *rows])
    lines = [
        [
            result.setting.name,
            seed,
            "all" if fold == TOGETHER else fold,
            row.case,
            row.target,
            *(_cell(row.values[metric]) for metric in STANDARD_METRICS),
        ]
        for result in table.results
        for (seed, fold), evaluation in result.evaluations.items()
        for row in evaluation.rows
    ]
    header = ["setting", "seed", "fold", "case", "target", *STANDARD_METRICS]
    write_csv(out / f"{prefix}cases.csv", [header, *lines])


def _cell(value: object) -> object:
    if isinstance(value, float):
        return "" if math.isnan(value) else format(value, ".10g")
    return value
