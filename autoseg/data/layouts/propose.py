"""Propose an ``autoseg.toml`` for a folder or table that has no description yet."""

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np

from autoseg.data.file_names import without_ending
from autoseg.data.image import read_image
from autoseg.data.layouts.manifest import LEFT_OUT_KEY, SEVERAL_KEY, STRUCTURES_KEY
from autoseg.data.layouts.roles import FOLDER_WORDS, Role, roles_in_folder, roles_in_table
from autoseg.data.layouts.spellings import plainly
from autoseg.data.layouts.split_folders import names_training
from autoseg.data.names import LABEL_WORDS, sequence_in
from autoseg.data.segments import segment_names
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.text import listed

_MASK_WORDS = re.compile(r"brain.?mask|body.?mask|(^|[^a-z])(bet|brain)([^a-z]|$)", re.I)

#: What is a label map's name only because it is one.
_GENERIC = re.compile(
    r"segmentations?|segm?|labels?|lbl|masks?|annotations?|annot|gt|truth|ground|manual|final|multiclass", re.I
)

#: Words for people who draw.
_PERSON = re.compile(r"rater|reader|observer|annotator|expert|\d(?:st|nd|rd|th)|(^|[^a-z])(obs|ho)\d*([^a-z]|$)", re.I)

#: Folders of a test set, as imagesTs, test/images and images_test.
_TEST_SET = re.compile(r"[a-z]Ts(?=/|$)|(?<![A-Za-z])(?i:test(?:ing|set)?)(?![A-Za-z])")

#: Folders of nnU-Net's raw data and of the Decathlon's tasks.
_TRAINING_FOLDERS = ("imagesTr", "labelsTr")

#: Files without a word for a label, beside a label map, hold at most this many values where they are label maps, too.
_FEW = 40

#: Binary maps of one structure by two people overlap by at least this Dice; those of two structures less. Halfway.
_ALIKE = 0.5

#: Cases on which maps are compared, at most.
_LOOK_AT = 3


@dataclass
class Proposal:
    """What each role of a dataset is.

    Attributes:
        head: first lines of the description.
        channels: scans.
        labels: none; one label map; several people's (``kind`` raters), or masks (``kind`` structures).
        kind: of several labels.
        masks: of the brain or body.
        others: label maps that are not used, one of which may be chosen instead.
        apart: files of a test set: scans of no case that has a label, or of a folder of that name.
        noise: files of few cases.
        cases: how many there seem to be.
        by_name: whether patterns hold in the dataset's folder, not in a case's.
    """

    head: list[str]
    channels: list[Role] = field(default_factory=list)
    labels: list[Role] = field(default_factory=list)
    kind: str = ""
    masks: list[Role] = field(default_factory=list)
    others: list[Role] = field(default_factory=list)
    apart: list[Role] = field(default_factory=list)
    noise: list[Role] = field(default_factory=list)
    cases: int = 0
    by_name: bool = False
    exam: bool = False

    @property
    def text(self) -> str:
        """The description, as TOML."""
        lines = [*self.head]
        left_out = [*self.others, *self.apart, *self.noise] if self.by_name else self.others
        if left_out:
            lines.append(f"{LEFT_OUT_KEY} = [{', '.join(_text(role.pattern) for role in left_out)}]")
        for role in self.others:
            lines.append(f"# {_plain(role)} looks like a label map, too; --label {_plain(role)} takes it instead.")
        if self.apart:
            patterns = ", ".join(role.pattern for role in self.apart)
            lines.append(f"# Left out as a test set, whose cases are not learned from: {patterns}.")
        if self.noise and not self.by_name:
            named = (role.files[0].name if len(role.files) == 1 else role.pattern for role in self.noise)
            names = sorted(re.sub(r"[\s\x00-\x1f\x7f]+", " ", name) for name in named)
            lines.append(f"# Left out, as few cases have them: {listed(names)}.")
        return (
            "\n".join([*lines, "", *_write_channels(self.channels), *_write_labels(self), *_write_mask(self.masks)])
            + "\n"
        )


def propose(path: Path, label: str | None = None) -> str:
    """The text of an ``autoseg.toml`` that may describe a folder of images or a CSV.

    Args:
        path: folder or CSV.
        label: name of the label map, where several kinds lie beside each scan.

    Raises:
        AutosegError: there are no images to describe.
        UsageError: no file is called like ``label``.
    """
    return guess(path, label).text


def guess(path: Path, label: str | None = None) -> Proposal:
    """What each recurring kind of file is, by its name and, for label maps, by its values.

    Args:
        path: folder or CSV.
        label: name of the label map, where several kinds lie beside each scan.

    Raises:
        AutosegError: there are no images to describe.
        UsageError: no file is called like ``label``.
    """
    note = "# Proposed by 'autoseg inspect': check it against the file names and name the labels."
    if path.is_file() and path.suffix.lower() == ".csv":
        found = roles_in_table(path)
        head = [note, f"csv = {_text(path.name)}", f"id = {_text(found.id_column)}"]
    elif path.is_dir():
        found = roles_in_folder(path)
        head = [note, f"name = {_text(path.resolve().name)}"]
        if (lost := lost_description(path)) is not None:
            head.insert(1, f"# It {lost}")
        if found.folders == ".":
            head.append('folders = "." # one exam')
        elif "/" in found.folders:
            head.append(f"folders = {_text(found.folders)}")
        if found.exams:
            head.append(f"group = {_text(_patient_before(found.exams))} # exams of one patient")
    else:
        raise AutosegError(f"{path} is neither a folder of images nor a CSV; give one of these.")
    for role in found.kept:
        role.look()
    by_name = not found.folders and not found.id_column
    kept, tested = _without_test_set(found.kept) if by_name else (found.kept, [])
    proposal = _sorted(kept, label)
    if by_name:
        unlabelled = _of_no_label(proposal)
        proposal.channels = [role for role in proposal.channels if role not in unlabelled]
        proposal.apart = [*tested, *unlabelled]
    if not proposal.channels:
        raise AutosegError(f"{path}: every image there looks like a label map; which are the scans can't be guessed.")
    proposal.head, proposal.noise, proposal.cases = head, found.noise, found.cases
    proposal.by_name = by_name
    proposal.exam = found.folders == "."
    return proposal


def lost_description(path: Path) -> str | None:
    """What a folder looks like whose ``dataset.json`` was lost, as the end of a sentence; None of another folder."""
    if not all((path / folder).is_dir() for folder in _TRAINING_FOLDERS):
        return None
    return (
        "looks like nnU-Net raw data (or a Decathlon task) without its dataset.json, which names channels and labels; "
        "bring that back if you can."
    )


def _without_test_set(roles: Sequence[Role]) -> tuple[list[Role], list[Role]]:
    """Roles, and beside them those of folders that are called a test set's.

    Only where the others don't have their cases, or are called training cases. All are kept where the others are not
    both scans and label maps.
    """
    others = [role for role in roles if not _TEST_SET.search(os.path.dirname(role.pattern))]
    cases = {case for role in others for case in _cases_of(role)}
    named = any(names_training(os.path.dirname(plainly(role.pattern))) for role in others)
    tested = [role for role in roles if role not in others and (named or not _cases_of(role) & cases)]
    kept = [role for role in roles if role not in tested]
    whole = {role.values is None for role in kept} == {True, False}
    return (kept, tested) if whole else (list(roles), [])


def _of_no_label(proposal: Proposal) -> list[Role]:
    """Scans of none of the cases that have a label, where there are scans of these."""
    labelled = {case for role in (*proposal.labels, *proposal.others) for case in _cases_of(role)}
    found = [role for role in proposal.channels if not _cases_of(role) & labelled]
    return found if len(found) < len(proposal.channels) else []


def _patient_before(exams: Iterable[str]) -> str:
    """The pattern of the patient in names of cases that end in a word for the exam."""
    words = sorted({re.sub(r"\d+", r"\\d+", re.escape(word[1:])) for word in exams})
    return rf"^(.+)[_.-](?:{'|'.join(words)})$"


def _sorted(roles: Sequence[Role], wanted: str | None) -> Proposal:
    """Part roles into channels, labels, masks and label maps that are not used."""
    masks = [role for role in roles if role.values is not None and _MASK_WORDS.search(role.words)]
    maps = [role for role in roles if role.values is not None and role not in masks]
    scans = [role for role in roles if role not in maps and role not in masks]
    worded = [role for role in maps if LABEL_WORDS.search(role.words)]
    labels = worded or (maps if len(roles) > 1 and (scans or len(maps) == 1) else [])
    others = [role for role in maps if role not in labels]
    if scans:
        drawn = [role for role in others if len(role.values or ()) <= _FEW]
        others = [role for role in others if role not in drawn]
        scans, others = [*scans, *others], drawn
    else:
        scans, others = others, []
    if wanted is not None:
        chosen = [role for role in roles if wanted.lower() in (_plain(role).lower(), role.words.lower(), role.pattern)]
        if not chosen or (chosen[0] in scans and len(scans) == 1):
            named = ", ".join(_plain(role) for role in (*labels, *others)) or "none"
            raise UsageError(f"--label {wanted} is none of the label maps that lie beside the scans: {named}.")
        others = [role for role in (*labels, *others) if role is not chosen[0]]
        scans = [role for role in scans if role is not chosen[0]]
        masks = [role for role in masks if role is not chosen[0]]
        labels = [chosen[0]]
    kind = _kind_of(labels)
    if kind == "alternatives":
        first = min(labels, key=lambda role: (bool(_GENERIC.sub("", role.words).strip("_-. /")), role.words))
        others = [*others, *(role for role in labels if role is not first)]
        labels, kind = [first], ""
    scans.sort(key=lambda role: role.pattern)
    return Proposal([], scans, labels, kind, masks[:1], [*others, *masks[1:]])


def _kind_of(labels: Sequence[Role]) -> str:
    """Whether several label maps are raters', structures', or alternatives of which one is meant."""
    if len(labels) < 2:
        return ""
    if len({re.sub(r"\d+(?:st|nd|rd|th)?", "", role.words.lower()) for role in labels}) == 1:
        return "raters"
    if all(_PERSON.search(role.words) for role in labels):
        return "raters"
    folders = Counter(os.path.dirname(role.pattern) for role in labels)
    if any(_PERSON.search(folder) for folder in folders):
        return "raters"
    rests = [_GENERIC.sub("", os.path.basename(role.words)).strip("_-. ") for role in labels]
    binary = all(len(set(role.values or ()) - {0}) <= 1 for role in labels)
    if binary and not all(_agree(*pair) for pair in combinations(labels, 2)):
        return "structures"
    return "raters" if sum(map(bool, rests)) > 1 and len(set(rests)) == len(rests) else "alternatives"


def _agree(one: Role, other: Role) -> bool:
    """Whether two binary maps are mostly of the same voxels."""
    mine, theirs = ({_case_of(path, role): path for path in role.files} for role in (one, other))
    pairs = [(path, theirs[case]) for case, path in mine.items() if case in theirs]
    both = total = 0
    for first, second in pairs[:_LOOK_AT]:
        try:
            a, b = (read_image(path).array[0] > 0 for path in (first, second))
        except AutosegError:
            continue
        if a.shape == b.shape:
            both += 2 * int(np.count_nonzero(a & b))
            total += int(a.sum()) + int(b.sum())
    return total == 0 or both >= _ALIKE * total


def _cases_of(role: Role) -> set[str]:
    """The cases that have a file of a role."""
    return {_case_of(path, role) for path in role.files}


def _case_of(path: Path, role: Role) -> str:
    """What tells a file's case: its name without its role's words, or its folder."""
    own = role.pattern.rpartition("/")[2]
    if "{id}" not in own:
        return path.parent.as_posix().removesuffix(os.path.dirname(role.pattern))
    words = without_ending(Path(plainly(own)).name).removeprefix("{id}")
    name = without_ending(path.name)
    return name[: len(name) - len(words)]


def _plain(role: Role) -> str:
    """The short name of a role, for messages and ``--label``."""
    name = os.path.basename(role.words) or role.words or role.pattern
    return re.sub(r"[\s\x00-\x1f\x7f]+", "_", name)


def _write_channels(roles: Sequence[Role]) -> list[str]:
    lines = ["[channels] # channel name = file pattern"]
    taken: set[str] = set()
    for role in roles:
        name = _channel_name(role, alone=len(roles) == 1)
        components = role.components
        if role.is_picture and components in (2, 4):
            lines.append(f"# {_plain(role) or 'the picture'} holds an alpha channel, which is left out.")
            components -= 1
        if components == 1 and role.components == 1:
            lines.append(f"{_key(_free(name, taken))} = {_text(role.pattern)}")
            continue
        colours = ["red", "green", "blue"] if components == 3 and role.is_picture else []
        for index in range(components):
            part = colours[index] if colours else name if components == 1 else f"{name}_{index}"
            lines.append(f"{_key(_free(part, taken))} = {{ file = {_text(role.pattern)}, component = {index} }}")
    return lines


def _free(name: str, taken: set[str]) -> str:
    """The name, with a number where it is taken already; then it is, too."""
    found, number = name, 2
    while found in taken:
        found, number = f"{name}_{number}", number + 1
    taken.add(found)
    return found


def _channel_name(role: Role, alone: bool) -> str:
    if (known := sequence_in(role.words)) is not None:
        return known
    words = [word for word in re.split(r"[_\-. /]+", role.words.lower()) if word]
    words = [word for word in words if not FOLDER_WORDS.match(word)]
    if alone or not words:
        return "image"
    name = "_".join(words)
    return f"channel_{int(name)}" if re.fullmatch(r"[0-9]+", name) else name


def _write_labels(proposal: Proposal) -> list[str]:
    roles = proposal.labels
    if not roles:
        return ["", "# No label maps were recognised: the scans can only be predicted. For training, add:", *_EXAMPLE]
    lines = ["", "[label]"]
    if proposal.kind == "structures":
        return [*lines, f"{STRUCTURES_KEY} = {_table((_structure(role), role) for role in roles)}"]
    named = ["background = 0", *(f"{_key(name)} = {value}" for value, name in _value_names(roles).items())]
    if len(roles) == 1:
        lines.append(f"file = {_text(roles[0].pattern)}")
    else:
        # One that stands apart from a row of alike ones is the agreed map, the others are each annotator's.
        parents = defaultdict(list)
        for role in roles:
            parents[os.path.dirname(role.pattern)].append(role)
        alone = [group[0] for group in parents.values() if len(group) == 1]
        if len(alone) == 1:
            lines.append(f"file = {_text(alone[0].pattern)}")
        several = [role for role in roles if len(alone) != 1 or role is not alone[0]]
        lines.append(f"{SEVERAL_KEY} = {_table((_person(role), role) for role in several)}")
    if len(named) > 6:
        return [*lines, "", "[label.values]", *named]
    return [*lines, f"values = {{ {', '.join(named)} }}"]


def _value_names(roles: Sequence[Role]) -> dict[int, str]:
    """Names of the label values: as the files' headers say, or after the file, or numbered."""
    values = sorted({value for role in roles for value in role.values or []} - {0})
    told: dict[int, str] = {}
    for path in (path for role in roles for path in role.files):
        told = {**segment_names(path), **told}
    if told:
        values = sorted({*values, *told})
    elif len(values) == 1 and len(roles) == 1:
        rest = [word for word in re.split(r"[_\-. /]+", roles[0].words) if word and not _GENERIC.fullmatch(word)]
        return {values[0]: "_".join(rest).lower() or "foreground"}
    elif len(values) == 1:
        return {values[0]: "foreground"}
    taken = {"background", "ignore"}
    return {value: _free(told.get(value, f"label_{value}"), taken) for value in values}


_EXAMPLE = ["# [label]", '# file = "seg.nii.gz"', "# values = { background = 0, tumor = 1 }"]


def _person(role: Role) -> str:
    return re.sub(r"[^a-z0-9]+", "_", os.path.basename(role.words).lower()).strip("_")


def _structure(role: Role) -> str:
    """What a mask is of: ``liver`` for ``liver_mask``."""
    words = [word for word in re.split(r"[_\-. ]+", os.path.basename(role.words)) if word]
    return "_".join(word for word in words if not _GENERIC.fullmatch(word)).lower() or _person(role)


def _table(entries: Iterable[tuple[str, Role]]) -> str:
    taken: set[str] = set()
    return "{ " + ", ".join(f"{_key(_free(name or 'file', taken))} = {_text(r.pattern)}" for name, r in entries) + " }"


def _write_mask(roles: Sequence[Role]) -> list[str]:
    return ["", "[mask]", f"file = {_text(roles[0].pattern)}"] if roles else []


def _text(value: str) -> str:
    # JSON's escapes are TOML's, which forbids one more character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _text(name)
