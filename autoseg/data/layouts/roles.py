"""Roles: the recurring kinds of files of a dataset that nothing describes, one for each channel, label or mask."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.data.file_names import image_ending, image_endings, is_image, is_picture, without_ending
from autoseg.data.formats.format import ImageFormat, format_of
from autoseg.data.image import read_geometry, read_image
from autoseg.data.layouts.case_names import exams_in, kinds_of, without_exam
from autoseg.data.layouts.spellings import plainly, united
from autoseg.data.layouts.split_folders import joined
from autoseg.data.layouts.tables import file_in, read_table
from autoseg.data.names import SEQUENCES
from autoseg.data.result_files import results_in
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import folders_below

#: Names of folders that hold one kind of file each.
FOLDER_WORDS = re.compile(
    r"^(ima?ge?s?|scans?|inputs?|labels?|masks?|segs?|segmentations?|annotations?|gt|train|test)", re.I
)

#: More distinct values than this, and an image is no label map.
_MOST_VALUES = 120

#: Largest number of files read for each guess.
_LOOK_AT = 5

#: Folders below the given one that are searched.
_DEPTH = 4


@dataclass
class Role:
    """A recurring kind of file: one channel, label or mask of each case.

    Attributes:
        pattern: of its files, as in an ``autoseg.toml``.
        files: one a case.
        values: the few whole numbers that its first files hold, as of a label map; None where they hold others.
    """

    pattern: str
    files: list[Path] = field(default_factory=list)
    values: list[int] | None = None

    @property
    def words(self) -> str:
        """Its name without placeholders and ending."""
        name = re.sub(r"\[([*?[])\]", r"\1", plainly(self.pattern).replace("{id}", "").replace("*", ""))
        for ending in image_endings():
            name = name.removesuffix(ending)
        return name.strip("/_-. ")

    @property
    def _first_files(self) -> list[Path]:
        """The first that are there: links may point to what was not fetched yet."""
        return list(islice((path for path in self.files if path.exists()), _LOOK_AT))

    @property
    def components(self) -> int:
        """How many channels each file holds."""
        for path in self._first_files:
            try:
                return read_geometry(path)[1]
            except AutosegError:
                continue
        return 1

    @property
    def is_picture(self) -> bool:
        """Whether its files are flat pictures."""
        return is_picture(image_ending(self.files[0]))

    def look(self) -> None:
        """Find :attr:`values`."""
        values: set[int] = set()
        for path in self._first_files:
            try:
                array = read_image(path).array
            except AutosegError:
                continue
            if array.dtype.kind not in "uib" and not np.array_equal(array, np.rint(array)):
                return
            found = np.unique(array)
            if len(found) > _MOST_VALUES or found[0] < 0 or len(array) > 1:
                return
            values.update(int(value) for value in found)
        self.values = sorted(values) or None


@dataclass
class Roles:
    """The roles of a folder or table.

    Attributes:
        folders: pattern of the case folders; ``""`` where roles hold ``{id}``, or are columns of a table.
        kept: roles that a good part of the cases have.
        noise: the others.
        cases: how many there seem to be.
        id_column: of a table.
        exams: words at the end of a case's name that tell exams of one patient apart (``_pre``, ``_post``).
    """

    folders: str
    kept: list[Role]
    noise: list[Role]
    cases: int
    id_column: str = ""
    exams: frozenset[str] = frozenset()


def roles_in_folder(root: Path) -> Roles:
    """Roles of the images below a folder.

    Raises:
        AutosegError: there are none.
    """
    files = sorted(_images(root))
    if not files:
        raise AutosegError(
            f"{root} has no image files that autoseg reads ({', '.join(image_endings())}); "
            "convert other formats to one of these first."
        )
    if not _is_exam(root, files) and (stray := _stray(root, files)):
        found = _roles_of(root, [path for path in files if path.parent != root])
        return replace(found, noise=[*found.noise, *(Role(_literally(path.name), [path]) for path in stray)])
    return _roles_of(root, files)


def _roles_of(root: Path, files: list[Path]) -> Roles:
    """Roles of images, of which none lies in ``root`` itself, or most do."""
    folders = {path.parent for path in files}
    below = [folder for folder in folders if folder != root]
    # A folder with a number, as test_007, is a case; and cases are at least as many as kinds.
    places = _places(root, files)
    kinds = {places[folder][0] for folder in below if FOLDER_WORDS.match(folder.name) and not folder.name[-1].isdigit()}
    names = {(places[path.parent][1], without_ending(path.name)) for path in files}
    by_kind = 0 < len(kinds) <= len(names)
    if _is_exam(root, files):
        return _recurring(".", [root], files)
    if root in folders or by_kind:
        return _flat(root, files)
    top = _topmost(folders)
    depth = Counter(len(folder.relative_to(root).parts) for folder in top).most_common(1)[0][0]
    cases = [folder for folder in top if len(folder.relative_to(root).parts) == depth]
    return _recurring("/".join("*" * depth), sorted(cases), files)


def _places(root: Path, files: Iterable[Path]) -> dict[Path, tuple[str, str]]:
    """Folders of files → what they have in common with those of other parts, and their own part."""
    names = {folder: folder.relative_to(root).as_posix() for folder in {path.parent for path in files}}
    found = joined(names.values())
    return {folder: found[name] for folder, name in names.items()}


def roles_in_table(table: Path) -> Roles:
    """Roles of a CSV: its columns of image files.

    Raises:
        AutosegError: it has none, or no column that names the cases.
    """
    columns, rows = read_table(table)
    values = {column: [row[column] for row in rows if row[column]] for column in columns}
    roles = [
        Role(column, [file_in(table, value) for value in found])
        for column, found in values.items()
        if found and all(is_image(Path(value.replace("\\", "/"))) for value in found)
    ]
    of_files = {role.pattern for role in roles}
    names = [column for column in columns if len(set(values[column])) == len(rows) and column not in of_files]
    if not roles or not names:
        raise AutosegError(f"{table} needs a column that names each case and columns of image files.")
    return Roles("", roles, [], len(rows), names[0])


def _images(root: Path) -> Iterable[Path]:
    for folder, files in folders_below(root, _DEPTH):
        results = set(results_in(folder))
        yield from (path for path in files if is_image(path) and _is_text(path.name) and path not in results)


def _stray(root: Path, files: list[Path]) -> list[Path]:
    """Files of the folder itself that are no cases: fewer than the folders below it, none of which is about them."""
    here = [path for path in files if path.parent == root]
    below = [path for path in files if path.parent != root]
    few = len(here) < len({path.parent for path in below}) and 2 * len(here) < len(files)
    names = [part for path in below for part in path.relative_to(root).parts]
    about = (_whole(without_ending(path.name)).match(name) for path in here for name in names)
    return here if few and not any(about) else []


def _is_text(name: str) -> bool:
    """Whether a file's name can be written to a text file."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _is_exam(folder: Path, files: list[Path]) -> bool:
    """Whether a folder is one exam: several of its files are named after a sequence and nothing else."""
    named = [path for path in files if path.parent == folder and without_ending(path.name).lower() in SEQUENCES]
    return len(named) > 1


def _topmost(folders: set[Path]) -> list[Path]:
    """Folders that lie in no other; those of fewest levels first, which decide where several levels hold as many."""
    found = (folder for folder in folders if not any(parent in folders for parent in folder.parents))
    return sorted(found, key=lambda folder: (len(folder.parts), folder))


def _recurring(folders: str, cases: list[Path], files: list[Path]) -> Roles:
    """Roles in case folders: what differs from case to case in a file's name becomes ``*``."""
    known = set(cases)
    inside: dict[Path, list[Path]] = {case: [] for case in cases}
    for path in files:
        case = next((parent for parent in path.parents if parent in known), None)
        if case is not None:
            inside[case].append(path)
    counts: Counter[str] = Counter()
    for case, paths in inside.items():
        counts.update({part.lower() for path in paths for part in _parts(case, path)})
    roles: dict[str, dict[Path, list[Path]]] = {}
    for case, paths in inside.items():
        for path in paths:
            kept = (
                part
                if _is_gap(part) or part == "*"
                else _literally(part)
                if 2 * counts[part.lower()] >= len(cases)
                else "*"
                for part in _parts(case, path)
            )
            pattern = re.sub(r"\*(?:[_\-. ]*\*)+", "*", "".join(kept)) + (image_ending(path) or "")
            roles.setdefault(pattern, {}).setdefault(case, []).append(path)
    return _often(folders, _in_any_spelling(roles), len(cases))


def _literally(part: str) -> str:
    """A part of a file's name as it stands in a pattern."""
    return re.sub(r"([*?[])", r"[\1]", part)


def _is_gap(part: str) -> bool:
    return re.fullmatch(r"[_\-. /]+", part) is not None


def _whole(name: str) -> re.Pattern[str]:
    """A name as a word of its own: ``a`` is not part of ``labels``, but of ``a_seg``."""
    return re.compile(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])")


def _parts(case: Path, path: Path) -> list[str]:
    """Words of a file's path inside its case's folder, with what separates them; the case's own name is ``*``."""
    relative = without_ending(path.relative_to(case).as_posix())
    found = []
    for index, piece in enumerate(_whole(case.name).split(relative)):
        found += ["*"] if index else []
        found += [part for part in re.split(r"([_\-. /]+)", piece) if part]
    return found


def _flat(root: Path, files: list[Path]) -> Roles:
    """Roles among files of many cases in one folder, or in one folder a kind: ``{id}_flair.nii.gz``.

    A kind may have a folder for training and one for validation cases, which may be called alike.
    """
    places = _places(root, files)
    kinds = kinds_of(files, {folder: place for folder, (place, _) in places.items()})
    exams = exams_in(kinds)
    roles: dict[str, dict[tuple[str, str], list[Path]]] = {}
    names = set()
    for path in files:
        suffix = without_exam(kinds[path], exams)
        stem = without_ending(path.name).removesuffix(suffix) if suffix else without_ending(path.name)
        names.add(stem)
        place, part = places[path.parent]
        folder = _whole(stem).sub("{id}", place)
        prefix = "" if folder == "." else f"{folder}/"
        pattern = f"{prefix}{{id}}{suffix}{image_ending(path)}"
        roles.setdefault(pattern, {}).setdefault((part, stem), []).append(path)
    return replace(_often("", _in_any_spelling(roles), len(names)), exams=frozenset(exams))


def _in_any_spelling(found: Mapping[str, Mapping[Any, list[Path]]]) -> list[Role]:
    """Roles, of which those whose names differ in letter case or ending only are one, where no case has both.

    Args:
        found: pattern → case → files.
    """
    kinds: dict[tuple[str, ImageFormat | None], list[str]] = {}
    for pattern in found:
        ending = image_ending(Path(pattern)) or ""
        kinds.setdefault((pattern.removesuffix(ending).lower(), format_of(ending)), []).append(pattern)
    roles = []
    for patterns in kinds.values():
        cases = [case for pattern in patterns for case in found[pattern]]
        one = united(patterns) if len(cases) == len(set(cases)) else None
        groups = {one: patterns} if one is not None else {pattern: [pattern] for pattern in patterns}
        for name, members in groups.items():
            roles.append(Role(name, [path for member in members for files in found[member].values() for path in files]))
    return roles


def _often(folders: str, roles: Iterable[Role], cases: int) -> Roles:
    """Roles that a good part of the cases have are kept; the rest is noise."""
    roles = sorted(roles, key=lambda role: role.pattern)
    kept = [role for role in roles if 5 * len(role.files) >= cases]
    return Roles(folders, kept or roles, [role for role in roles if kept and role not in kept], cases)
