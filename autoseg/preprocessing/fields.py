"""Fields: further arrays a voxel that belong to a case beside its image and label, each with a name.

What the stage before found, what a teacher says, what each of several annotators drew: sampling cuts all of them alike,
augmentation moves them with the image, and what becomes of them is decided by their name and role.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from autoseg.preprocessing.store import StoredCase


@dataclass(frozen=True)
class Field:
    """What kind of array it is.

    Attributes:
        name: of the field.
        interpolation: when a patch is turned or zoomed: ``linear`` for numbers, ``nearest`` for label maps.
        role: ``input``: the network is given it; ``target``: its outputs are compared with it.
    """

    name: str
    interpolation: Literal["linear", "nearest"]
    role: Literal["input", "target"]


#: One label map for each of several annotators, ``(annotator, z, y, x)``.
ANNOTATIONS = Field("annotations", "nearest", "target")

#: Label map of what the stage before found, ``(1, z, y, x)``.
PREVIOUS = Field("previous", "nearest", "input")

#: A teacher's scores, a channel a head, and ones, which end where the image does: ``(heads + 1, z, y, x)``.
TEACHER = Field("teacher", "linear", "target")


@dataclass(frozen=True)
class StoredField:
    """Where a case's field is stored.

    Attributes:
        field: which.
        source: stored case whose label map (interpolation ``nearest``) or image (``linear``) it is.
        content: fingerprint of what a training sees of it; another one means another training.
    """

    field: Field
    source: "StoredCase"
    content: str

    def read(self, box: tuple[slice, ...] = ()) -> np.ndarray:
        """``(channel, z, y, x)`` inside ``box`` (all of it where empty)."""
        if self.field.interpolation == "nearest":
            return self.source.label(box)[None]
        values = self.source.image(box).astype(np.float32)
        return np.concatenate([values, np.ones_like(values[:1])])
