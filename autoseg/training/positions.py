"""Positions of voxels that patches are centred on, kept in memory as far as there is room."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from autoseg.preprocessing.store import StoredCase

_Name = TypeVar("_Name", int, str)

#: Bytes of positions that are kept. A label takes up to 60 kB a case (10,000 voxels), so a thousand cases of three
#: labels fit, and of a thousand with a hundred labels the first ones.
ROOM = 1 << 30


class Positions:
    """Reads the positions of training cases.

    Each case comes once a round, so the first ones that find room give as many hits as any rule for replacing them.

    Args:
        room: bytes to keep.
    """

    def __init__(self, room: int = ROOM) -> None:
        self._left = room
        self._foreground: dict[int, dict[int, np.ndarray]] = {}
        self._places: dict[int, dict[str, np.ndarray]] = {}

    def foreground(self, case: StoredCase) -> dict[int, np.ndarray]:
        """Label value → ``(n, 3)`` positions of some of its voxels.

        Args:
            case: of the training, for as long as that lasts.
        """
        return self._read(self._foreground, case, lambda: case.foreground)

    def places(self, case: StoredCase) -> dict[str, np.ndarray]:
        """``inside`` and ``healthy`` → ``(n, 3)`` positions (:attr:`StoredCase.places`); likewise."""
        return self._read(self._places, case, lambda: case.places)

    def _read(
        self, kept: dict[int, dict[_Name, np.ndarray]], case: StoredCase, read: Callable[[], dict[_Name, np.ndarray]]
    ) -> dict[_Name, np.ndarray]:
        """What is kept of a case, else what is read, and kept where there is room."""
        found = kept.get(id(case))
        if found is None:
            found = read()
            size = sum(array.nbytes for array in found.values())
            if size <= self._left:
                self._left -= size
                kept[id(case)] = found
        return found
