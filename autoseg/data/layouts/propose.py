"""Propose an ``autoseg.toml`` for a folder or table that has no description yet."""

import csv
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from autoseg.data.file_names import image_ending, image_endings, is_image, is_picture
from autoseg.data.image import read_geometry, read_image
from autoseg.data.layouts.manifest import SEVERAL_KEY
from autoseg.data.names import SEQUENCES
from autoseg.utils.errors import AutosegError

_LABEL_WORDS = re.compile(
    r"seg|label|lbl|mask|annot|(^|[^a-z])gt([^a-z]|$)|truth|multiclass|lesion|tumou?r|roi|contour|rater", re.I
)
_MASK_WORDS = re.compile(r"brain.?mask|body.?mask|(^|[^a-z])(bet|brain)([^a-z]|$)", re.I)
_FOLDER_WORDS = re.compile(
    r"^(ima?ge?s?|scans?|inputs?|labels?|masks?|segs?|segmentations?|annotations?|gt|train|test)", re.I
)

#: More distinct values than this, and an image is no label map.
_MOST_VALUES = 120

#: Largest number of files read for each guess.
_LOOK_AT = 5

#: Folders below the given one that are searched.
_DEPTH = 4


@dataclass
class _Role:
    """A recurring kind of file: one channel, label or mask of each case."""

    pattern: str
    files: list[Path] = field(default_factory=list)
    values: list[int] | None = None

    @property
    def words(self) -> str:
        """Its name without placeholders and ending."""
        name = self.pattern.replace("{id}", "").replace("*", "")
        for ending in image_endings():
            name = name.removesuffix(ending)
        return name.strip("/_-. ")


def propose(path: Path) -> str:
    """The text of an ``autoseg.toml`` that may describe a folder of images or a CSV.

    Raises:
        AutosegError: there are no images to describe.
    """
    if path.is_file() and path.suffix.lower() == ".csv":
        head, roles = _from_table(path)
    elif path.is_dir():
        head, roles = _from_folder(path)
    else:
        raise AutosegError(f"{path} is neither a folder of images nor a CSV; give one of these.")
    labels, masks = [], []
    for role in roles:
        role.values = _few_values(role)
    for role in roles:
        if role.values is not None and _MASK_WORDS.search(role.words):
            masks.append(role)
        elif role.values is not None and _LABEL_WORDS.search(role.words):
            labels.append(role)
    named = [role for role in roles if role.values is not None and role not in masks]
    if not labels and len(named) == 1 and len(roles) > 1:
        labels = named
    channels = [role for role in roles if role not in labels and role not in masks]
    if not channels:
        raise AutosegError(f"{path}: every image there looks like a label map; which are the scans can't be guessed.")
    return "\n".join([*head, "", *_write_channels(channels), *_write_labels(labels), *_write_mask(masks)]) + "\n"


def _from_folder(root: Path) -> tuple[list[str], list[_Role]]:
    files = list(_images(root))
    if not files:
        raise AutosegError(
            f"{root} has no image files that autoseg reads ({', '.join(image_endings())}); "
            "convert other formats, as DICOM series, to one of these first."
        )
    name = f"name = {_text(root.resolve().name)}"
    note = "# Proposed by 'autoseg inspect': check it against the file names and name the labels."
    folders = {path.parent for path in files}
    below = [folder for folder in folders if folder != root]
    by_kind = any(_FOLDER_WORDS.match(folder.relative_to(root).parts[-1]) for folder in below)
    if _is_exam(root, files):
        return [note, name, 'folders = "." # one exam'], _recurring([root], files)
    if root in folders or by_kind:
        return [note, name], _flat(root, files)
    top = _topmost(folders)
    depth = Counter(len(folder.relative_to(root).parts) for folder in top).most_common(1)[0][0]
    cases = [folder for folder in top if len(folder.relative_to(root).parts) == depth]
    head = [note, name] + ([f'folders = "{"/".join("*" * depth)}"'] if depth > 1 else [])
    return head, _recurring(sorted(cases), files)


def _images(root: Path) -> Iterable[Path]:
    for folder, folders, names in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if depth < _DEPTH else []
        yield from (Path(folder) / name for name in sorted(names) if is_image(Path(name)))


def _is_exam(folder: Path, files: list[Path]) -> bool:
    """Whether a folder is one exam: several of its files are named after a sequence and nothing else."""
    named = [path for path in files if path.parent == folder and _stem(path).lower() in SEQUENCES]
    return len(named) > 1


def _topmost(folders: set[Path]) -> list[Path]:
    return [folder for folder in folders if not any(parent in folders for parent in folder.parents)]


def _stem(path: Path) -> str:
    return path.name.removesuffix(image_ending(path) or "")


def _recurring(cases: list[Path], files: list[Path]) -> list[_Role]:
    """Roles in case folders: what differs from case to case in a file's name becomes ``*``."""
    inside: dict[Path, list[Path]] = {case: [path for path in files if case in path.parents] for case in cases}
    counts: Counter[str] = Counter()
    for case, paths in inside.items():
        counts.update({part for path in paths for part in _parts(case, path)})
    roles: dict[str, _Role] = {}
    for case, paths in inside.items():
        for path in paths:
            kept = (part if _is_gap(part) or 2 * counts[part] >= len(cases) else "*" for part in _parts(case, path))
            pattern = re.sub(r"\*(?:[_\-. ]*\*)+", "*", "".join(kept)) + (image_ending(path) or "")
            roles.setdefault(pattern, _Role(pattern)).files.append(path)
    return _often(roles.values(), len(cases))


def _is_gap(part: str) -> bool:
    return re.fullmatch(r"[_\-. /]+", part) is not None


def _parts(case: Path, path: Path) -> list[str]:
    """Words of a file's path inside its case's folder, with what separates them; the case's own name is ``*``."""
    relative = path.relative_to(case).as_posix().removesuffix(image_ending(path) or "")
    return [part for part in re.split(r"([_\-. /]+)", relative.replace(case.name, "*")) if part]


def _flat(root: Path, files: list[Path]) -> list[_Role]:
    """Roles among files of many cases in one folder, or in one folder a kind: ``{id}_flair.nii.gz``."""
    stems = {path: _stem(path) for path in files}
    split = {path: re.fullmatch(r"(.+?)([_\-.](?:[A-Za-z][A-Za-z0-9]*|\d{4}))", stem) for path, stem in stems.items()}
    # An ending is a kind of image where it comes again with other cases, or its case comes again with other endings.
    endings = Counter((path.parent, match[2]) for path, match in split.items() if match)
    cases = Counter((path.parent, match[1]) for path, match in split.items() if match)
    whole = {(path.parent, stem) for path, stem in stems.items()}
    roles: dict[str, _Role] = {}
    names = set()
    for path, stem in stems.items():
        match, suffix = split[path], ""
        if match and (
            endings[path.parent, match[2]] > 1 or cases[path.parent, match[1]] > 1 or (path.parent, match[1]) in whole
        ):
            stem, suffix = match[1], match[2]
        names.add(stem)
        folder = path.parent.relative_to(root).as_posix().replace(stem, "{id}")
        prefix = "" if folder == "." else f"{folder}/"
        pattern = f"{prefix}{{id}}{suffix}{image_ending(path)}"
        roles.setdefault(pattern, _Role(pattern)).files.append(path)
    return _often(roles.values(), len(names))


def _often(roles: Iterable[_Role], cases: int) -> list[_Role]:
    """Roles that a good part of the cases have; the rest is noise."""
    roles = list(roles)
    kept = [role for role in roles if 5 * len(role.files) >= cases]
    return sorted(kept or roles, key=lambda role: role.pattern)


def _from_table(table: Path) -> tuple[list[str], list[_Role]]:
    try:
        with open(table, newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle)
            rows, columns = list(reader), list(reader.fieldnames or [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise AutosegError(f"{table} is no CSV in UTF-8 ({error}); save it again as one.") from None
    values = {column: [row[column].strip() for row in rows if (row[column] or "").strip()] for column in columns}
    roles = [
        _Role(column, [table.parent / value for value in found])
        for column, found in values.items()
        if found and all(is_image(Path(value)) for value in found)
    ]
    of_files = {role.pattern for role in roles}
    names = [column for column in columns if len(set(values[column])) == len(rows) and column not in of_files]
    if not roles or not names:
        raise AutosegError(f"{table} needs a column that names each case and columns of image files.")
    head = [
        "# Proposed by 'autoseg inspect': check the columns and name the labels.",
        f"csv = {_text(table.name)}",
        f"id = {_text(names[0])}",
    ]
    return head, roles


def _few_values(role: _Role) -> list[int] | None:
    """The values of a role's files where they are a few whole numbers from 0 on, as of a label map."""
    values: set[int] = set()
    for path in role.files[:_LOOK_AT]:
        try:
            array = read_image(path).array
        except AutosegError:
            continue
        if array.dtype.kind not in "uib" and not np.array_equal(array, np.rint(array)):
            return None
        found = np.unique(array)
        if len(found) > _MOST_VALUES or found[0] < 0 or len(array) > 1:
            return None
        values.update(int(value) for value in found)
    return sorted(values) or None


def _write_channels(roles: list[_Role]) -> list[str]:
    lines = ["[channels] # channel name = file pattern"]
    names: Counter[str] = Counter()
    for role in roles:
        name = _channel_name(role, alone=len(roles) == 1)
        names[name] += 1
        if names[name] > 1:
            name = f"{name}_{names[name]}"
        components = _components(role)
        if components == 1:
            lines.append(f"{_key(name)} = {_text(role.pattern)}")
        else:
            colours = ["red", "green", "blue"] if components == 3 and _is_picture(role) else []
            for index in range(components):
                part = colours[index] if colours else f"{name}_{index}"
                lines.append(f"{_key(part)} = {{ file = {_text(role.pattern)}, component = {index} }}")
    return lines


def _components(role: _Role) -> int:
    for path in role.files[:_LOOK_AT]:
        try:
            return read_geometry(path)[1]
        except AutosegError:
            continue
    return 1


def _is_picture(role: _Role) -> bool:
    return is_picture(image_ending(role.files[0]))


def _channel_name(role: _Role, alone: bool) -> str:
    words = [word for word in re.split(r"[_\-. /]+", role.words.lower()) if word]
    known = [SEQUENCES[word] for word in words if word in SEQUENCES]
    if known:
        return known[-1]
    words = [word for word in words if not _FOLDER_WORDS.match(word)]
    if alone or not words:
        return "image"
    name = "_".join(words)
    return f"channel_{int(name)}" if name.isdigit() else name


def _write_labels(roles: list[_Role]) -> list[str]:
    if not roles:
        return ["", "# No label maps were recognised: the scans can only be predicted. For training, add:", *_EXAMPLE]
    values: set[int] = {value for role in roles for value in role.values or []}
    named = ["background = 0", *(f"label_{value} = {value}" for value in sorted(values - {0}))]
    lines = ["", "[label]"]
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
        lines.append(
            f"{SEVERAL_KEY} = {{ " + ", ".join(f"{_key(_rater(r))} = {_text(r.pattern)}" for r in several) + " }"
        )
    if len(named) > 6:
        return [*lines, "", "[label.values]", *named]
    return [*lines, f"values = {{ {', '.join(named)} }}"]


_EXAMPLE = ["# [label]", '# file = "seg.nii.gz"', "# values = { background = 0, tumor = 1 }"]


def _rater(role: _Role) -> str:
    return re.sub(r"[^a-z0-9]+", "_", os.path.basename(role.words).lower()).strip("_")


def _write_mask(roles: list[_Role]) -> list[str]:
    return ["", "[mask]", f"file = {_text(roles[0].pattern)}"] if roles else []


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _text(name)
