"""Fields: named arrays on a case's voxel grid beside its image and label.

The previous stage's segmentation, a teacher's scores, the label maps of several annotators: sampling crops all of them
alike, augmentation moves them with the image, and their name and role decide how the network and the loss use them.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from autoseg.preprocessing.store import StoredCase


@dataclass(frozen=True)
class Field:
    """A kind of field.

    Attributes:
        name: of the field.
        interpolation: when a patch is rotated or scaled: ``linear`` for numbers, ``nearest`` for label maps.
        role: ``input``: part of the network's input; ``target``: the loss compares the outputs with it.
    """

    name: str
    interpolation: Literal["linear", "nearest"]
    role: Literal["input", "target"]


#: One label map for each of several annotators, ``(annotator, z, y, x)``.
ANNOTATIONS = Field("annotations", "nearest", "target")

#: Label map that the previous stage predicted, ``(1, z, y, x)``.
PREVIOUS = Field("previous", "nearest", "input")

#: A teacher's scores, one channel for each head, and a channel that is 1 inside the image: ``(heads + 1, z, y, x)``.
TEACHER = Field("teacher", "linear", "target")


@dataclass(frozen=True)
class StoredField:
    """A field of a case on disk.

    Attributes:
        field: which.
        source: stored case whose label map (interpolation ``nearest``) or image (``linear``) it is.
        content: fingerprint of its values; a training on other values is another training.
    """

    field: Field
    source: "StoredCase"
    content: str

    def read(self, box: tuple[slice, ...] = ()) -> np.ndarray:
        """The field inside ``box`` (all of it where empty): int16 or float32 ``(channel, z, y, x)``."""
        if self.field.interpolation == "nearest":
            return self.source.label(box)[None]
        values = self.source.image(box).astype(np.float32)
        return np.concatenate([values, np.ones_like(values[:1])])
