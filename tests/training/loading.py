"""Loaded patches as plain padded arrays, and the computation of patches before boxes were exact."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from autoseg.plans.recipe import Augmentation, Sampling
from autoseg.plans.stage import Stage
from autoseg.plans.target import Target
from autoseg.preprocessing.store import StoredCase
from autoseg.training.case_cache import CaseCache, Room
from autoseg.training.sampling import Patches, PatchLoader
from tests.builders import LABELS, make_plan, still

CPU = torch.device("cpu")

#: Room for everything, and for nothing.
EVERYTHING, NOTHING = Room(0, 2**40), Room(0, 0)


def patches_of(
    patch: Sequence[int],
    count: int = 2,
    target: Target = LABELS,
    sampling: Sampling | None = None,
    size: Sequence[int] | None = None,
    augmentation: Augmentation | None = None,
) -> Patches:
    """Patches of a network that is given ``size`` voxels for ``patch``: as many where it pads."""
    return Patches(count, patch, size or patch, target, sampling or Sampling(), augmentation or still())


def loader_of(
    cases: Sequence[Any], patches: Patches, seed: int = 0, room: Room = EVERYTHING, stage: Stage | None = None
) -> PatchLoader:
    cache = CaseCache(cases, stage or make_plan(target=patches.target).stage(), CPU, room)
    return PatchLoader(cases, patches, cache, seed)


def padded(loader: PatchLoader, number: int) -> dict[str, Any]:
    """Batch ``number`` of a loader without deformations: each array of the patches, padded with zeros."""
    loaded, layout = loader.batch(number), loader.cache.layout
    size = tuple(loader.patches.size)

    def whole(array: np.ndarray, first: Sequence[int]) -> np.ndarray:
        array = array if len(size) == 3 else array[:, 0]
        found = np.zeros((len(array), *size), np.float32 if array.dtype.kind == "f" else array.dtype)
        found[(slice(None), *(slice(s, s + n) for s, n in zip(first, array.shape[1:], strict=True)))] = array
        return found

    batch: dict[str, Any] = {"present": loaded.present, "fields": {}}
    if loaded.drawn is not None:
        batch["drawn"] = loaded.drawn
    for index, field in enumerate(layout.numbers):
        arrays = [
            np.concatenate([one, np.ones_like(one[:1])]) if field is not None else one
            for one in (np.asarray(patch.voxels.numbers[index]) for patch in loaded.patches)
        ]
        found = np.stack([whole(one, patch.first) for one, patch in zip(arrays, loaded.patches, strict=True)])
        if field is None:
            batch["image"] = found
        else:
            batch["fields"][field] = found
    for index, field in enumerate(layout.maps):
        found = np.stack([whole(np.asarray(patch.voxels.maps[index]), patch.first) for patch in loaded.patches])
        if field is None:
            batch["label"] = found[:, 0]
        else:
            batch["fields"][field] = found
    return batch


def resampled_before(
    case: StoredCase, corner: Sequence[int], loaded: Sequence[int], matrix: np.ndarray | None, nodes: np.ndarray | None,
    patch: Sequence[int],
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Image and label of a patch as they were computed from a generous box, padded with zeros, in 32 bits.

    Args:
        case: whole.
        corner: of the box.
        loaded: its size.
        matrix: offsets from the patch's middle → offsets in the source; None for a plain cut.
        nodes: displacement at the nodes of a coarse grid, or None.
        patch: size.
    """
    wide = [(n + m, n + m) for n, m in zip(case.shape, loaded, strict=True)]
    index = tuple(slice(c + w, c + w + n) for c, (w, _), n in zip(corner, wide, loaded, strict=True))
    image = torch.from_numpy(np.pad(case.image(), [(0, 0), *wide])[(slice(None), *index)].copy())
    label = torch.from_numpy(np.pad(case.label(), wide)[index].copy())
    start = [(n - p) // 2 for n, p in zip(loaded, patch, strict=True)]
    middle = tuple(slice(s, s + p) for s, p in zip(start, patch, strict=True))
    if matrix is None:
        return image[(slice(None), *middle)].numpy(), label[middle].numpy()
    lines = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in patch]
    offsets = torch.stack(torch.meshgrid(*lines, indexing="ij")).reshape(3, -1)
    found = (torch.as_tensor(matrix, dtype=torch.float32) @ offsets).reshape(1, 3, *patch)
    if nodes is not None:
        coarse = torch.as_tensor(nodes, dtype=torch.float32)[None]
        found = found + F.interpolate(coarse, size=list(patch), mode="trilinear", align_corners=True)
    shift = [(n - p) // 2 + (p - 1) / 2 - (n - 1) / 2 for n, p in zip(loaded, patch, strict=True)]
    half = torch.tensor(list(loaded), dtype=torch.float32) / 2
    grid = ((found.movedim(1, -1) + torch.tensor(shift)) / half).flip(-1)
    moved = F.grid_sample(image[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    nearest = F.grid_sample(label[None, None].float(), grid, mode="nearest", align_corners=False)
    return moved[0].numpy(), nearest[0, 0].numpy().astype(np.int16)
