"""Where there is no GPU, compute is the budget: a network narrow enough to be trained in a few hours.

Every number of that rule stands here.
"""

import math
import time
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from pydantic import TypeAdapter

from autoseg.networks import build
from autoseg.plans.architecture import Network
from autoseg.plans.families import UNet
from autoseg.plans.recipe import Optimizer, Recipe
from autoseg.step.setup import StepSetup, stand_in
from autoseg.step.training_step import TrainingStep
from autoseg.step.tune import HOPELESS_FIRST, plain_variants
from autoseg.step.variant import Variant
from autoseg.utils.device import keep_large_blocks
from autoseg.utils.parallel import available_cpus

#: Hours that a default training (of one fold) may take on a CPU, and the steps of two patches or more that it should
#: make in them (:func:`cpu_steps`): 24,000 steps of two see each of 160 cases 300 times.
CPU_HOURS = 2.0
CPU_STEPS = 24_000

#: Seconds that a step of a published system may take on a CPU. Its width is part of what it is; so patch and batch
#: shrink instead, to where some hundred steps take minutes.
SYSTEM_STEP_SECONDS = 0.6

#: Widths (channels of the first stage) that are tried, the narrowest first; it is taken if none is fast enough.
WIDTHS = (8, 12, 16, 24, 32)

#: A width that takes this many times what it may ends the trial. A wider one can be a little faster than a narrower one
#: (kernels work on blocks of 16 channels), but not by so much.
TOO_SLOW = 1.5

#: Voxels of a patch on a CPU, at most (about 64³), and of a batch of slices: a step's time is proportional to them, and
#: more, smaller steps learn faster than fewer, larger ones.
CPU_PATCH_VOXELS = 64**3
CPU_BATCH_VOXELS = 360_000

#: Bounds of the batch size on a CPU, for volumes and for slices. One volume learns faster than two where time is short,
#: and as far where there is more: on hippocampus (fold 1, one run each) 75 s reached a Dice of 0.837 with one and 0.820
#: with two, 10 minutes 0.882 with either. To repeat: ``benchmarks/time_budget.py --fold 1 --max-time 75s 10m``, without
#: and with ``--set batch_size=2 --set recipe.optimizer.learning_rate=0.004``. Where the Dice is taken over a batch, as
#: patches see only a part of an image, it is two: without the structure in one of them there would be nothing to learn.
CPU_BATCH = {3: (1, 1), 2: (4, 16)}

#: Repetitions of the timed step after one to warm up; the fastest counts (others were disturbed).
REPETITIONS = 2

#: Share of a step that does not get faster with more cores (Amdahl's law).
SERIAL = 0.05

_CPU = torch.device("cpu")

#: Family and axes of a network → the fastest variant on this machine, once it was timed.
_fastest: dict[tuple[str, int], Variant] = {}


def cpu_steps(steps: int, batch: int) -> int:
    """Steps on a CPU in place of so many of two patches or more: of one, which takes half the time, twice as many."""
    return 2 * steps if batch == 1 else steps


def step_seconds(batch: int, hours: float = CPU_HOURS) -> float:
    """Seconds a step of so many patches may take in a training of so many hours."""
    return hours * 3600 / cpu_steps(CPU_STEPS, batch)


def cpu_batch(dimensions: int, patch_voxels: int, limit: int, batch_dice: bool) -> int:
    """Patches a step on a CPU.

    Args:
        dimensions: axes of a patch.
        patch_voxels: of a patch.
        limit: patches a step at most, for a dataset of this size.
        batch_dice: whether the batch counts as one image.
    """
    low, high = (max(bound, 1 + batch_dice) for bound in CPU_BATCH[dimensions])
    return max(1, min(max(low, min(high, CPU_BATCH_VOXELS // patch_voxels)), limit))


def choose_width(
    make: Callable[[int], UNet], in_channels: int, heads: int, patch: Sequence[int], batch: int, hours: float
) -> tuple[int, float, str]:
    """The widest network whose step is fast enough on this machine.

    Args:
        make: width → network.
        in_channels: of the image.
        heads: of the result.
        patch: voxels.
        batch: patches a step.
        hours: that the training of a fold has.

    Returns:
        The width, its seconds a step and the reason in words.
    """
    allowed, steps = step_seconds(batch, hours), cpu_steps(CPU_STEPS, batch)
    tried: dict[int, float] = {}
    # From the narrowest on: to time what is far too wide takes longer than all the rest of planning.
    for width in WIDTHS:
        tried[width] = time_step(make(width), in_channels, heads, patch, batch)
        if tried[width] > TOO_SLOW * allowed:
            break
    width = max((width for width, seconds in tried.items() if seconds <= allowed), default=WIDTHS[0])
    seconds = tried[width]
    verdict = "the widest that makes" if seconds <= allowed else "the narrowest there is; too slow for"
    return (
        width,
        seconds,
        f"{width} channels in the first stage: {verdict} {steps} steps in {hours:.3g} h on this CPU "
        f"({seconds:.3g} s a step, {allowed:.3g} s affordable)",
    )


def time_step(network: Network, in_channels: int, heads: int, patch: Sequence[int], batch: int) -> float:
    """Seconds of one training step on all of this machine's cores, measured on a small batch and scaled."""
    recipe = Recipe(optimizer=Optimizer(), ema_decay=0)
    setup = StepSetup(network, in_channels, stand_in("regions", heads), patch, batch, recipe)
    small = setup.reduced()
    key = network.model_dump_json(exclude={"reasons"})
    seconds = _timed(key, in_channels, heads, tuple(small.patch_size), small.batch_size)
    return seconds * setup.voxels / small.voxels


@lru_cache(maxsize=64)
def _timed(network: str, in_channels: int, heads: int, patch: tuple[int, ...], samples: int) -> float:
    keep_large_blocks()
    recipe = Recipe(optimizer=Optimizer(), ema_decay=0)
    described: Network = TypeAdapter(Network).validate_json(network)
    setup = StepSetup(described, in_channels, stand_in("regions", heads), patch, samples, recipe)
    cores = available_cpus()
    threads = torch.get_num_threads()
    # Processor time of one thread, not time on the clock: a plan should not depend on what else is running.
    torch.set_num_threads(1)
    try:
        seconds = _processor_seconds(setup)
    finally:
        torch.set_num_threads(threads)
    return seconds * (SERIAL + (1 - SERIAL) / cores)


def _processor_seconds(setup: StepSetup) -> float:
    """Of the fastest variant of a step; of each family all variants are timed once, then only the fastest."""
    family = (setup.network.family, setup.network.dimensions)
    variants = [_fastest[family]] if family in _fastest else plain_variants(setup, _CPU)
    timings: dict[Variant, float] = {}
    for variant in variants:
        timings[variant] = _seconds_in(variant, setup, min(timings.values(), default=math.inf))
    best = min(timings, key=lambda variant: timings[variant])
    _fastest[family] = best
    return timings[best]


def _seconds_in(variant: Variant, setup: StepSetup, fastest: float) -> float:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = build(setup.network, setup.in_channels, setup.target.heads)
        step = TrainingStep(module, setup.recipe, setup.target, variant)
        batch = setup.batch(_CPU, random=True)
    best = math.inf
    for repetition in range(1 + REPETITIONS):
        started = time.thread_time()
        step(batch)
        seconds = time.thread_time() - started
        if repetition:
            best = min(best, seconds)
        elif seconds > HOPELESS_FIRST * fastest:
            return seconds
    return best
