"""Files that a prediction wrote, so that scans and datasets beside them are told apart."""

import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from autoseg.data.file_names import images_in, without_ending
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import read_json_table
from autoseg.utils.progress import say
from autoseg.utils.text import listed

#: File that says how the results in its folder were made.
PREDICTIONS = "predictions.json"

#: Where the case's name ends in that of a result beside its label map.
_KINDS = re.compile(r"(?=_probability_.|_rater_.|_disagreement\Z)")


def told_in(folder: Path) -> dict[str, Any]:
    """What a folder's ``predictions.json`` says; nothing where there is none, or a file of something else."""
    try:
        return read_json_table(folder / PREDICTIONS)
    except AutosegError:
        return {}  # cut off


def results_in(folder: Path) -> list[Path]:
    """The result files in a folder, by its ``predictions.json``; none where there is no such file."""
    told = told_in(folder)
    if isinstance(told.get("files"), list):
        names = set(map(str, told["files"]))
        with os.scandir(folder) as entries:
            there = sorted(entry.name for entry in entries if entry.name in names and entry.is_file())
        return [folder / name for name in there]
    # Earlier versions did not list their files.
    cases = _cases_of(told) or set()
    called = {file: without_ending(file.name) for file in images_in(folder)}
    return [file for file, name in called.items() if name in cases or is_further_result(name, cases)]


def cases_told_in(folder: Path) -> set[str] | None:
    """The cases of which a folder's ``predictions.json`` says how their results were made; None where it names none.

    Results of other cases may lie there, too: those of another model, or of earlier weights of the same one.
    """
    return _cases_of(told_in(folder))


def without_disowned(folder: Path, files: Mapping[str, Path]) -> dict[str, Path]:
    """The files of a folder without results of which its ``predictions.json`` says nothing, which are named.

    What no prediction wrote, as a label map drawn by hand, stays.

    Args:
        folder: of the files.
        files: case → file.
    """
    own = cases_told_in(folder)
    if own is None:
        return dict(files)
    results = set(results_in(folder))
    left = [
        case for case, file in files.items() if file in results and case not in own and not is_further_result(case, own)
    ]
    if left:
        named = [case for case in left if not is_further_result(case, left)]
        say(f"{folder}: {listed(named, 10)} left out; {PREDICTIONS} says nothing of them (another model's?).")
    return {case: file for case, file in files.items() if case not in left}


def _cases_of(told: Mapping[str, Any]) -> set[str] | None:
    if not told.keys() & {"cases", "kept_from_before"}:
        return None
    return {str(case) for key in ("cases", "kept_from_before") for case in told.get(key) or ()}


def is_further_result(name: str, cases: Collection[str]) -> bool:
    """Whether a file is called as what lies beside the label map of one of the cases, as a probability.

    Args:
        name: of the file, without its ending.
        cases: their names.
    """
    return any(name[: found.start()] in cases for found in _KINDS.finditer(name))


def refuse_replacing(out: Path, files: Iterable[Path], earlier: Collection[Path]) -> None:
    """Refuse to write results over files that are none, as label maps that were drawn by hand.

    Args:
        out: folder that the user chose for the results.
        files: that are about to be written.
        earlier: results of earlier commands, which may be replaced.

    Raises:
        UsageError: names the first of those files.
    """
    for path in files:
        if path not in earlier and (path.is_file() or path.is_symlink()):
            raise UsageError(
                f"--out {out}: {path.relative_to(out)} lies there already and is no result of autoseg; choose another "
                "folder."
            )
