"""Planner ``region_unet``: Tweedy's narrow 3D U-Net for overlapping tumour regions.

Known of the system: three sequences, 16 kernels in the first level, the regions whole tumour, tumour core and enhancing
tumour, Dice plus focal loss (γ = 2), Ranger21 at 3e-3 with its warm-up and explore–exploit schedule, and test-time
augmentation. Assumed: that the sequences are T1c, T2 and FLAIR, that the U-Net has five levels, and patches of 128³.
"""

from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.plan import Plan
from autoseg.plans.recipe import Loss, Optimizer, Recipe, Schedule
from planners.rules.plain import assumed, plain_unet
from planners.rules.systems import adopt, assemble, base_recipe, configure, fit, open_setting

#: The three sequences; T1 says least about a tumour that T1c does not.
CHANNELS = ("t1c", "t2", "flair")

FEATURES = 16
LEVELS = 5
PATCH = (128, 128, 128)
BATCH = 2

PAPER = "Tweedy"

#: Share of the training over which Ranger21 warms up, and at which its rate begins to fall (Wright & Demeure 2021).
WARMUP = 0.22
EXPLORE = 0.72


def plan(fingerprint: Fingerprint, request: ResolvedRequest) -> Plan:
    """Plan a dataset for the region U-Net; labels take the regions' place where a dataset has none.

    Raises:
        UsageError: unknown channels or regions are asked for.
        AutosegError: not even the smallest patch fits the budget.
    """
    setting = open_setting(fingerprint, request, CHANNELS)
    network = plain_unet(PATCH, setting.grid.shape, setting.grid.spacing, FEATURES, LEVELS, PAPER)
    loss = Loss(
        dice_weight=1.0,
        ce_weight=0.0,
        focal_weight=1.0,
        focal_gamma=2.0,
        reasons={
            "dice_weight": f"Dice plus focal loss ({PAPER})",
            "focal_weight": f"Dice plus focal loss ({PAPER})",
            "focal_gamma": PAPER,
            "batch_dice": "the batch counts as one image: a patch sees only a part of it",
        },
    )
    ranger = Optimizer(
        name="ranger21", learning_rate=3e-3, weight_decay=1e-4,
        reasons={"name": PAPER, "learning_rate": PAPER, "weight_decay": "Ranger21's own (Wright & Demeure 2021)"},
    )  # fmt: skip
    size = fit(
        setting,
        network,
        PATCH,
        BATCH,
        Recipe(loss=loss, optimizer=ranger, ema_decay=0),
        least=[2 * factor for factor in network.divisor],
    )
    base, inference = base_recipe(setting, size.patch, size.batch)
    recipe = adopt(
        base,
        loss=loss,
        optimizer=ranger,
        schedule=Schedule(
            name="explore_exploit",
            warmup=WARMUP,
            explore=EXPLORE,
            reasons={
                "name": f"Ranger21's ({PAPER})",
                "warmup": "Ranger21's own (Wright & Demeure 2021)",
                "explore": "Ranger21's own (Wright & Demeure 2021)",
            },
        ),
        no_average="Ranger21 looks ahead itself",
    )
    configuration = configure(
        setting,
        network,
        size,
        recipe,
        inference,
        reasons={
            "patch_size": assumed(size.patch_reason),
            "batch_size": assumed(size.batch_reason),
        },
    )
    return assemble(setting, "region_unet", {"3d_fullres": configuration}, "3d_fullres", "the only one")
