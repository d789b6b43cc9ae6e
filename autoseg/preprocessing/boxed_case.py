"""BoxedCase: the part of a case inside a box, for a stage that works inside the bounding box of a structure."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from autoseg.data.boxes import Box
from autoseg.preprocessing.fields import Field
from autoseg.preprocessing.store import PLACES, StoredCase


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

    def image(self, box: tuple[slice, ...] = ()) -> np.ndarray:
        """float32 ``(channel, z, y, x)`` inside ``box``, counted from this case's own box."""
        return super().image(self._of_whole(box))

    def label(self, box: tuple[slice, ...] = ()) -> np.ndarray:
        """int16 ``(z, y, x)`` inside ``box``, counted from this case's own box."""
        return super().label(self._of_whole(box))

    def annotations(self, box: tuple[slice, ...] = ()) -> np.ndarray:
        """int16 ``(annotator, z, y, x)`` inside ``box``, counted from this case's own box."""
        return super().annotations(self._of_whole(box))

    def field(self, field: Field, box: tuple[slice, ...] = ()) -> np.ndarray:
        """``(channel, z, y, x)`` of a field inside ``box``, counted from this case's own box."""
        stored = next((one for one in self.extra if one.field == field), None)
        return super().field(field, box) if stored is None else stored.read(self._of_whole(box))

    def _of_whole(self, box: tuple[slice, ...]) -> tuple[slice, ...]:
        if not box:
            return self.box
        return tuple(
            slice(outer.start + inner.start, outer.start + inner.stop)
            for outer, inner in zip(self.box, box, strict=True)
        )
