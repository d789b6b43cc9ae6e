"""How OpenMP's threads wait for each other on a CPU that other jobs use, too.

A thread that waits spins by default, as if the core were its own. Beside other jobs it then uses up the time that the
thread it waits for would need: on two cores, with two jobs beside it, a training step took two to ten times its fair
share's time (``benchmarks/shared_cpu.py``). OpenMP reads its settings once, when torch is loaded; so this module does
without torch.
"""

import os
import sys
import time
from collections.abc import Mapping, MutableMapping

#: Settings of OpenMP by which a user decides otherwise.
_OF_THE_USER = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")

#: What lets threads sleep while they wait, after a spin of microseconds where OpenMP is GNU's: beside other jobs that
#: took 0.75 to 0.95 of the time of going to sleep at once, and 0.9 to 1.0 alone (``benchmarks/shared_cpu.py``).
ASLEEP = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}

#: Share of the cores that others keep busy, from which on they count as shared.
BUSY = 0.3

#: Seconds over which that share is measured.
_WATCHED = 0.2


def share_cpu(environment: MutableMapping[str, str] | None = None) -> str:
    """Let threads sleep while they wait, if others keep this CPU busy now; before torch is loaded.

    Args:
        environment: the process's where None.

    Returns:
        What was done and why, as a sentence; empty where nothing was.
    """
    environment = os.environ if environment is None else environment
    if "torch" in sys.modules or any(name in environment for name in _OF_THE_USER):
        return ""
    busy = busy_share()
    if busy < BUSY:
        return ""
    environment.update(ASLEEP)
    return f"Other jobs keep {busy:.0%} of this CPU busy: threads sleep while they wait (OMP_WAIT_POLICY=passive)."


def waits_asleep() -> bool:
    """Whether threads sleep while they wait, as :func:`share_cpu` or the user decided: others use this CPU, too."""
    return os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive"


def busy_share() -> float:
    """Share of the cores that this process may use that was busy in a moment; 0 where the system doesn't tell."""
    before = _ticks()
    if not before:
        return 0.0
    time.sleep(_WATCHED)
    after = _ticks()
    total = sum(after[core][0] - before[core][0] for core in before if core in after)
    idle = sum(after[core][1] - before[core][1] for core in before if core in after)
    return 1 - idle / total if total > 0 else 0.0


def _ticks() -> Mapping[str, tuple[int, int]]:
    """Core → all its ticks since the start, and the idle ones of them (proc_stat(5))."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            rows = [line.split() for line in file if line.startswith("cpu") and line[3].isdigit()]
    except OSError:
        return {}
    allowed = {f"cpu{core}" for core in os.sched_getaffinity(0)} if hasattr(os, "sched_getaffinity") else None
    counted = {row[0]: [int(value) for value in row[1:9]] for row in rows if allowed is None or row[0] in allowed}
    return {core: (sum(values), values[3] + values[4]) for core, values in counted.items()}  # idle and iowait
