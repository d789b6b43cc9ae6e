"""Exams found in a folder: DICOM in any nesting, or image files, of one patient or of a cohort of one folder each."""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from autoseg.clinical.dicom_series import sort_series, unreadable_files
from autoseg.clinical.headers import told_identity
from autoseg.clinical.label_objects import referenced_series
from autoseg.clinical.recognition import recognise_sequence, safe_name, words_of
from autoseg.clinical.series import LEAST_SLICES, NO_GRID, Identity, SequenceFacts, Series
from autoseg.clinical.settings import PREPARATION_FILE
from autoseg.data.dicom import CLINICAL, may_be_dicom
from autoseg.data.dicom_headers import DicomHeader, read_dicom_header
from autoseg.data.file_names import image_ending, is_image, is_picture
from autoseg.data.image import read_geometry
from autoseg.utils.errors import AutosegError
from autoseg.utils.progress import Steps, say

#: Words of a file's name that say it is a label map and no scan.
_LABEL_WORDS = re.compile(
    r"segment|segs?(?![a-z])|label(?!l[ae](?![a-z]))|masks?(?![a-z])|(?<![a-z])rois?(?![a-z])|gtv|annotation|contour|"
    r"(?<![a-z])gt(?![a-z])|(?<![a-z])tumou?r",
    re.I,
)

#: … and a brain mask, which is used where ``--brain-mask`` names it.
_BRAIN_MASK = re.compile(
    r"brain[ _-]?masks?(?![a-z])|mask[ _-]?brain|skull(?:[ _-]?strip[a-z]*)?[ _-]?masks?(?![a-z])|"
    r"(?<![a-z])(?<!no[ _-])(?<!with[ _-])(?<!out[ _-])skull(?![a-z]|[ _-]*strip)",
    re.I,
)

#: Modalities of DICOM files that hold structures of an exam.
STRUCTURE_MODALITIES = ("RTSTRUCT", "SEG")


@dataclass(frozen=True)
class Exam:
    """One exam of one patient, as found.

    Attributes:
        folder: where it lies; may name the patient.
        patient: key of the patient: what the files say, or the folder.
        series: its scans, the unusable ones with the reason.
        labels: label maps, and DICOM files of structures.
        brain_mask: the file that ``--brain-mask`` names.
        date: of the study (``YYYYMMDD``), or ``""``.
        fault: why nothing can be made of it, as a sentence without a stop; or ``""``.
        remarks: what was noticed.
    """

    folder: Path
    patient: str
    series: tuple[Series, ...] = ()
    labels: tuple[Path, ...] = ()
    brain_mask: Path | None = None
    date: str = ""
    fault: str = ""
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Patterns:
    """Which image files are no scans.

    Attributes:
        labels: pattern of label maps and DICOM files of structures below an exam's folder; None for all of these
            files, and for maps that are told by well-known words.
        brain_mask: pattern of brain masks; None for none.
    """

    labels: str | None = None
    brain_mask: str | None = None

    def is_brain_mask(self, path: Path, root: Path) -> bool:
        """Whether a file is the brain mask that the user names."""
        return self.brain_mask is not None and _fits(path, root, self.brain_mask)

    def takes(self, path: Path, root: Path) -> bool:
        """Whether a DICOM file of structures is one of the labels."""
        return self.labels is None or _fits(path, root, self.labels)

    def is_label(self, path: Path, root: Path) -> bool:
        """Whether a file is a label map."""
        if self.labels is not None:
            return _fits(path, root, self.labels)
        return _LABEL_WORDS.search(_words(path)) is not None and not self.is_ignored(path)

    def is_ignored(self, path: Path) -> bool:
        """Whether a file is a brain mask that nobody named."""
        return _BRAIN_MASK.search(_words(path)) is not None


def find_exams(root: str | Path, patterns: Patterns | None = None) -> list[Exam]:
    """The exams below a folder, sorted by folder and date.

    A folder is one patient whose files lie in it, or whose subfolders share studies or an identifier, or are called
    after sequences (``T1``, ``FLAIR``); else each of its subfolders is. The DICOM files of a patient make an exam a
    study, with the image files that lie nearest to it; without DICOM, image files make an exam a folder, or one of
    folders that are called after sequences. Prepared datasets below it are left out. A folder that the user may not
    enter is a fault of its exam, and said.

    Args:
        root: folder of one exam, or of a cohort with one folder a patient.
        patterns: which files are label maps and brain masks.

    Raises:
        AutosegError: the folder does not exist, or holds no scan.
    """
    root, patterns = Path(root).absolute(), patterns or Patterns()
    if not root.is_dir():
        raise AutosegError(
            f"{root} is no folder; give the folder of an exam, or of a cohort with one folder a patient."
        )
    images, dicom = [], []
    locked: list[Path] = []
    for path in _files(root, locked):
        if is_image(path) and not is_picture(image_ending(path)):
            images.append(path)
        elif may_be_dicom(path):
            dicom.append(path)
    if not images and not dicom and not locked:
        raise AutosegError(f"{root} holds no DICOM file and no image (NIfTI, NRRD, MHA) that is no picture.")
    headers = _headers(dicom)
    exams: list[Exam] = []
    for folder in _patients(root, images, headers):
        inside = {path: header for path, header in headers.items() if path.is_relative_to(folder)}
        pictures = [path for path in images if path.is_relative_to(folder)]
        exams += _of_patient(folder, inside, pictures, patterns)
    return _with_locked(exams, locked)


def _with_locked(exams: list[Exam], locked: Sequence[Path]) -> list[Exam]:
    """Exams with the fault that the user may not enter a folder of theirs; such a folder of none is one of its own."""
    told = "you may not enter a folder of it; ask for the right to"
    for folder in locked:
        # Not in the fault, which a prepared dataset shows: a folder may be called after a patient.
        say(f"{folder}: you may not enter this folder; ask for the right to.")
        if any(folder.is_relative_to(exam.folder) for exam in exams):
            exams = [
                replace(exam, fault=exam.fault or told) if folder.is_relative_to(exam.folder) else exam
                for exam in exams
            ]
        else:
            exams.append(Exam(folder, str(folder), fault=told))
    return sorted(exams, key=lambda exam: exam.folder) if locked else exams


def _headers(paths: Sequence[Path]) -> dict[Path, DicomHeader | None]:
    headers = {}
    if paths:
        with Steps("Reading headers", len(paths)) as steps:
            for path in paths:
                headers[path] = read_dicom_header(path)
                steps.advance()
    return headers


def _files(root: Path, locked: list[Path]) -> Iterator[Path]:
    """Files below a folder, and in ``locked`` the folders that the user may not enter."""

    def note(error: OSError) -> None:
        if isinstance(error, PermissionError):
            locked.append(Path(error.filename))

    seen = set()
    for parent, folders, names in os.walk(root, onerror=note, followlinks=True):
        place = os.path.realpath(parent)
        # A link may lead back to a folder above it.
        if PREPARATION_FILE in names or place in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent) / name for name in sorted(names) if not name.startswith(".") and name != "DICOMDIR")


def _patients(root: Path, images: Sequence[Path], headers: dict[Path, DicomHeader | None]) -> list[Path]:
    """The folder of each patient."""
    everything = [*images, *headers]
    if any(path.parent == root for path in everything):
        return [root]
    tops: dict[str, list[Path]] = defaultdict(list)
    for path in everything:
        tops[path.relative_to(root).parts[0]].append(path)
    studies: dict[str, set[str]] = defaultdict(set)
    patients: dict[str, set[str]] = defaultdict(set)
    for path, header in headers.items():
        if header is not None:
            top = path.relative_to(root).parts[0]
            patients[told_identity(header.text("PatientID"))].add(top)
            if _is_scan(header):
                studies[header.text("StudyInstanceUID")].add(top)
    with_scans: set[str] = set().union(*studies.values())
    sharing: set[str] = set().union(*(where for study, where in studies.items() if study and len(where) > 1))
    # One exam that was copied into a second folder makes no patient of a cohort.
    shared = bool(sharing) and sharing == with_scans
    shared = shared and (len(set(patients) - {""}) <= 1 or _are_sequences([root / top for top in tops]))
    one = len(patients) == 1 and "" not in patients
    if headers and (shared or (one and set(tops) == next(iter(patients.values())))):
        return [root]
    if not headers and _are_sequences([root / top for top in tops]):
        return [root]
    return [root / top for top in sorted(tops)]


def _is_scan(header: DicomHeader) -> bool:
    return header.is_image and header.text("Modality") not in STRUCTURE_MODALITIES


def _are_sequences(folders: Sequence[Path]) -> bool:
    """Whether folders are called after sequences, each after another: they are one exam's, a folder a series."""
    kinds = [recognise_sequence(SequenceFacts(description=words_of(folder.name))) for folder in folders]
    distinct = {kind.sequence for kind in kinds if kind.is_channel}
    return len(folders) > 1 and len(distinct) == len(folders)


def _of_patient(
    folder: Path, headers: dict[Path, DicomHeader | None], images: list[Path], patterns: Patterns
) -> list[Exam]:
    damaged = [path for path, header in headers.items() if header is None]
    known = [header for header in headers.values() if header is not None]
    # By identifiers where there are any: a tool may leave them out of the files that it adds.
    names = {told_identity(header.text("PatientID")) for header in known} - {""}
    names = names or {told_identity(header.text("PatientName")) for header in known} - {""}
    patient = next(iter(names)) if len(names) == 1 else str(folder)
    if len(names) > 1:
        # One exam: which files are whose is not for this command to guess.
        return [Exam(folder, patient, fault=f"its folder holds DICOM files of {len(names)} patients; separate them")]
    studies: dict[str, list[DicomHeader]] = defaultdict(list)
    for header in known:
        if _is_scan(header):
            studies[header.text("StudyInstanceUID")].append(header)
    structures = [header for header in known if header.text("Modality") in STRUCTURE_MODALITIES]
    unknown = sum(not header.values for header in known)
    remarks = (
        (f"{unknown} DICOM files need pydicom to be told from damaged ones, and are left out ({CLINICAL})",)
        if unknown
        else ()
    )
    owners = {
        header.path: set(studies) if len(studies) == 1 else _studies_of(header, studies)
        for header in structures
        if patterns.takes(header.path, folder)
    }
    exams = []
    for study, members in studies.items():
        exams.append(
            Exam(
                folder,
                patient,
                tuple(sort_series(members)),
                tuple(path for path, own in owners.items() if study in own),
                date=members[0].text("StudyDate"),
                fault=unreadable_files(damaged) if damaged else "",
                remarks=remarks,
            )
        )
    if damaged and not exams:
        return [Exam(folder, patient, fault=unreadable_files(damaged))]
    exams.sort(key=lambda exam: exam.date)
    left = sum(not own for own in owners.values())
    if exams:
        exams, unplaced = _with_images(exams, images, patterns)
        left += unplaced
    else:
        exams = _of_images(folder, patient, images, patterns)
    if not left:
        return exams
    told = "1 image file or structure set lies in no single study's folder and is left out; put it in one"
    if left > 1:
        told = f"{left} image files or structure sets lie in no single study's folder and are left out; put each in one"
    return [replace(exam, remarks=(*exam.remarks, told)) for exam in exams]


def _studies_of(structures: DicomHeader, studies: Mapping[str, Sequence[DicomHeader]]) -> set[str]:
    """The studies that structures are of: by their UID, or, if it is one of their own, by the series referred to."""
    own = structures.text("StudyInstanceUID")
    if own in studies:
        return {own}
    try:
        wanted = referenced_series(structures.path)
    except AutosegError:
        return set()
    return {
        study
        for study, members in studies.items()
        if any(header.text("SeriesInstanceUID") in wanted for header in members)
    }


def _with_images(exams: Sequence[Exam], images: Sequence[Path], patterns: Patterns) -> tuple[list[Exam], int]:
    """A patient's exams with the image files that lie in or below the folder of each, and how many lie in none's."""
    if len(exams) == 1:
        return [_taking(exams[0], images, patterns)], 0
    own: list[list[Path]] = [[] for _ in exams]
    left = 0
    for path in images:
        near = [_nearness(path, exam) for exam in exams]
        if near.count(max(near)) == 1:
            own[near.index(max(near))].append(path)
        else:
            left += patterns.is_brain_mask(path, exams[0].folder) or not patterns.is_ignored(path)
    return [_taking(exam, paths, patterns) for exam, paths in zip(exams, own, strict=True)], left


def _nearness(path: Path, exam: Exam) -> tuple[int, bool]:
    """How much of its path an image file shares with the nearest series of an exam, and whether it lies beside that."""
    parents = {file.parent for series in exam.series for file in series.files}
    shared = max(len(os.path.commonpath([path.parent, parent])) for parent in parents)
    return shared, path.parent in parents


def _of_images(folder: Path, patient: str, images: Sequence[Path], patterns: Patterns) -> list[Exam]:
    """The exams of a patient without DICOM series."""
    groups: dict[Path, list[Path]] = defaultdict(list)
    for path in images:
        groups[path.parent].append(path)
    if len(groups) > 1 and all(_only_maps(members, folder, patterns) for parent, members in groups.items()
                               if parent != folder) and folder in groups:  # fmt: skip
        groups = {folder: [*images]}  # label maps in a folder below the scans'
    if _are_sequences([parent for parent in groups if parent != folder]):
        groups = {folder: [*images]}
    return [_taking(Exam(parent, patient), members, patterns) for parent, members in sorted(groups.items())]


def _only_maps(images: Sequence[Path], root: Path, patterns: Patterns) -> bool:
    return all(patterns.is_label(p, root) or patterns.is_brain_mask(p, root) or patterns.is_ignored(p) for p in images)


def _taking(exam: Exam, images: Sequence[Path], patterns: Patterns) -> Exam:
    """An exam with the image files of its folder: scans, label maps and the brain mask."""
    masks = [path for path in images if patterns.is_brain_mask(path, exam.folder)]
    if len(masks) > 1:
        return replace(exam, fault=f"--brain-mask {patterns.brain_mask} finds {len(masks)} files of it; one is needed")
    labels = [path for path in images if path not in masks and patterns.is_label(path, exam.folder)]
    rest = [path for path in images if path not in masks and path not in labels and not patterns.is_ignored(path)]
    return replace(
        exam,
        series=(*exam.series, *_scans(rest)),
        labels=(*exam.labels, *labels),
        brain_mask=masks[0] if masks else None,
    )


def _scans(paths: Sequence[Path]) -> list[Series]:
    stems = [_stem(path) for path in paths]
    if len({path.parent for path in paths}) > 1 and _are_sequences(sorted({path.parent for path in paths})):
        stems = [path.parent.name for path in paths]
    telling = _telling_names(stems)
    series: list[Series] = []
    for name, path, shown in zip(telling, paths, _distinct([safe_name(name) for name in telling]), strict=True):
        facts = SequenceFacts(description=words_of(name))
        one = Series(shown, (path,), NO_GRID, facts, Identity())
        try:
            header = read_geometry(path)
        except AutosegError as error:
            series.append(one.unusable(_without(str(error), path)))
            continue
        if header.geometry.dimension != 3 or min(header.geometry.size) < LEAST_SLICES:
            series.append(one.unusable("it is no volume"))
        elif header.components > 1:
            series.append(one.unusable(f"it holds {header.components} volumes; give the one that is wanted"))
        else:
            series.append(replace(one, grid=header.geometry))
    return series


def _distinct(names: Sequence[str]) -> list[str]:
    """The same names, the second ``t1`` as ``t1.2``."""
    return [f"{name}.{count}" if (count := names[: at + 1].count(name)) > 1 else name for at, name in enumerate(names)]


def _without(text: str, path: Path) -> str:
    """A message without the path of the file, which may name the patient."""
    return text.replace(str(path), "its file").replace(path.name, "its file").rstrip(".")


def _telling_names(stems: Sequence[str]) -> list[str]:
    """Names without the words that all have in front or behind, which may be the patient's.

    ``Smith_t1``, ``Smith_flair`` → ``t1``, ``flair``.
    """
    words = [re.split(r"[_\-. ]+", stem) for stem in stems]
    if len(words) > 1:
        for end in (0, -1):
            while all(len(part) > 1 and part[end] == words[0][end] for part in words):
                for part in words:
                    del part[end]
    return ["_".join(part) for part in words]


def _stem(path: Path) -> str:
    ending = image_ending(path) or path.suffix
    return path.name.removesuffix(ending)


def _words(path: Path) -> str:
    """A file's name with ``TumorSeg`` as two words."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", _stem(path))


def _fits(path: Path, root: Path, pattern: str) -> bool:
    return fnmatch(path.name, pattern) or fnmatch(path.relative_to(root).as_posix(), pattern)
