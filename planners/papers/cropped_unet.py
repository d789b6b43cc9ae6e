"""Planner ``cropped_unet``: Yildiz's 3D U-Net on volumes cropped to 128³.

From the publication: T1ce, T2 and FLAIR, volumes cropped to 128³, min–max scaling, Dice plus Tversky loss, Adam at
1e-3, reduced on a plateau down to 1e-6. Assumed: a U-Net of five levels that begins with 16 kernels, Tversky's weights
(0.3, 0.7) as in Salehi et al. 2017, a reduction by a factor of five, and batches of two.
"""

from dataclasses import replace

from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.plan import Plan
from autoseg.plans.preprocessing import Normalization
from autoseg.plans.recipe import Loss, Optimizer, Recipe, Schedule
from planners.rules.fitting import Wanted, fit
from planners.rules.plain import assumed, plain_unet
from planners.rules.systems import Preparation, adopt, assemble, base_recipe, configure
from planners.rules.task import open_task

#: The paper's sequences.
_CHANNELS = ("t1c", "t2", "flair")

#: Voxels that a volume is cropped to, all of which a patch covers.
_BOX = (128, 128, 128)

_FEATURES = 16
_LEVELS = 5
_BATCH = 2

_PAPER = "Yildiz"


def plan(fingerprint: Fingerprint, request: ResolvedRequest) -> Plan:
    """Plan a dataset for the cropped U-Net.

    Raises:
        UsageError: unknown channels or regions are requested.
        AutosegError: not even the smallest patch fits the budget.
    """
    task = open_task(fingerprint, request, _CHANNELS)
    shape = [min(side, n) for side, n in zip(_BOX, task.grid.shape, strict=True)]
    stage = replace(task.full, shape=shape)
    network = plain_unet(_BOX, shape, task.grid.spacing, _FEATURES, _LEVELS, "assumed")
    loss = Loss(
        dice_weight=1.0,
        ce_weight=0.0,
        tversky_weight=1.0,
        background=True,
        reasons={
            "dice_weight": f"Dice plus Tversky loss ({_PAPER})",
            "tversky_weight": f"Dice plus Tversky loss ({_PAPER})",
            "tversky_alpha": "false negatives weigh more (Salehi et al. 2017)",
            "background": "ours, of exclusive labels: nothing else keeps it out of one that is not found yet",
            "batch_dice": "the batch counts as one image",
        },
    )
    adam = Optimizer(
        name="adam", learning_rate=1e-3, weight_decay=0.0, reasons={"name": _PAPER, "learning_rate": _PAPER}
    )
    own = Recipe(
        loss=loss,
        optimizer=adam,
        schedule=Schedule(
            name="plateau",
            warmup=0.0,
            floor=1e-3,
            reasons={"name": f"reduced on a plateau ({_PAPER})", "floor": f"from 1e-3 down to 1e-6 ({_PAPER})"},
        ),
        ema_decay=0.0,
        reasons={"ema_decay": "the paper has none"},
    )
    least = [2 * factor for factor in network.divisor]
    size = fit(stage, network, own, Wanted(_BOX, _BATCH, least=least, whole=True))
    base, inference = base_recipe(stage, size.patch, size.batch)
    reasons = {"batch_size": assumed(size.batch_reason)}
    configuration = configure(stage, network, size, adopt(base, own), inference, reasons)
    return assemble(
        task,
        "cropped_unet",
        {"3d_fullres": configuration},
        "3d_fullres",
        "the only one",
        Preparation(
            normalization=Normalization(scheme="minmax", reasons={"scheme": f"min–max scaling ({_PAPER})"}),
            box=_BOX,
            box_reason=f"cropped to {'×'.join(map(str, _BOX))} ({_PAPER})",
        ),
    )
