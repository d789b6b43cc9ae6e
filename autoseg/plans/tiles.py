"""Positions of the tiles that cover an image, for prediction and for planners."""

import math
from typing import Literal

#: Implementation whose details are followed (see :class:`autoseg.plans.inference.Inference`).
Manner = Literal["autoseg", "nnunet"]

#: What gives way where tiles do not fit an image: their distance, or the image, which is padded.
Edges = Literal["spread", "padded"]


def tile_starts(
    size: int,
    patch: int,
    overlap: float,
    step: int | None = None,
    manner: Manner = "autoseg",
    edges: Edges = "spread",
) -> list[int]:
    """First voxels of the tiles along an axis: evenly spread, neighbours sharing at least ``overlap`` of a patch.

    With ``step``, neighbours are at most that many voxels apart instead. nnU-Net counts half voxels, so that tiles of
    an odd size may share half a voxel less; a 2D network takes each slice once. Where ``edges`` are ``padded``, tiles
    are exactly so far apart, and the last one may reach beyond the image.
    """
    if size <= patch:
        return [0]
    stride = patch * (1 - overlap) if step is None else float(min(step, patch))
    stride = max(1.0, stride if manner == "nnunet" else int(stride))
    count = math.ceil((size - patch) / stride) + 1
    if edges == "padded":
        return [round(i * stride) for i in range(count)]
    return [round(i * (size - patch) / (count - 1)) for i in range(count)]
