"""Planner ``region_unet``: Tweedy's narrow 3D U-Net for overlapping tumour regions (slides, BraTS 2020).

Where the slides are silent (their figures are missing), the author's released code (e-tweedy/UNet_BraTS2020 on GitHub)
has what is here: five levels whose channels double, ReLU, patches of 128³, flips. Ours, where it differs: instance norm
(four groups of channels there), strided convolutions (maxima of 2×2×2), z-scores (each slice scaled to 0 … 1),
nnU-Net's augmentation (noise and flips alone) and sampling (at random), probabilities averaged over all flips (logits
of four copies with random ones). Two patches a batch are ours.
"""

from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.evaluation import EvaluationRules
from autoseg.plans.families import UNet
from autoseg.plans.loss import Loss
from autoseg.plans.plan import Plan
from autoseg.plans.preprocessing import Channel
from autoseg.plans.recipe import Optimizer, Recipe
from autoseg.plans.schedule import Schedule
from planners.rules.fitting import Wanted, fit
from planners.rules.plain_unet import plain_unet
from planners.rules.protocol import kept_as_ours, training_cases
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
_CODE = f"{_PAPER}, author's released code"
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
    network = _network(task)
    own = Recipe(
        loss=_loss(),
        optimizer=_ranger(),
        ema_decay=0.0,
        reasons={
            "ema_decay": "Ranger21 looks ahead itself",
            "gradient_clip": f"ours, beside Ranger21's own ({_PAPER}, Optimizer used during training)",
        },
    )
    least = [2 * factor for factor in network.divisor]
    batch = f"ours: {_PAPER} gives none"
    size = fit(task.full, network, own, Wanted(_PATCH, _BATCH, least=least, origin=_CODE, batch_origin=batch))
    base, inference = base_recipe(task.full, size.patch, size.batch)
    recipe = _augmented(_sixty_passes(task, adopt(base, own), size.batch))
    inference = inference.model_copy(
        update={
            "average": "probabilities",
            "reasons": {
                **inference.reasons,
                "mirror_axes": f"{_PAPER}, Data pipelines: test-time augmentation; by all flips is ours, "
                f"{_CODE} takes four copies with random flips and noise",
                "average": f"ours: what papers average; {_CODE} averages logits",
            },
        }
    )
    regions = f"{_PAPER}, The dataset and the tumor segmentation problem: overlapping regions"
    plan = assemble(
        task,
        "region_unet",
        {"3d_fullres": configure(task.full, network, size, recipe, inference)},
        "3d_fullres",
        "the only one",
        Preparation(evaluation=RULES_OF_TWEEDY, target_reason=regions if task.target.kind == "regions" else ""),
    )
    return plan.model_copy(update={"channels": [_scaled(channel) for channel in plan.channels]})


def _network(task: Task) -> UNet:
    plain = plain_unet(_PATCH, task.grid.shape, task.grid.spacing, _FEATURES, _LEVELS, f"{_PAPER}, Model class: n = 16")
    reasons = {
        "family": f"{_CODE}: transposed convolutions and skip connections",
        "strides": f"{_CODE}: four levels and a bottleneck, where the images have the voxels for them",
        "pooling": f"ours; {_CODE} takes maxima of 2×2×2",
        "encoder_blocks": f"{_CODE}: two convolutions a level",
        "decoder_convs": f"{_CODE}: two convolutions a level",
        "activation": f"{_CODE}: ReLU",
        "norm": f"ours; {_CODE} normalizes four groups of channels",
    }
    return plain.model_copy(update={"reasons": {**plain.reasons, **reasons}})


def _scaled(channel: Channel) -> Channel:
    """The channel, saying how the released code scales it where this plan takes z-scores."""
    chosen = channel.normalization
    if chosen.scheme != "zscore":
        return channel
    why = f"ours; {_CODE} scales each slice to 0 … 1. {chosen.reasons.get('scheme', '')}".rstrip()
    noted = chosen.model_copy(update={"reasons": {**chosen.reasons, "scheme": why}})
    return channel.model_copy(update={"normalization": noted})


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
                "epoch_length": f"ours: one pass over the training cases, as the slides define no epoch; "
                f"{_CODE} draws four patches of each by default",
                "iterations_per_epoch": f"what a pass over about {cases} cases takes",
                "validate_every": f"ours; {_PAPER}, Training results: after 20, 40 and 60 epochs",
                "validate_cases": f"ours, for time: {passing.validate_cases} at most; {_PAPER}, Training results: all",
            },
        }
    )


def _augmented(recipe: Recipe) -> Recipe:
    """The recipe, saying whose augmentation and sampling it has."""
    kept = kept_as_ours(
        recipe,
        augmentation=f"ours, nnU-Net's; {_CODE} has noise and flips alone (the figure of {_PAPER}, Data pipelines, is "
        "missing)",
        sampling=f"ours, nnU-Net's; {_CODE} crops at random",
    )
    reasons = {**kept.augmentation.reasons, "mirror_probability": f"{_CODE}: 0.5 an axis"}
    if kept.augmentation.mirror_axes == [0, 1, 2]:
        reasons["mirror_axes"] = f"{_CODE}: each axis"
    return kept.model_copy(update={"augmentation": kept.augmentation.model_copy(update={"reasons": reasons})})


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
