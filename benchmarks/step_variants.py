"""The training step alone, without data, in each variant of the device: precision, memory format, compiled or not.

    python benchmarks/step_variants.py [--case hippocampus|brats | --run RUN [--config 3d_fullres]] [--device auto]
        [--variants all|plain] [--precisions fp16 bf16] [--width 32] [--batch 9] [--seconds 10] [--json]

The cases are nnU-Net's plans: hippocampus 9×1×40×56×40 with 4 stages, BraTS 2021 2×4×128³ with 6. ``--run`` takes the
recommended configuration of a planned run, or ``--config``. On a CPU variants take turns: each is warmed up, then all
run one step after another, round by round, so that a machine whose speed drifts treats them alike. On a GPU, whose
memory would not hold all, each is timed to its end and gives its memory back. Convolutions are chosen as in a training,
by cuDNN's rules. Printed are the median, the smallest and the largest of the rounds, the seconds until the third step
(compilation), and on a GPU the largest memory of the first steps, without what was taken before. ``--variants plain``
leaves out the compiled ones, of which each takes up to a minute; ``--precisions`` names those to time. ``--json``
prints one line more: the medians in seconds.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from machine import describe

from autoseg.networks import build
from autoseg.plans.families import UNet
from autoseg.plans.recipe import Recipe
from autoseg.runs.run import Run
from autoseg.step.setup import StepSetup, stand_in
from autoseg.step.training_step import TrainingStep
from autoseg.step.variant import Variant
from autoseg.utils.device import free_device_memory, keep_large_blocks, select_device, wait_for
from autoseg.utils.parallel import available_cpus

_T = TypeVar("_T")

#: Batch, channels, heads, kind of the target, patch, stages.
CASES: dict[str, tuple[int, int, int, str, tuple[int, int, int], int]] = {
    "hippocampus": (9, 1, 3, "labels", (40, 56, 40), 4),
    "brats": (2, 4, 3, "regions", (128, 128, 128), 6),
}

#: Steps before a variant counts as warm, and rounds that are timed at most.
WARM_UP, ROUNDS = 5, 15


def case_setup(name: str, width: int) -> StepSetup:
    """A step of nnU-Net's plan."""
    batch, channels, heads, kind, patch, stages = CASES[name]
    network = UNet(
        features=[min(width * 2**stage, 320) for stage in range(stages)],
        strides=[[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
        kernel_sizes=[[3, 3, 3]] * stages,
        encoder_blocks=[2] * stages,
        decoder_convs=[2] * (stages - 1),
    )
    return StepSetup(network, channels, stand_in(kind, heads), patch, batch, Recipe())


def variants(device: torch.device, compiled: bool, precisions: Sequence[str]) -> Iterator[Variant]:
    """All variants of a device in some precisions: CUDA graphs only on a GPU, where the optimizer is always fused."""
    cuda = device.type == "cuda"
    for precision in precisions:
        for channels_last in (False, True):
            plain = replace(Variant.from_json({"dtype": precision}), channels_last=channels_last)
            yield plain
            if cuda:
                yield replace(plain, graphs=True)
            if not cuda and not channels_last:
                yield replace(plain, fused=True)
            if compiled:
                yield replace(plain, compiled=True)
                if cuda:
                    yield replace(plain, compiled=True, graphs=True)


@dataclass
class Timed:
    """What a variant's step took.

    Attributes:
        start: seconds of the first three steps.
        memory: largest, in bytes, on a GPU; the variant's own.
        seconds: of the timed steps.
    """

    start: float
    memory: int
    seconds: list[float] = field(default_factory=list)


def prepared(setup: StepSetup, variant: Variant, device: torch.device) -> tuple[Callable[[], float], Timed]:
    """Build and warm up a variant's step; a function that gives the seconds of one, and what it took so far."""
    held = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    torch.manual_seed(0)
    network = build(setup.network, setup.in_channels, setup.target.heads).to(device)
    network.train()
    step = TrainingStep(network, setup.recipe, setup.target, variant)
    batch = setup.batch(device, random=True)

    def run() -> float:
        started = time.perf_counter()
        step(batch)
        wait_for(device)
        return time.perf_counter() - started

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    start = sum(run() for _ in range(3))
    for _ in range((WARM_UP if device.type == "cuda" else 3) - 3):
        run()
    return run, Timed(start, torch.cuda.max_memory_allocated(device) - held if device.type == "cuda" else 0)


def attempted(name: str, do: Callable[[], _T]) -> _T | None:
    """What a variant's function gives; None where it fails, which is a finding, too, and printed with its reason."""
    try:
        return do()
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        print(f"{name} failed: {type(error).__name__}: {lines[0][:200]}", file=sys.stderr, flush=True)
        return None


def in_turn(setup: StepSetup, chosen: Sequence[Variant], device: torch.device, seconds: float) -> dict[str, Timed]:
    """Time variants round by round, for about so many seconds each; one that fails is left out."""
    steps: dict[str, Callable[[], float]] = {}
    found: dict[str, Timed] = {}
    for variant in chosen:
        ready = attempted(str(variant), partial(prepared, setup, variant, device))
        if ready is not None:
            steps[str(variant)], found[str(variant)] = ready
    spent = 0.0
    for number in range(ROUNDS):
        if number >= 3 and spent > seconds * len(found):
            break
        for name in list(found):
            taken = attempted(name, steps[name])
            if taken is None:
                del found[name], steps[name]
                continue
            found[name].seconds.append(taken)
            spent += taken
    return found


def measure(setup: StepSetup, chosen: Sequence[Variant], device: torch.device, seconds: float) -> dict[str, Timed]:
    """Time variants: all in turn on a CPU, one after the other on a GPU, which then has the memory of one alone."""
    found: dict[str, Timed] = {}
    for group in [[variant] for variant in chosen] if device.type == "cuda" else [chosen]:
        found |= in_turn(setup, group, device, seconds)
        torch.compiler.reset()
        free_device_memory()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, default="hippocampus")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--config")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--variants", choices=["all", "plain"], default="all")
    parser.add_argument("--precisions", nargs="+", choices=["fp16", "bf16", "fp32"], help="all by default")
    parser.add_argument("--width", type=int, default=32, help="of the first stage of a case's network")
    parser.add_argument("--batch", type=int, help="in place of the case's or the run's")
    parser.add_argument("--seconds", type=float, default=10.0, help="of timing a variant, about")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    device = select_device(options.device)
    if device.type == "cpu":
        keep_large_blocks()
        torch.set_num_threads(available_cpus())
    if options.run is None:
        setup, name = case_setup(options.case, options.width), options.case
    else:
        stage = Run.open(options.run).plan.stage(options.config)
        setup, name = StepSetup.of(stage), f"{options.run.name}, {stage.name}"
    setup = setup.at(setup.patch_size, options.batch or setup.batch_size)
    sizes = "×".join(map(str, (setup.batch_size, setup.in_channels, *setup.patch_size)))
    print(f"{describe()}\n{name}, {sizes}", file=sys.stderr if options.json else sys.stdout, flush=True)
    precisions = options.precisions or (["fp16"] if device.type == "cuda" else []) + ["bf16", "fp32"]
    chosen = list(variants(device, options.variants == "all", precisions))
    found = measure(setup, chosen, device, options.seconds)
    middle = {name: statistics.median(timed.seconds) for name, timed in found.items()}
    best = min(middle.values(), default=0.0)
    print("\n| variant | ms | smallest–largest | of the fastest | first three steps, s | memory, GB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, timed in sorted(found.items(), key=lambda item: middle[item[0]]):
        low, high = 1000 * min(timed.seconds), 1000 * max(timed.seconds)
        memory = f"{timed.memory / 1e9:.2f}" if timed.memory else "–"
        row = [name, f"{1000 * middle[name]:.1f}", f"{low:.1f}–{high:.1f}", f"{middle[name] / best:.2f}"]
        print(f"| {' | '.join([*row, f'{timed.start:.1f}', memory])} |")
    if options.json:
        print(json.dumps(middle))


if __name__ == "__main__":
    main()
