"""Which series a cohort's channels are, as a table of the user's says."""

from collections.abc import Sequence
from pathlib import Path

from autoseg.clinical.exams import Exam
from autoseg.data.layouts.tables import read_table
from autoseg.utils.errors import UsageError

#: Columns that the table has, and the one that tells the studies of one folder apart.
_COLUMNS, _STUDY = ("exam", "channel", "series"), "study"


def series_by_table(table: Path, root: Path, exams: Sequence[Exam]) -> list[dict[str, str]]:
    """Channel → series of each exam.

    Args:
        table: CSV with the columns ``exam`` (the folder's path below the cohort's, or its name), ``channel``,
            ``series`` and, where a folder holds several studies, ``study`` (its date, ``YYYYMMDD``, or its UID).
        root: folder of the cohort.
        exams: as found in it.

    Raises:
        UsageError: a column is missing; a row names no exam, or several; an exam's channel has two rows.
    """
    columns, rows = read_table(table)
    if lacking := [name for name in _COLUMNS if name not in columns]:
        raise UsageError(f"{table} has no column {', '.join(lacking)}; it needs {', '.join(_COLUMNS)}.")
    found: list[dict[str, str]] = [{} for _ in exams]
    for number, row in enumerate(rows, start=2):
        named = [at for at, exam in enumerate(exams) if row["exam"] == _below(root, exam)]
        named = named or [at for at, exam in enumerate(exams) if row["exam"] == exam.folder.name]
        fits = [at for at in named if row.get(_STUDY, "") in ("", *_studies(exams[at]))]
        if not named:
            raise UsageError(f"{table}, line {number}: no exam lies in a folder of the name that it gives.")
        if not fits:
            raise UsageError(f"{table}, line {number}: its exam has no study of the date or UID that it gives.")
        if len({exams[at].folder for at in fits}) > 1:
            raise UsageError(
                f"{table}, line {number}: {len(fits)} exams lie in folders of the name that it gives; give the "
                "folder's path below the cohort's."
            )
        if len(fits) > 1:
            raise UsageError(
                f"{table}, line {number}: the folder that it names holds {len(fits)} studies; say which in a column "
                f"{_STUDY} (its date, YYYYMMDD, or its UID)."
            )
        channels = found[fits[0]]
        if row["channel"] in channels:
            raise UsageError(f"{table}, line {number}: an earlier line gives this channel of its exam; remove one.")
        channels[row["channel"]] = row["series"]
    return found


def _below(root: Path, exam: Exam) -> str:
    """Path of an exam's folder below the cohort's."""
    return exam.folder.absolute().relative_to(root.absolute()).as_posix()


def _studies(exam: Exam) -> set[str]:
    """What tells an exam from the others of its folder."""
    return {exam.date, *(series.identity.study for series in exam.series)} - {""}
