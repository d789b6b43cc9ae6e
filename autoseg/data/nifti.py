"""The voxels of NIfTI files, decoded once, with the faults that SimpleITK hides.

SimpleITK silently reads NaN, infinity and missing voxels as 0, so that a check would have to decode each file a second
time. Here the bytes are decoded once and give both, the same voxels and their faults. Geometry is left to SimpleITK.
"""

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

#: NIfTI's codes of voxel types → numpy's; files of others (complex numbers, colours) are SimpleITK's business.
_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip

#: Bytes of the longer of both headers, NIfTI-2's.
_HEADER = 540

#: Bytes of NIfTI-1's header with the flag of extensions, and of a file's start that is sure to hold them, compressed.
_SMALL, _START = 352, 4096

#: First bytes of a gzip file, which some programs name ``.nii``, and ``wbits`` that lets zlib read it.
_GZIP, _GZIP_BITS = b"\x1f\x8b", 31

#: Bytes that a compressed byte can stand for, at most (zlib's manual).
_MOST_PACKED = 1032


class IncompleteFile(ValueError):
    """Voxels are missing at a file's end, as after a broken download, or its compressed bytes are damaged."""


class PlainHeader(NamedTuple):
    """A header of one number a voxel, not scaled.

    Attributes:
        geometry: the header alone as the bytes of a NIfTI file; the same for files that differ in nothing but the
            type of their voxels and remarks.
        voxel_type: as numpy calls it.
    """

    geometry: bytes
    voxel_type: str


@dataclass(frozen=True)
class ValueScaling:
    """How stored numbers become values: slope · number + intercept."""

    slope: float = 1.0
    intercept: float = 0.0

    @property
    def changes(self) -> bool:
        """Whether the values are others than those stored."""
        return (self.slope, self.intercept) != (1, 0)


@dataclass(frozen=True)
class StoredVoxels:
    """Voxels as a file stores them.

    Attributes:
        array: in the file's own order, the slowest axis first; not scaled, and 0 where not finite. None for a type that
            only SimpleITK reads.
        scaling: of the voxels.
        non_finite: voxels that are NaN or infinite.
    """

    array: np.ndarray | None
    scaling: ValueScaling = ValueScaling()
    non_finite: int = 0


@dataclass(frozen=True)
class _Header:
    kind: str | None
    shape: tuple[int, ...]
    bits: int
    offset: int
    scaling: ValueScaling

    @property
    def length(self) -> int:
        """Bytes of the whole file."""
        return self.offset + math.prod(self.shape) * self.bits // 8


def stored_voxels(path: Path) -> StoredVoxels:
    """Decode a ``.nii`` or ``.nii.gz``.

    Raises:
        IncompleteFile: voxels are missing at its end, or its compressed bytes are damaged.
        OSError: the file can't be opened.
    """
    data = path.read_bytes()
    packed = data.startswith(_GZIP)
    try:
        header = _header(zlib.decompressobj(_GZIP_BITS).decompress(data, _HEADER) if packed else data)
        if header is None:
            return StoredVoxels(None)
        if packed:
            # In one piece into a buffer of the right size, which takes two thirds of the time of growing one.
            whole = zlib.decompress(data, _GZIP_BITS, max(1, min(header.length, _MOST_PACKED * len(data))))
            # A file in several parts, one after the other, is legal and rare.
            data = whole if len(whole) >= header.length else gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise IncompleteFile("voxels are missing at its end, or it is damaged") from None
    if len(data) < header.length:
        raise IncompleteFile("voxels are missing at its end")
    if header.kind is None:
        return StoredVoxels(None)
    array = np.frombuffer(data, header.kind, math.prod(header.shape), header.offset).reshape(header.shape)
    non_finite = 0
    if array.dtype.kind == "f":
        finite = np.isfinite(array)
        non_finite = int(array.size - np.count_nonzero(finite))
        if non_finite:
            array = np.where(finite, array, array.dtype.type(0))
    return StoredVoxels(array.astype(array.dtype.newbyteorder("="), copy=False), header.scaling, non_finite)


def first_bytes(path: Path) -> bytes:
    """The first bytes of a file that may be a NIfTI's, unpacked: enough for its header, fewer of a damaged file.

    Raises:
        OSError: the file can't be opened.
    """
    with open(path, "rb") as file:
        data = file.read(_START)
    try:
        return zlib.decompressobj(_GZIP_BITS).decompress(data, _HEADER) if data.startswith(_GZIP) else data[:_HEADER]
    except zlib.error:
        return b""


def plain_header(data: bytes) -> PlainHeader | None:
    """The header of a NIfTI-1 file with voxels of a plain type, from its :func:`first_bytes`; None for others."""
    data = data[:_SMALL]
    header = _header(data)
    if header is None or header.kind is None or len(header.shape) > 4 or header.scaling.changes:
        return None
    if len(data) < _SMALL or data[344:346] != b"n+":
        return None
    order = header.kind[0]
    geometry = bytearray(data)
    struct.pack_into(f"{order}hh", geometry, 70, 2, 8)
    geometry[124:252] = bytes(128)  # range of intensities and remarks, up to the codes of the orientation
    geometry[348:] = bytes(4)  # no extensions
    struct.pack_into(f"{order}f", geometry, 108, _SMALL)
    return PlainHeader(bytes(geometry), _TYPES[struct.unpack_from(f"{order}h", data, 70)[0]])


def _header(data: bytes) -> _Header | None:
    """The part of a header that tells where the voxels are; None for bytes of no NIfTI."""
    try:
        order = next((o for o in "<>" if struct.unpack_from(f"{o}i", data)[0] in (348, _HEADER)), None)
        if order is None:
            return None
        if struct.unpack_from(f"{order}i", data)[0] == _HEADER:
            magic, (code, bits) = data[4:6], struct.unpack_from(f"{order}hh", data, 12)
            sizes, (offset,) = struct.unpack_from(f"{order}8q", data, 16), struct.unpack_from(f"{order}q", data, 168)
            scale = struct.unpack_from(f"{order}2d", data, 176)
        else:
            magic, (code, bits) = data[344:346], struct.unpack_from(f"{order}hh", data, 70)
            sizes, (offset,) = struct.unpack_from(f"{order}8h", data, 40), struct.unpack_from(f"{order}f", data, 108)
            scale = struct.unpack_from(f"{order}2f", data, 112)
    except struct.error:
        return None
    shape = sizes[1 : 1 + sizes[0]]
    if not math.isfinite(offset) or offset < 0 or any(size < 1 for size in shape):
        return None
    known = code in _TYPES and magic == b"n+" and 8 * np.dtype(_TYPES[code]).itemsize == bits
    kind = f"{order}{_TYPES[code]}" if known else None
    # A slope of 0 means none, and ITK adds the intercept all the same.
    slope, intercept = (value if math.isfinite(value) else 0.0 for value in scale)
    return _Header(kind, tuple(reversed(shape)), bits, int(offset), ValueScaling(slope or 1.0, intercept))
