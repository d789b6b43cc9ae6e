"""The largest memory that the main job takes on a dataset: plan, a short training, prediction with augmentation.

    python benchmarks/peak_memory.py DATASET [--max-time 5m] [--out DIR] [--device auto]

Runs the three commands one after the other and samples the resident memory of each with its child processes, five times
a second; prints the largest sum of each (memory shared between processes counts in every one of them). Linux only.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from commands import AUTOSEG
from machine import describe


def resident(pid: int) -> int:
    """Bytes of a process and all its descendants."""
    total = 0
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            total += int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text(encoding="ascii").split():
                total += resident(int(child))
    except (FileNotFoundError, ProcessLookupError):
        pass
    return total


def peak(command: list[str]) -> tuple[float, float]:
    """Largest memory in 10⁹ bytes and the seconds of a command."""
    started = time.monotonic()
    process = subprocess.Popen(command)
    largest = 0
    while process.poll() is None:
        largest = max(largest, resident(process.pid))
        time.sleep(0.2)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed with exit code {process.returncode}")
    return largest / 1e9, time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--max-time", default="5m")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp(prefix="autoseg-benchmark-"))
    print(describe(), flush=True)
    run, device = str(out / "run"), ["--device", options.device]
    steps = {
        "plan": ["plan", options.dataset, "--out", run],
        f"train --fold 0 --max-time {options.max_time}": ["train", run, "--fold", "0", "--max-time", options.max_time],
        "predict, with test-time augmentation": [
            "predict",
            run,
            options.dataset,
            "--out",
            str(out / "out"),
            "--pictures",
        ],
    }
    rows = []
    for name, arguments in steps.items():
        found = peak([*AUTOSEG, *arguments, *device])
        rows.append((name, *found))
    print("| step | largest memory, GB | seconds |\n| --- | ---: | ---: |")
    for name, memory, seconds in rows:
        print(f"| {name} | {memory:.2f} | {seconds:.0f} |")


if __name__ == "__main__":
    main()
