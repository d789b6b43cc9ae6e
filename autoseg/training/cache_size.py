"""How much memory a training may use for whole cases, beside what its steps need."""

from pathlib import Path

import torch

from autoseg.planning.memory import step_memory
from autoseg.plans.stage import Stage
from autoseg.step.setup import StepSetup
from autoseg.step.variant import Variant
from autoseg.training.batch_stream import IN_FLIGHT
from autoseg.training.case_cache import Room
from autoseg.utils.device import free_device_memory

#: Share of a device's free memory that is left alone: fragments, and what other programs take later.
SPARE = 0.1

#: Batches beside the one that is learned: the one that is being made, and those of the steps that the device has still
#: before it.
BATCHES_AHEAD = 1 + IN_FLIGHT

#: Share of the host's available memory for whole cases, and the most that is taken, in bytes.
HOST_SHARE, HOST_LIMIT = 0.25, 16_000_000_000

#: Taken where the system does not say what is available.
HOST_UNKNOWN = 500_000_000


def room_for_cases(stage: Stage, device: torch.device, variant: Variant) -> Room:
    """Memory for whole cases: what is free on the device beside the step's peak, and a share of the host's.

    Args:
        stage: to train.
        device: of the training.
        variant: of the step.
    """
    return Room(0 if device.type != "cuda" else _on_device(stage, device, variant), _on_host())


def _on_device(stage: Stage, device: torch.device, variant: Variant) -> int:
    free_device_memory()  # that was used before, as for timing variants of the step
    free, _ = torch.cuda.mem_get_info(device)
    setup = StepSetup.of(stage)
    batch = setup.batch("meta")
    each = sum(tensor.nbytes for tensor in (batch.image, batch.label, *batch.fields.values()))
    batches = (BATCHES_AHEAD + variant.graphs) * each  # a graph reads a copy of its own
    return max(0, int((1 - SPARE) * free) - step_memory(setup, variant.precision).total - batches)


def _on_host() -> int:
    known = [found for found in (_available(), _left_in_group()) if found is not None]
    return min(int(HOST_SHARE * min(known)), HOST_LIMIT) if known else HOST_UNKNOWN


def _available() -> int | None:
    """Bytes that the system can give to programs (Linux)."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def _left_in_group() -> int | None:
    """Bytes that are left of a container's limit (cgroups, version 2); None without one."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        return None if limit == "max" else int(limit) - int((group / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
