"""Planner ``fullimage_unet``: the full-image U-Net of Rahimpour et al. (2022)."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.families import FullImageUNet
from autoseg.plans.plan import Plan
from autoseg.plans.preprocessing import Normalization
from autoseg.plans.recipe import Loss, Optimizer, Recipe, Sampling, Schedule
from planners.rules.systems import (
    Setting,
    Size,
    adopt,
    assemble,
    base_recipe,
    case_shapes,
    configure,
    fit,
    open_setting,
    refuse_pictures,
)

#: Voxels ``(z, y, x)`` that every image is cropped to. The paper gives 143×196×144 without naming the axes: a brain at
#: 1 mm is longest from front to back (y), and an image of BraTS is 240×240×155, so 144 along z leaves the least.
BOX = (144, 196, 143)

#: Images a step (paper).
BATCH = 2

#: Where the image must be cut into patches: steps in which one shrinks, and the smallest.
UNIT, LEAST = 8, 24

#: Share of the training after which the rate falls (300 of 525 epochs), and what is left of it at the end.
EXPLORE, FLOOR = 300 / 525, 0.01

PAPER = "Rahimpour et al. 2022"
CODE = "the same group's DeepVoxNet2, its BraTS example"


def plan(fingerprint: Fingerprint, request: ResolvedRequest) -> Plan:
    """Plan a dataset for the full-image U-Net.

    Raises:
        UsageError: unknown channels or regions are asked for, or the images are no volumes.
        AutosegError: not even the smallest patch fits the budget.
    """
    setting = open_setting(fingerprint, request)
    refuse_pictures(setting, "fullimage_unet")
    network = FullImageUNet(
        reasons={
            "features": f"four levels from 20 and 40 kernels ({PAPER}); doubled at each level (assumed: within "
            "0.2 % of the paper's number of parameters)",
            "fully_connected": PAPER,
            "norm": PAPER,
            "dropout": PAPER,
        }
    )
    box = [BOX[axis] for axis in setting.grid.transpose]
    size = _whole(
        setting,
        fit(
            setting,
            network,
            box,
            BATCH,
            Recipe(loss=_loss(), optimizer=_optimizer(), ema_decay=0),
            unit=[UNIT] * 3,
            least=[LEAST] * 3,
            whole=True,
        ),
    )
    base, inference = base_recipe(setting, size.patch, size.batch)
    recipe = adopt(
        base,
        loss=_loss(),
        optimizer=_optimizer(),
        schedule=Schedule(
            name="explore_exploit",
            warmup=0.0,
            explore=round(EXPLORE, 2),
            floor=FLOOR,
            reasons={
                "name": f"a straight line through the steps of {CODE}",
                "explore": "the first of them, after 300 of 525 epochs",
                "floor": "two steps to a tenth",
            },
        ),
        sampling=Sampling(
            foreground_share=0.0 if _covers(setting, size) else 0.5,
            reasons={
                "foreground_share": "a patch is the whole image"
                if _covers(setting, size)
                else "ours: half the patches on a structure, since one does not hold the whole image"
            },
        ),
        no_average="the paper averages no weights",
    )
    configuration = configure(setting, network, size, recipe, inference)
    preprocessing, reasons = _box(setting, box)
    return assemble(
        setting,
        "fullimage_unet",
        {"3d_fullres": configuration},
        "3d_fullres",
        f"the only one that {PAPER} trained",
        normalization=Normalization(
            scheme="zscore",
            masked=True,
            reasons={"scheme": PAPER, "masked": f"mean and deviation of the voxels that are not zero ({PAPER})"},
        ),
        preprocessing=preprocessing,
        preprocessing_reasons=reasons,
    )


def _loss() -> Loss:
    return Loss(
        dice_weight=1.0,
        ce_weight=1.0,
        batch_dice=False,
        reasons={
            "dice_weight": f"soft Dice and cross-entropy alike ({CODE})",
            "ce_weight": f"soft Dice and cross-entropy alike ({CODE})",
            "batch_dice": "an image at a time: the network sees all of it",
        },
    )


def _optimizer() -> Optimizer:
    return Optimizer(
        name="adam",
        learning_rate=1e-3,
        weight_decay=2e-5,
        reasons={
            "name": CODE,
            "learning_rate": CODE,
            "weight_decay": f"L2 penalty of 1e-5 times the squares ({CODE})",
        },
    )


def _covers(setting: Setting, size: Size) -> bool:
    return all(side >= math.ceil(n) for side, n in zip(size.patch, setting.grid.shape, strict=True))


def _whole(setting: Setting, size: Size) -> Size:
    """Say it where images do not fit as a whole."""
    if _covers(setting, size):
        return size
    return replace(size, patch_reason=f"{size.patch_reason}; whole images do not fit: inference slides over them")


def _box(setting: Setting, box: Sequence[int]) -> tuple[dict[str, Any], dict[str, str]]:
    """The paper's box, where most images fit into it."""
    if any(n > side for n, side in zip(setting.grid.shape, box, strict=True)):
        return {}, {"box": f"none: most images are larger than the paper's {'×'.join(map(str, box))}"}
    shapes = case_shapes(setting)
    larger = sum(any(n > side for n, side in zip(shape, box, strict=True)) for shape in shapes)
    cut = f"{larger} of {len(shapes)} cases are larger and lose their rim" if larger else "cuts none"
    return {"box": tuple(box)}, {"box": f"{PAPER}: 143×196×144 along x, y, z; {cut}"}
