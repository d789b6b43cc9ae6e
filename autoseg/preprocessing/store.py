"""Preprocessed cases on disk: arrays of 16 bits or fewer a voxel that training reads in part, and their metadata.

A case is four files, ``<case>.image.npy``, ``<case>.label.npy``, ``<case>.foreground.npz`` and ``<case>.json``; where
several annotators are learned separately, a fifth holds their label maps. The JSON is written last: a case without it
is incomplete.

The arrays are mapped into memory, not compressed, a few of them at a time (a mapped file keeps a descriptor, of which a
process often has no more than 1024): cutting a box out of one lets go of the interpreter's lock and is three
to five times as fast as from blosc2 arrays, which hold it (``benchmarks/stored_arrays.py``). Cases that an earlier
version stored as blosc2 arrays are still read.
"""

import errno
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoseg.plans.recipe import ANNOTATORS_KEY
from autoseg.preprocessing.fields import ANNOTATIONS, Field, StoredField, with_inside
from autoseg.preprocessing.volume import Volume, encode_image, encode_labels
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import atomic, read_json, write_json

if TYPE_CHECKING:
    from autoseg.preprocessing.case import PreprocessedCase, Trace

#: Positions kept of each label value, of the mask and of healthy tissue (as nnU-Net keeps for a label: enough to centre
#: patches anywhere in it).
POSITIONS = 10_000

#: Stored positions that belong to no label value: the mask, and the mask outside all labels.
PLACES = ("inside", "healthy")

#: Arrays that stay mapped, of all cases. Mapping one takes some tenths of a millisecond.
_MAPPED = 128

#: Arrays of a case; the last is there where several annotators are learned separately.
_ARRAYS = ("image", "label", ANNOTATORS_KEY)


@dataclass(frozen=True)
class StoredCase:
    """A preprocessed case, read lazily and in part.

    Attributes:
        folder: of the preprocessed cases.
        id: name of the case.
        extra: fields that are stored elsewhere.
    """

    folder: Path
    id: str
    extra: tuple[StoredField, ...] = ()

    @cached_property
    def info(self) -> dict[str, Any]:
        """The case's JSON: shape, trace, key, foreground positions."""
        path = self.folder / f"{self.id}.json"
        info = read_json(path)
        if not isinstance(info, dict) or not {"key", "shape", "trace"} <= info.keys():
            raise _damaged(path, "it does not hold what it should")
        return info

    @property
    def content(self) -> str:
        """Checksum of image, label and fields: another one means other training data."""
        return str(self.info.get("content", "")) + "".join(field.content for field in self.extra)

    @property
    def fields(self) -> list[Field]:
        """Fields beside image and label; annotations replace the label."""
        return [*([ANNOTATIONS] if self.drawn else []), *(stored.field for stored in self.extra)]

    def field_volume(self, field: Field) -> Volume:
        """The array of a field ``(channel, z, y, x)``; of a linear one without the channel of ones."""
        if field == ANNOTATIONS:
            return self.volume(ANNOTATORS_KEY)
        return next(stored for stored in self.extra if stored.field == field).volume

    def field(self, field: Field, box: tuple[slice, ...] = ()) -> np.ndarray:
        """``(channel, z, y, x)`` of a field inside ``box`` (all of it where empty)."""
        return with_inside(field, self.field_volume(field).cut(box).decoded())

    @property
    def drawn(self) -> list[bool]:
        """For each annotator who is learned separately, whether they annotated the case; else empty."""
        return [bool(drew) for drew in self.info.get("drawn", [])]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels ``(z, y, x)``."""
        z, y, x = self.info["shape"]
        return z, y, x

    @property
    def present(self) -> tuple[bool, ...]:
        """For each channel, whether the case has it."""
        return tuple(self.info["trace"]["present"])

    @cached_property
    def trace(self) -> "Trace":
        """How to put a prediction back on the grid of the scan."""
        # Imported here so that training, which does not use it, runs where SimpleITK is not installed.
        from autoseg.preprocessing.case import Trace

        return Trace.from_json(self.info["trace"])

    def positions(self, select: Callable[[str], bool]) -> dict[str, np.ndarray]:
        """Label value as text, or one of :data:`PLACES` → integers ``(n, 3)``: positions of some of its voxels.

        Args:
            select: which of these names to read.
        """
        with self._positions() as stored:
            return {name: stored[name] for name in stored.files if select(name)}

    @property
    def foreground_values(self) -> set[int]:
        """Label values that occur in it, without the background."""
        with self._positions() as stored:
            return {int(name) for name in stored.files if name not in PLACES}

    @contextmanager
    def _positions(self) -> Iterator[Any]:
        """The file of positions, open; an array is read when it is asked for."""
        path = self.folder / f"{self.id}.foreground.npz"
        try:
            with np.load(path) as stored:
                yield stored
        except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
            raise _damaged(path, str(error)) from None

    @property
    def foreground(self) -> dict[int, np.ndarray]:
        """Label value → integers ``(n, 3)``: positions of some of its voxels; read anew each time."""
        return {int(name): found for name, found in self.positions(lambda name: name not in PLACES).items()}

    @cached_property
    def label_voxels(self) -> dict[int, int]:
        """Label value → number of all its voxels; counted on first use."""
        maps = self.annotations()[self.drawn] if self.drawn else self.label()[None]
        return {value: int(np.count_nonzero((maps == value).any(axis=0))) for value in self.foreground}

    @property
    def places(self) -> dict[str, np.ndarray]:
        """``inside`` the mask, or ``healthy`` → integers ``(n, 3)``: positions of some of its voxels.

        ``inside`` is the brain mask, or what is non-zero in any channel; ``healthy`` is the part of it
        without a label. Empty for cases stored by an earlier version. Read anew each time.
        """
        return self.positions(PLACES.__contains__)

    def volume(self, name: str) -> Volume:
        """One of the case's arrays, mapped into memory for as long as it is used.

        Args:
            name: ``image``; ``label``, ``(1, z, y, x)``; or the annotators' (:data:`ANNOTATORS_KEY`).
        """
        encoding = self.info.get("arrays", {}).get(name)
        path = self.folder / f"{self.id}.{name}.{'b2nd' if encoding is None else 'npy'}"
        version = _version(path)
        if self._versions.setdefault(name, version) != version:
            raise AutosegError(f"{path} was preprocessed anew while it was in use; give the command again.")
        array = _mapped(path, version)
        return Volume(array) if encoding is None else Volume.of(array, encoding)

    @cached_property
    def _versions(self) -> dict[str, tuple[int, ...]]:
        """Array → the version of its file that was read first: another one may be encoded in another way."""
        return {}

    def image(self, box: tuple[slice, ...] = ()) -> np.ndarray:
        """float32 ``(channel, z, y, x)`` inside ``box`` (all of it where empty)."""
        return self.volume("image").cut(box).decoded()

    def label(self, box: tuple[slice, ...] = ()) -> np.ndarray:
        """Integers ``(z, y, x)``, with the dataset's values, inside ``box`` (all of it where empty)."""
        found: np.ndarray = self.volume("label").cut(box).decoded()[0]
        return found

    def annotations(self, box: tuple[slice, ...] = ()) -> np.ndarray:
        """Integers ``(annotator, z, y, x)`` inside ``box`` (all of it where empty); zero where one is missing."""
        return self.volume(ANNOTATORS_KEY).cut(box).decoded()


def _version(path: Path) -> tuple[int, ...]:
    """Differs for a file that was written anew."""
    try:
        found = path.stat()
    except OSError as error:
        raise _damaged(path, str(error)) from None
    return found.st_ino, found.st_mtime_ns, found.st_size


@lru_cache(_MAPPED)
def _mapped(path: Path, version: tuple[int, ...]) -> Any:
    """The array of a version of a file."""
    if path.suffix == ".b2nd":
        return _EarlierArray(path)
    try:
        array = np.load(path, mmap_mode="r")
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise AutosegError(
                f"{path} can't be opened: too many files are open in this process; raise the limit with 'ulimit -n'."
            ) from None
        raise _damaged(path, str(error)) from None
    except (ValueError, EOFError, SyntaxError) as error:
        raise _damaged(path, str(error)) from None
    # An ndarray: slices of a memmap are memmaps, which are slow to make.
    return np.asarray(array)


class _EarlierArray:
    """An array that an earlier version stored with blosc2, read in part: float32 images and int16 label maps."""

    def __init__(self, path: Path) -> None:
        import blosc2

        self._path = path
        try:
            # One thread: it is read under a lock.
            self._array: Any = blosc2.open(str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})
        except (RuntimeError, OSError, ValueError) as error:
            raise _damaged(path, str(error)) from None
        self.shape: tuple[int, ...] = (1,) * (4 - self._array.ndim) + tuple(self._array.shape)
        self.dtype = self._array.dtype
        self.size = int(np.prod(self.shape))
        self.nbytes = self.size * self.dtype.itemsize

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        found = np.asarray(self._array[index[4 - self._array.ndim :]])
        return found.reshape((1,) * (4 - found.ndim) + found.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[(slice(None),) * 4].astype(dtype or self.dtype, copy=False)


def _damaged(path: Path, reason: str) -> AutosegError:
    first = (reason.strip() or "no reason given").splitlines()[0]
    return AutosegError(f"{path} can't be read ({first}); delete its folder, the next training rebuilds it.")


def save(folder: Path, case_id: str, case: "PreprocessedCase", key: str) -> None:
    """Write a case atomically.

    Args:
        folder: of the preprocessed data.
        case_id: name.
        case: what to write; it must have a label.
        key: identifies the preprocessing and the source files (see :func:`stored_key`).
    """
    assert case.label is not None
    for name in ("json", *(f"{array}.{ending}" for array in _ARRAYS for ending in ("npy", "b2nd"))):
        (folder / f"{case_id}.{name}").unlink(missing_ok=True)
    volumes = {"image": encode_image(case.image), "label": encode_labels(case.label[None])}
    drawn = [label for label in case.annotations if label is not None]
    # A voxel is foreground of a label where any of the annotators gave it that label.
    maps = np.stack(drawn) if drawn else case.label[None]
    positions = {str(value): found for value, found in _foreground_positions(maps).items()}
    if case.inside is not None:
        positions["inside"] = _some(case.inside)
        positions["healthy"] = _some(case.inside & (maps == 0).all(axis=0))
    with atomic(folder / f"{case_id}.foreground.npz", suffix=".npz") as temporary:
        # Small enough as 16-bit numbers; compressing them takes longer than all the rest.
        kind = np.int16 if max(case.label.shape) <= np.iinfo(np.int16).max else np.int32
        np.savez(temporary, **{name: found.astype(kind) for name, found in positions.items()})  # type: ignore[arg-type]
    # Another content is another training. As in earlier versions, of the values before they are rounded to 16 bits.
    content = _checksum(case.image) + _checksum(case.label)
    info: dict[str, Any] = {"key": key, "shape": list(case.label.shape), "trace": case.trace.to_json()}
    if drawn:
        maps = np.stack([np.zeros_like(case.label) if label is None else label for label in case.annotations])
        volumes[ANNOTATORS_KEY] = encode_labels(maps)
        info["drawn"] = [label is not None for label in case.annotations]
        content += _checksum(maps) + "".join(f"{drew:d}" for drew in info["drawn"])
    for name, volume in volumes.items():
        with atomic(folder / f"{case_id}.{name}.npy", suffix=".npy") as temporary:
            np.save(temporary, volume.array)
    info |= {"content": content, "arrays": {name: volume.encoding for name, volume in volumes.items()}}
    write_json(folder / f"{case_id}.json", info)


def _checksum(array: np.ndarray) -> str:
    return f"{zlib.crc32(np.ascontiguousarray(array).data):08x}"


def _foreground_positions(maps: np.ndarray) -> dict[int, np.ndarray]:
    """Of one or several label maps ``(map, z, y, x)`` of a case: where any of them has a value."""
    rng = np.random.default_rng(maps[0].size)
    found = {}
    for value in np.unique(maps):
        if value == 0:
            continue
        positions = np.argwhere((maps == value).any(axis=0)).astype(np.int32)
        if len(positions) > POSITIONS:
            positions = positions[np.sort(rng.choice(len(positions), POSITIONS, replace=False))]
        found[int(value)] = positions
    return found


def _some(mask: np.ndarray) -> np.ndarray:
    """int32 ``(n, 3)`` positions of true voxels; a random subset where there are more than :data:`POSITIONS`."""
    where = np.flatnonzero(mask)
    if len(where) > POSITIONS:
        where = np.sort(np.random.default_rng(mask.size).choice(where, POSITIONS, replace=False))
    return np.stack(np.unravel_index(where, mask.shape), axis=1).astype(np.int32)


def stored_key(folder: Path, case_id: str) -> str | None:
    """The key that a stored case was made with; None where there is no finished one."""
    path = folder / f"{case_id}.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["key"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
