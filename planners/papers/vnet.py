"""Planner ``vnet``: V-Net (Milletari et al. 2016), which Yildiz et al. train on brain tumors."""

from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.families import VNet
from autoseg.plans.plan import Plan
from autoseg.plans.recipe import Loss, Optimizer, Recipe, Schedule
from planners.rules.fitting import Wanted, fit
from planners.rules.systems import adopt, assemble, base_recipe, configure
from planners.rules.task import open_task, refuse_pictures

#: Voxels ``(z, y, x)`` of a volume and volumes a step (paper).
_PATCH = (64, 128, 128)
_BATCH = 2

#: Smallest side of a patch, of an image that is no smaller: two voxels are left of it at the lowest level.
_LEAST = 32

#: Share of the paper's 30,000 steps after which the rate falls to a tenth (25,000).
_EXPLORE, _FLOOR = 25 / 30, 0.1

_PAPER = "Milletari et al. 2016"
_CODE = "its released code"


def plan(fingerprint: Fingerprint, request: ResolvedRequest) -> Plan:
    """Plan a dataset for V-Net.

    Raises:
        UsageError: unknown channels or regions are requested, or the images are no volumes.
        AutosegError: not even the smallest patch fits the budget.
    """
    task = open_task(fingerprint, request)
    refuse_pictures(task, "vnet")
    network = VNet(
        reasons={
            "features": _PAPER,
            "convolutions": _PAPER,
            "kernel_size": _PAPER,
            "norm": "ours, as in most programs for V-Net since: the paper has none; --set network.norm=none",
            "dropout": f"none ({_PAPER})",
        }
    )
    divisor = network.divisor[0]
    own = Recipe(
        loss=_loss(),
        optimizer=_optimizer(),
        schedule=Schedule(
            name="explore_exploit",
            warmup=0.0,
            explore=round(_EXPLORE, 2),
            floor=_FLOOR,
            reasons={
                "name": f"{_PAPER}'s step to a tenth, as a straight line",
                "explore": f"after 25,000 of 30,000 steps ({_PAPER})",
                "floor": _PAPER,
            },
        ),
        ema_decay=0.0,
        reasons={"ema_decay": "the paper averages no weights"},
    )
    least = [_LEAST if n > divisor else divisor for n in task.grid.shape]
    size = fit(task.full, network, own, Wanted([_PATCH[axis] for axis in task.grid.transpose], _BATCH, least=least))
    base, inference = base_recipe(task.full, size.patch, size.batch)
    configuration = configure(task.full, network, size, adopt(base, own), inference)
    return assemble(task, "vnet", {"3d_fullres": configuration}, "3d_fullres", f"the only one that {_PAPER} trained")


def _loss() -> Loss:
    return Loss(
        dice_weight=1.0,
        ce_weight=0.0,
        dice_denominator="squares",
        background=True,
        batch_dice=False,
        reasons={
            "dice_weight": f"soft Dice alone ({_PAPER})",
            "ce_weight": f"soft Dice alone ({_PAPER})",
            "dice_denominator": f"{_PAPER}, section 3",
            "background": "ours, of several exclusive labels: nothing else keeps it out of one that is not found yet",
            "batch_dice": f"a volume at a time ({_PAPER})",
        },
    )


def _optimizer() -> Optimizer:
    return Optimizer(
        name="sgd",
        learning_rate=1e-4,
        momentum=0.99,
        weight_decay=5e-4,
        reasons={
            "name": f"{_PAPER}; Nesterov's momentum is ours",
            "learning_rate": _PAPER,
            "momentum": _PAPER,
            "weight_decay": f"{_PAPER}, {_CODE}",
        },
    )
