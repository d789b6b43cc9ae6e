"""How time and memory of a prediction grow with the volume, the number of labels, and the number of channels.

    python benchmarks/scaling.py [--out DIR]

Generated CTs (see ``prediction_memory.py``), one untrained fold, tiles of 32³, no mirroring; each prediction in a
process of its own. CPU time, so that other jobs on the machine count little, and of the prediction alone, without the
imports. Memory is the largest resident one less that of a process that has loaded all libraries and the
network. The slope is that of a straight line through the logarithms: 1 means in proportion.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from machine import describe
from metering import slope
from prediction_memory import generated_case, member_of, plan_for

from autoseg.data.dataset import Case
from autoseg.inference.predictor import Predictor
from autoseg.plans.plan import Plan
from autoseg.utils.progress import silenced

#: (z, y, x) of the scan, labels, channels; what is varied has four values.
BASE = ((96, 144, 144), 8, 1)
VOLUMES = ((48, 144, 144), (96, 144, 144), (192, 144, 144), (384, 144, 144))
LABELS = (8, 16, 32, 64)
CHANNELS = (1, 2, 4, 8)


def largest() -> float:
    """Largest resident memory so far, in 10⁶ bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def cost(case: Case, plan: Plan, out: Path) -> tuple[float, float]:
    """CPU seconds and 10⁶ bytes of one prediction."""
    predictor = Predictor([member_of(plan, 1)], torch.device("cpu"))
    tile = torch.zeros((1, predictor.members[0].last.in_channels, *[32] * 3))
    with torch.inference_mode():
        predictor.members[0].stages[0].networks[0](tile)
    before, started = largest(), time.process_time()
    with silenced():
        outcome = predictor.predict([case], out)
    assert not outcome.failed, outcome.failed
    return time.process_time() - started, largest() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out or Path(tempfile.mkdtemp(prefix="autoseg-benchmark-"))
    out.mkdir(parents=True, exist_ok=True)
    print(describe())
    shape, labels, channels = BASE
    curves = {
        "voxels": [(float(np.prod(size)), size, labels, channels) for size in VOLUMES],
        "labels": [(float(count), shape, count, channels) for count in LABELS],
        "channels": [(float(count), shape, labels, count) for count in CHANNELS],
    }
    print("\n| varied | value | CPU seconds | memory, MB |\n| --- | ---: | ---: | ---: |")
    lines = []
    for name, points in curves.items():
        found = []
        for value, size, label_count, channel_count in points:
            folder = out / f"{name}_{value:.0f}"
            folder.mkdir(exist_ok=True)
            case = generated_case(folder, size, channel_count)
            plan = plan_for(label_count, channel_count, 32, [])
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found.append(pool.apply(cost, (case, plan, folder / "out")))
            print(f"| {name} | {value:.0f} | {found[-1][0]:.1f} | {found[-1][1]:.0f} |", flush=True)
        values = [point[0] for point in points]
        time_slope, memory_slope = (slope(values, [one[index] for one in found]) for index in (0, 1))
        lines.append(f"| {name} | {time_slope:.2f} | {memory_slope:.2f} |")
    print("\n| varied | slope of the time | slope of the memory |\n| --- | ---: | ---: |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
