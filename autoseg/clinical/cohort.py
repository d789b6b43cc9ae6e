"""Raw exams → a dataset: every exam through the steps, one after the other or in several processes."""

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from autoseg import __version__
from autoseg.clinical.case_folder import (
    LABEL_FILE,
    LABEL_NAMES_FILE,
    MASK_FILE,
    hand_made,
    renew_structure_files,
    shares_files,
    write_case,
)
from autoseg.clinical.exam_labels import ExamLabels, label_names
from autoseg.clinical.exam_preparation import prepare_exam
from autoseg.clinical.exams import Exam, Patterns, find_exams
from autoseg.clinical.pseudonyms import Pseudonyms, assign_names
from autoseg.clinical.quality_page import write_quality_page
from autoseg.clinical.series_table import series_by_table
from autoseg.clinical.settings import PREPARATION_FILE, ExamPreparation
from autoseg.clinical.structure_names import structure_file
from autoseg.clinical.transforms import TRANSFORMS_FILE, PreparedCase
from autoseg.data.file_names import plain_name
from autoseg.data.layouts.manifest import FILE_NAME
from autoseg.utils.digest import digest
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import lacks_room, read_json, refuse_unwritable_folder, write_text
from autoseg.utils.parallel import each, refuse_no_workers
from autoseg.utils.progress import say

#: Order of a dataset's channels.
_ORDER = ("t1", "t1c", "t2", "flair")

#: Flags of exams whose images are cut to the brain, or are not, unlike those of most exams of their dataset.
_ONLY_STRIPPED = "it has a brain mask and other exams have none; prepare all with --skull-strip atlas or none"
_NOT_STRIPPED = "it has no brain mask and other exams have one; prepare all with --skull-strip atlas or none"


@dataclass(frozen=True)
class PreparationRequest:
    """What a user asks of a preparation.

    Attributes:
        settings: of the steps; stored in the dataset.
        channels: channel → series, for all exams.
        table: CSV of the channels of single exams (:func:`~autoseg.clinical.series_table.series_by_table`).
        labels: pattern of label maps below an exam's folder; well-known words tell them where None.
        with_labels: whether labels are taken along.
        keep_identifiers: name cases after the patients.
        workers: exams at once, a process each; one a core where None.
        pseudonyms_of: folder beside which the table of pseudonyms lies; the dataset where None.
    """

    settings: ExamPreparation = field(default_factory=ExamPreparation)
    channels: Mapping[str, str] = field(default_factory=dict)
    table: Path | None = None
    labels: str | None = None
    with_labels: bool = True
    keep_identifiers: bool = False
    workers: int | None = None
    pseudonyms_of: Path | None = None


@dataclass(frozen=True)
class PreparationOutcome:
    """What became of the exams.

    Attributes:
        dataset: folder.
        prepared: case → its folder.
        failed: case → what is wrong, in one sentence.
        flags: case → what is to be looked at.
        exams: case → the exam it was made from; holds who it is of.
    """

    dataset: Path
    prepared: dict[str, Path]
    failed: dict[str, str]
    flags: dict[str, tuple[str, ...]]
    exams: dict[str, Exam]


@dataclass(frozen=True)
class _Job:
    exam: Exam
    case: str
    patient: str
    day: int | None
    mapping: dict[str, str]
    asked: ExamPreparation

    def source(self) -> str:
        """Fingerprint of the files and of what was asked for; without names, which may be the patient's."""
        files = [sorted(file for series in self.exam.series for file in series.files), sorted(self.exam.labels)]
        files.append([] if self.exam.brain_mask is None else [self.exam.brain_mask])
        seen = [[(stat.st_size, stat.st_mtime_ns) for stat in map(os.stat, group)] for group in files]
        return digest([__version__, self.asked.model_dump(mode="json"), self.mapping, seen])


@dataclass(frozen=True)
class _Result:
    case: str
    error: str = ""
    log: tuple[str, ...] = ()


def prepare_exams(exams: str | Path, out: str | Path, request: PreparationRequest | None = None) -> PreparationOutcome:
    """Turn raw exams into a dataset that can be planned; an exam that fails does not stop the others.

    Args:
        exams: folder of one exam, or of a cohort with one folder a patient.
        out: folder of the dataset; one that was prepared with the same settings is added to, and exams that are in it
            already, of the same files, are not prepared again.
        request: what the user asks for; the defaults where None.

    Raises:
        AutosegError: there is no exam, or the folder holds something else.
        UsageError: the table of series is no such table, or a row of it names no exam, or several; the pattern of
            labels fits no file.

    Example:
        >>> import autoseg
        >>> outcome = autoseg.prepare_exams("EXAMS", "DATASET")  # doctest: +SKIP
        >>> outcome.failed  # doctest: +SKIP
        {}
    """
    exams, out, request = Path(exams), Path(out), request or PreparationRequest()
    refuse_unwritable_folder(out)
    refuse_no_workers(request.workers)
    if request.table is not None and not request.table.is_file():
        raise UsageError(f"--channels {request.table} does not exist.")
    settings = _agreed(out, request.settings)
    found = find_exams(exams, Patterns(request.labels, settings.brain_mask))
    if request.with_labels and request.labels is not None and not any(exam.labels for exam in found):
        raise UsageError(f"--labels {request.labels} fits no file of any exam; correct the pattern.")
    if not request.with_labels:
        found = [replace(exam, labels=()) for exam in found]
    mappings = [dict(request.channels) for _ in found]
    if request.table is not None:
        by_table = series_by_table(request.table, exams, found)
        mappings = [{**common, **own} for common, own in zip(mappings, by_table, strict=True)]
    table = Pseudonyms.beside(request.pseudonyms_of or out)
    names = assign_names(found, table, request.keep_identifiers)
    out.mkdir(parents=True, exist_ok=True)
    settings.write(out)  # says what the folder is, should every exam fail
    table.write()
    jobs = [
        _Job(exam, case, patient, table.days(patient, exam.date), mapping, request.settings)
        for exam, (case, patient), mapping in zip(found, names, mappings, strict=True)
    ]
    results = list(each(partial(_prepared, settings, out), jobs, request.workers, "Preparing"))
    # Not what a preparation that was killed left, which begins with a dot.
    cases = sorted(path.parent.name for path in out.glob(f"[!.]*/{TRANSFORMS_FILE}"))
    _renew_days(out, cases, table)
    _flag_unlike(out, cases)
    flags = {result.case: PreparedCase.read(out / result.case).flags for result in results if not result.error}
    for result in results:
        for line in result.log:
            say(f"{result.case}: {line}")
        for flag in flags.get(result.case, ()):
            say(f"{result.case}: look at this: {flag}.")
        if result.error:
            say(f"{result.case} failed: {result.error}")
    failed = {result.case: result.error for result in results if result.error}
    write_quality_page(out, failed, sorted({*cases, *failed}))
    if cases:
        _describe(out, cases, settings)
    return PreparationOutcome(
        out,
        {result.case: out / result.case for result in results if not result.error},
        failed,
        {case: found for case, found in flags.items() if found},
        {job.case: job.exam for job in jobs},
    )


def _agreed(out: Path, settings: ExamPreparation) -> ExamPreparation:
    """The settings, if the folder is free or was prepared with them; what ``auto`` was found to mean stays so.

    Raises:
        AutosegError: it was prepared otherwise, or is something else.
    """
    if (out / PREPARATION_FILE).is_file():
        earlier = ExamPreparation.read(out)
        # Where every exam failed, or the command was stopped before the first, there is nothing to contradict.
        if not any(out.glob(f"[!.]*/{TRANSFORMS_FILE}")):
            return settings
        if settings.skull_strip == "auto" and settings.brain_mask is None:
            settings = settings.model_copy(update={"skull_strip": earlier.skull_strip})
        if earlier.model_copy(update={"channels": settings.channels}) != settings:
            raise AutosegError(f"{out} was prepared with other settings; choose another folder (--out), or remove it.")
        return settings
    if out.exists() and any(path for path in out.iterdir() if not path.name.startswith(".")):
        raise AutosegError(f"--out {out} holds something else; choose another folder.")
    return settings


def _prepared(settings: ExamPreparation, out: Path, job: _Job) -> _Result:
    """Prepare one exam and write it, unless that was done before; runs in a process of its own."""
    folder = out / job.case
    try:
        source = job.source()
        with suppress(AutosegError):  # there is none, or a damaged one
            earlier = PreparedCase.read(folder)
            if earlier.source == source and not shares_files(folder):
                told = ("it was prepared before from the same files, with the same settings",)
                return _Result(job.case, log=told)
        prepared = prepare_exam(job.exam, job.case, settings, job.mapping)
        if kept := hand_made(folder, prepared):
            return _Result(job.case, log=(_kept(kept, "its files or the settings are others now, but"),))
        case = prepared.case.model_copy(update={"patient": job.patient, "day": job.day, "source": source})
        write_case(replace(prepared, case=case), folder)
    except Exception as error:  # one exam must not stop the others, whatever is wrong with it
        why = _sentence(error, job.exam)
        if kept := hand_made(folder):
            why += f" {_kept(kept, 'The case that was made of it before stays:')}."
        elif not _is_of_machine(error):
            shutil.rmtree(folder, ignore_errors=True)  # made of other files or settings
        elif folder.is_dir():
            why += " The case that was made of it before stays."
        return _Result(job.case, error=why)
    return _Result(job.case, log=prepared.log)


def _kept(files: Sequence[str], why: str) -> str:
    """Why a case is not made anew: files in its folder are somebody's work, which would be lost."""
    return (
        f"{why} {', '.join(files)} of its folder was drawn or changed since it was prepared; the case stays as it is. "
        "Move such files elsewhere to have it prepared anew"
    )


def _is_of_machine(error: Exception) -> bool:
    """Whether memory or the disk was too small, which says nothing about the exam."""
    return lacks_room(error) or isinstance(error, MemoryError)


def _renew_days(out: Path, cases: Sequence[str], table: Pseudonyms) -> None:
    """Count the days anew: an exam that came later may be a patient's first."""
    dates = {row["case"]: row["study_date"] for row in table.rows}
    for case in cases:
        stored = PreparedCase.read(out / case)
        day = table.days(stored.patient, dates.get(case, ""))
        if case in dates and day != stored.day:
            stored.model_copy(update={"day": day}).write(out / case)


def _flag_unlike(out: Path, cases: Sequence[str]) -> None:
    """Flag the exams that are cut to the brain, or are not, unlike most of the dataset."""
    masked = {case: (out / case / MASK_FILE).is_file() for case in cases}
    most = 2 * sum(masked.values()) >= len(cases)
    for case, stripped in masked.items():
        stored = PreparedCase.read(out / case)
        flags = [flag for flag in stored.flags if flag not in (_ONLY_STRIPPED, _NOT_STRIPPED)]
        if stripped != most:
            flags.append(_ONLY_STRIPPED if stripped else _NOT_STRIPPED)
        if tuple(flags) != stored.flags:
            stored.model_copy(update={"flags": tuple(flags)}).write(out / case)


def _sentence(error: Exception, exam: Exam) -> str:
    """What is wrong with an exam, without the names of its files and folder, which may be the patient's."""
    if isinstance(error, AutosegError):
        text = str(error)
    elif isinstance(error, MemoryError):
        text = "not enough memory; use fewer workers (--workers 1)"
    else:
        # A library's message may quote a header.
        last = str(error).splitlines()[-1] if str(error) else "no message"
        text = f"{type(error).__name__}: " + re.sub(r"'[^']*'|\"[^\"]*\"", "…", last)
    files = [*(file for series in exam.series for file in series.files), *exam.labels]
    files += [exam.brain_mask] if exam.brain_mask else []
    for path in files:
        for name in (str(path.absolute()), str(path), path.name if path.suffix else ""):
            text = text.replace(name, "its file") if name else text
    for folder in (exam.folder.absolute(), exam.folder):
        text = text.replace(str(folder), "its folder")
    return text.rstrip(".") + "."


def _describe(out: Path, cases: Sequence[str], settings: ExamPreparation) -> None:
    """Write the description of the dataset and its settings."""
    stored = {case: PreparedCase.read(out / case) for case in cases}
    present = {channel for case in stored.values() for one in case.series.values() if (channel := one.channel)}
    present |= {channel for case in stored.values() for channel in case.filled}
    order = settings.channels or tuple(sorted(present, key=lambda name: (_place(name), name)))
    channels = [name for name in order if name in present]
    text = [f"name = {json.dumps(out.absolute().name, ensure_ascii=False)}", 'folders = "*"']
    # Patients by name: a case is its patient's name and a number.
    text += ['group = "^(.+)_[0-9]+$"', f"preparation = {json.dumps(PREPARATION_FILE)}", "", "[channels]"]
    text += [f"{_key(name)} = {json.dumps(plain_name(name) + '.nii.gz', ensure_ascii=False)}" for name in channels]
    text += _labels_described(out, cases)
    if any((out / case / MASK_FILE).is_file() for case in cases):
        text += ["", "[mask]", f"file = {json.dumps(MASK_FILE)}"]
    decided = _skull_strip_of(out, cases, settings)
    settings.model_copy(update={"channels": tuple(channels), "skull_strip": decided}).write(out)
    _write_description(out / FILE_NAME, "\n".join(text) + "\n")
    for case in cases:
        lacking = [name for name in channels if not (out / case / f"{plain_name(name)}.nii.gz").is_file()]
        if lacking:
            say(f"{case} has no {', '.join(lacking)}; --fill {lacking[0]}=OTHER lets another channel stand in.")


def _write_description(file: Path, text: str) -> None:
    """Write a dataset's description, unless the one that is there was changed by hand."""
    whole = file.read_text(encoding="utf-8") if file.is_file() else ""
    first, _, rest = whole.partition("\n")
    if whole and first != _head(rest) and text not in (whole, rest):
        say(
            f"{file} was changed by hand, or is of an earlier version, and stays as it is; delete it and prepare again "
            "to have it written anew."
        )
        return
    write_text(file, f"{_head(text)}\n{text}")


def _head(text: str) -> str:
    """First line of a description, by which changes of the others are known."""
    return f"# Written by 'autoseg prepare' ({digest(text)}); once it is changed by hand, it stays so."


def _skull_strip_of(out: Path, cases: Sequence[str], settings: ExamPreparation) -> str:
    """What ``auto`` was found to mean, where all exams agree: exams that come later, and are predicted, are so, too."""
    masked = {(out / case / MASK_FILE).is_file() for case in cases}
    if settings.skull_strip != "auto" or settings.brain_mask is not None or len(masked) > 1:
        return settings.skull_strip
    return "atlas" if True in masked else "none"


def _labels_described(out: Path, cases: Sequence[str]) -> list[str]:
    for case in cases:
        renew_structure_files(out / case)
        if shares_files(out / case):
            say(
                f"{case}: several of its structures were written into one file; give its exam again to prepare it anew."
            )
    told = {case: read_json(file) for case in cases if (file := out / case / LABEL_NAMES_FILE).is_file()}
    found = list(told.values())
    structures = sorted({name for one in found for name in one["structures"]})
    if structures:
        for case in (case for case, one in told.items() if one["values"]):
            say(
                f"{case}: its label map is left out, as other labels are structures (RTSTRUCT, DICOM-SEG); "
                "export all labels of a dataset in one way."
            )
        rows = [f"{_key(name)} = {json.dumps(structure_file(name), ensure_ascii=False)}" for name in structures]
        return ["", "[label.structures]", *rows]
    if not found:
        return []
    named = [ExamLabels(names={int(value): name for value, name in one["names"].items()}) for one in found]
    known = label_names(named)
    values = sorted({value for one in found for value in one["values"] if value})
    known |= {f"label_{value}": value for value in values if value not in known.values()}
    rows = [f"{_key(name)} = {value}" for name, value in sorted(known.items(), key=lambda item: item[1])]
    return ["", "[label]", f"file = {json.dumps(LABEL_FILE)}", "", "[label.values]", *rows]


def _key(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def _place(channel: str) -> int:
    return _ORDER.index(channel) if channel in _ORDER else len(_ORDER)
