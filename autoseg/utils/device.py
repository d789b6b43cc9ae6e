"""The device at hand: which one, in which precision, and what makes a CPU faster."""

import ctypes
import platform
import sys
from contextlib import AbstractContextManager, nullcontext

import torch

from autoseg.plans.recipe import Precision
from autoseg.utils.errors import UsageError


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


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The data type of autocast; float32 means none.

    ``auto`` takes 16 bits where the device computes faster with them: bfloat16 on a CPU with AVX512-BF16 or AMX
    (measured: half the step, ``benchmarks/cpu_step.py``) and on GPUs from compute capability 8, float16 on older GPUs.
    """
    if precision == "fp32":
        return torch.float32
    if precision == "bf16":
        return torch.bfloat16
    if precision == "fp16":
        return torch.float16 if device.type != "cpu" else torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    if device.type == "cpu" and has_fast_bfloat16():
        return torch.bfloat16
    return torch.float32


def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Autocast to ``dtype`` on the device; nothing for float32."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)


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
