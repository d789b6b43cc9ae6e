"""Positions of the tiles that cover an image, for prediction and for planners."""

import math
from typing import Literal

#: Implementation whose details are followed (see :class:`autoseg.plans.inference.Inference`).
Manner = Literal["autoseg", "nnunet"]


def tile_starts(
    size: int, patch: int, overlap: float, step: int | None = None, manner: Manner = "autoseg"
) -> list[int]:
    """First voxels of the tiles along an axis: evenly spread, neighbours sharing at least ``overlap`` of a patch.

    With ``step``, neighbours are at most that many voxels apart instead. nnU-Net counts half voxels, so that tiles of
    an odd size may share half a voxel less.
    """
    if size <= patch:
        return [0]
    stride = patch * (1 - overlap) if step is None else float(min(step, patch))
    if manner == "autoseg":
        stride = max(1, int(stride))
    count = math.ceil((size - patch) / stride) + 1
    return [round(i * (size - patch) / (count - 1)) for i in range(count)]
