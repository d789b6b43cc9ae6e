"""Computed against measured memory of a training step, over networks, patches, precisions and optimizers.

    python benchmarks/memory.py [--device auto|cpu|cuda] [--out benchmarks/results/memory_<device>.md]

On a GPU: the computed peak against ``torch.cuda.max_memory_allocated`` of a real step (with the optimizer's state, the
average of the weights and gradient scaling), for plans between 2 GB and what the device has; and of a training whose
cases lie on the device, with the batches that are made ahead. Elsewhere: computed against measured bytes saved for the
backward pass, each storage once, for smaller networks: no allocator keeps count.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from machine import describe

import autoseg
from autoseg.crossvalidation.cascades import stage_cases
from autoseg.data.phantom import Cohort, generate
from autoseg.planning.memory import trace_step
from autoseg.planning.verification import MemoryCheck, check_memory
from autoseg.plans.families import UNet
from autoseg.plans.recipe import Optimizer, Recipe
from autoseg.step.setup import StepSetup, stand_in
from autoseg.step.variant import Variant
from autoseg.training.cache_size import BATCHES_AHEAD
from autoseg.training.training import Budget, Cases, Training, TrainingSettings
from autoseg.utils.device import lacks_memory, select_device
from autoseg.utils.files import write_text
from autoseg.utils.progress import say
from planners import resenc, unet
from planners.rules.topology import network, pooling

#: Family, patch, spacing, channels, heads, batch, precision, optimizer, kind; on a GPU.
GPU: list[tuple[Any, ...]] = [
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
CPU: list[tuple[Any, ...]] = [
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


def rows(device: torch.device) -> Iterator[tuple[str, MemoryCheck]]:
    cuda = device.type == "cuda"
    for family, patch, spacing, channels, heads, batch, precision, optimizer, kind in GPU if cuda else CPU:
        topology: UNet = network(family, pooling(patch, spacing), 32 if cuda else CPU_WIDTH)
        size = "×".join(map(str, patch))
        name = f"{family.name} {size} | {batch} | {channels} → {heads} {kind} | {precision} | {optimizer}"
        try:
            recipe = Recipe(optimizer=Optimizer(name=optimizer), ema_decay=0.999 if optimizer == "adamw" else 0.0)
            setup = StepSetup(topology, channels, stand_in(kind, heads), patch, batch, recipe)
            found = check_memory(setup, precision, device)
        except RuntimeError as error:
            if not lacks_memory(error):
                raise
            say(f"{name} does not fit here; left out")
            continue
        yield name, found


def training_row(device: torch.device, folder: Path) -> tuple[str, MemoryCheck]:
    """A training on generated heads that all lie on the device: its step, the cases and the batches made ahead."""
    heads = generate(folder / "heads", Cohort(cases=6, shape=(128, 128, 128), spacing=(1.5, 1.5, 1.5)))
    request = autoseg.Request(device="cuda", gpu_memory_gb=6, folds=1)
    run = autoseg.plan(autoseg.Dataset.open(heads), folder / "run", request)
    autoseg.preprocess(run)
    stage = run.plan.stage()
    fold, setup = run.fold(stage, 0), StepSetup.of(stage)
    cases = Cases(stage_cases(run, stage, fold.training_cases))
    settings = TrainingSettings(device, resume=False, variant=Variant(torch.float16))
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    with Training(fold, cases, Budget(iterations=20), settings, []) as training:
        while not training.finished:
            training.count(training.step(training.next_batch()))
        measured = torch.cuda.max_memory_allocated(device) - before
        cache = training.cache
        kept = cache.size("device")
    batch = setup.batch("meta")
    ahead = BATCHES_AHEAD * sum(tensor.nbytes for tensor in (batch.image, batch.label, *batch.fields.values()))
    computed = round(float(trace_step(setup, "fp16", device.type).alive().max())) + kept + ahead
    size = "×".join(map(str, stage.configuration.patch_size))
    name = f"training, {len(cases.training)} cases on the device ({kept / 1e6:.0f} MB), {stage.network.family} {size}"
    shape = f"{setup.batch_size} | {setup.in_channels} → {setup.target.heads} {setup.target.kind}"
    check = MemoryCheck("peak", computed, measured, torch.cuda.get_device_name(device))
    return f"{name} | {shape} | fp16 | {stage.recipe.optimizer.name}", check


def _line(name: str, row: MemoryCheck) -> str:
    return f"| {name} | {row.computed / 1e6:.1f} | {row.measured / 1e6:.1f} | {100 * row.difference:+.2f} % |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = select_device(options.device)
    if device.type == "mps":
        device = torch.device("cpu")
    found = []
    for name, row in rows(device):
        found.append((name, row))
        say(_line(name, row))
    if device.type == "cuda":
        with tempfile.TemporaryDirectory(prefix="autoseg-benchmark-") as folder:
            found.append(training_row(device, Path(folder)))
    what = "peak of a training step" if device.type == "cuda" else "bytes saved for the backward pass"
    lines = [
        f"# Memory: computed against measured ({what})",
        "",
        f"Made by `python benchmarks/memory.py --device {device.type}` on: {describe()}.",
        "",
        "| network, patch | batch | channels → heads | precision | optimizer | computed MB | measured MB | off by |",
        "| --- | --- | --- | --- | --- | ---: | ---: | ---: |",
    ]
    lines += [_line(name, row) for name, row in found]
    worst = max((abs(row.difference) for _, row in found), default=0.0)
    lines += ["", f"Largest difference: {100 * worst:.2f} % over {len(found)} plans.", ""]
    out = options.out or Path(__file__).parent / "results" / f"memory_{device.type}.md"
    write_text(out, "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
