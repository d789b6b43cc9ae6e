"""Preprocessed cases on disk: blosc2 arrays that training reads in part, and their metadata.

A case is four files, ``<case>.image.b2nd``, ``<case>.label.b2nd``, ``<case>.foreground.npz`` and ``<case>.json``; where
several annotators are learned separately, a fifth holds their label maps. The JSON is written last: a case without it
is incomplete.
"""

import json
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import blosc2
import numpy as np

from autoseg.plans.recipe import ANNOTATORS_KEY
from autoseg.preprocessing.fields import ANNOTATIONS, Field, StoredField
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import atomic, read_json, write_json

if TYPE_CHECKING:
    from autoseg.preprocessing.case import PreprocessedCase, Trace

#: Positions kept of each label value, of the mask and of healthy tissue (as nnU-Net keeps for a label: enough to centre
#: patches anywhere in it).
POSITIONS = 10_000

#: Stored positions that belong to no label value: the mask, and the mask outside all labels.
PLACES = ("inside", "healthy")

#: Ending of the file with the label maps of several annotators.
_ANNOTATIONS = f"{ANNOTATORS_KEY}.b2nd"

blosc2.set_nthreads(1)


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

    def field(self, field: Field, box: tuple[slice, ...] = ()) -> np.ndarray:
        """``(channel, z, y, x)`` of a field inside ``box`` (all of it where empty)."""
        if field == ANNOTATIONS:
            return self.annotations(box)
        return next(stored for stored in self.extra if stored.field == field).read(box)

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
        """Label value as text, or one of :data:`PLACES` → int32 ``(n, 3)`` positions of some of its voxels.

        Args:
            select: which of these names to read.
        """
        path = self.folder / f"{self.id}.foreground.npz"
        try:
            with np.load(path) as stored:
                return {name: stored[name] for name in stored.files if select(name)}
        except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
            raise _damaged(path, str(error)) from None

    @cached_property
    def foreground(self) -> dict[int, np.ndarray]:
        """Label value → int32 ``(n, 3)`` positions of some of its voxels."""
        return {int(name): found for name, found in self.positions(lambda name: name not in PLACES).items()}

    @cached_property
    def label_voxels(self) -> dict[int, int]:
        """Label value → number of all its voxels; counted on first use."""
        maps = self.annotations()[self.drawn] if self.drawn else self.label()[None]
        return {value: int(np.count_nonzero((maps == value).any(axis=0))) for value in self.foreground}

    @cached_property
    def places(self) -> dict[str, np.ndarray]:
        """``inside`` the mask, or ``healthy`` → int32 ``(n, 3)`` positions of some of its voxels.

        ``inside`` is the brain mask, or what is non-zero in any channel; ``healthy`` is the part of it
        without a label. Empty for cases stored by an earlier version.
        """
        return self.positions(PLACES.__contains__)

    @cached_property
    def _image(self) -> Any:
        return _open(self.folder / f"{self.id}.image.b2nd")

    @cached_property
    def _label(self) -> Any:
        return _open(self.folder / f"{self.id}.label.b2nd")

    @cached_property
    def _annotations(self) -> Any:
        return _open(self.folder / f"{self.id}.{_ANNOTATIONS}")

    def image(self, box: tuple[slice, ...] = ()) -> np.ndarray:
        """float32 ``(channel, z, y, x)`` inside ``box`` (all of it where empty)."""
        return np.asarray(self._image[(slice(None), *box)])

    def label(self, box: tuple[slice, ...] = ()) -> np.ndarray:
        """int16 ``(z, y, x)`` inside ``box`` (all of it where empty)."""
        return np.asarray(self._label[box or (slice(None),)])

    def annotations(self, box: tuple[slice, ...] = ()) -> np.ndarray:
        """int16 ``(annotator, z, y, x)`` inside ``box`` (all of it where empty); zero where one is missing."""
        return np.asarray(self._annotations[(slice(None), *box)])


def _open(path: Path) -> Any:
    try:
        # One thread: blosc2's own pool does not survive the fork into a loading worker.
        return blosc2.open(str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})
    except (RuntimeError, OSError, ValueError) as error:
        raise _damaged(path, str(error)) from None


def _damaged(path: Path, reason: str) -> AutosegError:
    first = (reason.strip() or "no reason given").splitlines()[0]
    return AutosegError(f"{path} can't be read ({first}); delete its folder, the next training rebuilds it.")


def save(folder: Path, case_id: str, case: "PreprocessedCase", patch: tuple[int, ...], key: str) -> None:
    """Write a case atomically.

    Args:
        folder: of the preprocessed data.
        case_id: name.
        case: what to write; it must have a label.
        patch: typical size of a read ``(z, y, x)``; the arrays are chunked to match.
        key: identifies the preprocessing and the source files (see :func:`stored_key`).
    """
    assert case.label is not None
    for name in ("json", _ANNOTATIONS):
        (folder / f"{case_id}.{name}").unlink(missing_ok=True)
    _write(folder / f"{case_id}.image.b2nd", case.image, patch)
    _write(folder / f"{case_id}.label.b2nd", case.label.astype(np.int16), patch)
    drawn = [label for label in case.annotations if label is not None]
    # A voxel is foreground of a label where any of the annotators gave it that label.
    maps = np.stack(drawn) if drawn else case.label[None]
    positions = {str(value): found for value, found in _foreground_positions(maps).items()}
    if case.inside is not None:
        positions["inside"] = _some(case.inside)
        positions["healthy"] = _some(case.inside & (maps == 0).all(axis=0))
    with atomic(folder / f"{case_id}.foreground.npz", suffix=".npz") as temporary:
        np.savez_compressed(temporary, **positions)  # type: ignore[arg-type]
    content = f"{_checksum(case.image)}{_checksum(case.label)}"
    info = {"key": key, "content": content, "shape": list(case.label.shape), "trace": case.trace.to_json()}
    if drawn:
        maps = np.stack([np.zeros_like(case.label) if label is None else label for label in case.annotations])
        _write(folder / f"{case_id}.{_ANNOTATIONS}", maps.astype(np.int16), patch)
        info["drawn"] = [label is not None for label in case.annotations]
        info["content"] = content + _checksum(maps) + "".join(f"{drew:d}" for drew in info["drawn"])
    write_json(folder / f"{case_id}.json", info)


def _checksum(array: np.ndarray) -> str:
    return f"{zlib.crc32(np.ascontiguousarray(array).tobytes()):08x}"


def _write(path: Path, array: np.ndarray, patch: tuple[int, ...]) -> None:
    spatial = array.shape[-3:]
    chunk = [min(n, p) for n, p in zip(spatial, patch, strict=True)]
    block = [min(n, 32) for n in chunk]
    lead = [1] * (array.ndim - 3)
    with atomic(path, suffix=".b2nd") as temporary:
        temporary.unlink()
        blosc2.asarray(
            np.ascontiguousarray(array),
            urlpath=str(temporary),
            chunks=(*lead, *chunk),
            blocks=(*lead, *block),
            cparams={"codec": blosc2.Codec.LZ4HC, "clevel": 5, "nthreads": 1},
            mode="w",
        )


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
