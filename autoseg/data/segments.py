"""Segments: the names of label values that 3D Slicer writes into the header of a ``.seg.nrrd``."""

import re
from collections.abc import Iterator
from pathlib import Path

from autoseg.data.description import Description

#: A header is read up to this many bytes; it ends with an empty line.
_LONGEST = 1 << 20


def segment_names(path: Path) -> dict[int, str]:
    """Label value → name, as the header of an NRRD file says; empty for other files and unreadable ones."""
    if not path.name.lower().endswith(".nrrd"):
        return {}
    try:
        with open(path, "rb") as file:
            head = file.read(_LONGEST)
    except OSError:
        return {}
    text = re.split(rb"\r?\n\r?\n", head, maxsplit=1)[0].decode("utf-8", errors="replace")
    fields: dict[str, dict[str, str]] = {}
    for number, name, value in re.findall(r"^Segment(\d+)_(Name|LabelValue):=(.*?)\r?$", text, re.M):
        fields.setdefault(number, {})[name] = value.strip()
    found = {}
    for entry in fields.values():
        value = entry.get("LabelValue", "")
        if entry.get("Name") and re.fullmatch(r"[0-9]+", value):
            found[int(value)] = entry["Name"]
    return found


def contradicting_segments(dataset: Description) -> Iterator[tuple[str, Path, str, str]]:
    """Label maps whose headers give a value another name than another case's, or than the dataset.

    Yields:
        Case, file, what is wrong, what to do.
    """
    remedy = "Export all cases with the same segments in the same order."
    named = {name.casefold(): value for name, value in dataset.labels.items()}
    first: dict[int, tuple[str, str]] = {}
    for case in dataset.cases:
        maps = [path for path in (case.label, *case.raters.values()) if isinstance(path, Path)]
        for path in dict.fromkeys(maps):
            for value, name in segment_names(path).items():
                other, where = first.setdefault(value, (name, case.id))
                if other.casefold() != name.casefold():
                    what = f"its header calls {value} {name}, and that of {where} calls it {other}"
                    yield case.id, path, what, remedy
                    break
                if (own := named.get(name.casefold(), value)) != value:
                    yield case.id, path, f"its header calls {value} {name}, and for the dataset {own} is that", remedy
                    break
