"""Tables of a study on disk: one of the settings, one of the cases, and a Markdown page."""

import math

from autoseg.evaluation.protocol import STANDARD_METRICS
from autoseg.study.preparation import Study
from autoseg.study.present import markdown
from autoseg.study.results import StudyTable, collect_results
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
    """Write ``table.csv``, ``cases.csv`` and ``table.md`` into the study's folder."""
    out = table.study.out
    records = table.records()
    columns = list(dict.fromkeys(key for record in records for key in record))
    rows = [[_cell(record.get(column, math.nan)) for column in columns] for record in records]
    write_csv(out / "table.csv", [columns, *rows])
    lines = [
        [
            result.setting.name,
            seed,
            fold,
            row.case,
            row.target,
            *(_cell(row.values[metric]) for metric in STANDARD_METRICS),
        ]
        for result in table.results
        for (seed, fold), evaluation in result.evaluations.items()
        for row in evaluation.rows
    ]
    header = ["setting", "seed", "fold", "case", "target", *STANDARD_METRICS]
    write_csv(out / "cases.csv", [header, *lines])
    write_text(out / "table.md", markdown(table))


def _cell(value: object) -> object:
    if isinstance(value, float):
        return "" if math.isnan(value) else format(value, ".10g")
    return value
