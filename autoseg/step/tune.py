"""Which variant of a training step is fastest on the device at hand: measured, and the finding kept.

No rule by the name of a device holds (on one CPU bfloat16 halves the step, on another fp32 channels-last does, on one
GPU fp16 beats bf16), so the real step is run in each variant, for a small share of the training's length.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import torch

from autoseg.networks import build
from autoseg.step.findings import Findings, Timing
from autoseg.step.precision import emulates_bfloat16, gpu_has_bfloat16
from autoseg.step.setup import StepSetup
from autoseg.step.training_step import TrainingStep
from autoseg.step.variant import Variant, compile_error, runnable
from autoseg.utils.cpu_sharing import waits_asleep
from autoseg.utils.device import device_name, wait_for

#: Largest share of a training's length that measuring may take.
SHARE = 0.05

#: Where that share is fewer seconds than this, nothing is measured.
LEAST_SECONDS = 0.5

#: Rounds in which all variants are timed, with so many steps after one to warm up; a variant's fastest step counts.
#: Another job that disturbs one round then misleads no choice.
ROUNDS, TIMED_STEPS = 2, 2

#: The same for forward passes.
TIMED_PASSES = 2

#: A variant whose steps take so many times the fastest one's is timed no further; the first step, which warms up, may
#: take more.
HOPELESS, HOPELESS_FIRST = 1.2, 3.0

#: Seconds that must be left to try compiling a network: on CUDA (nnU-Net's takes 33 to 45 s on an H100, 16 cores), and
#: on a CPU, which compiles with the cores it computes on.
COMPILE_SECONDS = {"cuda": 40.0, "cpu": 120.0}

#: A fused optimizer on a CPU must save this share of the step to be taken: less is within the noise. CUDA graphs, which
#: keep the memory of a step for themselves, must save more.
FUSED_SAVES, GRAPHS_SAVE = 0.02, 0.05


@dataclass(frozen=True)
class Extent:
    """Length of a training: steps, or seconds; whichever is set."""

    steps: int = 0
    seconds: float = 0.0

    def in_seconds(self, step: float) -> float:
        """Seconds, with this duration of a step."""
        return self.seconds or self.steps * step

    def in_steps(self, step: float) -> float:
        """Steps, with this duration of one."""
        return self.seconds / step if self.seconds else self.steps


@dataclass(frozen=True)
class VariantChoice:
    """A variant, and the reason for it as a sentence for the log."""

    variant: Variant
    reason: str


def choose_variant(setup: StepSetup, device: torch.device, extent: Extent) -> VariantChoice:
    """The fastest variant of a step, among those that the recipe leaves open.

    What is known from before is used, and what an earlier training had no time for is measured, for at most
    :data:`SHARE` of the training's length, on a smaller batch where that is too short for the real one. A variant that
    fails (no compiler, no memory) is skipped. Random numbers are drawn from states of their own.

    Args:
        setup: of the step.
        device: to train on.
        extent: length of the training, by which compiling must pay.

    Raises:
        AutosegError: the recipe insists on compiling, which fails on this machine.
    """
    guess = runnable(Variant.untimed(setup.recipe, device), setup.recipe, device)
    open_ones = plain_variants(setup, device)
    compiles = setup.recipe.compile == "auto" and device.type in ("cpu", "cuda")
    if len(open_ones) == 1 and not compiles:
        return VariantChoice(guess, f"{guess}, as planned")
    findings = Findings.of(setup, device)
    tuner = _Tuner(setup, device, extent, dict(findings.timings))
    if not tuner.complete(open_ones):
        tuner.measure(open_ones)
    if compiles and tuner.works(open_ones):
        tuner.compile(open_ones)
    findings.keep(tuner.timings)
    if not tuner.works(open_ones):
        return VariantChoice(guess, f"{guess}: the training is too short to measure what is faster")
    best = tuner.best(open_ones, compiles)
    if best.compiled and best in findings.timings and compile_error(device):  # it was timed where there was a compiler
        tuner.timings = {variant: timing for variant, timing in tuner.timings.items() if not variant.compiled}
        best = tuner.best(open_ones, compiles=False)
    if setup.recipe.compile == "always":
        best = replace(best, compiled=True)
    return VariantChoice(best, tuner.describe(best, device))


def known_variant(setup: StepSetup, device: torch.device) -> Variant | None:
    """The fastest variant that is known from an earlier measurement, not compiled; None where there was none."""
    timings = Findings.of(setup, device).timings
    known = [variant for variant in plain_variants(setup, device) if variant in timings]
    return min(known, key=lambda variant: timings[variant].seconds) if known else None


def fastest_forward(setup: StepSetup, device: torch.device, passes: int) -> Variant:
    """The fastest variant of a network in predictions, not compiled; kept like that of a step.

    Args:
        setup: whose patch and batch are what the network is given at once.
        device: to compute on.
        passes: of the network, that are to come; measured only where they are many.
    """
    variants = plain_variants(setup, device)
    timings = dict(Findings.of(setup, device, "forward").timings)
    many = passes * SHARE >= (1 + TIMED_PASSES) * len(variants)
    if len(variants) > 1 and many and not all(variant in timings for variant in variants):
        for variant in variants:
            with _apart(device), suppress(Exception):
                timings[variant] = _forward_seconds(variant, setup, device)
        Findings.of(setup, device, "forward").keep(timings)
    known = [variant for variant in variants if variant in timings]
    return min(known, key=lambda variant: timings[variant].seconds) if known else variants[0]


@torch.inference_mode()
def _forward_seconds(variant: Variant, setup: StepSetup, device: torch.device) -> Timing:
    network = build(setup.network, setup.in_channels, setup.target.heads, False).to(device).eval()
    variant.prepare(network)
    image = variant.arrange(setup.batch(device, random=True).image)
    seconds = []
    for _ in range(1 + TIMED_PASSES):
        started = _seconds_so_far(device)
        with variant.casts(device):
            network(image)
        wait_for(device)
        seconds.append(_seconds_so_far(device) - started)
    return Timing(min(seconds[1:]), seconds[0])


def plain_variants(setup: StepSetup, device: torch.device) -> list[Variant]:
    """Precisions and memory formats that the recipe leaves open, not compiled; the guess first.

    Without bfloat16 on a CPU that has to emulate it.
    """
    recipe = setup.recipe
    guess = replace(Variant.untimed(recipe, device), compiled=False)
    dtypes, formats = [guess.dtype], [guess.channels_last]
    if recipe.precision == "auto" and device.type in ("cpu", "cuda"):
        emulated = device.type == "cpu" and emulates_bfloat16(setup.network.dimensions)
        dtypes = [torch.float32, *([] if emulated else [torch.bfloat16])]
        if device.type == "cuda":
            dtypes = [torch.float16, *([torch.bfloat16] if gpu_has_bfloat16(device) else []), torch.float32]
    if recipe.memory_format == "auto" and device.type in ("cpu", "cuda"):
        formats = [False, True]
    found = [Variant(dtype, channels_last) for dtype in dtypes for channels_last in formats]
    return sorted(found, key=lambda variant: variant != guess)


def timed_step(step: TrainingStep, setup: StepSetup, device: torch.device) -> float:
    """Seconds of one step on a random batch, until the device has finished."""
    batch = setup.batch(device, random=True)
    wait_for(device)
    started = _seconds_so_far(device)
    step(batch)
    wait_for(device)
    return _seconds_so_far(device) - started


def _seconds_so_far(device: torch.device) -> float:
    """A clock. On a CPU that is shared, the time in which this process computed, by its threads.

    There the seconds on the wall say how much of the CPU others happened to take during a step.
    """
    if device.type == "cpu" and waits_asleep():
        return time.process_time() / torch.get_num_threads()
    return time.perf_counter()


@dataclass
class _Tuner:
    """Measures variants of a step, as long as there is time; times are those of the whole batch."""

    setup: StepSetup
    device: torch.device
    extent: Extent
    timings: dict[Variant, Timing]
    spent: float = 0.0
    limit: float = math.inf

    def complete(self, variants: Sequence[Variant]) -> bool:
        """Whether all of these are known, and the fastest one's :meth:`further`; one that failed counts as unknown."""
        known = all(variant in self.timings for variant in variants)
        return known and self.further(self.best(variants, compiles=False)) in self.timings

    def further(self, best: Variant) -> Variant:
        """What may save more, and is only timed of the fastest: CUDA graphs, on a CPU a fused optimizer."""
        return replace(best, fused=True) if self.device.type == "cpu" else replace(best, graphs=True)

    def measure(self, variants: Sequence[Variant]) -> None:
        """Time those of the variants that are not known yet, then what may save more of the fastest.

        None are timed where the training is too short for it.
        """
        # A CPU's step can take a minute: first a smaller one says how long.
        small = self.setup if self.device.type == "cuda" else self.setup.reduced()
        if self.extent.seconds:
            if SHARE * self.extent.seconds < LEAST_SECONDS:
                return
            self.limit = SHARE * self.extent.seconds / (1 + len(variants))
        first, missing = variants[0], [variant for variant in variants if variant not in self.timings]
        with _apart(self.device), suppress(Exception):
            _step_of(first, small, self.device)  # a process's first one imports for a second or two, in any training
        if first in missing and not self._time(first, small):
            missing.remove(first)
            if not missing or not self._time(missing[0], small):
                return
            first = missing[0]
        if self.device.type == "cuda":
            self.spent = 0.0  # most of it loads CUDA's libraries, for which the training's first step would wait anyway
        step = self.timings[first].seconds
        if self._allowed(step) < LEAST_SECONDS:
            if first in missing:
                del self.timings[first]
            return
        self.limit = self._left(step) / len(variants)
        whole = step * (1 + TIMED_STEPS) * ROUNDS * max(1, len(missing)) <= self._left(step)
        shape = self.setup if whole else small
        if shape != small and first in missing:
            self.timings.pop(first, None)  # which only told what the whole step takes
        for number in range(ROUNDS):
            for variant in missing:
                known = variant in self.timings
                if (known if number == 0 else not known) or self._left(step) <= 0:
                    continue
                self._time(variant, shape)
        if not self.works(variants):
            return
        best = self.best(variants, compiles=False)
        further = self.further(best)
        if further in self.timings:
            return
        if self.device.type == "cpu" and best not in missing and self._left(step) > 0:
            # An earlier training may have timed it on a smaller batch, of whose step the optimizer takes more.
            before = self.timings[best]
            self._time(best, shape)
            self.timings.setdefault(best, before)
        if self._left(step) > 0:
            self._time(further, shape)

    def compile(self, variants: Sequence[Variant]) -> None:
        """Time the fastest precision of some variants compiled, where the time suffices and compiling could pay."""
        plain = [one for one in variants if one in self.timings]
        best = self.best(plain, compiles=False)
        step = self.timings[best].seconds
        # Compiling fuses what channels-last is slow at, so on a GPU the other format may win.
        both = self.device.type == "cuda" and self.setup.recipe.memory_format == "auto"
        formats = (best.channels_last, not best.channels_last) if both else (best.channels_last,)
        needed = COMPILE_SECONDS[self.device.type]
        tried = [replace(best, channels_last=last, compiled=True) for last in formats]
        whole = self.device.type == "cuda" or 20 * step <= self._left(step) - needed
        for variant in tried:
            if variant not in self.timings and self._left(step) >= needed:
                self._time(variant, self.setup if whole else self.setup.reduced())

    def works(self, variants: Sequence[Variant]) -> bool:
        """Whether one of these could be timed."""
        return any(variant in self.timings for variant in variants)

    def best(self, variants: Sequence[Variant], compiles: bool) -> Variant:
        """The fastest over the whole training; compiled ones with the seconds that compiling takes."""
        timed = [variant for variant in variants if variant in self.timings]
        best = min(timed, key=lambda variant: self.timings[variant].seconds)
        seconds = self.timings[best].seconds
        for further, saves in ((replace(best, fused=True), FUSED_SAVES), (replace(best, graphs=True), GRAPHS_SAVE)):
            if further in self.timings and self.timings[further].seconds < (1 - saves) * seconds:
                best, seconds = further, self.timings[further].seconds
        if not compiles:
            return best
        steps = self.extent.in_steps(seconds)
        costs = {best: steps * seconds}
        open_ones = {(one.dtype, one.channels_last) for one in timed}
        for variant, timing in self.timings.items():
            if variant.compiled and (variant.dtype, variant.channels_last) in open_ones:
                costs[variant] = timing.first + steps * timing.seconds
        return min(costs, key=lambda variant: costs[variant])

    def describe(self, best: Variant, device: torch.device) -> str:
        """The choice and what it was chosen from, as a sentence."""
        others = sorted((timing.seconds, str(variant)) for variant, timing in self.timings.items() if variant != best)
        seconds = self.timings[best].seconds if best in self.timings else math.nan
        listed = "".join(f", {name} {_said(value)}" for value, name in others)
        known = f"the fastest measured{listed}" if others else "all that there was time to measure"
        return (
            f"{best}: {_said(seconds)} a step on {device_name(device)}, {known}; the trained weights depend on this "
            "choice to within rounding"
        )

    def _allowed(self, step: float) -> float:
        return SHARE * self.extent.in_seconds(step)

    def _left(self, step: float) -> float:
        return self._allowed(step) - self.spent

    def _time(self, variant: Variant, setup: StepSetup) -> bool:
        """Time a variant, once more where it was timed before; whether it works."""
        started = time.perf_counter()
        scale = self.setup.voxels / setup.voxels
        before = self.timings.pop(variant, None)
        fastest = min((timing.seconds for timing in self.timings.values()), default=math.inf) / scale
        try:
            with _apart(self.device):
                first, seconds = _seconds(variant, setup, self.device, fastest, self.limit)
        except Exception:  # a compiler, a driver or memory that is absent shows itself in many kinds of exception
            return False
        finally:
            if variant.compiled:
                torch.compiler.reset()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.spent += time.perf_counter() - started
        seconds *= scale
        self.timings[variant] = Timing(seconds, first) if before is None or seconds < before.seconds else before
        return True


def _seconds(
    variant: Variant, setup: StepSetup, device: torch.device, fastest: float, limit: float
) -> tuple[float, float]:
    """Seconds of the first step, and the least of further ones, as long as all take less than ``limit``."""
    step = _step_of(variant, setup, device)
    rehearsed = _rehearsal_seconds(step, setup, device) if variant.graphs else 0.0
    first = rehearsed + timed_step(step, setup, device)
    prepares = variant.compiled or variant.graphs
    if not prepares and first > HOPELESS_FIRST * fastest:
        return first, first
    best, spent = math.inf, 0.0 if prepares else first
    for _ in range(TIMED_STEPS):
        seconds = timed_step(step, setup, device)
        best, spent = min(best, seconds), spent + seconds
        if best > HOPELESS * fastest or spent > limit:
            break
    return first, best


def _rehearsal_seconds(step: TrainingStep, setup: StepSetup, device: torch.device) -> float:
    """Seconds of computing the gradients without a graph, which raises a RuntimeError where they wait for the device.

    Waiting, as for the value of a loss term, would fail a recording, after which torch thinks for the rest of the
    process that it still records, and keeps the memory of other streams. The check counts for the whole process: here
    no other thread uses the device.
    """
    batch = setup.batch(device, random=True)
    started = _seconds_so_far(device)
    step.gradients(batch)  # the first time, libraries may wait while they load
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step.gradients(batch)
    finally:
        torch.cuda.set_sync_debug_mode(before)
    wait_for(device)
    return _seconds_so_far(device) - started


def _step_of(variant: Variant, setup: StepSetup, device: torch.device) -> TrainingStep:
    network = build(setup.network, setup.in_channels, setup.target.heads).to(device)
    return TrainingStep(network, setup.recipe, setup.target, variant)


@contextmanager
def _apart(device: torch.device) -> Iterator[None]:
    """Random states of its own, and no search for convolutions, which takes longer than the steps."""
    before = torch.backends.cudnn.benchmark
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        torch.backends.cudnn.benchmark = False
        try:
            yield
        finally:
            torch.backends.cudnn.benchmark = before


def _said(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
