"""Planner ``vnet``: V-Net (Milletari et al. 2016), which Yildiz et al. train on brain tumors."""

from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.families import VNet
from autoseg.plans.plan import Plan
from autoseg.plans.recipe import Loss, Optimizer, Recipe, Schedule
from planners.rules.systems import adopt, assemble, base_recipe, configure, fit, open_setting, refuse_pictures

#: Voxels ``(z, y, x)`` of a volume and volumes a step (paper).
PATCH = (64, 128, 128)
BATCH = 2

#: Smallest side of a patch, of an image that is no smaller: two voxels are left of it at the lowest level.
LEAST = 32

#: Share of the paper's 30,000 steps after which the rate falls to a tenth (25,000).
EXPLORE, FLOOR = 25 / 30, 0.1

PAPER = "Milletari et al. 2016"
CODE = "its released code"


def plan(fingerprint: Fingerprint, request: ResolvedRequest) -> Plan:
    """Plan a dataset for V-Net.

    Raises:
        UsageError: unknown channels or regions are asked for, or the images are no volumes.
        AutosegError: not even the smallest patch fits the budget.
    """
    setting = open_setting(fingerprint, request)
    refuse_pictures(setting, "vnet")
    network = VNet(
        reasons={
            "features": PAPER,
            "convolutions": PAPER,
            "kernel_size": PAPER,
            "norm": "ours, as in most programs for V-Net since: the paper has none; --set network.norm=none",
            "dropout": f"none ({PAPER})",
        }
    )
    divisor = network.divisor[0]
    size = fit(
        setting,
        network,
        [PATCH[axis] for axis in setting.grid.transpose],
        BATCH,
        Recipe(loss=_loss(), optimizer=_optimizer(), ema_decay=0),
        least=[LEAST if n > divisor else divisor for n in setting.grid.shape],
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
                "name": f"{PAPER}'s step to a tenth, as a straight line",
                "explore": f"after 25,000 of 30,000 steps ({PAPER})",
                "floor": PAPER,
            },
        ),
        no_average="the paper averages no weights",
    )
    configuration = configure(setting, network, size, recipe, inference)
    return assemble(setting, "vnet", {"3d_fullres": configuration}, "3d_fullres", f"the only one that {PAPER} trained")


def _loss() -> Loss:
    return Loss(
        dice_weight=1.0,
        ce_weight=0.0,
        dice_denominator="squares",
        background=True,
        batch_dice=False,
        reasons={
            "dice_weight": f"soft Dice alone ({PAPER})",
            "ce_weight": f"soft Dice alone ({PAPER})",
            "dice_denominator": f"{PAPER}, section 3",
            "background": "ours, of several exclusive labels: nothing else keeps it out of one that is not found yet",
            "batch_dice": f"a volume at a time ({PAPER})",
        },
    )


def _optimizer() -> Optimizer:
    return Optimizer(
        name="sgd",
        learning_rate=1e-4,
        momentum=0.99,
        weight_decay=5e-4,
        reasons={
            "name": f"{PAPER}; Nesterov's momentum is ours",
            "learning_rate": PAPER,
            "momentum": PAPER,
            "weight_decay": f"{PAPER}, {CODE}",
        },
    )
