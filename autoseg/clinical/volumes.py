"""Volumes of structures, exam by exam, and their course over the days since a patient's first exam."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape as plain
from rich.table import Table

from autoseg.clinical.dicom_seg import segment_masks
from autoseg.clinical.exam_days import ExamDay, days_in_headers, exam_days
from autoseg.clinical.label_objects import label_object
from autoseg.data.counts import value_counts
from autoseg.data.dicom import is_dicom, read_dicom_dataset
from autoseg.data.result_files import PREDICTIONS, cases_told_in, is_further_result
from autoseg.data.segments import segment_names
from autoseg.evaluation.cases import LabelGroup, Structure, read_labels
from autoseg.evaluation.folders import label_maps
from autoseg.report.page import html_page
from autoseg.report.style import figure, svg
from autoseg.utils.colours import colours
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import read_json_table, refuse_unwritable_folder, write_csv, write_text
from autoseg.utils.progress import track

#: Names of the files in the folder of results.
TABLE_FILE, PAGE_FILE = "volumes.csv", "volumes.html"


@dataclass(frozen=True)
class ExamVolumes:
    """The volumes of one exam.

    Attributes:
        case: name.
        exam: whose it is, and when it was.
        ml: structure → volume; a structure that is absent has 0.
    """

    case: str
    exam: ExamDay
    ml: dict[str, float]


@dataclass(frozen=True)
class VolumeTable:
    """Volumes of exams, in the order of patients and days.

    Attributes:
        exams: one a case.
        structures: names, in order.
    """

    exams: tuple[ExamVolumes, ...]
    structures: tuple[str, ...]

    @property
    def rows(self) -> list[list[object]]:
        """Heading and a line an exam: case, patient, day (empty where unknown), and ml of each structure."""
        head: list[object] = ["case", "patient", "day", *(f"{name}_ml" for name in self.structures)]
        lines: list[list[object]] = [
            [
                e.case,
                e.exam.patient,
                "" if e.exam.day is None else e.exam.day,
                *(f"{e.ml[s]:.6g}" for s in self.structures),
            ]
            for e in self.exams
        ]
        return [head, *lines]

    @property
    def courses(self) -> dict[str, list[ExamVolumes]]:
        """Patient → exams on known days, of those with two or more."""
        found: dict[str, list[ExamVolumes]] = {}
        for exam in self.exams:
            if exam.exam.day is not None:
                found.setdefault(exam.exam.patient, []).append(exam)
        return {patient: exams for patient, exams in found.items() if len({e.exam.day for e in exams}) > 1}

    def write(self, folder: Path) -> list[Path]:
        """Write the table, and the page with the courses where there are any; return the files."""
        write_csv(folder / TABLE_FILE, self.rows)
        if not self.courses:
            return [folder / TABLE_FILE]
        write_text(folder / PAGE_FILE, self.page())
        return [folder / TABLE_FILE, folder / PAGE_FILE]

    def page(self) -> str:
        """A self-contained HTML page: for each patient with several dated exams, volumes over days."""
        parts = []
        for patient, exams in self.courses.items():
            caption = f"{len(exams)} exams in {max(e.exam.day or 0 for e in exams)} days"
            parts.append(
                f"<h2>{escape(patient)}</h2><p class='muted'>{caption}</p><figure>{self._course(exams)}</figure>"
            )
        head = "".join(f"<th>{escape(str(cell))}</th>" for cell in self.rows[0])
        lines = "".join(
            "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in self.rows[1:]
        )
        body = (
            f"{''.join(parts)}<h2>All exams</h2><div class='scroll'><table>"
            f"<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>"
        )
        lead = "Millilitres over the days since each patient's first exam."
        return html_page("Volumes · autoseg", "Volumes", lead, body)

    def _course(self, exams: Sequence[ExamVolumes]) -> str:
        days = [exam.exam.day or 0 for exam in exams]
        with figure(9.6, 3.3) as fig:
            ax = fig.subplots()
            for name, colour in zip(self.structures, colours(len(self.structures)), strict=True):
                ax.plot(
                    days, [e.ml[name] for e in exams], color=colour, label=name, linewidth=1.5, marker="o", markersize=4
                )
            ax.set(xlabel="days since the first exam", ylabel="ml")
            ax.set_ylim(bottom=0)
            ax.legend(fontsize=8.5, loc="upper left", bbox_to_anchor=(1.01, 1))
            return svg(fig)

    def table(self) -> Table:
        """For the terminal."""
        head, *lines = self.rows
        found = Table(title=f"{len(self.exams)} exam{'' if len(self.exams) == 1 else 's'}: volumes in ml")
        for index, name in enumerate(head):
            found.add_column(
                plain(str(name)).removesuffix("_ml"), justify="left" if index < 2 else "right", overflow="fold"
            )
        for line in lines:
            found.add_row(*(plain(str(cell)) for cell in line))
        return found

    def to_json(self) -> list[dict[str, Any]]:
        """One entry an exam."""
        return [{"case": e.case, "patient": e.exam.patient, "day": e.exam.day, "ml": e.ml} for e in self.exams]


def volumes(
    predictions: str | Path,
    *,
    targets: Sequence[LabelGroup] | None = None,
    days: str | Path | None = None,
    out: str | Path | None = None,
) -> VolumeTable:
    """Measure the structures of every exam in a folder.

    Args:
        predictions: folder of label maps or DICOM-SEG files named after their cases, or one file. Of a folder that
            ``autoseg predict`` wrote, without probabilities and the like, and without another model's.
        targets: structures by label values; None for what ``predictions.json``, the files' own headers or the values
            found say. A DICOM-SEG names its own.
        days: who the exams are of and when they were: a CSV, or a dataset made by ``autoseg prepare``
            (:func:`autoseg.clinical.exam_days.exam_days`). DICOM-SEG files know both, where None.
        out: folder for ``volumes.csv`` and, where days are known, ``volumes.html``; None to write nothing.

    Raises:
        AutosegError: no results there, an unreadable file, or a wrong date.
        UsageError: no file can be made in ``out``.
    """
    if out is not None:
        refuse_unwritable_folder(out)
    predictions = Path(predictions)
    told = _told(predictions)
    files = _results(predictions)
    if targets is None:
        targets = _targets(files, told)
    measured = {case: _measure(path, targets) for case, path in track(files.items(), "measuring", len(files))}
    names = tuple(dict.fromkeys(name for ml in measured.values() for name in ml))
    whose = exam_days(measured, None if days is None else Path(days))
    if days is None:
        whose |= days_in_headers({case: path for case, path in files.items() if is_dicom(path)})
    exams = [ExamVolumes(case, whose[case], {n: ml.get(n, 0.0) for n in names}) for case, ml in measured.items()]
    exams.sort(key=lambda e: (e.exam.patient, e.exam.day is None, e.exam.day or 0, e.case))
    found = VolumeTable(tuple(exams), names)
    if out is not None:
        found.write(Path(out))
    return found


def _told(predictions: Path) -> dict[str, Any]:
    """What ``predictions.json`` says."""
    return read_json_table(predictions / PREDICTIONS)


def _results(predictions: Path) -> dict[str, Path]:
    """Case → file of its label map."""
    if predictions.is_file():
        return {predictions.stem: predictions} if is_dicom(predictions) else label_maps(predictions)
    if not predictions.is_dir():
        raise AutosegError(f"{predictions} does not exist.")
    segments = {path.stem: path for path in sorted(predictions.iterdir()) if path.suffix.lower() == ".dcm"}
    segments = {case: path for case, path in segments.items() if label_object(path) is not None}
    # Probabilities and raters' maps lie beside the label maps.
    own = cases_told_in(predictions) or ()
    return {case: path for case, path in label_maps(predictions, segments).items() if not is_further_result(case, own)}


def _targets(files: dict[str, Path], told: dict[str, Any]) -> list[Structure]:
    if isinstance(structures := told.get("structures"), dict):
        return [Structure(str(name), tuple(values)) for name, values in structures.items()]
    maps = [path for path in files.values() if not is_dicom(path)]
    names: dict[int, str] = {}
    for path in maps:
        names |= segment_names(path)
    if not names:
        values = {value for path in maps for value in value_counts(read_labels(path)[0]) if value > 0}
        names = {value: f"label {value}" for value in values}
    return [Structure(name, (value,)) for value, name in sorted(names.items())]


def _measure(path: Path, targets: Sequence[LabelGroup]) -> dict[str, float]:
    """Structure → ml."""
    if is_dicom(path):
        return _measure_segments(path)
    labels, image = read_labels(path)
    counts = value_counts(labels)
    voxel = float(np.prod(image.spacing)) / 1000
    return {target.name: sum(counts.get(value, 0) for value in target.values) * voxel for target in targets}


def _measure_segments(path: Path) -> dict[str, float]:
    import SimpleITK as sitk

    kind = label_object(path)
    if kind is None or kind.masks is not segment_masks:
        raise AutosegError(f"{path} is no segmentation; give label maps or DICOM-SEG files.")
    masks = segment_masks(read_dicom_dataset(path), path)
    return {
        name: int(np.count_nonzero(sitk.GetArrayViewFromImage(mask))) * float(np.prod(mask.GetSpacing())) / 1000
        for name, mask in masks.items()
    }
