"""CaseCache: where training cases are read from: the device, host memory, or their files.

Each case comes once a round, in a new order each round, so which cases are kept does not matter, and keeping the first
ones that fit gives as many hits as any rule for replacing them, and moves nothing twice.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from autoseg.data.boxes import Box
from autoseg.plans.stage import Stage
from autoseg.preprocessing.fields import ANNOTATIONS, Field
from autoseg.preprocessing.store import StoredCase
from autoseg.preprocessing.volume import Volume
from autoseg.training.fields import map_values
from autoseg.training.transfers import to_device
from autoseg.utils.device import lacks_memory

#: Where cases lie that find no room.
FILES = "files"


@dataclass(frozen=True)
class Room:
    """Memory for whole cases.

    Attributes:
        device: bytes on the training device, where it is not the CPU.
        host: bytes in host memory.
    """

    device: int
    host: int


@dataclass(frozen=True)
class CaseArrays:
    """The arrays of a case, in order: numbers, which are interpolated linearly, and label maps.

    Attributes:
        numbers: the image (None) and linear fields.
        maps: the label map (None), unless annotations replace it, and other fields.
        values: for each label map, the values that its indices stand for.
    """

    numbers: tuple[Field | None, ...]
    maps: tuple[Field | None, ...]
    values: tuple[list[int], ...]

    @classmethod
    def of(cls, case: StoredCase, stage: Stage) -> "CaseArrays":
        """Those of a training's cases, which all have the same arrays."""
        linear = [field for field in case.fields if field.interpolation == "linear"]
        nearest = [field for field in case.fields if field.interpolation == "nearest"]
        maps = [*([] if ANNOTATIONS in nearest else [None]), *nearest]
        return cls((None, *linear), tuple(maps), tuple(map_values(field, stage) for field in maps))


@dataclass(frozen=True)
class Voxels:
    """A case, or the part of it inside a box, with 16 bits or fewer a voxel: tensors on a device, arrays on the host.

    Attributes:
        numbers: ``(channel, z, y, x)`` of the image and of each linear field.
        maps: ``(map, z, y, x)``: indices of label values, of the label and each other field.
        scales: of each array of numbers (:attr:`autoseg.preprocessing.volume.Volume.scales`).
    """

    numbers: Sequence[np.ndarray | torch.Tensor]
    maps: Sequence[np.ndarray | torch.Tensor]
    scales: Sequence[Sequence[tuple[float, float]]]

    def cut(self, box: Box) -> "Voxels":
        """The part inside a box; views."""
        index = (slice(None), *box)
        return Voxels([array[index] for array in self.numbers], [array[index] for array in self.maps], self.scales)

    def on(self, device: torch.device) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Numbers and maps as tensors on a device; what is there already stays."""
        return [to_device(array, device) for array in self.numbers], [to_device(array, device) for array in self.maps]

    @property
    def nbytes(self) -> int:
        """Bytes of those arrays that are on the host: what has to be moved to a device."""
        return sum(array.nbytes for array in (*self.numbers, *self.maps) if isinstance(array, np.ndarray))


class CaseCache:
    """Reads boxes of training cases; where each case lies is decided beforehand, in the order of the cases.

    Args:
        cases: preprocessed.
        stage: that they train.
        device: that batches are made on.
        room: memory for whole cases; those that find none are read from their files, box by box.
    """

    def __init__(self, cases: Sequence[StoredCase], stage: Stage, device: torch.device, room: Room) -> None:
        self._cases = list(cases)
        self._device = device
        # Of the other priority: torch hands out 32 streams of each in turn, also the one that graphs are recorded on,
        # and a copy on that would be recorded, too. Only copies run on this one.
        self._stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None
        #: Arrays of each case.
        self.layout = CaseArrays.of(self._cases[0], stage)
        self._kept: dict[int, Voxels] = {}
        self._locks = [threading.Lock() for _ in self._cases]
        left = {"device": 0 if device.type == "cpu" else room.device, "host": room.host}
        #: Of each case: ``device``, ``host`` or ``files``.
        self.places: list[str] = []
        self._sizes = [self._size(number) for number in range(len(self._cases))]
        for size in self._sizes:
            place = next((place for place, bytes_left in left.items() if size <= bytes_left), FILES)
            if place in left:
                left[place] -= size
            self.places.append(place)

    def size(self, place: str) -> int:
        """Bytes of the cases that lie in one place."""
        return sum(size for size, where in zip(self._sizes, self.places, strict=True) if where == place)

    def __str__(self) -> str:
        """``the device (30 cases, 0.3 GB) and their files (8 cases)``."""
        names = {"device": f"the memory of {self._device}", "host": "memory", FILES: "their files"}
        parts = []
        for place, name in names.items():
            if count := self.places.count(place):
                parts.append(f"{name} ({count} cases, {self.size(place) / 1e9:.3g} GB)")
        return " and ".join(parts)

    def holds(self, number: int) -> bool:
        """Whether a case lies in memory by now, so that reading a box of it takes no time."""
        return number in self._kept

    def read(self, number: int, box: Box) -> Voxels:
        """The part of a case inside a box; views of what is kept, else copies.

        Args:
            number: of the case.
            box: ``(z, y, x)``, inside the image.
        """
        if number not in self._kept:
            with self._locks[number]:
                if number not in self._kept and self.places[number] != FILES:
                    self._keep(number)
                if number not in self._kept:
                    return self._from_files(number, box)
        return self._kept[number].cut(box)

    def _keep(self, number: int) -> None:
        whole = self._from_files(number)
        if self.places[number] == "device":
            try:
                whole = self._uploaded(whole)
            except RuntimeError as error:
                if not lacks_memory(error):
                    raise
                self.places[number] = FILES  # another program took the memory
                return
        self._kept[number] = whole

    def _uploaded(self, voxels: Voxels) -> Voxels:
        """Copy a case to the device, beside its other work; once it is there, every stream may read it."""
        with torch.cuda.stream(self._stream):
            uploaded = Voxels(*voxels.on(self._device), voxels.scales)
        if self._stream is not None:
            self._stream.synchronize()
        return uploaded

    def _size(self, number: int) -> int:
        case, layout = self._cases[number], self.layout
        numbers = [_volume(case, field, "image").array for field in layout.numbers]
        maps = [_volume(case, field, "label").array for field in layout.maps]
        widths = [1 if len(values) <= 2**8 else 2 for values in layout.values]
        return sum(one.nbytes for one in numbers) + sum(
            one.size * width for one, width in zip(maps, widths, strict=True)
        )

    def _from_files(self, number: int, box: Box | None = None) -> Voxels:
        """A copy of what is inside a box; all of it where None."""
        case, layout = self._cases[number], self.layout
        numbers = [_volume(case, field, "image").cut(box or ()) for field in layout.numbers]
        maps = [_volume(case, field, "label").cut(box or ()) for field in layout.maps]
        return Voxels(
            [np.array(volume.array) for volume in numbers],
            [volume.indices_of(values) for volume, values in zip(maps, layout.values, strict=True)],
            [volume.scales for volume in numbers],
        )


def _volume(case: StoredCase, field: Field | None, name: str) -> Volume:
    return case.volume(name) if field is None else case.field_volume(field)
