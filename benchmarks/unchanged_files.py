"""Compares what two versions left in two folders, file by file, for ``unchanged.py``."""

import csv
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from safetensors.numpy import load_file


@dataclass
class Row:
    """One line of the result: how many values of a kind were compared, and the first difference."""

    what: str
    kind: str
    compared: int = 0
    differences: list[str] = field(default_factory=list)


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Every value of nested JSON by its path, without what is worded or of the place."""
    if isinstance(value, dict):
        parts: Iterable[tuple[Any, Any]] = (i for i in value.items() if i[0] not in ("reasons", "autoseg_version"))
    elif isinstance(value, list):
        parts = enumerate(value)
    else:
        return {} if isinstance(value, str) and Path(value).is_absolute() else {path: value}
    found = {key: leaf for name, part in parts for key, leaf in leaves(part, f"{path}.{name}").items()}
    return found or {path: value}  # an empty part is a value, too


def json_values(path: Path) -> dict[str, Any]:
    return leaves(json.loads(path.read_text(encoding="utf-8")))


def table_values(path: Path) -> dict[str, Any]:
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {f"{n}.{key}": v for n, row in enumerate(rows) for key, v in row.items() if "seconds" not in key}


def image_values(path: Path) -> dict[str, Any]:
    image = sitk.ReadImage(str(path))
    place = np.array([*image.GetSpacing(), *image.GetOrigin(), *image.GetDirection()])
    return {"voxels": sitk.GetArrayFromImage(image), "place": place}


#: Files that are compared (the first pattern that fits): the name of what is in them, and how it is read.
READERS: tuple[tuple[str, str, Callable[[Path], dict[str, Any]]], ...] = (
    ("*.safetensors", "tensors", load_file),
    ("*.nii.gz", "voxels", image_values),
    ("history.csv", "history", table_values),
    ("*.csv", "measures", table_values),
    ("plan.json", "plan", json_values),
    ("fingerprint.json", "fingerprint, splits", json_values),
    ("splits.json", "fingerprint, splits", json_values),
)


def difference(one: Any, other: Any) -> str:
    """In words, empty where there is none; arrays must be the same bit by bit."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            return f"{one.dtype} {one.shape}, then {other.dtype} {other.shape}"
        if one.tobytes() == other.tobytes():
            return ""
        largest = np.max(np.abs(one.astype(np.float64) - other.astype(np.float64)))
        return f"{int((one != other).sum())} of {one.size} differ, by {largest:g} at most"
    return "" if type(one) is type(other) and one == other else f"{one!r}, then {other!r}"


#: Names of files that are carried into a run hold a fingerprint of the content since 0.2, and lay without one before.
_CARRIED = (
    (re.compile(r"((?:^|/)(?:source_.+|initial_weights))_[0-9a-f]{16}\.safetensors$"), r"\1.safetensors"),
    (re.compile(r"(^|/)teacher/[0-9a-f]{16}/"), r"\1teacher/"),
)


def usual(name: str) -> str:
    """The name of a carried file without the fingerprint of its content."""
    for pattern, plain in _CARRIED:
        name = pattern.sub(plain, name)
    return name


def files_of(root: Path) -> dict[str, Path]:
    """Usual name → file, but for preprocessed data."""
    paths = [path for path in root.rglob("*") if path.is_file() and "preprocessed" not in path.parts]
    return {usual(path.relative_to(root).as_posix()): path for path in paths}


def compare_folders(what: str, before: Path, after: Path) -> list[Row]:
    """All files of known kinds in the folders, but for preprocessed data; one row a kind."""
    rows: dict[str, Row] = {}
    files = [files_of(before), files_of(after)]
    for name in sorted({*files[0], *files[1]}):
        reader = next(((kind, read) for pattern, kind, read in READERS if Path(name).match(pattern)), None)
        if reader is None:
            continue
        kind, read = reader
        row = rows.setdefault(kind, Row(what, kind))
        if not all(name in found for found in files):
            row.differences.append(f"{name}: only {'before' if name in files[0] else 'after'}")
            continue
        one, other = (read(found[name]) for found in files)
        for key in {**one, **other}:
            value = one.get(key)
            row.compared += value.size if kind == "voxels" and isinstance(value, np.ndarray) else 1
            if key not in one and other[key] in ({}, []):
                continue  # a key that is new, and empty where nobody asks for anything
            if not (key in one and key in other):
                row.differences.append(f"{name}: {key} only {'before' if key in one else 'after'}")
            elif said := difference(*(usual(v) if isinstance(v, str) else v for v in (value, other[key]))):
                row.differences.append(f"{name}: {key}: {said}")
    return list(rows.values())
