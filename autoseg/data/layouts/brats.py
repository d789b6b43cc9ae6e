"""The BraTS challenges as downloaded: 2017 to 2021 (labels 1, 2, 4) and 2023 on (labels by challenge)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from autoseg.data.description import Case, ChannelFile, Description
from autoseg.data.layouts.brats_challenges import UP_TO_2021, Answer, challenge_of
from autoseg.data.layouts.common import inconsistencies_in, refuse_twice
from autoseg.data.layouts.layout import LAYOUTS, Layout
from autoseg.data.names import SEQUENCES
from autoseg.data.patients import patient_of
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import folders_below

#: Names of the four sequences, in the order in which a dataset has them.
_CHANNELS = ("t1", "t1c", "t2", "flair")

_OLD = re.compile(
    r"(?P<id>brats(?:17|18|19|20|2017|2018|2019|2020|2021)_.+)_(?P<kind>t1|t1w|t1n|t1ce|t1c|t1gd|t1km|t2|t2w|t2f|flair|seg)(?P<ending>\.nii(\.gz)?)",
    re.I,
)
_NEW = re.compile(r"(?P<id>brats-[a-z]+-\d+-\d+)-(?P<kind>t1n|t1c|t2w|t2f|seg)(?P<ending>\.nii(\.gz)?)", re.I)

#: Folders between the given one and a case's files, at most (training/HGG/case).
_DEPTH = 3


@dataclass
class _CaseFiles:
    """The files of one case."""

    folder: Path
    channels: dict[str, ChannelFile] = field(default_factory=dict)
    label: Path | None = None


def recognise(path: Path) -> bool:
    """Whether a folder, or a folder up to three levels below it, holds files named as in BraTS."""
    return path.is_dir() and next(_named(path), None) is not None


def read(path: Path, challenge: str | None = None) -> Description:
    """Read the dataset, with the regions whole tumour, tumour core and enhancing tumour, and the resection cavity.

    Args:
        path: the folder.
        challenge: which one it is of, where names and values leave that open
            (:data:`autoseg.data.layouts.brats_challenges.CHALLENGES`).

    Raises:
        AutosegError: no file named as in BraTS; files of several namings, whose labels differ; two of a kind.
        UsageError: no such challenge, or none of its cases.
    """
    old: dict[str, _CaseFiles] = {}
    new: dict[str, _CaseFiles] = {}
    ending, count = ".nii.gz", 0
    for file, match, is_new in _named(path):
        case = (new if is_new else old).setdefault(match["id"], _CaseFiles(file.parent))
        kind, count = match["kind"].lower(), count + 1
        earlier = case.label if kind == "seg" else None
        if kind == "seg":
            case.label, ending = file, match["ending"]
        else:
            channel = SEQUENCES[kind]
            earlier = case.channels[channel].path if channel in case.channels else None
            case.channels[channel] = ChannelFile(path=file)
        refuse_twice(match["id"], earlier, file)
    if not count:
        raise AutosegError(
            f"{path} has no files named as in BraTS, as BraTS20_Training_001_t1ce.nii.gz or "
            "BraTS-GLI-00001-000-t1c.nii.gz are."
        )
    if old and new:
        raise AutosegError(
            f"{path} mixes BraTS up to 2021 ({next(iter(old))}: enhancing tumour is 4) with 2023 on "
            f"({next(iter(new))}: it is 3); put them in two folders."
        )
    for name, case in old.items():
        case.label = case.label or _stray_label(name, case)
    cases = [
        Case(
            id=name,
            channels={channel: case.channels[channel] for channel in _CHANNELS if channel in case.channels},
            label=case.label,
            group=patient_of(name),
        )
        for name, case in sorted((old or new).items())
    ]
    if new:
        labelled = [case.label for case in new.values() if case.label is not None]
        answer = challenge_of(path, sorted(new), sorted(labelled), challenge)
    elif challenge is not None:
        raise UsageError(f"--challenge {challenge}: {path} holds cases up to 2021, whose labels are known.")
    else:
        answer = Answer(UP_TO_2021)
    channels = tuple(name for name in _CHANNELS if any(name in case.channels for case in cases))
    with inconsistencies_in(path):
        return Description(
            name=path.resolve().name,
            root=path,
            layout="brats",
            channels=channels,
            modalities=dict.fromkeys(channels, "MRI"),
            labels=answer.challenge.labels,
            regions=answer.challenge.regions,
            question=answer.question,
            cases=tuple(case for case in cases if case.label is not None),
            unlabelled=tuple(case for case in cases if case.label is None),
            file_ending=ending,
        )


def _named(path: Path) -> Iterator[tuple[Path, re.Match[str], bool]]:
    """Files named as in BraTS, with their parts and whether they are of the newer naming."""
    for _, files in folders_below(path, _DEPTH):
        for file in files:
            for pattern in (_OLD, _NEW):
                match = pattern.fullmatch(file.name)
                if match:
                    yield file, match, pattern is _NEW


def _stray_label(name: str, case: _CaseFiles) -> Path | None:
    # BraTS20_Training_355 was published with its label as W39_1998.09.19_Segm.nii.
    if case.folder.name != name:
        return None
    found = sorted(case.folder.glob("*_Segm.nii*"))
    return found[0] if len(found) == 1 else None


LAYOUTS.register("brats", Layout(recognise, read, rank=30, choices=("challenge",)))
