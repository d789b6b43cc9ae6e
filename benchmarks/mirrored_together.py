"""Mirrored copies of a tile through a network one by one, in pairs, or more at once: CPU seconds of eight passes.

    python benchmarks/mirrored_together.py [--device cpu]

CPU time, so that other jobs on the machine count little; on a GPU the time on the clock. A network
of four stages with random weights; the smallest of two runs.
"""

import argparse
import time

import torch
from machine import describe

from autoseg.networks import build, set_deep_supervision
from autoseg.plans.families import UNet
from autoseg.step.precision import autocast, emulates_bfloat16

#: Width of the first stage, voxels of a tile.
SETTINGS = ((8, (40, 56, 40)), (32, (40, 56, 40)), (8, (64, 64, 64)), (8, (96, 96, 96)))


def network_of(width: int) -> torch.nn.Module:
    network = UNet(
        features=[width * 2**stage for stage in range(4)],
        strides=[[1] * 3] + [[2] * 3] * 3,
        kernel_sizes=[[3] * 3] * 4,
        encoder_blocks=[1] * 4,
        decoder_convs=[1] * 3,
    )
    built = build(network, 1, 4).eval()
    set_deep_supervision(built, False)
    return built


def seconds(network: torch.nn.Module, tile: torch.Tensor, together: int) -> float:
    """Of eight passes."""
    clock = time.process_time if tile.device.type == "cpu" else time.perf_counter
    batch = tile.expand(together, -1, -1, -1, -1).contiguous()
    found = []
    for _ in range(3):
        started = clock()
        for _ in range(8 // together):
            network(batch)
        if tile.device.type == "cuda":
            torch.cuda.synchronize(tile.device)
        found.append(clock() - started)
    return min(found[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    device = torch.device(parser.parse_args().device)
    print(describe())
    print("\n| width | tile | precision | 1 | 2 | 4 | 8 |\n| --- | --- | --- | ---: | ---: | ---: | ---: |")
    for width, size in SETTINGS:
        network = network_of(width).to(device)
        tile = torch.randn(1, 1, *size, device=device)
        emulated = device.type == "cpu" and emulates_bfloat16(3)
        for dtype in (torch.float32,) if emulated else (torch.float32, torch.bfloat16):
            with torch.inference_mode(), autocast(device, dtype):
                found = [f"{seconds(network, tile, together):.2f}" for together in (1, 2, 4, 8)]
            row = [str(width), "×".join(map(str, size)), str(dtype).removeprefix("torch."), *found]
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
