"""Planner ``cropped_unet``: Yildiz's 3D U-Net on volumes cropped to 128³.

Known of the system: T1ce, T2 and FLAIR, volumes cropped to 128³, min–max scaling, Dice plus Tversky loss, Adam at 1e-3,
reduced on a plateau down to 1e-6. Assumed: a U-Net of five levels that begins with 16 kernels, Tversky's weights
(0.3, 0.7) as in Salehi et al. 2017, a reduction by a factor of five, and batches of two.
"""

from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.plan import Plan
from autoseg.plans.preprocessing import Normalization
from autoseg.plans.recipe import Loss, Optimizer, Recipe, Schedule
from planners.rules.plain import assumed, plain_unet
from planners.rules.systems import adopt, assemble, base_recipe, configure, fit, open_setting

#: The paper's sequences.
CHANNELS = ("t1c", "t2", "flair")

#: Voxels that a volume is cropped to, all of which a patch covers.
BOX = (128, 128, 128)

FEATURES = 16
LEVELS = 5
BATCH = 2

PAPER = "Yildiz"


def plan(fingerprint: Fingerprint, request: ResolvedRequest) -> Plan:
    """Plan a dataset for the cropped U-Net.

    Raises:
        UsageError: unknown channels or regions are asked for.
        AutosegError: not even the smallest patch fits the budget.
    """
    setting = open_setting(fingerprint, request, CHANNELS)
    shape = [min(side, n) for side, n in zip(BOX, setting.grid.shape, strict=True)]
    network = plain_unet(BOX, shape, setting.grid.spacing, FEATURES, LEVELS, "assumed")
    loss = Loss(
        dice_weight=1.0,
        ce_weight=0.0,
        tversky_weight=1.0,
        background=True,
        reasons={
            "dice_weight": f"Dice plus Tversky loss ({PAPER})",
            "tversky_weight": f"Dice plus Tversky loss ({PAPER})",
            "tversky_alpha": "false negatives weigh more (Salehi et al. 2017)",
            "background": "ours, of exclusive labels: nothing else keeps it out of one that is not found yet",
            "batch_dice": "the batch counts as one image",
        },
    )
    adam = Optimizer(name="adam", learning_rate=1e-3, weight_decay=0.0, reasons={"name": PAPER, "learning_rate": PAPER})
    size = fit(
        setting,
        network,
        BOX,
        BATCH,
        Recipe(loss=loss, optimizer=adam, ema_decay=0),
        least=[2 * factor for factor in network.divisor],
        shape=shape,
        whole=True,
    )
    base, inference = base_recipe(setting, size.patch, size.batch, shape)
    recipe = adopt(
        base,
        loss=loss,
        optimizer=adam,
        schedule=Schedule(
            name="plateau",
            warmup=0.0,
            floor=1e-3,
            reasons={"name": f"reduced on a plateau ({PAPER})", "floor": f"from 1e-3 down to 1e-6 ({PAPER})"},
        ),
        no_average="the paper has none",
    )
    configuration = configure(
        setting,
        network,
        size,
        recipe,
        inference,
        reasons={"batch_size": assumed(size.batch_reason)},
    )
    return assemble(
        setting,
        "cropped_unet",
        {"3d_fullres": configuration},
        "3d_fullres",
        "the only one",
        normalization=Normalization(scheme="minmax", reasons={"scheme": f"min–max scaling ({PAPER})"}),
        preprocessing={"box": BOX},
        preprocessing_reasons={"box": f"cropped to {'×'.join(map(str, BOX))} ({PAPER})"},
    )
