"""Segments: the names of label values that 3D Slicer writes into the header of a ``.seg.nrrd``."""

import re
from pathlib import Path

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
