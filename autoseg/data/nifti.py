"""Faults of NIfTI files that SimpleITK hides: it silently reads NaN, infinity and missing voxels as 0."""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import numpy as np

#: Bytes checked at once; a multiple of every voxel's size.
_CHUNK = 1 << 22

#: NIfTI's codes of the floating-point types → numpy's.
_FLOATS = {16: "f4", 64: "f8"}


class Faults(NamedTuple):
    """Faults of a file.

    Attributes:
        non_finite: voxels that are NaN or infinite.
        incomplete: voxels are missing at its end, as after a broken download.
    """

    non_finite: int = 0
    incomplete: bool = False


def faults(path: Path) -> Faults:
    """Look for faults in the bytes of a ``.nii`` or ``.nii.gz``.

    Other formats have none here; the image reader reports files that are missing or no NIfTI.
    """
    name = path.name.lower()
    if not name.endswith((".nii", ".nii.gz")):
        return Faults()
    try:
        with gzip.open(path) if name.endswith(".gz") else open(path, "rb") as stream:
            return _faults(cast(BinaryIO, stream))
    except (OSError, EOFError, zlib.error, struct.error):
        return Faults()


def _faults(stream: BinaryIO) -> Faults:
    header = stream.read(540)
    order = next((o for o in "<>" if struct.unpack_from(f"{o}i", header)[0] in (348, 540)), None)
    if order is None:
        return Faults()
    if struct.unpack_from(f"{order}i", header)[0] == 540:  # NIfTI-2
        code, bits = struct.unpack_from(f"{order}hh", header, 12)
        sizes, offset = struct.unpack_from(f"{order}8q", header, 16), struct.unpack_from(f"{order}q", header, 168)[0]
    else:
        code, bits = struct.unpack_from(f"{order}hh", header, 70)
        sizes, offset = struct.unpack_from(f"{order}8h", header, 40), struct.unpack_from(f"{order}f", header, 108)[0]
    expected = math.prod(sizes[1 : 1 + sizes[0]]) * bits // 8
    kind = np.dtype(f"{order}{_FLOATS[code]}") if code in _FLOATS else None
    non_finite = length = 0
    try:
        stream.seek(int(offset))
        while chunk := stream.read(_CHUNK):
            length += len(chunk)
            if kind is not None:
                values = np.frombuffer(chunk[: len(chunk) // kind.itemsize * kind.itemsize], kind)
                non_finite += int(values.size - np.isfinite(values).sum())
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return Faults(non_finite, incomplete=True)
    return Faults(non_finite, incomplete=length < expected)
