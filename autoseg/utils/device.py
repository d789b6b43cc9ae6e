"""Choice of the device, its memory, what is said where that lacks, and what becomes of it when it is no longer used."""

import ctypes
import gc
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from autoseg.utils.errors import AutosegError, UsageError

#: The first version of torch that computes what a network of volumes needs on a Mac's GPU.
VOLUMES_ON_MPS = "2.8"

#: Words of torch, CUDA, cuBLAS and cuDNN where memory lacks, in small letters and without underscores.
_LACKING = ("out of memory", "alloc failed", "allocation failed", "defaultcpuallocator")


@dataclass(frozen=True)
class Compute:
    """Device and processes of a long job.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        workers: processes that read, preprocess and load; chosen for the machine where None.
    """

    device: str = "auto"
    workers: int | None = None


def select_device(name: str = "auto") -> torch.device:
    """Turn ``--device auto|cpu|cuda|mps`` into a device.

    Raises:
        UsageError: the device is unknown or not available, or ``mps`` with an old torch.
    """
    # A TorchVersion compares as versions do.
    volumes_on_mps = torch.__version__ >= VOLUMES_ON_MPS
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available() and volumes_on_mps:
            return torch.device("mps")
        return torch.device("cpu")
    kind = name.split(":")[0]
    if kind not in ("cpu", "cuda", "mps"):
        raise UsageError(f"--device {name} is unknown; choose auto, cpu, cuda or mps.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: there is no CUDA device here; use --device cpu.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"--device {name}: there is no Metal device here; use --device cpu.")
    if kind == "mps" and not volumes_on_mps:
        raise UsageError(
            f"--device {name} needs torch {VOLUMES_ON_MPS} or later, here is {torch.__version__}; update it, or use "
            "--device cpu."
        )
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name} is unknown; write it like cuda or cuda:1.") from None
    if kind == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {name}: there are only {torch.cuda.device_count()} CUDA devices here, from cuda:0.")
    return device


def device_name(device: torch.device) -> str:
    """The model of a device, by which findings about it are kept."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        try:
            with open("/proc/cpuinfo", encoding="utf-8") as file:
                names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        except OSError:
            names = []
        return names[0] if names else platform.processor() or platform.machine()
    return f"{device.type} {platform.machine()}"


def wait_for(device: torch.device) -> None:
    """Wait until a device has computed all that it was given; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that memory lacks, a device's or the host's.

    torch has a kind of its own for what its allocator of CUDA memory is refused. A card that another program fills when
    it is first used, pinned memory, a graph, cuBLAS, cuDNN and the CPU's allocator raise others, which say it in words.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = str(error).lower().replace("_", " ")
    return isinstance(error, RuntimeError) and any(words in said for words in _LACKING)


@contextmanager
def saying_what_lacks_memory(device: torch.device, doing: str, way_out: str) -> Iterator[None]:
    """Turn an error for lack of memory inside this block into a sentence.

    Args:
        device: that computes.
        doing: what lacked memory, as in ``training fold 0``.
        way_out: what the user can do, as an order.

    Raises:
        AutosegError: memory lacked.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        raise AutosegError(f"{device} ran out of memory while {doing}; {way_out}.") from None


def has_room(device: torch.device, size: int, share: float = 1.0) -> bool:
    """Whether a CUDA device has room for so many bytes.

    What torch keeps for reuse is free, too, as far as it gives it back where memory lacks: blocks of which nothing is
    used, but for those of a CUDA graph.

    Args:
        device: with CUDA.
        size: in bytes.
        share: of the free memory that they may take.
    """
    free, _ = torch.cuda.mem_get_info(device)
    return bool(size < share * free or size < share * (free + _kept_unused(device)))


def _kept_unused(device: torch.device) -> int:
    """Bytes that torch keeps for reuse and would give back."""
    if torch.cuda.get_allocator_backend() != "native":
        return 0
    index = torch.cuda.current_device() if device.index is None else device.index
    segments = [one for one in torch.cuda.memory_snapshot() if one["device"] == index and not one["active_size"]]
    return sum(int(one["total_size"]) for one in segments if tuple(one["segment_pool_id"]) == (0, 0))


def free_device_memory() -> None:
    """Give the memory of CUDA devices that nothing needs any more back to them.

    That is what objects hold that only refer to each other (torch's compiler, while it is imported, leaves the first
    optimizer among such), and blocks that torch keeps for reuse.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def keep_large_blocks() -> bool:
    """Let glibc's malloc keep large blocks for reuse instead of returning them to the kernel.

    A training step on a CPU frees and allocates the same hundreds of megabytes again and again, by default with page
    faults each time (measured: 28 % of a step of batch 7, 5 % of one of batch 2, ``benchmarks/cpu_step.py``). In turn,
    the process keeps memory that it once used.

    Returns:
        Whether it was set (only glibc supports it).
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    # mallopt(3): M_TRIM_THRESHOLD is -1, M_TOP_PAD -2, M_MMAP_THRESHOLD -3; values are int.
    libc = ctypes.CDLL(None)
    largest = 2**31 - 1
    return bool(libc.mallopt(-3, largest)) and bool(libc.mallopt(-1, largest))


def return_large_blocks() -> bool:
    """Return the memory that :func:`keep_large_blocks` keeps to the system, where the next job needs other blocks.

    Returns:
        Whether some was returned (only glibc supports it).
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    return bool(ctypes.CDLL(None).malloc_trim(0))
