"""Planner ``region_unet``: Tweedy's narrow 3D U-Net for overlapping tumour regions.

From the publication: three sequences, 16 kernels in the first level, the regions whole tumour, tumour core and
enhancing tumour, Dice plus focal loss (γ = 2), Ranger21 at 3e-3 with its warm-up and explore–exploit schedule, and
test-time augmentation. Assumed: that the sequences are T1c, T2 and FLAIR, that the U-Net has five levels, and patches
of 128³.
"""

from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.plan import Plan
from autoseg.plans.recipe import Loss, Optimizer, Recipe, Schedule
from planners.rules.fitting import Wanted, fit
from planners.rules.plain import assumed, plain_unet
from planners.rules.systems import adopt, assemble, base_recipe, configure
from planners.rules.task import open_task

#: The three sequences; T1 adds least to T1c.
_CHANNELS = ("t1c", "t2", "flair")

_FEATURES = 16
_LEVELS = 5
_PATCH = (128, 128, 128)
_BATCH = 2

_PAPER = "Tweedy"

#: Share of the training over which Ranger21 warms up, and at which its rate begins to fall (Wright & Demeure 2021).
_WARMUP = 0.22
_EXPLORE = 0.72


def plan(fingerprint: Fingerprint, request: ResolvedRequest) -> Plan:
    """Plan a dataset for the region U-Net; for its labels where a dataset has no regions.

    Raises:
        UsageError: unknown channels or regions are requested.
        AutosegError: not even the smallest patch fits the budget.
    """
    task = open_task(fingerprint, request, _CHANNELS)
    network = plain_unet(_PATCH, task.grid.shape, task.grid.spacing, _FEATURES, _LEVELS, _PAPER)
    loss = Loss(
        dice_weight=1.0,
        ce_weight=0.0,
        focal_weight=1.0,
        focal_gamma=2.0,
        reasons={
            "dice_weight": f"Dice plus focal loss ({_PAPER})",
            "focal_weight": f"Dice plus focal loss ({_PAPER})",
            "focal_gamma": _PAPER,
            "batch_dice": "the batch counts as one image: a patch sees only a part of it",
        },
    )
    ranger = Optimizer(
        name="ranger21", learning_rate=3e-3, weight_decay=1e-4,
        reasons={"name": _PAPER, "learning_rate": _PAPER, "weight_decay": "Ranger21's own (Wright & Demeure 2021)"},
    )  # fmt: skip
    own = Recipe(
        loss=loss,
        optimizer=ranger,
        schedule=Schedule(
            name="explore_exploit",
            warmup=_WARMUP,
            explore=_EXPLORE,
            reasons={
                "name": f"Ranger21's ({_PAPER})",
                "warmup": "Ranger21's own (Wright & Demeure 2021)",
                "explore": "Ranger21's own (Wright & Demeure 2021)",
            },
        ),
        ema_decay=0.0,
        reasons={"ema_decay": "Ranger21 looks ahead itself"},
    )
    size = fit(task.full, network, own, Wanted(_PATCH, _BATCH, least=[2 * factor for factor in network.divisor]))
    base, inference = base_recipe(task.full, size.patch, size.batch)
    reasons = {"patch_size": assumed(size.patch_reason), "batch_size": assumed(size.batch_reason)}
    configuration = configure(task.full, network, size, adopt(base, own), inference, reasons)
    return assemble(task, "region_unet", {"3d_fullres": configuration}, "3d_fullres", "the only one")
