"""The largest memory that a prediction with many labels takes: a generated CT, five untrained folds, mirroring.

    python benchmarks/prediction_memory.py [--full | --shape Z Y X] [--labels N] [--folds N] [--probabilities]
        [--out DIR]

One case, as ``autoseg predict`` segments it: reading, preprocessing to 1.5 mm, tiles of 96³ with half overlap,
mirroring, resampling to the scan, writing. ``--full`` is 512×512×300 voxels of 1 mm, which is 341×341×200 voxels for
the network; without it, half of that along each axis. The network is narrow (4 channels), so that its own time and
memory are small beside those of the scores; its weights are random, so that hardly any label can be left out for being
nowhere likely, as most can with a trained one. Printed are the seconds and the largest resident memory of the process
(``ru_maxrss``; files that are mapped into memory count), beside what the scores of the whole image would take.
"""

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from machine import describe

from autoseg.data.dataset import Case, ChannelFile
from autoseg.data.geometry import Geometry
from autoseg.data.image import write_image
from autoseg.inference.chain import TrainedStage
from autoseg.inference.members import Member
from autoseg.inference.predictor import Predictor
from autoseg.networks import build, set_deep_supervision
from autoseg.plans.configuration import Configuration
from autoseg.plans.families import UNet
from autoseg.plans.inference import Inference
from autoseg.plans.plan import Plan
from autoseg.plans.preprocessing import Channel, Normalization
from autoseg.plans.recipe import Recipe
from autoseg.plans.target import Output, Target
from autoseg.utils.device import keep_large_blocks
from autoseg.utils.progress import silenced


def plan_for(labels: int, channels: int, patch: int, axes: list[int]) -> Plan:
    """A plan with a narrow network at 1.5 mm."""
    ct = Normalization(scheme="ct", lower=-1000, upper=1000, mean=0, std=400)
    depth = 5
    network = UNet(
        features=[4] * depth,
        strides=[[1] * 3] + [[2] * 3] * (depth - 1),
        kernel_sizes=[[3] * 3] * depth,
        encoder_blocks=[1] * depth,
        decoder_convs=[1] * (depth - 1),
    )
    configuration = Configuration(
        spacing=(1.5, 1.5, 1.5),
        data="1.5mm",
        patch_size=[patch] * 3,
        batch_size=2,
        network=network,
        recipe=Recipe(precision="fp32"),
        inference=Inference(mirror_axes=axes),
    )
    outputs = [Output(name=f"label_{value}", values=[value], paint=value) for value in range(1, labels + 1)]
    return Plan(
        planner="by hand",
        dataset="generated",
        device="cpu",
        channels=[Channel(name=f"ct{number}", normalization=ct) for number in range(channels)],
        target=Target(kind="labels", outputs=outputs),
        configurations={"fullres": configuration},
        recommended="fullres",
    )


def member_of(plan: Plan, folds: int) -> Member:
    """Untrained folds."""
    torch.manual_seed(0)
    stage = plan.stage()
    networks = []
    for _ in range(folds):
        network = build(stage.network, stage.in_channels, stage.heads).eval()
        set_deep_supervision(network, False)
        networks.append(network)
    return Member("generated", [TrainedStage(stage, networks)], plan.planner)


def generated_case(folder: Path, shape: tuple[int, int, int], channels: int) -> Case:
    """A body of noise in air, int16 at 1 mm, ``shape`` being ``(z, y, x)``."""
    rng = np.random.default_rng(0)
    z, y, x = (np.linspace(-1, 1, size, dtype=np.float32) for size in shape)
    inside = (y[:, None] / 0.6) ** 2 + (x[None, :] / 0.8) ** 2 < 1
    size = (shape[2], shape[1], shape[0])
    geometry = Geometry(size, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    files = {}
    for number in range(channels):
        volume = np.full(shape, -1000, np.int16)
        for index in range(len(z)):
            plane = rng.normal(40 + 100 * z[index], 60, shape[1:]).astype(np.int16)
            volume[index] = np.where(inside, plane, volume[index])
        path = folder / f"ct{number}.nii.gz"
        write_image(path, volume, geometry)
        files[f"ct{number}"] = ChannelFile(path=path)
    return Case(id="case", channels=files)


def predict(case: Case, plan: Plan, folds: int, results: list[str], out: Path) -> tuple[float, float]:
    """Segment the case; seconds, and the process's largest resident memory in 10⁹ bytes."""
    keep_large_blocks()
    predictor = Predictor([member_of(plan, folds)], torch.device("cpu"))
    started = time.monotonic()
    with silenced():
        outcome = predictor.predict([case], out, results)
    if outcome.failed:
        sys.exit(str(outcome.failed))
    return time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def measured(case: Case, plan: Plan, folds: int, results: list[str], out: Path) -> tuple[float, float]:
    """:func:`predict` in a process of its own, so that nothing from before counts."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(predict, (case, plan, folds, results, out))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="512×512×300 voxels instead of 256×256×150")
    parser.add_argument("--shape", type=int, nargs=3, metavar=("Z", "Y", "X"), help="voxels of 1 mm, in place of these")
    parser.add_argument("--labels", type=int, default=100)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--mirror", type=int, default=3, help="axes that are mirrored")
    parser.add_argument("--probabilities", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp(prefix="autoseg-benchmark-"))
    out.mkdir(parents=True, exist_ok=True)
    shape = tuple(options.shape or ((300, 512, 512) if options.full else (150, 256, 256)))
    plan = plan_for(options.labels, 1, options.patch, list(range(options.mirror)))
    case = generated_case(out, shape, 1)
    results = ["probabilities"] if options.probabilities else []
    seconds, memory = measured(case, plan, options.folds, results, out / "out")
    whole = 4 * (options.labels + 1) * np.prod([round(size / 1.5) for size in shape]) / 1e9
    print(describe())
    print("\n| scan | labels | folds | mirrored axes | seconds | largest memory, GB | all scores, GB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    name = f"{'×'.join(map(str, shape))}{', probabilities' if options.probabilities else ''}"
    row = (name, options.labels, options.folds, options.mirror, f"{seconds:.0f}", f"{memory:.2f}", f"{whole:.2f}")
    print(f"| {' | '.join(map(str, row))} |")


if __name__ == "__main__":
    main()
