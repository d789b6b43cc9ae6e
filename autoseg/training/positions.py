"""Positions of voxels that patches are centred on, kept in memory as far as there is room."""

from collections.abc import Iterable

import numpy as np

from autoseg.preprocessing.store import StoredCase

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
        found = self._foreground.get(id(case))
        if found is None:
            found = case.foreground
            if self._fits(found.values()):
                self._foreground[id(case)] = found
        return found

    def places(self, case: StoredCase) -> dict[str, np.ndarray]:
        """``inside`` and ``healthy`` → ``(n, 3)`` positions (:attr:`StoredCase.places`); likewise."""
        found = self._places.get(id(case))
        if found is None:
            found = case.places
            if self._fits(found.values()):
                self._places[id(case)] = found
        return found

    def _fits(self, arrays: Iterable[np.ndarray]) -> bool:
        """Take room for some arrays, where there is enough."""
        size = sum(array.nbytes for array in arrays)
        if size > self._left:
            return False
        self._left -= size
        return True
