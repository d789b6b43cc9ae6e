"""Fields: named arrays on a case's voxel grid beside its image and label.

The previous stage's segmentation, a teacher's scores, the label maps of several annotators: sampling crops all of them
alike, augmentation moves them with the image, and their name and role decide how the network and the loss use them.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from autoseg.preprocessing.store import StoredCase
    from autoseg.preprocessing.volume import Volume


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

#: A teacher's scores, one channel for each head, and, as for every linear field, a channel that is 1 inside the image:
#: ``(heads + 1, z, y, x)``.
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

    @property
    def volume(self) -> "Volume":
        """Its array ``(channel, z, y, x)``, mapped into memory; of a linear field without the channel of ones."""
        return self.source.volume("label" if self.field.interpolation == "nearest" else "image")


def with_inside(field: Field, values: np.ndarray) -> np.ndarray:
    """The values ``(channel, z, y, x)`` of a field; of a linear one with a channel that is 1 inside the image."""
    return values if field.interpolation == "nearest" else np.concatenate([values, np.ones_like(values[:1])])
