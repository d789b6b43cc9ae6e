"""Names of structures as DICOM objects have them, made fit for a dataset."""

import re
from collections.abc import Iterable

from autoseg.data.file_names import plain_name
from autoseg.utils.digest import digest

#: Digits of a name's fingerprint in the name of its file.
_DIGITS = 4


def structure_name(text: str, number: int) -> str:
    """A structure's name without what neither a label nor a file can be called; ``structure 3`` for an empty one."""
    name = plain_name(re.sub(r"\s+", " ", str(text).strip(" \0"))).strip(" .")
    return name or f"structure {number}"


def distinct_names(names: Iterable[str]) -> list[str]:
    """The same names, the second ``GTV`` as ``GTV 2``; names that differ in case only count as one."""
    found: list[str] = []
    used: set[str] = set()
    for name in names:
        new, count = name, 1
        while new.casefold() in used:
            count += 1
            new = f"{name} {count}"
        used.add(new.casefold())
        found.append(new)
    return found


def structure_file(name: str) -> str:
    """Name of a structure's mask in a case's folder: a pattern of itself, and another one for every structure.

    ``GTV_1`` → ``structure_GTV_1.nii.gz``; of a name with other characters, a fingerprint follows.
    """
    plain = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)
    own = "" if plain == name else f"_{digest(name)[:_DIGITS]}"
    return f"structure_{plain}{own}.nii.gz"
