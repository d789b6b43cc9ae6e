"""What a training within a time budget reaches on a dataset: the validation Dice of one fold.

    python benchmarks/time_budget.py DATASET [--max-time 10m 30m] [--fold 0] [--out DIR] [--device auto]
                                              [--seed 0] [--set path.to.key=value ...]

Runs ``autoseg plan`` and, for each budget, ``autoseg train --fold K --max-time T`` in a run folder of its own; prints
the mean Dice of each structure over the fold's validation cases and the wall-clock seconds. For the hippocampus of the
Medical Segmentation Decathlon, MONAI's reimplementation of nnU-Net reports about 0.89 when trained to the end
(Project-MONAI/tutorials, pull request 20).
"""

import argparse
import tempfile
import time
from pathlib import Path

from commands import autoseg
from machine import describe

from autoseg.evaluation.summary import Evaluation
from autoseg.runs.run import Run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--max-time", nargs="+", default=["10m", "30m"])
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="override a value of the plan, as in autoseg plan")
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp(prefix="autoseg-benchmark-"))
    print(describe(), flush=True)
    for budget in options.max_time:
        run = out / f"run_{budget}"
        changes = [word for assignment in options.set for word in ("--set", assignment)]
        autoseg("plan", options.dataset, "--out", run, "--device", options.device, *changes)
        name = Run.open(run).plan.recommended
        started = time.monotonic()
        length = ("--fold", options.fold, "--max-time", budget)
        autoseg("train", run, *length, "--device", options.device, "--seed", options.seed)
        seconds = time.monotonic() - started
        evaluation = Evaluation.read(Run.open(run).fold(name, options.fold).validation)
        dice = ", ".join(f"{target} {evaluation.mean('dice', target):.4f}" for target in evaluation.statistics())
        print(
            f"{name}, --max-time {budget}: mean Dice {evaluation.mean('dice'):.4f} ({dice}) over "
            f"{len(evaluation.cases)} cases; {seconds:.0f} s with preprocessing",
            flush=True,
        )


if __name__ == "__main__":
    main()
