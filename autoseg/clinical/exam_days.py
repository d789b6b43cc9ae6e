"""Whose exams they are, and on which day after the patient's first one: from a table, or a prepared dataset."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from autoseg.clinical.headers import told_identity
from autoseg.data.dicom import read_dicom_elements
from autoseg.data.layouts.tables import read_table
from autoseg.data.patients import patient_of
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import read_json
from autoseg.utils.text import listed

#: File beside each case of a prepared dataset, and how deep it lies.
_STORED = ("transforms.json", "*/transforms.json", "*/*/transforms.json")

#: Columns of a table, in lower case.
_CASE, _PATIENT, _DATE, _DAY = "case", "patient", "date", "day"


@dataclass(frozen=True)
class ExamDay:
    """When an exam was.

    Attributes:
        patient: whose it is.
        day: days since the patient's first exam; None where unknown.
    """

    patient: str
    day: int | None = None


def exam_days(cases: Iterable[str], source: Path | None) -> dict[str, ExamDay]:
    """Case → patient and day.

    Args:
        cases: names.
        source: a CSV with the columns ``case``, ``date`` (YYYY-MM-DD or YYYYMMDD) or ``day``, and ``patient`` where a
            case's name does not tell; or a folder made by ``autoseg prepare``. None where nothing is known: patients
            are then found in well-known names of cases.

    Raises:
        AutosegError: the source is missing or damaged, or a date is none. Dates are never repeated.
    """
    known: Mapping[str, ExamDay] = {}
    if source is not None:
        if not source.exists():
            raise AutosegError(f"{source} does not exist.")
        known = _of_dataset(source) if source.is_dir() else _of_table(source)
    found = {}
    for case in cases:
        exam = known.get(case, ExamDay(""))
        found[case] = ExamDay(exam.patient or patient_of(case) or case, exam.day)
    if source is not None and not any(case in known for case in found):
        raise AutosegError(
            f"{source} names none of the cases ({listed(found, 5)}); name them as the results are called."
        )
    return found


def days_in_headers(files: Mapping[str, Path]) -> dict[str, ExamDay]:
    """Case → patient and day, of DICOM files, which know both. Patients are called after their first exam's case.

    Where an anonymizer took the identifier out, or put one for all in its place, the names of cases tell, or each is a
    patient of its own.

    Args:
        files: case → file.
    """
    if not files:
        return {}
    told: dict[str, tuple[str, date | None]] = {}
    for case, path in files.items():
        head = read_dicom_elements(path, ["PatientID", "StudyDate"])
        try:
            when = _parsed(str(head.get("StudyDate") or ""))
        except ValueError:
            when = None
        told[case] = told_identity(str(head.get("PatientID") or "")) or patient_of(case) or case, when
    first: dict[str, date] = {}
    names: dict[str, str] = {}
    for case, (patient, when) in sorted(told.items(), key=lambda item: (item[1][1] or date.max, item[0])):
        names.setdefault(patient, case)
        if when is not None:
            first.setdefault(patient, when)
    return {case: ExamDay(names[patient], _since(when, first.get(patient))) for case, (patient, when) in told.items()}


def _of_dataset(folder: Path) -> dict[str, ExamDay]:
    found = {}
    for path in sorted(path for pattern in _STORED for path in folder.glob(pattern)):
        stored = read_json(path)
        if not isinstance(stored, dict) or not isinstance(stored.get("case"), str):
            raise AutosegError(f"{path} is damaged; prepare the exam again.")
        day = stored.get("day")
        found[stored["case"]] = ExamDay(str(stored.get("patient") or ""), day if isinstance(day, int) else None)
    if not found:
        raise AutosegError(f"{folder} holds no exam made by 'autoseg prepare'; give its folder, or a CSV of dates.")
    return found


def _of_table(path: Path) -> dict[str, ExamDay]:
    columns, rows = read_table(path)
    names = {name.lower(): name for name in columns}
    if _CASE not in names or not {_DATE, _DAY} & names.keys():
        raise AutosegError(f"{path} needs the columns case and date (or day), and patient where several are one's.")
    whole: dict[str, tuple[str, Any]] = {}
    for number, row in enumerate(rows, start=2):
        values = {key: row[name] for key, name in names.items()}
        case = values[_CASE]
        if case in whole:
            raise AutosegError(f"{path}: row {number} is the second one of {case}; remove one of them.")
        patient = values.get(_PATIENT, "") or patient_of(case) or case
        whole[case] = patient, _when(values, path, number)
    first: dict[str, Any] = {}
    kinds: dict[str, set[type]] = {}
    for patient, when in whole.values():
        if when is not None:
            kinds.setdefault(patient, set()).add(type(when))
            if len(kinds[patient]) > 1:
                raise AutosegError(
                    f"{path} gives dates for some exams of a patient and days for others; give one of both."
                )
            first[patient] = min(first.get(patient, when), when)
    return {case: ExamDay(patient, _since(when, first.get(patient))) for case, (patient, when) in whole.items()}


def _when(values: Mapping[str, str], path: Path, number: int) -> date | int | None:
    """A row's date, or its number of a day; None where it has neither."""
    if day := values.get(_DAY, ""):
        try:
            return int(day)
        except ValueError:
            raise AutosegError(f"{path}: the day in row {number} is no whole number.") from None
    text = values.get(_DATE, "")
    try:
        return _parsed(text)
    except ValueError:
        raise AutosegError(
            f"{path}: the date in row {number} is no date of the form YYYY-MM-DD or YYYYMMDD; correct it."
        ) from None


def _parsed(text: str) -> date | None:
    """A date of the form YYYY-MM-DD or YYYYMMDD; None for an empty text.

    Raises:
        ValueError: it is none.
    """
    if len(text) == 8 and text.isdigit():
        text = f"{text[:4]}-{text[4:6]}-{text[6:]}"
    return date.fromisoformat(text) if text else None


def _since(when: date | int | None, first: Any) -> int | None:
    if when is None:
        return None
    return (when - first).days if isinstance(when, date) else int(when - first)
