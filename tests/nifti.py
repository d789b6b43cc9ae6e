"""Headers of NIfTI files as other programs leave them, changed byte by byte (NIfTI-1, little-endian, plain)."""

import struct
from collections.abc import Sequence
from pathlib import Path


def patched(path: Path, offset: int, form: str, *values: float) -> Path:
    """Overwrite numbers of a header."""
    data = bytearray(path.read_bytes())
    struct.pack_into(f"<{form}", data, offset, *values)
    path.write_bytes(bytes(data))
    return path


def scaled(path: Path, slope: float, intercept: float = 0.0) -> Path:
    """Set how stored numbers become values."""
    return patched(path, 112, "2f", slope, intercept)


def with_pixdim(path: Path, *spacing: float) -> Path:
    """Set the sizes of voxels, x, y and z, in the header's ``pixdim``."""
    return patched(path, 80, "3f", *spacing)


def with_forms(path: Path, qform: int, sform: int) -> Path:
    """Set the codes that say which of both descriptions of the geometry hold."""
    return patched(path, 252, "2h", qform, sform)


def with_rows(path: Path, rows: Sequence[Sequence[float]]) -> Path:
    """Set the sform: three rows of four numbers."""
    return patched(path, 280, "12f", *(number for row in rows for number in row))
