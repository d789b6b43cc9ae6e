"""Files that a prediction wrote, so that scans and datasets beside them are told apart."""

import re
from pathlib import Path
from typing import Any

from autoseg.data.file_names import images_in, without_ending
from autoseg.utils.errors import AutosegError
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
