"""Planner ``vnet``: V-Net (Milletari et al. 2016), on FLAIR as Yıldız et al. have it, or as its own paper."""

from dataclasses import replace

from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.families import VNet
from autoseg.plans.loss import Loss
from autoseg.plans.plan import Plan
from autoseg.plans.recipe import Optimizer, Recipe, Sampling
from autoseg.plans.schedule import Schedule
from planners.papers.yildiz import CROP, YILDIZ, cropped, cropped_shape
from planners.rules.fitting import Wanted, fit
from planners.rules.protocol import changed, still, without_mirroring
from planners.rules.systems import Preparation, adopt, assemble, base_recipe, configure
from planners.rules.task import Task, exclusive, open_task, refuse_pictures, whole_of

#: Sequence that Yıldız et al. train it on.
_FLAIR = "flair"

#: Voxels ``(z, y, x)`` of a volume (Milletari et al., section 3.1) and volumes a step (section 4).
_PATCH = (64, 128, 128)
_BATCH = 2

#: Smallest side of a patch, of an image that is no smaller: two voxels are left of it at the lowest level.
_LEAST = 32

#: Steps, the share of them after which the rate falls to a tenth (25,000), and that tenth.
_STEPS, _EXPLORE, _FLOOR = 30_000, 25 / 30, 0.1

_PAPER = "Milletari et al. 2016"
_CODE = "released code"

#: Why a training on FLAIR has not the optimizer, batch and epochs of Yıldız et al.
_OF_THE_UNET = f"{YILDIZ}, section 4.1 (Adam, batches of 4, 30 epochs of 213), is read as the 3D U-Net's, which is ours"


def plan(fingerprint: Fingerprint, request: ResolvedRequest) -> Plan:
    """Plan a dataset for V-Net: as Yıldız et al., or as Milletari where the user names channels or there is no FLAIR.

    Raises:
        UsageError: unknown channels or regions are requested, or the images are no volumes.
        AutosegError: not even the smallest patch fits the budget.
    """
    on_flair = not request.channels and _FLAIR in fingerprint.channels
    if on_flair:
        request = whole_of(fingerprint, replace(request, channels=(_FLAIR,)))
    task = exclusive(open_task(fingerprint, request))
    refuse_pictures(task, "vnet")
    beside = f"; {_OF_THE_UNET}" if on_flair else ""
    network = VNet(
        reasons={
            "features": f"{_PAPER}, figure 2",
            "convolutions": f"{_PAPER}, figure 2 ({YILDIZ}, section 2.4.1)",
            "kernel_size": f"{_PAPER}, section 2",
            "norm": f"ours, batch normalization as in most programs for V-Net since; {_PAPER} have none, as {YILDIZ}, "
            "section 2.4.1, say: --set network.norm=none",
            "dropout": f"{_PAPER}: none",
        }
    )
    own = Recipe(
        loss=_loss(len(task.target.outputs) > 1),
        optimizer=_optimizer(beside),
        schedule=Schedule(
            name="explore_exploit",
            warmup=0.0,
            explore=round(_EXPLORE, 2),
            floor=_FLOOR,
            reasons={
                "name": f"{_PAPER}, section 4: a step to a tenth; as a straight line is ours",
                "warmup": f"{_PAPER}: none",
                "explore": f"{_PAPER}, section 4: after 25,000 of 30,000 steps",
                "floor": f"{_PAPER}, section 4",
            },
        ),
        augmentation=changed(
            still(f"{_PAPER}: none"),
            {"elastic_probability": 1.0, "elastic_spacing": max(CROP)},
            {
                "elastic_probability": f"{_PAPER}, section 3.1: a deformation at every step; their histogram matching "
                "is left out",
                "elastic_spacing": f"{_PAPER}, section 3.1: a grid of 2×2×2 nodes",
                "elastic_magnitude": f"ours; {_PAPER}, section 4, draw nodes from N(0, 15 voxels), a deviation that 45 "
                "has here",
            },
        ),
        sampling=Sampling(
            reasons={"foreground_share": f"ours; {_PAPER}, section 3.1, have whole volumes, as most patches here are"}
        ),
        ema_decay=0.0,
        reasons={"ema_decay": f"{_PAPER} average no weights", "gradient_clip": f"ours: {_PAPER} name none"},
    )
    stage = replace(task.full, shape=cropped_shape(task)) if on_flair else task.full
    divisor = network.divisor[0]
    least = [_LEAST if n > divisor else divisor for n in stage.shape]
    size = fit(stage, network, own, _wanted(task, beside, least))
    base, inference = base_recipe(stage, size.patch, size.batch)
    inference = without_mirroring(inference, f"{_PAPER} describe no test-time augmentation")
    configuration = configure(stage, network, size, _as_long(adopt(base, own), beside), inference)
    if on_flair:
        where = f"{YILDIZ}, section 3: on FLAIR alone; with channels named, all of it is {_PAPER}'s"
        task = replace(task, reasons={**task.reasons, "channels": where})
        preparation = cropped(f"{YILDIZ}, section 3: a single foreground class")
    else:
        preparation = Preparation(reasons={"bias_correction": f"ours: none; {_PAPER}, section 4, correct by N4"})
    return assemble(
        task, "vnet", {"3d_fullres": configuration}, "3d_fullres", f"the only one that {_PAPER} trained", preparation
    )


def _as_long(recipe: Recipe, beside: str) -> Recipe:
    """The recipe with the steps of Milletari et al."""
    reasons = {**recipe.reasons, "epochs": f"{_PAPER}, section 4: {_STEPS:,} steps{beside}"}
    return recipe.model_copy(update={"epochs": _STEPS // recipe.iterations_per_epoch, "reasons": reasons})


def _wanted(task: Task, beside: str, least: list[int]) -> Wanted:
    """Yıldız' crop in Milletari's batches, or Milletari's volumes."""
    if beside:
        batch = f"{_PAPER}, section 4{beside}"
        return Wanted(CROP, _BATCH, least=least, origin=f"{YILDIZ}, section 3", batch_origin=batch)
    origin = f"{_PAPER}, section 3.1 and section 4"
    return Wanted([_PATCH[axis] for axis in task.grid.transpose], _BATCH, least=least, origin=origin)


def _loss(several: bool) -> Loss:
    return Loss(
        dice_weight=1.0,
        ce_weight=0.0,
        dice_denominator="squares",
        background=several,
        batch_dice=False,
        reasons={
            "dice_weight": f"{_PAPER}, section 3: soft Dice alone",
            "ce_weight": f"{_PAPER}, section 3: soft Dice alone",
            "dice_denominator": f"{_PAPER}, section 3 ({YILDIZ}, section 2.4.1); one less the index",
            "background": "ours, of several exclusive labels: nothing else keeps it out of one that is not found yet"
            if several
            else f"{_PAPER}, section 3: of the foreground",
            "batch_dice": f"{_PAPER}, section 3: a volume at a time",
        },
    )


def _optimizer(beside: str) -> Optimizer:
    return Optimizer(
        name="sgd",
        learning_rate=1e-4,
        momentum=0.99,
        weight_decay=5e-4,
        reasons={
            "name": f"{_PAPER}, section 4; Nesterov's momentum is ours{beside}",
            "learning_rate": f"{_PAPER}, section 4",
            "momentum": f"{_PAPER}, section 4",
            "weight_decay": f"{_PAPER}, {_CODE}",
        },
    )
