"""Patch and batch of a published system, or of a source, made smaller until a step fits memory and time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autoseg.planning.memory import step_memory
from autoseg.plans.architecture import Network
from autoseg.plans.configuration import Memory
from autoseg.plans.recipe import Recipe
from autoseg.step.setup import StepSetup
from autoseg.utils.errors import AutosegError
from planners.rules.budget import precision
from planners.rules.compute import SYSTEM_STEP_SECONDS, time_step
from planners.rules.task import StageTask

#: Patches a step below which a patch is made smaller instead.
_LEAST_BATCH = 2


@dataclass(frozen=True)
class Wanted:
    """Patch and batch to start from, and how a patch may shrink.

    Attributes:
        patch: voxels.
        batch: patches a step.
        unit: steps in which an axis shrinks; the network's divisor where None.
        least: smallest patch; one unit an axis where None.
        whole: keep the patch as large as the image where it could be smaller: the batch then shrinks to 1 first.
        origin: whose patch and batch these are, for the reasons.
        batch_origin: whose batch it is, where that is not the patch's.
    """

    patch: Sequence[int]
    batch: int
    unit: Sequence[int] | None = None
    least: Sequence[int] | None = None
    whole: bool = False
    origin: str = "the paper's"
    batch_origin: str = ""


@dataclass(frozen=True)
class Size:
    """Patch and batch, and why these."""

    patch: list[int]
    batch: int
    memory: Memory
    patch_reason: str
    batch_reason: str


def fit(stage: StageTask, network: Network, recipe: Recipe, wanted: Wanted) -> Size:
    """The patch and batch that are wanted, made smaller until a step fits the memory and, on a CPU, the time.

    The batch shrinks first, down to :data:`_LEAST_BATCH`, then the longest axis of the patch, at last the batch to 1.
    A patch need not exceed the images' median shape.

    Args:
        stage: the data and the budget.
        network: topology.
        recipe: its optimizer, loss and average take memory, too.
        wanted: patch and batch to start from.

    Raises:
        AutosegError: not even the smallest patch fits.
    """
    task, target = stage.task, stage.target
    step = list(wanted.unit or network.divisor)
    floor = list(wanted.least or step)
    image = [math.ceil(side) for side in stage.shape][-len(wanted.patch) :]
    size = []
    for side, n, s, low in zip(wanted.patch, image, step, floor, strict=True):
        enough = low + math.ceil(max(0, n - low) / s) * s
        size.append(max(low, min(side, enough)))
    count = wanted.batch
    seconds_allowed = SYSTEM_STEP_SECONDS if task.cpu else math.inf

    def memory_of(size: Sequence[int], count: int) -> Memory:
        setup = StepSetup(network, stage.in_channels, target, size, count, recipe)
        return step_memory(setup, precision(task.request.device), task.request.device)

    smallest_batch = 1 if wanted.whole else _LEAST_BATCH
    while True:
        seconds = time_step(network, stage.in_channels, target.heads, size, count) if task.cpu else 0.0
        axes = [
            axis
            for axis in range(len(size))
            if size[axis] - step[axis] >= floor[axis] and network.fits(_cut(size, axis, step[axis])) is None
        ]
        excess = seconds / seconds_allowed
        if excess <= 1 or not (axes or count > 1):  # what is too slow anyway need not be walked through
            memory = memory_of(size, count)
            excess = max(excess, memory.total / task.budget)
            if excess <= 1:
                break
        if count > smallest_batch:
            count = max(smallest_batch, min(count - 1, int(count / excess)))
        elif axes:
            longest = max(axes, key=lambda axis: size[axis] / floor[axis])
            size[longest] -= step[longest]
        elif count > 1:
            count = 1
        elif memory.total > task.budget:
            raise AutosegError(
                f"the smallest patch of {network.family} needs {memory.total / 1e9:.2f} GB and the budget is "
                f"{task.budget / 1e9:.2f} GB; give more with --gpu-memory."
            )
        else:  # slow, but nothing smaller exists
            break
    means = f"{task.budget / 1e9:.2f} GB" + (f" and {SYSTEM_STEP_SECONDS:g} s a step" if task.cpu else "")
    covers = all(side >= n for side, n in zip(size, image, strict=True))
    if list(size) == list(wanted.patch):
        patch_reason = wanted.origin
    elif covers:
        patch_reason = "covers the median image, which is no larger"
    else:
        fits = (
            f"the images and {means}" if any(n < side for n, side in zip(image, wanted.patch, strict=True)) else means
        )
        patch_reason = f"{wanted.origin} ({'×'.join(map(str, wanted.patch))}), made smaller to fit {fits}"
    source = wanted.batch_origin or wanted.origin
    batch_reason = source if count == wanted.batch else f"{source} ({wanted.batch}), made smaller to fit {means}"
    return Size(size, count, memory, patch_reason, batch_reason)


def _cut(size: Sequence[int], axis: int, voxels: int) -> list[int]:
    """A size that is so many voxels shorter along an axis."""
    return [n - voxels * (at == axis) for at, n in enumerate(size)]
