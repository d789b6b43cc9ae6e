"""Pseudonyms of patients, and the table that leads back to them, readable by its owner only."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path

from autoseg.clinical.exams import Exam
from autoseg.data.file_names import plain_name
from autoseg.data.layouts.tables import read_table
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import write_private_text

#: Columns of the table.
_COLUMNS = ("case", "patient", "patient_id", "patient_name", "study_date", "study_uid", "folder")


@dataclass
class Pseudonyms:
    """Names of cases that say nothing about the patient.

    Attributes:
        path: of the table.
        rows: one a case, as they are in the table.
    """

    path: Path
    rows: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def beside(cls, dataset: Path) -> "Pseudonyms":
        """The table of a dataset, which lies beside its folder and not in it; an earlier one goes on.

        Raises:
            AutosegError: a file of that name is no such table.
        """
        path = dataset.absolute().parent / f"{dataset.absolute().name}_pseudonyms.csv"
        if not path.is_file():
            return cls(path)
        columns, rows = read_table(path)
        if lacking := [name for name in _COLUMNS if name not in columns]:
            raise AutosegError(
                f"{path} is no table of pseudonyms (it lacks {', '.join(lacking)}); restore or remove it."
            )
        return cls(path, rows)

    def name(self, exam: Exam, keep: bool, others: Sequence[Exam] = ()) -> tuple[str, str]:
        """Name of an exam's case and of its patient; the same exam keeps its name, from another folder, too.

        Args:
            exam: as found.
            keep: use the patient's identifier, or the folder's name where there is none (``--keep-identifiers``).
            others: that are named with it; the row of one of them is not this exam's.
        """
        study, folder = _study(exam), str(exam.folder.absolute())
        row = next((r for r in self.rows if (r["folder"], r["study_uid"]) == (folder, study)), None)
        if row is None and study:
            present = {(str(other.folder.absolute()), _study(other)) for other in others}
            moved = [r for r in self.rows if r["study_uid"] == study and (r["folder"], study) not in present]
            row = moved[0] if len(moved) == 1 and moved[0]["patient_id"] == exam.patient else None
            if row is not None:
                row["folder"] = folder
        if row is None:
            patient = self._patient(exam, keep)
            taken = {r["case"].casefold() for r in self.rows}
            number = 1
            while (case := f"{patient}_{number}").casefold() in taken:
                number += 1
            row = {"case": case, "patient": patient, "study_uid": study, "folder": folder}
            identity = next((series.identity for series in exam.series if series.dicom), None)
            # Where files name no patient, the folder does: its exams are of one.
            row["patient_id"] = exam.patient
            row["patient_name"] = "" if identity is None else identity.patient_name
            row["study_date"] = exam.date
            self.rows.append(row)
        return row["case"], row["patient"]

    def _patient(self, exam: Exam, keep: bool) -> str:
        known = {row["patient_id"]: row["patient"] for row in self.rows if row["patient_id"]}
        if exam.patient in known:
            return known[exam.patient]
        if keep:
            named = any(exam.patient == series.identity.patient_id for series in exam.series)
            return (
                plain_name(exam.patient if named else Path(exam.patient).name).replace(" ", "_").strip(".") or "patient"
            )
        numbers = [int(found[1]) for row in self.rows if (found := re.fullmatch(r"P(\d{4,})", row["patient"]))]
        return f"P{max(numbers, default=0) + 1:04d}"

    def write(self) -> None:
        """Write the table so that its owner alone can read it."""
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, _COLUMNS, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(self.rows)
        write_private_text(self.path, buffer.getvalue())

    def days(self, patient: str, of: str) -> int | None:
        """Days between a patient's first exam and a date (``YYYYMMDD``); None where dates are unknown."""
        dates = [day for row in self.rows if row["patient"] == patient and (day := _day(row["study_date"]))]
        day = _day(of)
        return None if day is None or not dates else (day - min(dates)).days


def _study(exam: Exam) -> str:
    return next((series.identity.study for series in exam.series if series.identity.study), "")


def _day(text: str) -> date | None:
    try:
        return datetime.strptime(text, "%Y%m%d").date()
    except ValueError:
        return None


def assign_names(exams: Sequence[Exam], table: Pseudonyms, keep: bool) -> list[tuple[str, str]]:
    """Name of each exam's case and patient, in order.

    Args:
        exams: as found.
        table: of the dataset; is extended.
        keep: use identifiers.
    """
    return [table.name(exam, keep, exams) for exam in exams]
