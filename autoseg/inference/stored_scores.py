"""Scores of a whole image, for what isn't decided slab by slab: in memory, or in a file that is read head by head."""

import math
import os
import tempfile
from collections.abc import Iterable, Sequence
from typing import IO, TYPE_CHECKING

import torch

from autoseg.utils.device import has_room
from autoseg.utils.errors import AutosegError

if TYPE_CHECKING:
    from autoseg.inference.slabs import Slab

#: Above so many bytes scores are collected in a file, not in memory.
MEMORY_LIMIT = 1_000_000_000

#: Largest share of a GPU's free memory that the scores of an image may take there.
SCORES_SHARE = 0.4


def collector(shape: Sequence[int], device: torch.device, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Zeros to add to: on the device where there is room, else in memory; large ones in a mapped file.

    Raises:
        AutosegError: there is no room for the file.
    """
    size = dtype.itemsize * math.prod(shape)
    if room_on(device, size):
        return torch.zeros(tuple(shape), device=device, dtype=dtype)
    if size <= 4 * MEMORY_LIMIT:
        return torch.zeros(tuple(shape), dtype=dtype)
    with tempfile.NamedTemporaryFile(prefix="autoseg-scores-", delete=True) as file:
        # The name can go at once: the mapping keeps the space until the tensor is freed.
        _reserve(file, size)
        flat = torch.from_file(file.name, shared=True, size=size // dtype.itemsize, dtype=dtype)
        return flat.reshape(tuple(shape))


class StoredScores(Sequence[torch.Tensor]):
    """Logits of every head on the whole grid; each is float32 ``(z, y, x)``.

    On the device where there is room, else in memory; above :data:`MEMORY_LIMIT` in a temporary file, of which
    only the head that is being read is in memory.

    Args:
        slabs: of the scores, all of them.
        heads: how many there are.
        shape: of the grid ``(z, y, x)``.
        device: of the networks.

    Raises:
        AutosegError: there is no room for the file.
    """

    def __init__(self, slabs: "Iterable[Slab]", heads: int, shape: Sequence[int], device: torch.device) -> None:
        self.shape = tuple(shape)
        self._heads = heads
        self._memory: torch.Tensor | None = None
        self._file: IO[bytes] | None = None
        self._axis = 0
        self._dtype = torch.float32
        done = 0
        for slab in slabs:
            if done == 0:
                self._open(slab, device)
            for index in range(heads):
                self._write(index, done, slab.head(index, done, slab.stop))
            if self._file is not None:
                _forget_pages(self._file)
            done = slab.stop

    def __len__(self) -> int:
        return self._heads

    def __getitem__(self, index: int) -> torch.Tensor:  # type: ignore[override]
        if not -self._heads <= index < self._heads:
            raise IndexError(index)
        index %= self._heads
        if self._memory is not None:
            return self._memory[index].float().movedim(0, self._axis)
        assert self._file is not None
        values = torch.empty(self._moved, dtype=self._dtype)
        self._file.seek(index * values.nbytes)
        self._file.readinto(_bytes_of(values))  # type: ignore[attr-defined]
        _forget_pages(self._file)
        return values.float().movedim(0, self._axis)

    @property
    def _moved(self) -> tuple[int, ...]:
        """Shape of the grid, the axis of rows first."""
        return (self.shape[self._axis], *(n for axis, n in enumerate(self.shape) if axis != self._axis))

    def _open(self, slab: "Slab", device: torch.device) -> None:
        self._axis, self._dtype = slab.axis, slab.dtype
        size = self._dtype.itemsize * self._heads * math.prod(self.shape)
        fits = room_on(device, size)
        if fits or size <= MEMORY_LIMIT:
            where = device if fits else torch.device("cpu")
            self._memory = torch.empty((self._heads, *self._moved), device=where, dtype=self._dtype)
            return
        self._file = tempfile.TemporaryFile(prefix="autoseg-scores-")  # noqa: SIM115 (closed with this object)
        _reserve(self._file, size)

    def _write(self, index: int, first: int, rows: torch.Tensor) -> None:
        if self._memory is not None:
            self._memory[index, first : first + len(rows)] = rows
            return
        assert self._file is not None
        values = rows.to("cpu", self._dtype).contiguous()
        start = (index * self._moved[0] + first) * math.prod(self._moved[1:])
        self._file.seek(start * self._dtype.itemsize)
        self._file.write(_bytes_of(values))


def room_on(device: torch.device, size: int, share: float = SCORES_SHARE) -> bool:
    """Whether so many bytes may be taken on a device other than the CPU.

    Args:
        device: to compute on.
        size: in bytes.
        share: of a GPU's free memory that they may take.
    """
    if device.type == "cuda":
        return has_room(device, size, share)
    return device.type == "mps" and size < 1_000_000_000


def _reserve(file: IO[bytes], size: int) -> None:
    """Take the room that a temporary file needs.

    Raises:
        AutosegError: the disk is too full.
    """
    try:
        if hasattr(os, "posix_fallocate"):
            # A mapped file with holes would end the process (SIGBUS) when the disk is full on a later write.
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
    except OSError as error:
        raise AutosegError(
            f"{tempfile.gettempdir()} can't take the {size / 1e9:.1f} GB of an image's scores ({error.strerror}); "
            "set TMPDIR to a folder on a disk with more room."
        ) from None


def _forget_pages(file: IO[bytes]) -> None:
    """Let the system drop its copy in memory of what is on disk."""
    if hasattr(os, "posix_fadvise"):
        file.flush()
        os.fdatasync(file.fileno())  # pages that are not written yet can't be dropped
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _bytes_of(values: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    return memoryview(values.numpy()).cast("B")  # type: ignore[arg-type]
