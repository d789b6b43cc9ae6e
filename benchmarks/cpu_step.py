"""What 16-bit autocast and malloc's thresholds are worth in a training step on a CPU.

    python benchmarks/cpu_step.py [--width 32] [--batch 2] [--repetitions 7]

Four variants of one step (U-Net, patch 40×56×40), each in a process of its own, in turn: A B C D A B C D …, so that a
machine whose speed drifts treats them alike. Prints seconds a step (median, smallest, largest over all rounds) and the
ratio to the plain step of the same round.
"""

import argparse
import statistics
import subprocess
import sys
import time

VARIANTS = {
    "fp32": ("fp32", False),
    "fp32 + malloc": ("fp32", True),
    "bf16": ("bf16", False),
    "bf16 + malloc": ("bf16", True),
}


def step(precision: str, malloc: bool, width: int, batch: int) -> float:
    """Median seconds of three steps after one to warm up, in this process."""
    import torch

    from autoseg.networks import build
    from autoseg.plans.families import UNet
    from autoseg.plans.recipe import Recipe
    from autoseg.plans.target import Output, Target
    from autoseg.step.batch import Batch
    from autoseg.step.precision import resolve_precision
    from autoseg.step.training_step import TrainingStep
    from autoseg.step.variant import Variant
    from autoseg.utils.device import keep_large_blocks
    from autoseg.utils.parallel import available_cpus

    if malloc:
        keep_large_blocks()
    torch.set_num_threads(available_cpus())
    torch.manual_seed(0)
    network = UNet(
        features=[width, 2 * width, 4 * width, 8 * width],
        strides=[[1, 1, 1]] + [[2, 2, 2]] * 3,
        kernel_sizes=[[3, 3, 3]] * 4,
        encoder_blocks=[2] * 4,
        decoder_convs=[2] * 3,
    )
    target = Target(
        kind="labels", outputs=[Output(name="a", values=[1], paint=1), Output(name="b", values=[2], paint=2)]
    )
    variant = Variant(resolve_precision(precision, torch.device("cpu")))
    train = TrainingStep(build(network, 1, target.heads), Recipe(ema_decay=0.0), target, variant)
    given = Batch(torch.randn(batch, 1, 40, 56, 40), torch.randint(0, 3, (batch, 40, 56, 40)))
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        train(given)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        print(step(*VARIANTS[options.variant], options.width, options.batch))
        return
    from machine import describe

    print(describe())
    print(f"U-Net of width {options.width}, batch {options.batch}, {options.repetitions} rounds")
    rounds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(options.repetitions):
        for name in VARIANTS:
            command = [sys.executable, __file__, "--variant", name]
            command += ["--width", str(options.width), "--batch", str(options.batch)]
            rounds[name].append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    print("| step | median s | min | max | share of fp32 (median) |\n|---|---|---|---|---|")
    for name, seconds in rounds.items():
        ratio = statistics.median(s / plain for s, plain in zip(seconds, rounds["fp32"], strict=True))
        print(f"| {name} | {statistics.median(seconds):.2f} | {min(seconds):.2f} | {max(seconds):.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
