"""Any folder or table of scans, described by a small ``autoseg.toml`` (see ``docs/datasets.md``)."""

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autoseg.data.description import Case, ChannelFile, Description, StructureMasks, label_files
from autoseg.data.file_names import image_ending, images_in, is_image
from autoseg.data.layouts.common import inconsistencies_in
from autoseg.data.layouts.layout import LAYOUTS, Layout
from autoseg.data.layouts.spellings import (
    escaped,
    expanded,
    first_words,
    leaves_ending_open,
    literalness,
    plainly,
)
from autoseg.data.layouts.tables import file_in, read_table
from autoseg.data.patients import found_by, patient_of
from autoseg.data.result_files import results_in
from autoseg.data.structure_masks import labels_of_masks
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import folders_below, found_in, read_json
from autoseg.utils.shell import quoted

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Name of the file that describes a dataset.
FILE_NAME = "autoseg.toml"


#: Key of a label with several raters, a pattern for each.
SEVERAL_KEY = "raters"

#: Key of a label drawn as a mask a structure, a pattern for each.
STRUCTURES_KEY = "structures"

#: Key of patterns of files that belong to no case.
LEFT_OUT_KEY = "leave_out"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ChannelEntry(_Model):
    """One channel: a file pattern (or CSV column), and which channel of a file with several."""

    file: str
    component: int | None = Field(None, ge=0)


class LabelEntry(_Model):
    """Pattern of the label maps and the meaning of their values, or patterns of a binary mask a structure."""

    file: str | None = None
    raters: dict[str, str] = Field(default_factory=dict)
    structures: dict[str, str] = Field(default_factory=dict)
    values: dict[str, int] = Field(default_factory=dict)
    regions: dict[str, list[int]] = Field(default_factory=dict)
    ignore: int | None = None


class MaskEntry(_Model):
    """Pattern of the brain (or body) masks."""

    file: str


class Manifest(_Model):
    """The content of ``autoseg.toml``; in patterns ``*`` is any text, and ``{train,val}`` one of these words.

    Attributes:
        name: of the dataset; default: the folder's.
        csv: table with one row a case; the patterns below are then names of its columns.
        id: column of the table that names the case.
        folders: pattern of the case folders, where the patterns hold inside a case's folder; ``.``: the folder itself.
        group: how to tell the patient: a column of the table, or else a regular expression whose first group,
            found in the case's name, is the patient.
        channels: channel name → pattern, column, or ``{file, component}``.
        modalities: channel name → modality (``CT``), where the name does not say it.
        label: absent for scans that are only to be predicted.
        mask: voxels outside are background.
        preparation: JSON file beside this one that says how the cases were made of raw exams.
        leave_out: patterns of files that belong to no case, though another pattern may fit them; files of a pattern
            that is part of such a one belong to their case all the same.
    """

    name: str | None = None
    csv: str | None = None
    id: str = "id"
    folders: str = "*"
    group: str | None = None
    channels: dict[str, str | ChannelEntry] = Field(min_length=1)
    modalities: dict[str, str] = Field(default_factory=dict)
    label: LabelEntry | None = None
    mask: MaskEntry | None = None
    preparation: str | None = None
    leave_out: list[str] = Field(default_factory=list)

    def patterns(self) -> dict[str, str]:
        """Files of a case: ``channel:NAME``, ``label``, ``rater:NAME``, ``structure:NAME``, ``mask`` → pattern."""
        found = {
            f"channel:{name}": entry if isinstance(entry, str) else entry.file for name, entry in self.channels.items()
        }
        if self.label is not None:
            if self.label.file is not None:
                found["label"] = self.label.file
            found |= {f"rater:{name}": pattern for name, pattern in self.label.raters.items()}
            found |= {f"structure:{name}": pattern for name, pattern in self.label.structures.items()}
        if self.mask is not None:
            found["mask"] = self.mask.file
        return found


@dataclass
class _CaseFiles:
    """Files of one case: role (a key of :meth:`Manifest.patterns`) → file."""

    id: str
    files: dict[str, Path] = field(default_factory=dict)
    group: str = ""


def _description(path: Path) -> Path:
    if path.is_dir():
        return path / FILE_NAME
    return path.parent / FILE_NAME if path.suffix.lower() == ".csv" else path


def recognise(path: Path) -> bool:
    """Whether ``path`` is an ``autoseg.toml``, or a folder with one, or a CSV beside one."""
    file = _description(path)
    return file.suffix == ".toml" and file.is_file()


def parse(text: str, source: Path) -> Manifest:
    """Parse and validate a description.

    Raises:
        AutosegError: names ``source`` and every invalid key.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise AutosegError(f"{source} is not valid TOML ({error}).") from None
    try:
        manifest = Manifest.model_validate(data)
    except ValidationError as error:
        raise AutosegError(f"{source}: {'; '.join(dict.fromkeys(_say(item) for item in error.errors()))}.") from None
    wrong = sorted(set(manifest.modalities) - set(manifest.channels))
    if wrong:
        raise AutosegError(f"{source}: modalities names the channels {', '.join(wrong)}, which do not exist.")
    label = manifest.label
    if label is not None:
        if label.file is None and not label.raters and not label.structures:
            raise AutosegError(f"{source}: label needs a file pattern, or raters or structures with one each.")
        if label.structures and (label.file or label.raters or label.values or label.regions):
            raise AutosegError(f"{source}: label.structures says all about the labels; take out the other keys.")
        if not label.structures and not label.values:
            raise AutosegError(f"{source}: label.values: this key is missing.")
        if "ignore" in label.values:
            raise AutosegError(
                f"{source}: label.values names a label ignore; "
                f"write ignore = {label.values['ignore']} under [label] instead."
            )
    return manifest


def _say(item: Any) -> str:
    # Pydantic adds the tried branch of a union ("str", "ChannelEntry"), which is not in the file.
    where = ".".join(str(part) for part in item["loc"] if part not in ("str", "ChannelEntry"))
    message = {"extra_forbidden": "this key is unknown", "missing": "this key is missing"}.get(
        item["type"], item["msg"]
    )
    return f"{where or 'the file'}: {message}"


def read(path: Path) -> Description:
    """Read a described dataset; cases without a label become unlabelled ones.

    Raises:
        AutosegError: the description is missing or invalid, a pattern matches several files of a case, or that of the
            mask none of any.
    """
    file = _description(path)
    if not file.is_file():
        raise AutosegError(f"{file} does not exist; 'autoseg inspect {quoted(path)} --write' proposes one.")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise AutosegError(f"{file} is no text in UTF-8 ({error}); save it again as one.") from None
    manifest = parse(text, file)
    found = read_described(path, manifest)
    if manifest.mask is not None and not any(case.mask for case in (*found.cases, *found.unlabelled)):
        raise AutosegError(f"{file}: mask.file = {manifest.mask.file} finds no file; correct it, or take [mask] out.")
    return found


def read_described(path: Path, manifest: Manifest) -> Description:
    """Read the dataset at ``path`` as ``manifest`` describes it, whether that lies beside it or not.

    Raises:
        AutosegError: no file matches, a pattern matches several files of a case, or there are folders on the way that
            the user may not enter.
    """
    file = _description(path)
    root = file.parent
    table = path if path.suffix.lower() == ".csv" else None if manifest.csv is None else root / manifest.csv
    patterns = manifest.patterns()
    if table is not None:
        found = _from_table(table, manifest, patterns)
    elif any("{id}" in pattern for pattern in patterns.values()):
        found = _from_names(root, patterns, manifest.leave_out, file)
    else:
        found = _from_folders(root, manifest, file)
    if not found:
        raise AutosegError(
            f"{file}: its patterns find no case in {table or root}; compare them with the file names there."
        )
    cases = [_case(manifest, entry, file, with_column=table is not None) for entry in found]
    names, regions = _meaning(manifest.label, cases)
    labelled = tuple(case for case in cases if case.label is not None)
    label = manifest.label
    endings = [
        image_ending(next(iter(label_files(case.label)), None) or next(iter(case.channels.values())).path)
        for case in (*labelled, *cases)
        if case.label is not None or case.channels
    ]
    with inconsistencies_in(file):
        return Description(
            name=manifest.name or root.resolve().name,
            root=table or root,
            layout="manifest",
            channels=tuple(manifest.channels),
            modalities=manifest.modalities,
            labels=names,
            regions=regions,
            ignore_label=None if label is None else label.ignore,
            preparation=None if manifest.preparation is None else read_json(root / manifest.preparation),
            cases=labelled,
            unlabelled=tuple(case for case in cases if case.label is None),
            file_ending=(endings[0] if endings else None) or ".nii.gz",
        )


def _meaning(label: LabelEntry | None, cases: Sequence[Case]) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Labels and regions."""
    if label is None:
        return {}, {}
    if label.structures:
        return labels_of_masks(case.label for case in cases if isinstance(case.label, StructureMasks))
    values = {name: value for name, value in label.values.items() if value != 0}
    return values, {name: tuple(members) for name, members in label.regions.items()}


def _case(manifest: Manifest, found: _CaseFiles, file: Path, with_column: bool) -> Case:
    channels = {}
    for name, entry in manifest.channels.items():
        path = found.files.get(f"channel:{name}")
        if path is not None:
            component = None if isinstance(entry, str) else entry.component
            channels[name] = ChannelFile(path=path, component=component)
    raters = {
        name: found.files[f"rater:{name}"]
        for name in (manifest.label.raters if manifest.label is not None else {})
        if f"rater:{name}" in found.files
    }
    masks = {
        name: found.files[f"structure:{name}"]
        for name in (manifest.label.structures if manifest.label is not None else {})
        if f"structure:{name}" in found.files
    }
    united = (
        StructureMasks(structures=tuple(manifest.label.structures), masks=masks) if manifest.label and masks else None
    )
    group = found.group
    if not with_column and manifest.group is not None:
        group = _group(manifest.group, found.id, file)
    return Case(
        id=found.id,
        channels=channels,
        label=united or found.files.get("label") or next(iter(raters.values()), None),
        raters=raters,
        mask=found.files.get("mask"),
        group=group or patient_of(found.id),
    )


def _group(pattern: str, case_id: str, file: Path) -> str:
    try:
        return found_by(re.compile(pattern), case_id)
    except re.error as error:
        raise AutosegError(f"{file}: group is no regular expression ({error}).") from None


def _from_folders(root: Path, manifest: Manifest, file: Path) -> list[_CaseFiles]:
    folders, patterns = manifest.folders, manifest.patterns()
    cases, several = [], []
    order = sorted(patterns, key=lambda role: -literalness(patterns[role]))
    # Files of a role may be some of those that a pattern leaves out otherwise, as *_tumor_seg.nii.gz and *_seg.nii.gz.
    wider = {
        role: {left for left in manifest.leave_out if left != pattern and fnmatchcase(plainly(pattern), left)}
        for role, pattern in patterns.items()
    }
    # A folder may be one exam itself, with nothing below it.
    found = [root] if folders == "." else [path for one in expanded(folders) for path in found_in(root, one)]
    found = sorted({path for path in found if path.is_dir() and (path == root or not path.name.startswith("."))})
    # A link's own name: what it leads to may be called after a patient.
    called = {folder: root.resolve().name if folder == root else folder.name for folder in found}
    counts = Counter(called.values())
    for folder, name in called.items():
        # Two sites may have a case of the same name.
        case = _CaseFiles(name if counts[name] == 1 else "_".join(folder.relative_to(root).parts))
        claimed: dict[Path, str] = {}
        for pattern in manifest.leave_out:
            claimed |= dict.fromkeys(_matches(folder, pattern, file), pattern)
        for role in order:
            pattern = patterns[role]
            # The most literal pattern claims a file first. Components of one file have the same pattern.
            free = {pattern, *wider[role]}
            matches = [path for path in _matches(folder, pattern, file) if claimed.get(path, pattern) in free]
            claimed |= dict.fromkeys(matches, pattern)
            if len(matches) > 1:
                names = ", ".join(str(path.relative_to(folder)) for path in matches)
                several.append(f"{role.partition(':')[2] or role} = {pattern} finds {names} in {folder}")
            elif matches:
                case.files[role] = matches[0]
        # A folder of scans in which nothing was found is a case with a problem.
        if case.files or set(images_in(folder)) - {*results_in(folder)}:
            cases.append(case)
    if several:
        raise AutosegError(f"{file}: a pattern must find one file a case, but {'; '.join(several)}.")
    return cases


def _matches(folder: Path, pattern: str, file: Path) -> list[Path]:
    try:
        patterns = expanded(pattern)
        found = sorted({path for one in patterns for path in found_in(folder, one) if not path.name.startswith(".")})
        # Of a file that is not there, which the check names.
        found = found or [folder / one for one in patterns if (folder / one).is_symlink()]
        return [path for path in found if is_image(path)] if leaves_ending_open(pattern) else found
    except (ValueError, NotImplementedError, IndexError):
        raise AutosegError(f'{file}: "{pattern}" is no pattern of files inside a case\'s folder.') from None


def _from_names(root: Path, patterns: Mapping[str, str], left_out: Sequence[str], file: Path) -> list[_CaseFiles]:
    without = sorted({pattern for pattern in patterns.values() if "{id}" not in pattern})
    if without:
        raise AutosegError(f"{file}: where one pattern holds {{id}}, all must; {', '.join(without)} does not.")
    # Cases of two parts, as train and val, may be called alike.
    apart = len({first_words(pattern) for pattern in patterns.values()}) == 1
    # The most literal pattern claims a file first: {id}_seg.png before {id}.png, which would match it, too.
    patterns = {**patterns, **{f"{LEFT_OUT_KEY}:{number}": pattern for number, pattern in enumerate(left_out)}}
    order = sorted(patterns, key=lambda role: -literalness(patterns[role]))
    regexes = {role: _regex(patterns[role]) for role in order}
    cases: dict[tuple[str, str], _CaseFiles] = {}
    several = []
    for path in sorted(path for _, files in folders_below(root) for path in files):
        relative = path.relative_to(root)
        claimed: str | None = None
        for role in order:
            match = regexes[role].fullmatch(relative.as_posix())
            # Two roles may share one file where they have the same pattern: components of one picture.
            if match is None or (claimed is not None and patterns[role] != claimed):
                continue
            if leaves_ending_open(patterns[role]) and not is_image(path):
                continue
            claimed = patterns[role]
            if role.startswith(f"{LEFT_OUT_KEY}:"):
                break
            part = match.groupdict().get("part", "") if apart else ""
            case = cases.setdefault((part, match["id"]), _CaseFiles(match["id"]))
            if role in case.files:
                several.append(f"{claimed} finds {case.files[role].relative_to(root)} and {relative} for {case.id}")
            case.files.setdefault(role, path)
    if several:
        raise AutosegError(f"{file}: a pattern must find one file a case, but {'; '.join(several)}.")
    counts = Counter(name for _, name in cases)
    for (part, name), case in cases.items():
        case.id = name if counts[name] == 1 else f"{part}_{name}"
    return sorted(cases.values(), key=lambda case: case.id)


def _regex(pattern: str) -> re.Pattern[str]:
    """A pattern with groups for the case, and for the first of its ``{train,val}``."""
    first, *rest = map(escaped, pattern.split("{id}"))
    # Without a case it is that of a file that is left out.
    text = f"{first}(?P<id>[^/]+){'(?P=id)'.join(rest)}" if rest else first
    return re.compile(text.replace("(?:", "(?P<part>", 1))


def _from_table(table: Path, manifest: Manifest, patterns: Mapping[str, str]) -> list[_CaseFiles]:
    columns, rows = read_table(table)
    wanted = [manifest.id, *patterns.values(), *([] if manifest.group is None else [manifest.group])]
    missing = [name for name in dict.fromkeys(wanted) if name not in columns]
    if missing:
        raise AutosegError(
            f"{table} has no column {', '.join(missing)}, which {FILE_NAME} names; "
            f"its columns are {', '.join(columns)}."
        )
    cases = []
    for number, row in enumerate(rows, start=2):
        case_id = row[manifest.id]
        if not case_id:
            raise AutosegError(f"{table}: line {number} has no name in the column {manifest.id}.")
        case = _CaseFiles(case_id, group=row[manifest.group] if manifest.group else "")
        for role, column in patterns.items():
            if row[column]:
                case.files[role] = file_in(table, row[column])
        cases.append(case)
    return cases


LAYOUTS.register("manifest", Layout(recognise, read, rank=0))
