"""Files that a prediction wrote, so that scans and datasets beside them are told apart."""

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from autoseg.data.file_names import images_in, without_ending
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import read_json

#: File that says how the results in its folder were made.
PREDICTIONS = "predictions.json"

#: What follows the case's name in results of earlier versions, which did not list their files.
_KINDS = r"(_probability_.+|_rater_.+|_disagreement)?"


def told_in(folder: Path) -> dict[str, Any]:
    """What a folder's ``predictions.json`` says; nothing where there is none, or a file of something else."""
    path = folder / PREDICTIONS
    try:
        told = read_json(path) if path.is_file() else {}
    except AutosegError:
        return {}  # cut off
    return told if isinstance(told, dict) else {}


def results_in(folder: Path) -> list[Path]:
    """The result files in a folder, by its ``predictions.json``; none where there is no such file."""
    told = told_in(folder)
    if isinstance(told.get("files"), list):
        names = set(map(str, told["files"]))
        return [file for name in sorted(names) if (file := folder / name).is_file()]
    cases = [*(told.get("cases") or ()), *(told.get("kept_from_before") or ())]
    patterns = [re.compile(re.escape(str(case)) + _KINDS) for case in cases]
    return [
        file for file in images_in(folder) if any(pattern.fullmatch(without_ending(file.name)) for pattern in patterns)
    ]


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
