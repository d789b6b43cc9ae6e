"""How long and how to train: the numbers that are not geometry, in one place."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autoseg.plans.inference import Inference
from autoseg.plans.recipe import Augmentation, Loss, Optimizer, Recipe, Sampling, Schedule
from planners.rules.compute import CPU_STEPS, cpu_steps

#: Optimizer steps an epoch; an epoch is only the interval of reports (nnU-Net's).
ITERATIONS_PER_EPOCH = 250

#: The same on a CPU, where a step takes longer.
CPU_ITERATIONS_PER_EPOCH = 50

#: How often training should see each part of each case. nnU-Net's fixed 250,000 steps of batch 2 are some 2,500
#: times for 200 cases and far fewer for large ones; this is an estimate, not yet a measurement.
VISITS = 400

#: Bounds of the number of steps: below, nothing converges; above is nnU-Net's own number.
MIN_STEPS = 25_000
MAX_STEPS = 250_000

#: The same on a CPU, in steps of two patches or more (:func:`planners.rules.compute.cpu_steps`), where the most is what
#: a few hours afford. On hippocampus (160 training cases) 1,560 steps of two already reach a Dice of 0.879, so a few
#: cases need no 24,000.
CPU_VISITS = 300
CPU_MIN_STEPS = 3_000

#: AdamW's rate on a CPU, and with one patch a step (by the square root of the batch; hippocampus, fold 1, 75 s: a Dice
#: of 0.842 so, of 0.837 at the rate of two).
CPU_RATE, LONE_RATE = 4e-3, 3e-3

#: With one patch a step, the share of them that is centred on foreground: as with two, of which one has to be.
LONE_FOREGROUND = 0.5

#: With one patch a step, the batches of a validation loss of patches: as many patches as eight batches of two.
LONE_VALIDATION = 16

#: How often a CPU's training is augmented. One run each on hippocampus (1,560 steps of batch 2, the 40 cases of fold 1)
#: reached a Dice of 0.882 so, and 0.879 with nnU-Net's own frequencies. To repeat: ``benchmarks/time_budget.py --fold 1
#: --max-time 5m`` without and with ``--set recipe.augmentation.blur_probability=0.2``, and so on.
CPU_AUGMENTATION = {"blur_probability": 0.1, "low_resolution_probability": 0.1, "gamma_probability": 0.15}

#: A patch whose longest side is this many times its first is augmented in its plane only (nnU-Net's threshold).
FLAT_PATCH = 3.0

#: Degrees beyond which a rotation undoes what limits mirroring, and what is left then: a tilted head.
HALF_TURN, TILTED = 90.0, 30.0
TILTED_WHY = "scans lie the same way round, but for a tilted head"

#: A slice this much longer than wide is turned a little only, lest its ends leave the patch (nnU-Net's threshold).
LONG_SLICE = 1.5


@dataclass(frozen=True)
class Data:
    """What of a configuration decides its recipe.

    Attributes:
        device: ``cuda``, ``mps`` or ``cpu``.
        cases: number of cases.
        shape: median shape, voxels.
        patch: voxels; two or three axes.
        batch: patches a step.
        batch_dice: whether a patch sees too little of an image for a Dice of its own.
        mirror_axes: axes of the patch that may be mirrored.
        mirror_reason: why these.
        paced: whether a step of one patch was planned to take half the time of one of two.
    """

    device: str
    cases: int
    shape: Sequence[float]
    patch: Sequence[int]
    batch: int
    batch_dice: bool
    mirror_axes: Sequence[int]
    mirror_reason: str
    paced: bool = True


def optimizer(device: str, batch: int) -> tuple[Optimizer, Schedule, float]:
    """Optimizer, schedule and decay of the weights' moving average, each with its reason.

    Args:
        device: ``cuda``, ``mps`` or ``cpu``.
        batch: patches a step.
    """
    if device == "cpu":
        return (
            Optimizer(
                name="adamw",
                learning_rate=LONE_RATE if batch == 1 else CPU_RATE,
                weight_decay=0.01,
                reasons={"name": "few steps: AdamW gets further in the first thousands than SGD"},
            ),
            Schedule(name="cosine", warmup=0.05, reasons={"name": "ends at rate 0 with any budget, steps or time"}),
            0.995,
        )
    return (
        Optimizer(
            name="sgd",
            learning_rate=1e-2,
            weight_decay=3e-5,
            momentum=0.99,
            reasons={
                "name": "many steps: nnU-Net's SGD with Nesterov momentum, which generalises best when trained long"
            },
        ),
        Schedule(name="poly", warmup=0.0, power=0.9, reasons={"name": "nnU-Net's, made for its SGD"}),
        0.0,
    )


def recipe(data: Data) -> Recipe:
    """The recipe of a configuration, with reasons."""
    chosen, schedule, ema = optimizer(data.device, data.batch)
    total, why = steps(data)
    per_epoch = CPU_ITERATIONS_PER_EPOCH if data.device == "cpu" else ITERATIONS_PER_EPOCH
    augmentation = _augmentation(data)
    return Recipe(
        epochs=max(1, round(total / per_epoch)),
        iterations_per_epoch=per_epoch,
        loss=Loss(
            batch_dice=data.batch_dice,
            reasons={
                "batch_dice": "the batch counts as one image: a patch sees only a part of it"
                if data.batch_dice
                else "an image at a time: a patch sees most of it"
            },
        ),
        optimizer=chosen,
        schedule=schedule,
        augmentation=augmentation,
        sampling=sampling(data.batch),
        validation_batches=LONE_VALIDATION if data.batch == 1 else Recipe().validation_batches,
        ema_decay=ema,
        reasons={
            "epochs": why,
            "ema_decay": "averaged weights are better before the rate has fallen to 0"
            if ema
            else "the schedule ends at rate 0: an average would add nothing",
        },
    )


def sampling(batch: int) -> Sampling:
    """Where patches are: nnU-Net's share on foreground, and what that is with two patches where there is one."""
    if batch > 1:
        return Sampling()
    why = "one patch a step: as with two, of which one is centred on foreground"
    return Sampling(foreground_share=LONE_FOREGROUND, reasons={"foreground_share": why})


def steps(data: Data) -> tuple[int, str]:
    """Optimizer steps of a training from scratch, and why so many."""
    slices = data.shape[0] if len(data.patch) == 2 else 1
    image = data.shape[1:] if len(data.patch) == 2 else data.shape
    parts = slices * max(1.0, math.prod(image) / math.prod(data.patch))
    if data.device == "cpu":
        count = data.batch if data.paced else max(2, data.batch)
        fewest, most = cpu_steps(CPU_MIN_STEPS, count), cpu_steps(CPU_STEPS, count)
        visits, per_epoch = CPU_VISITS, CPU_ITERATIONS_PER_EPOCH
    else:
        visits, fewest, most, per_epoch = VISITS, MIN_STEPS, MAX_STEPS, ITERATIONS_PER_EPOCH
    wanted = visits * data.cases * parts / data.batch
    total = round(min(most, max(fewest, wanted)) / per_epoch) * per_epoch
    bound = "" if fewest < wanted < most else f", kept within {fewest} and {most}"
    return total, (
        f"{total} steps: {data.cases} cases of {parts:.1f} patches, each seen {visits} times in batches of "
        f"{data.batch}{bound}"
    )


def _augmentation(data: Data) -> Augmentation:
    size = data.patch
    flat = len(size) == 3 and max(size) > FLAT_PATCH * size[0]
    long = len(size) == 2 and max(size) / min(size) > LONG_SLICE
    chosen = Augmentation(mirror_axes=list(data.mirror_axes), reasons={"mirror_axes": data.mirror_reason})
    if flat:
        chosen.reasons["rotation_axes"] = f"a patch over {FLAT_PATCH:g} times as wide as deep is turned in its plane"
    if flat or len(size) == 2:
        chosen.rotation_axes = [0]
        chosen.rotation = 180.0
        chosen.reasons["rotation"] = "within the plane a patch may lie any way round"
    if len(data.mirror_axes) < len(size) and chosen.rotation > HALF_TURN:
        # Where mirroring is limited because scans lie the same way round, half a turn must not undo it.
        chosen.rotation = TILTED
        chosen.reasons["rotation"] = TILTED_WHY
    if long:
        chosen.rotation = 15.0
        chosen.reasons["rotation"] = "a long slice turned far would leave the patch"
    if data.device == "cpu":
        _soften(chosen)
    return chosen


def _soften(augmentation: Augmentation) -> None:
    """Augment about half as often as nnU-Net: a CPU's few steps end long before they could overfit."""
    why = "few steps: half of nnU-Net's"
    for name in ("blur_probability", "low_resolution_probability", "gamma_probability"):
        setattr(augmentation, name, CPU_AUGMENTATION[name])
        augmentation.reasons[name] = why
    augmentation.gamma_invert_probability = 0.0
    augmentation.reasons["gamma_invert_probability"] = "few steps: left out"
    if augmentation.rotation == 30.0:
        augmentation.rotation = 15.0
        augmentation.reasons["rotation"] = why


def inference(mirror_axes: Sequence[int], batch: int) -> Inference:
    """How to apply the network: nnU-Net's half-overlapping tiles and Gaussian weights; the flips of the training."""
    return Inference(
        mirror_axes=list(mirror_axes),
        tile_batch=min(batch, 8),
        reasons={"mirror_axes": "those that training mirrored: the others would show it what it never saw"},
    )
