"""Planner ``fullimage_unet``: the full-image U-Net of Rahimpour et al. (2022)."""

import math
from collections.abc import Sequence
from dataclasses import replace

from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.families import FullImageUNet
from autoseg.plans.plan import Plan
from autoseg.plans.preprocessing import Normalization
from autoseg.plans.recipe import Loss, Optimizer, Recipe, Sampling, Schedule
from planners.rules.fitting import Size, Wanted, fit
from planners.rules.systems import Preparation, adopt, assemble, base_recipe, configure
from planners.rules.task import Task, case_shapes, open_task, refuse_pictures

#: Voxels ``(z, y, x)`` that every image is cropped to. The paper gives 143×196×144 without naming the axes: a brain at
#: 1 mm is longest from front to back (y), and an image of BraTS is 240×240×155, so 144 along z leaves the least.
_BOX = (144, 196, 143)

#: Images a step (paper).
_BATCH = 2

#: Where a whole image does not fit: steps in which the patch is reduced, and the smallest.
_UNIT, _LEAST = 8, 24

#: Share of the training after which the rate falls (300 of 525 epochs), and what is left of it at the end.
_EXPLORE, _FLOOR = 300 / 525, 0.01

_PAPER = "Rahimpour et al. 2022"
_CODE = "the same group's DeepVoxNet2, its BraTS example"


def plan(fingerprint: Fingerprint, request: ResolvedRequest) -> Plan:
    """Plan a dataset for the full-image U-Net.

    Raises:
        UsageError: unknown channels or regions are requested, or the images are no volumes.
        AutosegError: not even the smallest patch fits the budget.
    """
    task = open_task(fingerprint, request)
    refuse_pictures(task, "fullimage_unet")
    network = FullImageUNet(
        reasons={
            "features": f"four levels from 20 and 40 kernels ({_PAPER}); doubled at each level (assumed: within "
            "0.2 % of the paper's number of parameters)",
            "fully_connected": _PAPER,
            "norm": _PAPER,
            "dropout": _PAPER,
        }
    )
    box = [_BOX[axis] for axis in task.grid.transpose]
    own = Recipe(
        loss=_loss(),
        optimizer=_optimizer(),
        schedule=Schedule(
            name="explore_exploit",
            warmup=0.0,
            explore=round(_EXPLORE, 2),
            floor=_FLOOR,
            reasons={
                "name": f"a straight line through the steps of {_CODE}",
                "explore": "the first of them, after 300 of 525 epochs",
                "floor": "two steps to a tenth",
            },
        ),
        ema_decay=0.0,
        reasons={"ema_decay": "the paper averages no weights"},
    )
    size = _whole(task, fit(task.full, network, own, Wanted(box, _BATCH, [_UNIT] * 3, [_LEAST] * 3, whole=True)))
    base, inference = base_recipe(task.full, size.patch, size.batch)
    recipe = adopt(base, own.model_copy(update={"sampling": _sampling(_covers(task, size))}))
    configuration = configure(task.full, network, size, recipe, inference)
    cropped, why = _box(task, box)
    return assemble(
        task,
        "fullimage_unet",
        {"3d_fullres": configuration},
        "3d_fullres",
        f"the only one that {_PAPER} trained",
        Preparation(
            normalization=Normalization(
                scheme="zscore",
                masked=True,
                reasons={"scheme": _PAPER, "masked": f"mean and deviation of the voxels that are not zero ({_PAPER})"},
            ),
            box=cropped,
            box_reason=why,
        ),
    )


def _loss() -> Loss:
    return Loss(
        dice_weight=1.0,
        ce_weight=1.0,
        batch_dice=False,
        reasons={
            "dice_weight": f"soft Dice and cross-entropy alike ({_CODE})",
            "ce_weight": f"soft Dice and cross-entropy alike ({_CODE})",
            "batch_dice": "an image at a time: the network sees all of it",
        },
    )


def _optimizer() -> Optimizer:
    return Optimizer(
        name="adam",
        learning_rate=1e-3,
        weight_decay=2e-5,
        reasons={
            "name": _CODE,
            "learning_rate": _CODE,
            "weight_decay": f"L2 penalty of 1e-5 times the squares ({_CODE})",
        },
    )


def _sampling(whole: bool) -> Sampling:
    return Sampling(
        foreground_share=0.0 if whole else 0.5,
        reasons={
            "foreground_share": "a patch is the whole image"
            if whole
            else "ours: half the patches on a structure, since one does not hold the whole image"
        },
    )


def _covers(task: Task, size: Size) -> bool:
    return all(side >= math.ceil(n) for side, n in zip(size.patch, task.grid.shape, strict=True))


def _whole(task: Task, size: Size) -> Size:
    """The size, with a note in its reason where whole images do not fit."""
    if _covers(task, size):
        return size
    return replace(size, patch_reason=f"{size.patch_reason}; whole images do not fit: inference slides over them")


def _box(task: Task, box: Sequence[int]) -> tuple[tuple[int, int, int] | None, str]:
    """The paper's box if most images fit into it, else None; and the reason."""
    if any(n > side for n, side in zip(task.grid.shape, box, strict=True)):
        return None, f"none: most images are larger than the paper's {'×'.join(map(str, box))}"
    shapes = case_shapes(task)
    larger = sum(any(n > side for n, side in zip(shape, box, strict=True)) for shape in shapes)
    cut = f"{larger} of {len(shapes)} cases are larger and lose their rim" if larger else "cuts none"
    return (box[0], box[1], box[2]), f"{_PAPER}: 143×196×144 along x, y, z; {cut}"
