"""Holds the computed memory of a step against a real one, on the device at hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from autoseg.networks import build
from autoseg.planning.memory import LABEL_TYPE, TrainingPrecision, empty_lesson, stand_in, trace_step
from autoseg.plans.architecture import Network
from autoseg.plans.configuration import Configuration
from autoseg.plans.plan import Plan
from autoseg.plans.recipe import Distillation, Loss, Optimizer
from autoseg.plans.target import Target
from autoseg.step.averaging import MovingAverage
from autoseg.step.loss import training_loss
from autoseg.step.optimizer import build_optimizer
from autoseg.step.precision import autocast
from autoseg.training.distillation import distillation_loss
from autoseg.utils.errors import AutosegError


@dataclass(frozen=True)
class Comparison:
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


def confirm(plan: Plan, configuration: Configuration, device: torch.device) -> Comparison:
    """Run real steps of a configuration and compare.

    Raises:
        AutosegError: the device runs out of memory.
    """
    recipe = configuration.recipe
    precision: TrainingPrecision = configuration.memory.precision if configuration.memory else "fp32"
    try:
        return compare(
            configuration.network,
            plan.in_channels(configuration),
            plan.target_of(configuration).heads,
            configuration.patch_size,
            configuration.batch_size,
            precision,
            recipe.optimizer,
            device,
            ema=recipe.ema_decay > 0,
            kind=plan.target_of(configuration).kind,
            loss=recipe.loss,
            distillation=recipe.taught,
        )
    except torch.OutOfMemoryError:
        raise AutosegError(
            f"{device} ran out of memory in a step with patch {configuration.patch_size} and batch "
            f"{configuration.batch_size}; plan with a smaller --gpu-memory."
        ) from None


def compare(
    network: Network,
    in_channels: int,
    heads: int,
    patch_size: Sequence[int],
    batch_size: int,
    precision: TrainingPrecision,
    optimizer: Optimizer,
    device: torch.device,
    ema: bool = False,
    kind: Literal["labels", "regions"] = "labels",
    loss: Loss | None = None,
    distillation: Distillation | None = None,
) -> Comparison:
    """Compare the computed and the measured memory of one training step; the arguments are those of ``step_memory``."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # as in training, whose choice of convolutions decides their workspace
    trace = trace_step(
        network,
        in_channels,
        heads,
        patch_size,
        batch_size,
        precision,
        optimizer,
        ema,
        kind=kind,
        loss=loss,
        device=device.type,
        distillation=distillation,
    )
    target = stand_in(kind, heads)
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
    module = build(network, in_channels, heads).to(device)
    average = MovingAverage(module, 0.999) if ema else None
    stepper = build_optimizer(module.parameters(), optimizer)
    # A CPU computes in bfloat16 whichever 16-bit type is meant; both have two bytes.
    half = torch.float16 if cuda else torch.bfloat16
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": half}[precision]
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    own = {tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *module.buffers())}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    # The first step makes the optimizer's state; a CPU's saved tensors do not depend on it.
    for _ in range(3 if cuda else 1):
        if cuda:
            torch.cuda.reset_peak_memory_stats(device)
        stepper.zero_grad(set_to_none=True)
        image = torch.randn((batch_size, in_channels, *network.input_size(patch_size)), device=device)
        label = torch.zeros((batch_size, *network.label_size(patch_size)), dtype=LABEL_TYPE, device=device)
        if cuda:
            value = _loss(module, image, label, dtype, loss or Loss(), target, distillation)
        else:
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                value = _loss(module, image, label, dtype, loss or Loss(), target, distillation)
            break
        scaler.scale(value).backward()
        scaler.unscale_(stepper)
        nn.utils.clip_grad_norm_(module.parameters(), 12.0)
        scaler.step(stepper)
        scaler.update()
        if average is not None:
            average.update(module)
        del value, image, label
    if not cuda:
        return Comparison("saved", trace.saved, sum(saved.values()), str(device))
    peak = round(float(trace.alive().max()))
    return Comparison("peak", peak, torch.cuda.max_memory_allocated(device), torch.cuda.get_device_name(device))


def _loss(
    module: nn.Module,
    image: torch.Tensor,
    label: torch.Tensor,
    dtype: torch.dtype,
    loss: Loss,
    target: Target,
    distillation: Distillation | None,
) -> torch.Tensor:
    with autocast(image.device, dtype):
        outputs = module(image)
    value = training_loss(outputs, label, loss, target)
    if distillation is None:
        return value
    return value + distillation_loss(outputs, label, empty_lesson(label, target.heads), distillation, target)
