"""What precision, memory format and malloc's thresholds are worth in a training step on a CPU.

    python benchmarks/cpu_step.py [--width 32] [--batch 2] [--repetitions 7]

Variants of one step (U-Net, patch 40×56×40), each in a process of its own, in turn: A B C D A B C D …, so that a
machine whose speed drifts treats them alike. ``torch's norm`` is channels-last with torch's own instance norm, which
leaves the format, ``torch's convolution`` with the kernel that torch takes for a batch of one (``--batch 1``);
``malloc`` keeps large blocks, as autoseg does. Prints seconds a step (median, smallest, largest over all rounds) and
the ratio to the first step of the same round.
"""

import argparse
import statistics
import subprocess
import sys
import time

#: Name → words that say what it is.
VARIANTS = {
    name: set(name.split(" + "))
    for name in (
        "fp32",
        "fp32 + malloc",
        "fp32 + malloc + channels-last + torch's norm",
        "fp32 + malloc + channels-last",
        "fp32 + malloc + channels-last + fused optimizer",
        "fp32 + malloc + channels-last + torch's convolution",
        "bf16",
        "bf16 + malloc",
        "bf16 + malloc + channels-last",
    )
}


def step(words: set[str], width: int, batch: int) -> float:
    """Least seconds of four steps after one to warm up, in this process."""
    import torch

    from autoseg.networks import blocks, build
    from autoseg.networks.channels_last import InstanceNormVolume
    from autoseg.plans.families import UNet
    from autoseg.plans.recipe import Recipe
    from autoseg.plans.target import Output, Target
    from autoseg.step.batch import Batch
    from autoseg.step.training_step import TrainingStep
    from autoseg.step.variant import Variant
    from autoseg.utils.device import keep_large_blocks
    from autoseg.utils.parallel import available_cpus

    if "malloc" in words:
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
    variant = Variant(
        torch.bfloat16 if "bf16" in words else torch.float32,
        channels_last="channels-last" in words,
        fused="fused optimizer" in words,
    )
    built = build(network, 1, target.heads)
    for part in built.modules() if "torch's norm" in words else ():
        if isinstance(part, InstanceNormVolume):
            part.__class__ = torch.nn.InstanceNorm3d  # type: ignore[assignment]
    if "torch's convolution" in words:
        blocks.is_left_aside = lambda *convolved: False
    train = TrainingStep(built, Recipe(ema_decay=0.0), target, variant)
    given = Batch(torch.randn(batch, 1, 40, 56, 40), torch.randint(0, 3, (batch, 40, 56, 40)))
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        train(given)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="some variants.")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        print(step(VARIANTS[options.variant], options.width, options.batch))
        return
    from machine import describe

    print(describe())
    print(f"U-Net of width {options.width}, batch {options.batch}, {options.repetitions} rounds")
    rounds: dict[str, list[float]] = {name: [] for name in options.only}
    for _ in range(options.repetitions):
        for name in rounds:
            command = [sys.executable, __file__, "--variant", name]
            command += ["--width", str(options.width), "--batch", str(options.batch)]
            rounds[name].append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    print("| step | median s | min | max | share of the first (median) |\n|---|---|---|---|---|")
    for name, seconds in rounds.items():
        ratio = statistics.median(s / plain for s, plain in zip(seconds, rounds[options.only[0]], strict=True))
        print(f"| {name} | {statistics.median(seconds):.2f} | {min(seconds):.2f} | {max(seconds):.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
