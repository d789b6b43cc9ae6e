"""A training's own loop beside its step alone: what reading, resampling and augmentation, and waiting, add.

    python benchmarks/training_loop.py RUN [--config 3d_fullres] [--variants fp16 fp16-last-compiled] [--device auto]
        [--iterations 100] [--rounds 3]

RUN is a planned run; it is preprocessed, and nothing of it is trained or changed. A variant is a precision, followed
by ``last`` (channels-last), ``compiled``, ``graphs`` (CUDA graphs) and ``fused`` as wanted, joined by hyphens; without
``--variants`` the one that a training would choose. In each round both are timed in turn: the step on a batch that lies
on the device, and the loop of a training, with real batches; the device is waited for after all iterations of a round.
Printed are milliseconds an iteration (median over the rounds, smallest and largest), their ratio, and for a GPU the
share of time in which it ran a kernel, as nvidia-smi samples it. For two cores: ``taskset -c 0,1 python …``.
"""

import argparse
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
from machine import describe

import autoseg
from autoseg.crossvalidation.cascades import stage_cases
from autoseg.networks import build
from autoseg.plans.stage import Stage
from autoseg.runs.run import Run
from autoseg.step.setup import StepSetup
from autoseg.step.training_step import TrainingStep
from autoseg.step.tune import Extent, choose_variant
from autoseg.step.variant import Variant
from autoseg.training.training import Budget, Cases, Training, TrainingSettings
from autoseg.utils.device import keep_large_blocks, select_device, wait_for
from autoseg.utils.parallel import available_cpus

#: Iterations before the first round.
WARM_UP = 10

#: Steps of the training whose variant is chosen where none is named: nnU-Net's length.
USUAL_STEPS = 250_000


def variant_of(name: str) -> Variant:
    """``fp16-last-compiled`` as a variant."""
    precision, *words = name.split("-")
    known = {"last": "channels_last", "compiled": "compiled", "graphs": "graphs", "fused": "fused"}
    if unknown := set(words) - set(known):
        raise SystemExit(f"--variants {name}: unknown {', '.join(sorted(unknown))}; known are {', '.join(known)}.")
    return Variant.from_json({"dtype": precision, **{known[word]: True for word in words}})


class Busy:
    """Share of time in which the GPU ran a kernel; None without one."""

    def __init__(self, device: torch.device) -> None:
        query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
        self._watch = subprocess.Popen(query, stdout=subprocess.PIPE, text=True) if device.type == "cuda" else None

    def share(self) -> float | None:
        """Ends the watch."""
        if self._watch is None:
            return None
        self._watch.terminate()
        found = [int(word) for word in self._watch.communicate()[0].split() if word.isdigit()]
        return statistics.mean(found) / 100 if found else None


def timed(iterations: int, once: Callable[[], object], device: torch.device) -> float:
    """Milliseconds an iteration."""
    started = time.perf_counter()
    for _ in range(iterations):
        once()
    wait_for(device)
    return 1000 * (time.perf_counter() - started) / iterations


def row(run: Run, stage: Stage, variant: Variant, device: torch.device, options: argparse.Namespace) -> str:
    """A row of the table."""
    setup = StepSetup.of(stage)
    network = build(stage.network, stage.in_channels, stage.heads).to(device).train()
    step = TrainingStep(network, stage.recipe, setup.target, variant)
    batch = setup.batch(device, random=True)
    fold = run.fold(stage, 0)
    cases = Cases(stage_cases(run, stage, fold.training_cases))
    settings = TrainingSettings(device, resume=False, variant=variant)
    alone: list[float] = []
    loop: list[float] = []
    with Training(fold, cases, Budget(iterations=10**9), settings, []) as training:

        def iteration() -> None:
            training.set_rate()
            training.count(training.step(training.next_batch()))

        warm_up = min(WARM_UP, options.iterations)
        timed(warm_up, lambda: step(batch), device)
        timed(warm_up, iteration, device)
        shares = []
        for _ in range(options.rounds):
            alone.append(timed(options.iterations, lambda: step(batch), device))
            busy = Busy(device)
            loop.append(timed(options.iterations, iteration, device))
            shares.append(busy.share())
        places = str(training.cache)
    known = [share for share in shares if share is not None]
    cells = [f"{statistics.median(found):.1f} ({min(found):.1f}–{max(found):.1f})" for found in (alone, loop)]
    ratio = f"{statistics.median(loop) / statistics.median(alone):.2f}"
    return " | ".join([str(variant), *cells, ratio, f"{100 * statistics.mean(known):.0f} %" if known else "", places])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--config", default="3d_fullres")
    parser.add_argument("--variants", nargs="+")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    device = select_device(options.device)
    if device.type == "cpu":
        keep_large_blocks()
        torch.set_num_threads(available_cpus())
    run = Run.open(options.run)
    stage = run.plan.stage(options.config)
    autoseg.preprocess(run, options.config)
    if options.variants:
        variants = [variant_of(name) for name in options.variants]
    else:
        variants = [choose_variant(StepSetup.of(stage), device, Extent(steps=USUAL_STEPS)).variant]
    sizes = "×".join(map(str, (stage.configuration.batch_size, stage.in_channels, *stage.configuration.patch_size)))
    print(f"{describe()}\n{run.plan.dataset}, {sizes}, {available_cpus()} cores\n")
    print("| variant | step alone, ms | in the loop, ms | ratio | GPU busy | cases lie in |")
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    for variant in variants:
        print(f"| {row(run, stage, variant, device, options)} |", flush=True)


if __name__ == "__main__":
    main()
