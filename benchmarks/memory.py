"""Computed against measured memory of a training step, over networks, patches, precisions and optimizers.

    python benchmarks/memory.py [--device auto|cpu|cuda] [--out benchmarks/results/memory_<device>.md]

On a GPU: the computed peak against ``torch.cuda.max_memory_allocated`` of a real step (with the optimizer's state, the
average of the weights and gradient scaling), for plans between 2 GB and what the device has. Elsewhere: computed
against measured bytes saved for the backward pass, each storage once, for smaller networks: no allocator keeps count.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from machine import describe

from autoseg.planning.verification import Comparison, compare
from autoseg.plans.families import UNet
from autoseg.plans.recipe import Optimizer
from autoseg.utils.device import select_device
from autoseg.utils.files import write_text
from autoseg.utils.progress import say
from planners import resenc, unet
from planners.rules.topology import network, pooling

#: Family, patch, spacing, channels, heads, batch, precision, optimizer, kind; on a GPU.
GPU = [
    (unet.PLAIN_UNET, (128, 128, 128), (1, 1, 1), 4, 3, 2, "fp16", "sgd", "regions"),
    (unet.PLAIN_UNET, (128, 128, 128), (1, 1, 1), 4, 3, 2, "bf16", "adamw", "regions"),
    (unet.PLAIN_UNET, (96, 160, 160), (1, 1, 1), 2, 3, 2, "fp16", "sgd", "regions"),
    (unet.PLAIN_UNET, (96, 96, 96), (1, 1, 1), 1, 3, 2, "fp32", "sgd", "labels"),
    (unet.PLAIN_UNET, (40, 224, 192), (5, 0.8, 0.8), 1, 4, 2, "fp16", "sgd", "labels"),
    (unet.PLAIN_UNET, (40, 56, 40), (1, 1, 1), 1, 3, 7, "fp16", "sgd", "labels"),
    (unet.PLAIN_UNET, (160, 160, 160), (1, 1, 1), 1, 14, 2, "fp16", "sgd", "labels"),
    (unet.PLAIN_UNET, (512, 512), (1, 1), 1, 3, 12, "fp16", "sgd", "labels"),
    (unet.PLAIN_UNET, (256, 256), (1, 1), 3, 2, 40, "bf16", "adamw", "labels"),
    (resenc.RESIDUAL_UNET, (96, 96, 96), (1, 1, 1), 1, 3, 2, "fp16", "sgd", "labels"),
    (resenc.RESIDUAL_UNET, (128, 128, 128), (1, 1, 1), 4, 3, 2, "fp16", "sgd", "regions"),
    (resenc.RESIDUAL_UNET, (160, 160, 160), (1, 1, 1), 4, 3, 2, "bf16", "adamw", "regions"),
    (resenc.RESIDUAL_UNET, (40, 224, 192), (5, 0.8, 0.8), 1, 4, 2, "fp16", "adamw", "labels"),
    (resenc.RESIDUAL_UNET, (512, 512), (1, 1), 1, 3, 12, "fp32", "sgd", "labels"),
]

#: The same for a CPU, with the width of the first stage; small enough for 2 GB of memory.
CPU = [
    (family, patch, spacing, channels, heads, batch, precision, "adamw", kind)
    for precision in ("fp32", "bf16")
    for family, patch, spacing, channels, heads, batch, kind in (
        (unet.PLAIN_UNET, (40, 56, 40), (1, 1, 1), 1, 3, 4, "labels"),
        (unet.PLAIN_UNET, (64, 64, 64), (1, 1, 1), 4, 3, 2, "regions"),
        (unet.PLAIN_UNET, (20, 96, 80), (5, 0.8, 0.8), 1, 14, 2, "labels"),
        (unet.PLAIN_UNET, (256, 256), (1, 1), 3, 2, 4, "labels"),
        (resenc.RESIDUAL_UNET, (40, 56, 40), (1, 1, 1), 1, 3, 2, "labels"),
        (resenc.RESIDUAL_UNET, (64, 64, 64), (1, 1, 1), 4, 3, 2, "regions"),
        (resenc.RESIDUAL_UNET, (20, 96, 80), (5, 0.8, 0.8), 1, 4, 2, "labels"),
        (resenc.RESIDUAL_UNET, (192, 192), (1, 1), 1, 3, 4, "regions"),
    )
]
CPU_WIDTH = 16


def rows(device: torch.device) -> Iterator[tuple[str, Comparison]]:
    cuda = device.type == "cuda"
    for family, patch, spacing, channels, heads, batch, precision, optimizer, kind in GPU if cuda else CPU:
        topology: UNet = network(family, pooling(patch, spacing), 32 if cuda else CPU_WIDTH)
        size = "×".join(map(str, patch))
        name = f"{family.name} {size} | {batch} | {channels} → {heads} {kind} | {precision} | {optimizer}"
        say(name)
        try:
            found = compare(
                topology, channels, heads, patch, batch, precision, Optimizer(name=optimizer), device,
                ema=optimizer == "adamw", kind=kind,
            )  # fmt: skip
        except torch.OutOfMemoryError:
            say("  does not fit here; left out")
            continue
        yield name, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = select_device(options.device)
    if device.type == "mps":
        device = torch.device("cpu")
    found = list(rows(device))
    what = "peak of a training step" if device.type == "cuda" else "bytes saved for the backward pass"
    lines = [
        f"# Memory: computed against measured ({what})",
        "",
        f"Made by `python benchmarks/memory.py --device {device.type}` on: {describe()}.",
        "",
        "| network, patch | batch | channels → heads | precision | optimizer | computed MB | measured MB | off by |",
        "| --- | --- | --- | --- | --- | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {name} | {row.computed / 1e6:.1f} | {row.measured / 1e6:.1f} | {100 * row.difference:+.2f} % |"
        for name, row in found
    ]
    worst = max((abs(row.difference) for _, row in found), default=0.0)
    lines += ["", f"Largest difference: {100 * worst:.2f} % over {len(found)} plans.", ""]
    out = options.out or Path(__file__).parent / "results" / f"memory_{device.type}.md"
    write_text(out, "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
