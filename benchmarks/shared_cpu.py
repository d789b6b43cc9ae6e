"""What waiting costs a training step that shares its CPU with other jobs.

    python benchmarks/shared_cpu.py [--seconds 8] [--others-spin]

One step (U-Net of width 8, four channels, batch of two 64³ patches) in a process of its own, alone and beside two
others like it, each with a thread a core: with OpenMP threads that spin while they wait (the default), that wait
passively, and that spin shortly. Prints seconds a step (median), and the slowdown as a multiple of the fair share's
time (three times that of the job alone). With ``--others-spin`` the two others wait as torch does by default, whatever
the one that is timed does: nobody can choose how the jobs of others wait.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

from autoseg.utils.cpu_sharing import ASLEEP

MODES = {
    "spinning (the default)": {},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "passive, spin of 1,000 (autoseg's)": ASLEEP,
    "spin of 1,000": {"GOMP_SPINCOUNT": "1000"},
    "spin of 10,000": {"GOMP_SPINCOUNT": "10000"},
}

#: Variants of the step: precision and memory format.
VARIANTS = ("contiguous", "channels_last")


def step(memory_format: str, seconds: float) -> float:
    """Median seconds of the steps made in so many seconds, after one to warm up; without end where they are 0."""
    import torch

    from autoseg.networks import build
    from autoseg.plans.families import UNet
    from autoseg.plans.recipe import Recipe
    from autoseg.step.setup import StepSetup, stand_in
    from autoseg.step.training_step import TrainingStep
    from autoseg.step.variant import Variant
    from autoseg.utils.device import keep_large_blocks
    from autoseg.utils.parallel import available_cpus

    keep_large_blocks()
    torch.set_num_threads(available_cpus())
    torch.manual_seed(0)
    network = UNet(
        features=[8, 16, 32, 64, 128],
        strides=[[1, 1, 1]] + [[2, 2, 2]] * 4,
        kernel_sizes=[[3, 3, 3]] * 5,
        encoder_blocks=[2] * 5,
        decoder_convs=[2] * 4,
    )
    setup = StepSetup(network, 4, stand_in("regions", 3), (64, 64, 64), 2, Recipe())
    made = build(network, 4, setup.target.heads)
    train = TrainingStep(made, setup.recipe, setup.target, Variant(channels_last=memory_format == "channels_last"))
    batch = setup.batch("cpu", random=True)
    train(batch)
    print("ready", flush=True)
    taken: list[float] = []
    while not seconds or sum(taken) < seconds:
        started = time.perf_counter()
        train(batch)
        taken = [*taken[-1000:], time.perf_counter() - started]
    return statistics.median(taken)


def start(memory_format: str, seconds: float, mode: dict[str, str]) -> "subprocess.Popen[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    command = [sys.executable, __file__, "--step", memory_format, "--seconds", str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**environment, **mode})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--only", nargs="+", choices=MODES, default=list(MODES), help="some ways to wait")
    parser.add_argument("--others-spin", action="store_true", help="the two others wait by spinning in every row")
    parser.add_argument("--step", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(step(options.step, options.seconds))
        return
    from machine import describe

    print(describe())
    print("| waiting | step | alone s | beside two jobs s | fair share's time × |\n|---|---|---|---|---|")
    for name in options.only:
        mode = MODES[name]
        for variant in VARIANTS:
            alone = float(start(variant, options.seconds, mode).communicate()[0].split()[-1])
            others = [start(variant, 0, {} if options.others_spin else mode) for _ in range(2)]
            for other in others:
                assert other.stdout is not None
                other.stdout.readline()
            beside = float(start(variant, options.seconds, mode).communicate()[0].split()[-1])
            for other in others:
                other.kill()
                other.wait()
            print(f"| {name} | {variant} | {alone:.2f} | {beside:.2f} | {beside / (3 * alone):.2f} |", flush=True)


if __name__ == "__main__":
    main()
