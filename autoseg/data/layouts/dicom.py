"""Folders of DICOM series: a folder a series, its channel named by the sequence, the folder above it an exam."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from autoseg.data.description import Case, ChannelFile, Description
from autoseg.data.dicom import holds_dicom, may_be_dicom
from autoseg.data.dicom_headers import DicomHeader
from autoseg.data.dicom_series import scan_header
from autoseg.data.file_names import image_ending, is_image, is_picture, plain_name
from autoseg.data.formats.format import UnusableImage
from autoseg.data.layouts.common import inconsistencies_in
from autoseg.data.layouts.layout import LAYOUTS, Layout
from autoseg.data.names import sequence_in
from autoseg.data.patients import patient_of
from autoseg.data.series_words import names_agent, other_kind_in, said_of_contrast
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import folders_below
from autoseg.utils.progress import say

#: Name of this layout.
DICOM = "dicom"

#: Sequences that descriptions of other kinds of series mention, too, and those kinds.
_WEIGHTED = ("t1", "t1c", "t2", "flair")
_NOT_WEIGHTED = ("localizer", "derived", "susceptibility", "diffusion", "fat image")

#: Folders between the given one and a series', at most.
_DEPTH = 3

#: Files of a folder that are looked at for one with voxels: a label object may lie beside the slices.
_LOOK_AT = 5


@dataclass(frozen=True)
class _SeriesFolder:
    """A folder of DICOM files; no header where the first file can't be read, which the check of the dataset reports."""

    path: Path
    header: DicomHeader | None


def recognise(path: Path) -> bool:
    """Whether a folder holds DICOM files, and no images of other formats but pictures, as previews and a viewer's."""
    return path.is_dir() and holds_dicom(path) and not _has_volumes(path)


def read(path: Path) -> Description:
    """Read the exams; series that are called alike, and those of no known sequence, are named after their folders.

    Raises:
        AutosegError: there is no series.
    """
    folders = list(_series_folders(path))
    if not folders:
        raise AutosegError(f"{path} holds no DICOM series with voxels; give a folder with a folder for each series.")
    exams: defaultdict[Path, list[_SeriesFolder]] = defaultdict(list)
    for found in folders:
        exams[_exam_of(found, path, folders)].append(found)
    cases = [_case(path, exam, series) for exam, series in exams.items()]
    channels = tuple(dict.fromkeys(channel for case in cases for channel in case.channels))
    with inconsistencies_in(path):
        return Description(
            name=path.resolve().name,
            root=path,
            layout=DICOM,
            channels=channels,
            modalities={name: "CT" if name == "ct" else "MRI" for name in channels},
            labels={},
            cases=(),
            unlabelled=tuple(cases),
        )


def _has_volumes(path: Path) -> bool:
    for _, files in folders_below(path, _DEPTH):
        if any(is_image(file) and not is_picture(image_ending(file)) for file in files):
            return True
    return False


def _series_folders(path: Path) -> Iterator[_SeriesFolder]:
    for folder, inside in folders_below(path, _DEPTH):
        files = [file for file in inside if may_be_dicom(file)]
        if not files:
            continue
        try:
            found = (scan_header(file) for file in files[:_LOOK_AT])
            header = next((one for one in found if one is not None), None)
        except UnusableImage:
            yield _SeriesFolder(folder, None)
            continue
        if header is not None:
            yield _SeriesFolder(folder, header)


def _exam_of(series: _SeriesFolder, root: Path, folders: list[_SeriesFolder]) -> Path:
    """The folder of a series' exam: the one above it, if that holds series of one study only."""
    above = series.path.parent
    if series.path == root:
        return root
    studies = {
        other.header.text("StudyInstanceUID")
        for other in folders
        if other.path.parent == above and other.header is not None
    }
    return above if len(studies) <= 1 else series.path


def _case(root: Path, exam: Path, series: list[_SeriesFolder]) -> Case:
    sequences = {found.path: _sequence(found) for found in series}
    counts = Counter(name for name in sequences.values() if name)
    channels = {}
    for path, name in sequences.items():
        if name is not None and counts[name] > 1:
            alike = ", ".join(other.name for other, what in sequences.items() if what == name)
            say(f"{exam}: {alike} are all {name}; say which with --channel {name}=FOLDER.")
            sequences = {other: None if what == name else what for other, what in sequences.items()}
            counts[name] = 0
        channels[sequences[path] or plain_name(path.name)] = ChannelFile(path=path)
    case_id = "_".join(exam.relative_to(root).parts) or root.resolve().name
    return Case(id=case_id, channels=channels, group=patient_of(case_id))


def _sequence(series: _SeriesFolder) -> str | None:
    """The sequence of a series, by its description, else by the name of its folder."""
    header = series.header
    if header is None:
        return _sequence_of_scan(series.path.name, agent=False)
    agent = names_agent(header.text("ContrastBolusAgent"))
    told = _sequence_of_scan(header.text("SeriesDescription"), agent)
    if told is None and header.text("Modality") == "CT":
        return "ct"
    return told or _sequence_of_scan(series.path.name, agent)


def _sequence_of_scan(name: str, agent: bool) -> str | None:
    """The sequence that words mention; none of a localizer or subtraction, whatever else its words say.

    Args:
        name: SeriesDescription, or the name of a folder.
        agent: whether the header names a contrast agent.
    """
    told = sequence_in(name)
    words = re.sub(r"(?<![a-z])sub-[a-z0-9]+", " ", name.lower())  # BIDS' subjects are no subtractions
    if told not in _WEIGHTED:
        return told
    if other_kind_in(words) in _NOT_WEIGHTED:
        return None
    if told != "t1" and not re.search(r"t1w?[ _-]*flair", words):  # which is a T1 with inversion
        return told
    after, before = said_of_contrast(words)
    if after == before:  # they say nothing, or that both were measured
        after = agent
    return "t1c" if after else "t1"


LAYOUTS.register(DICOM, Layout(recognise, read, rank=150))
