"""BoxedCase: the part of a case inside a box, for a stage that works inside the bounding box of a structure."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from autoseg.data.boxes import Box
from autoseg.preprocessing.fields import ANNOTATIONS, Field
from autoseg.preprocessing.store import PLACES, StoredCase
from autoseg.preprocessing.volume import Volume


@dataclass(frozen=True)
class BoxedCase(StoredCase):
    """The part of a case inside a box.

    Attributes:
        box: of the whole case's grid.
    """

    box: Box = field(kw_only=True)

    @property
    def content(self) -> str:
        """Checksum of the whole case, and the box."""
        return super().content + ",".join(f"{side.start}:{side.stop}" for side in self.box)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels ``(z, y, x)`` of the box."""
        z, y, x = (side.stop - side.start for side in self.box)
        return z, y, x

    def positions(self, select: Callable[[str], bool]) -> dict[str, np.ndarray]:
        """Label value as text, or place → int32 ``(n, 3)`` positions of some of its voxels, in the box."""
        start = np.array([side.start for side in self.box], np.int32)
        stop = np.array([side.stop for side in self.box], np.int32)
        inside = {
            name: positions[((positions >= start) & (positions < stop)).all(axis=1)] - start
            for name, positions in super().positions(select).items()
        }
        return {name: positions for name, positions in inside.items() if len(positions) or name in PLACES}

    @property
    def foreground_values(self) -> set[int]:
        """Label values that occur in the box, as far as the stored positions tell, without the background."""
        return set(self.foreground)

    def volume(self, name: str) -> Volume:
        """One of the case's arrays, inside the box; a view."""
        return super().volume(name).cut(self.box)

    def field_volume(self, field: Field) -> Volume:
        """The array of a field, inside the box; a view."""
        own = field == ANNOTATIONS  # of this case; the others are stored for all of it
        return super().field_volume(field) if own else super().field_volume(field).cut(self.box)
