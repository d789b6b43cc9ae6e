"""Holds the computed memory of a step against a real one, on the device at hand."""

from dataclasses import dataclass
from typing import Literal

import torch

from autoseg.networks import build
from autoseg.planning.memory import TrainingPrecision, trace_step
from autoseg.plans.stage import Stage
from autoseg.step.precision import resolve_precision
from autoseg.step.setup import StepSetup, stand_in
from autoseg.step.training_step import TrainingStep
from autoseg.step.variant import Variant
from autoseg.utils.device import free_device_memory, saying_what_lacks_memory


@dataclass(frozen=True)
class MemoryCheck:
    """Computed against measured bytes.

    Attributes:
        what: ``peak`` of all allocated memory (CUDA), or ``saved`` for the backward pass (elsewhere, where no allocator
            keeps count).
        computed: by :mod:`autoseg.planning.memory`.
        measured: in a real step.
        device: that it was measured on.
    """

    what: Literal["peak", "saved"]
    computed: int
    measured: int
    device: str

    @property
    def difference(self) -> float:
        """Computed over measured, minus 1."""
        return self.computed / self.measured - 1

    def __str__(self) -> str:
        what = "peak of a step" if self.what == "peak" else "saved for the backward pass"
        return (
            f"{what}: computed {self.computed / 1e9:.3f} GB, measured {self.measured / 1e9:.3f} GB on {self.device} "
            f"({100 * self.difference:+.1f} %)"
        )


def confirm(stage: Stage, device: torch.device) -> MemoryCheck:
    """Run real steps of a stage and compare.

    Raises:
        AutosegError: the device runs out of memory.
    """
    configuration = stage.configuration
    precision: TrainingPrecision = configuration.memory.precision if configuration.memory else "fp32"
    doing = f"computing a step with patch {configuration.patch_size} and batch {configuration.batch_size}"
    with saying_what_lacks_memory(device, doing, "plan with a smaller --gpu-memory"):
        return check_memory(StepSetup.of(stage), precision, device)


def check_memory(setup: StepSetup, precision: TrainingPrecision, device: torch.device) -> MemoryCheck:
    """Compare the computed and the measured memory of one training step.

    Args:
        setup: what the step is made of.
        precision: to compute in.
        device: to measure on.
    """
    cuda = device.type == "cuda"
    # A CPU computes in bfloat16 whichever 16-bit type is meant, a Mac's GPU in 32 bits.
    variant = Variant(resolve_precision(precision, device))
    trace = trace_step(setup, variant.precision, device.type)
    free_device_memory()
    held = torch.cuda.memory_allocated(device) if cuda else 0
    module = build(setup.network, setup.in_channels, setup.target.heads).to(device)
    step = TrainingStep(module, setup.recipe, stand_in(setup.target.kind, setup.target.heads), variant)
    if not cuda:
        return MemoryCheck("saved", trace.saved, _saved(step, setup, device), str(device))
    # The first step makes the optimizer's state.
    for _ in range(3):
        torch.cuda.reset_peak_memory_stats(device)
        step(setup.batch(device, random=True))
    peak = round(float(trace.alive().max()))
    measured = torch.cuda.max_memory_allocated(device) - held
    return MemoryCheck("peak", peak, measured, torch.cuda.get_device_name(device))


def _saved(step: TrainingStep, setup: StepSetup, device: torch.device) -> int:
    """Bytes saved for the backward pass of a step, parameters not counted, each storage once."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*step.network.parameters(), *step.network.buffers())}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = setup.batch(device, random=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step.loss(step.forward(batch), batch)
    return sum(saved.values())
