"""Planner ``fullimage_unet``: the full-image U-Net of Rahimpour et al."""

import math
from dataclasses import replace

from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.families import FullImageUNet
from autoseg.plans.plan import Plan
from autoseg.plans.recipe import Optimizer, Recipe, Sampling
from planners.papers.rahimpour import (
    RAHIMPOUR,
    SIZE,
    augmentation,
    box_of,
    fits_box,
    half_and_half,
    he_normal,
    inference_of,
    on_plateaus,
    preparation,
    recipe_of,
    with_sequences,
)
from planners.rules.fitting import Size, Wanted, fit
from planners.rules.systems import Preparation, adopt, assemble, base_recipe, configure
from planners.rules.task import Task, case_shapes, exclusive, open_task, refuse_pictures, whole_of

#: Images a step (section 2.2).
_BATCH = 2

#: Where a whole image does not fit: steps in which the patch is reduced, and the smallest, of which the lowest level is
#: left two voxels.
_UNIT, _LEAST = 8, 32

#: Share of the box's voxels that the median image has, at least, for the patch to be the whole box: no image, however
#: long, is then cut to tiles. Smaller images need less.
_FILLED = 0.5


def plan(fingerprint: Fingerprint, request: ResolvedRequest) -> Plan:
    """Plan a dataset for the full-image U-Net.

    Raises:
        UsageError: unknown channels or regions are requested, or the images are no volumes.
        AutosegError: not even the smallest patch fits the budget.
    """
    task = exclusive(with_sequences(open_task(fingerprint, whole_of(fingerprint, request))))
    refuse_pictures(task, "fullimage_unet")
    network = FullImageUNet(
        factor=3,
        reasons={
            "family": f"{RAHIMPOUR}, section 2.2: an upsampling, halved channels and a skip connection a level, same "
            "padding",
            "size": SIZE,
            "features": f"{RAHIMPOUR}, section 2.2 and section 3.2: four levels from 20 and 40 kernels, doubled "
            "each; two convolutions of n and 2n kernels a level are ours: within 0.2 % of their number of parameters",
            "factor": f"{RAHIMPOUR}, section 2.2: maxima of 3×3×3, by a factor of three",
            "fully_connected": f"{RAHIMPOUR}, section 3.2: 20 kernels (as convolutions of 1×1×1: section 2.2)",
            "norm": f"{RAHIMPOUR}, section 2.2: instance normalization",
            "dropout": f"{RAHIMPOUR}, section 2.2: 50 % for the final two fully connected layers",
        },
    )
    own = Recipe(
        loss=half_and_half(batch_dice=False),
        optimizer=_optimizer(),
        schedule=on_plateaus(),
        initialization=he_normal(),
    )
    whole = _whole_images(task)
    origin = f"{RAHIMPOUR}, section 2.2"
    wanted = Wanted(whole, _BATCH, [_UNIT] * 3, [_LEAST] * 3, whole=True, origin=origin)
    size = _tiled(whole, fit(replace(task.full, shape=whole), network, own, wanted))
    base, inference = base_recipe(task.full, size.patch, size.batch)
    mine = own.model_copy(
        update={"sampling": _sampling(size.patch == whole), "augmentation": augmentation(task)},
    )
    recipe = recipe_of(task, adopt(base, mine), size.batch)
    counted = f"{RAHIMPOUR}, section 3.2: 3,878,841; every layer is not described"
    reasons = {"parameters": counted}
    configuration = configure(task.full, network, size, recipe, inference_of(inference), reasons)
    return assemble(
        task,
        "fullimage_unet",
        {"3d_fullres": configuration},
        "3d_fullres",
        f"the only one that {RAHIMPOUR} trained",
        _with_softmax(preparation(task)),
    )


def _with_softmax(prepared: Preparation) -> Preparation:
    """The same, saying where the softmax of a single structure comes from."""
    if not prepared.target_reason:
        return prepared
    reason = f"{RAHIMPOUR}, section 2.2: a softmax over healthy and tumour. {prepared.target_reason}"
    return replace(prepared, target_reason=reason)


def _optimizer() -> Optimizer:
    return Optimizer(
        name="adam",
        learning_rate=1e-3,
        weight_decay=0.0,
        eps=1e-7,
        reasons={
            "name": f"{RAHIMPOUR}, section 3.1",
            "learning_rate": f"{RAHIMPOUR}, section 3.1",
            "weight_decay": f"{RAHIMPOUR}, section 2.3: Keras's defaults, which have none",
            "eps": f"{RAHIMPOUR}, section 2.3: Keras's default",
        },
    )


def _sampling(whole: bool) -> Sampling:
    return Sampling(
        foreground_share=0.0 if whole else 0.5,
        reasons={
            "foreground_share": f"{RAHIMPOUR}, section 2.2: a patch is the whole image"
            if whole
            else "ours: half the patches on a structure, since one does not hold the whole image"
        },
    )


def _whole_images(task: Task) -> list[int]:
    """A patch that holds every image: the paper's box, or the largest case where that is much smaller or larger."""
    box = box_of(task)
    if fits_box(task) and math.prod(task.grid.shape) >= _FILLED * math.prod(box):
        return box
    largest = [max(sides) for sides in zip(*case_shapes(task), strict=True)]
    sides = [min(n, side) for n, side in zip(largest, box, strict=True)] if fits_box(task) else largest
    return [max(_LEAST, _UNIT * math.ceil(n / _UNIT)) for n in sides]


def _tiled(whole: list[int], size: Size) -> Size:
    """The size, with a note in its reason where whole images do not fit, or are smaller than the paper's."""
    if size.patch == whole:
        return replace(size, patch_reason=f"{RAHIMPOUR}, section 2.2: the full images, none of which is cut to tiles")
    return replace(size, patch_reason=f"{size.patch_reason}; whole images do not fit: inference slides over them")
