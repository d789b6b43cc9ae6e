"""How much memory a training may use for whole cases, beside what its steps need."""

import torch

from autoseg.planning.memory import step_memory
from autoseg.plans.stage import Stage
from autoseg.step.setup import StepSetup
from autoseg.step.variant import Variant
from autoseg.training.batch_stream import IN_FLIGHT
from autoseg.training.case_cache import Room
from autoseg.utils.device import free_device_memory
from autoseg.utils.host_memory import available_memory

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
    available = available_memory()
    return HOST_UNKNOWN if available is None else min(int(HOST_SHARE * available), HOST_LIMIT)
