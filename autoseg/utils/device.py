"""The device at hand: which one, and what makes a CPU faster."""

import ctypes
import platform
import sys
from dataclasses import dataclass

import torch

from autoseg.utils.errors import UsageError


@dataclass(frozen=True)
class Compute:
    """What of a machine a long job uses.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        workers: processes that read, preprocess and load; chosen for the machine where None.
    """

    device: str = "auto"
    workers: int | None = None


def select_device(name: str = "auto") -> torch.device:
    """Turn ``--device auto|cpu|cuda|mps`` into a device.

    Raises:
        UsageError: unknown, or not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    kind = name.split(":")[0]
    if kind not in ("cpu", "cuda", "mps"):
        raise UsageError(f"--device {name} is unknown; choose auto, cpu, cuda or mps.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: there is no CUDA device here; use --device cpu.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"--device {name}: there is no Metal device here; use --device cpu.")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name} is unknown; write it like cuda or cuda:1.") from None
    if kind == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {name}: there are only {torch.cuda.device_count()} CUDA devices here, from cuda:0.")
    return device


def keep_large_blocks() -> bool:
    """Tell glibc's malloc to reuse large blocks instead of giving them back to the kernel after each use.

    A training step on a CPU frees and takes the same hundreds of megabytes over and over; by default each time goes
    through the kernel's page faults (measured: 28 % of a step of batch 7, 5 % of one of batch 2,
    ``benchmarks/cpu_step.py``). The price is that memory once used is kept by the process.

    Returns:
        Whether it was done (only glibc has it).
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    # mallopt(3): M_TRIM_THRESHOLD is -1, M_TOP_PAD -2, M_MMAP_THRESHOLD -3; values are int.
    libc = ctypes.CDLL(None)
    large = 2**31 - 1
    return bool(libc.mallopt(-3, large)) and bool(libc.mallopt(-1, large))
