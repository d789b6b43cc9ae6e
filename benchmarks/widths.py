"""How wide a network learns most in a given time: widths trained for as many steps as the time holds, a fold judged.

    python benchmarks/widths.py DATASET [--max-time 90s 10m] [--widths 4 8 16] [--seeds 0] [--fold 0] [--out DIR]
                                        [--device cpu] [--planner unet]

Plans once for each width, times its training step as the planner does (in processor time, so that other jobs on the
machine do not count), and trains ``--fold`` for as many epochs of 50 steps as the time holds: lengths are steps, so
that the Dice does not depend on how busy the machine is. Prints the mean Dice of the fold's validation cases.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from commands import autoseg
from machine import describe

from autoseg.evaluation.summary import Evaluation
from autoseg.plans.families import UNet
from autoseg.plans.stage import Stage
from autoseg.runs.run import Run
from autoseg.utils.durations import parse_duration
from planners.rules.compute import time_step

#: Steps of an epoch; lengths are rounded to it.
STEPS = 50


def planned(options: argparse.Namespace, width: int | None, out: Path) -> Stage:
    """The recommended stage of a plan, with a network of this width, or of the planner's own."""
    words = ["--planner", options.planner, "--device", options.device, "--set", f"recipe.iterations_per_epoch={STEPS}"]
    if width is not None:
        own = planned(options, None, out).network
        if not isinstance(own, UNet):
            raise SystemExit(f"--planner {options.planner} plans no U-Net, whose width could be set.")
        features = [count * width // own.features[0] for count in own.features]
        words += ["--set", f"network.features={json.dumps(features)}"]
    autoseg("plan", options.dataset, "--out", out, *words)
    return Run.open(out).plan.stage()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--max-time", nargs="+", default=["90s", "10m"])
    parser.add_argument("--widths", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--planner", default="unet")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp(prefix="autoseg-benchmark-"))
    print(f"{describe()}\n", flush=True)
    rows = []
    for width in options.widths:
        run = out / f"run_{width}"
        stage = planned(options, width, run)
        configuration = stage.configuration
        patch, batch = configuration.patch_size, configuration.batch_size
        seconds = time_step(stage.network, stage.in_channels, stage.heads, patch, batch)
        for budget in options.max_time:
            epochs = max(1, round(parse_duration(budget) / seconds / STEPS))
            found = []
            for seed in options.seeds:
                length = ("--fold", options.fold, "--epochs", epochs, "--seed", seed, "--restart")
                autoseg("train", run, *length, "--device", options.device)
                validation = Run.open(run).fold(stage, options.fold).validation
                found.append(Evaluation.read(validation).mean("dice"))
            values = ", ".join(f"{dice:.4f}" for dice in found)
            rows.append(f"| {budget} | {width} | {1000 * seconds:.0f} | {epochs * STEPS} | {values} |")
            print(f"{rows[-1]} {statistics.mean(found):.4f} |", flush=True)
    print("\n| time | width | ms a step | steps | Dice, a seed each |\n| --- | ---: | ---: | ---: | --- |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
