"""Shared by the readers of layouts: ``dataset.json``, patients in case names, and errors that name the file."""

import filecmp
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autoseg.data.counts import value_counts
from autoseg.data.description import LabelSource
from autoseg.data.structure_masks import read_label_map
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import read_json
from autoseg.utils.parallel import available_cpus


def description_file(path: Path) -> Path:
    """The ``dataset.json`` of a folder; a path that is no folder is taken for the file itself."""
    return path / "dataset.json" if path.is_dir() else path


def read_description(path: Path) -> dict[str, Any] | None:
    """Content of the ``dataset.json`` of a folder (or of a given JSON file); None if it is missing or no object.

    Raises:
        AutosegError: the file is no JSON.
    """
    file = description_file(path)
    if file.suffix.lower() != ".json" or not file.is_file():
        return None
    data = read_json(file)
    return data if isinstance(data, dict) else None


def unique(names: Iterable[str]) -> list[str]:
    """Channel names made unique by a number: ``MRI, MRI`` becomes ``MRI_0, MRI_1``."""
    names = list(names)
    return [f"{name}_{names[:i].count(name)}" if names.count(name) > 1 else name for i, name in enumerate(names)]


def refuse_twice(case: str, earlier: Path | None, file: Path) -> None:
    """Refuse a second file of what a case has once, as ``ct.nii`` beside ``ct.nii.gz``.

    Args:
        case: name, for the message.
        earlier: the first such file; None where this is it.
        file: this one.

    Raises:
        AutosegError: names both.
    """
    if earlier is not None:
        raise AutosegError(f"case {case}: {earlier} and {file} are the same thing twice; take one out.")


def by_number(table: Any, key: str, source: Path) -> list[str]:
    """The values of a ``{"0": …, "1": …}`` table in the order of the numbers.

    Raises:
        AutosegError: it is no such table.
    """
    try:
        if not isinstance(table, dict):
            raise TypeError
        ordered = [str(table[number]) for number in sorted(table, key=int)]
        if not ordered or sorted(map(int, table)) != list(range(len(ordered))):
            raise ValueError
    except (TypeError, ValueError, AttributeError):
        raise AutosegError(
            f'{source}: "{key}" must name the channels by number from 0 on, as {{"0": "T1", "1": "FLAIR"}}.'
        ) from None
    return ordered


def whole(value: Any, what: str, source: Path) -> int:
    """A label value as an integer.

    Raises:
        AutosegError: it is none.
    """
    try:
        if isinstance(value, bool) or int(value) != float(value):
            raise ValueError
        return int(value)
    except (TypeError, ValueError):
        raise AutosegError(f"{source}: the value of {what} must be a whole number, not {value!r}.") from None


def values_of(files: Iterable[LabelSource | None]) -> list[int]:
    """The values above 0 of label maps; files that can't be read are for the check of the dataset to report."""

    def one(source: LabelSource) -> set[int]:
        try:
            return set(value_counts(read_label_map(source).array[0].round()))
        except (AutosegError, ValueError):
            return set()

    with ThreadPoolExecutor(available_cpus()) as pool:
        found = pool.map(one, [source for source in files if source is not None])
        return sorted(value for value in set().union(*found) if value > 0)


def other_scans(scans: Iterable[Path], trained: Iterable[Path]) -> list[Path]:
    """Scans of a test case that are not those of the training case of its name, by their content."""
    known = [path for path in trained if path.is_file()]
    found = [path for path in scans if path.is_file()]
    return [path for path in found if not any(filecmp.cmp(path, other, shallow=False) for other in known)]


@contextmanager
def inconsistencies_in(source: Path) -> Iterator[None]:
    """Report contradictions of a description made inside this block with the file that it comes from.

    Raises:
        AutosegError: names ``source`` and everything that is inconsistent.
    """
    try:
        yield
    except ValidationError as error:
        parts = [item["msg"].removeprefix("Value error, ") for item in error.errors()]
        raise AutosegError(f"{source}: {'; '.join(parts)}.") from None
