"""Planner ``region_unet``: Tweedy's narrow 3D U-Net for overlapping tumour regions (slides, BraTS 2020).

Ours, where the slides are silent (their figures are missing): five levels whose channels double, instance norm and
ReLU, patches of 128³, two a batch, z-scores, nnU-Net's augmentation.
"""

from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.evaluation import EvaluationRules
from autoseg.plans.loss import Loss
from autoseg.plans.plan import Plan
from autoseg.plans.recipe import Optimizer, Recipe
from autoseg.plans.schedule import Schedule
from planners.rules.fitting import Wanted, fit
from planners.rules.plain import plain_unet
from planners.rules.protocol import training_cases
from planners.rules.systems import Preparation, adopt, assemble, base_recipe, configure
from planners.rules.task import Task, open_task

#: The three sequences ("The dataset and the tumor segmentation problem").
_CHANNELS = ("t1c", "t2", "flair")

_FEATURES = 16
_LEVELS = 5
_PATCH = (128, 128, 128)
_BATCH = 2

#: Passes over the training cases.
_EPOCHS = 60

_PAPER = "Tweedy"
_TRAINING = f"{_PAPER}, Training and loss function"
_RANGER = "Wright & Demeure 2021, released code"

_RATE = 3e-3

#: Ranger21's own (its released code): the rate rises over 2/(1 − β₂) = 2,000 steps, or over 22 %
#: where that would be more than 45 %, begins to fall at 72 %, and ends at 3e-5.
_WARMUP_STEPS, _WARMUP, _WARMUP_LIMIT = 2000, 0.22, 0.45
_EXPLORE, _LEAST_RATE = 0.72, 3e-5

RULES_OF_TWEEDY = EvaluationRules(
    empty="brats",
    test_share=0.2,
    validation_share=0.16,
    reasons={
        "empty": f"{_PAPER}, Dice metric: binary where a class is missing",
        "test_share": f"{_PAPER}, Evaluation results: 20 %, 74 of 369",
        "validation_share": "ours: a fifth of the rest; the slides name a validation set without its size",
    },
)


def plan(fingerprint: Fingerprint, request: ResolvedRequest) -> Plan:
    """Plan a dataset for the region U-Net; for its labels where a dataset has no regions.

    Raises:
        UsageError: unknown channels or regions are requested.
        AutosegError: not even the smallest patch fits the budget.
    """
    task = open_task(fingerprint, request, _CHANNELS, f"{_PAPER}, The dataset")
    network = plain_unet(
        _PATCH, task.grid.shape, task.grid.spacing, _FEATURES, _LEVELS, f"{_PAPER}, Model class: n = 16"
    )
    own = Recipe(loss=_loss(), optimizer=_ranger(), ema_decay=0.0, reasons={"ema_decay": "Ranger21 looks ahead itself"})
    least = [2 * factor for factor in network.divisor]
    origin = f"ours; the figure of {_PAPER}, Data pipelines, is missing"
    size = fit(task.full, network, own, Wanted(_PATCH, _BATCH, least=least, origin=origin))
    base, inference = base_recipe(task.full, size.patch, size.batch)
    recipe = _augmented(_sixty_passes(task, adopt(base, own), size.batch))
    inference = inference.model_copy(
        update={
            "average": "probabilities",
            "reasons": {
                **inference.reasons,
                "mirror_axes": f"{_PAPER}, Data pipelines: test-time augmentation; by flips is ours",
                "average": "ours",
            },
        }
    )
    regions = f"{_PAPER}, The dataset and the tumor segmentation problem: overlapping regions"
    return assemble(
        task,
        "region_unet",
        {"3d_fullres": configure(task.full, network, size, recipe, inference)},
        "3d_fullres",
        "the only one",
        Preparation(evaluation=RULES_OF_TWEEDY, target_reason=regions if task.target.kind == "regions" else ""),
    )


def _sixty_passes(task: Task, recipe: Recipe, batch: int) -> Recipe:
    """The recipe with the paper's length, and Ranger21's warm-up for it."""
    passing = recipe.model_copy(update={"epoch_length": "pass"})
    cases = training_cases(task, RULES_OF_TWEEDY)
    steps = passing.steps_of_epoch(cases, batch)
    share = _WARMUP_STEPS / (_EPOCHS * steps)
    own = share <= _WARMUP_LIMIT
    schedule = Schedule(
        name="explore_exploit",
        warmup=round(share, 3) if own else _WARMUP,
        explore=_EXPLORE,
        floor=_LEAST_RATE / _RATE,
        reasons={
            "name": f"{_PAPER}, Optimizer used during training: explore–exploit with a linear warm-up",
            "warmup": f"Ranger21's own ({_RANGER}): " + ("2,000 steps" if own else "22 % of a short training"),
            "explore": f"Ranger21's own ({_RANGER})",
            "floor": f"Ranger21's own ({_RANGER}): to 3e-5",
        },
    )
    return passing.model_copy(
        update={
            "epochs": _EPOCHS,
            "iterations_per_epoch": steps,
            "validate_every": 1 if not task.cpu else max(1, round(250 / steps)),
            "schedule": schedule,
            "reasons": {
                **passing.reasons,
                "epochs": f"{_TRAINING}: 60 epochs",
                "epoch_length": "ours: one pass over the training cases, as the slides define no epoch",
                "iterations_per_epoch": f"what a pass over about {cases} cases takes",
                "validate_every": f"ours; {_PAPER}, Training results: after 20, 40 and 60 epochs",
            },
        }
    )


def _augmented(recipe: Recipe) -> Recipe:
    """The recipe, saying whose augmentation it has."""
    reason = f"ours, nnU-Net's; the figure of {_PAPER}, Data pipelines, is missing"
    reasons = {**recipe.augmentation.reasons, "rotation_probability": reason}
    return recipe.model_copy(update={"augmentation": recipe.augmentation.model_copy(update={"reasons": reasons})})


def _ranger() -> Optimizer:
    return Optimizer(
        name="ranger21",
        learning_rate=_RATE,
        weight_decay=1e-4,
        reasons={
            "name": _TRAINING,
            "learning_rate": f"{_TRAINING}: at most 3e-3",
            "weight_decay": f"Ranger21's own ({_RANGER})",
        },
    )


def _loss() -> Loss:
    return Loss(
        dice_weight=1.0,
        ce_weight=0.0,
        focal_weight=1.0,
        focal_gamma=2.0,
        reasons={
            "dice_weight": f"{_TRAINING}: the sum D + F",
            "ce_weight": f"{_TRAINING}: none",
            "dice_numerator": f"ours: the usual 2·Σ + ε; {_PAPER} prints 2·(Σ + ε), by which an empty region pays 1",
            "focal_weight": f"{_TRAINING}: the sum D + F",
            "focal_gamma": f"{_TRAINING}: γ = 2",
            "focal_reduction": f"ours: {_PAPER} prints a sum, which over 128³ voxels is 10⁵ and more and drowns D; "
            "three seeds on phantoms told no difference",
            "smooth": f"ours; {_TRAINING}, gives ε no value",
            "batch_dice": "ours: the batch counts as one image, as a patch sees only a part of it",
        },
    )
