"""Short fingerprints of plain data, of files and of arrays."""

import hashlib
import json
from pathlib import Path
from typing import Any

#: Hexadecimal digits of a fingerprint.
LENGTH = 16


def digest(data: Any) -> str:
    """A fingerprint of plain (JSON) data, independent of the order of keys."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:LENGTH]


def file_digest(path: Path) -> str:
    """A fingerprint of a file's content."""
    checksum = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            checksum.update(block)
    return checksum.hexdigest()[:LENGTH]
