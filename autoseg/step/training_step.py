"""TrainingStep: the one definition of a training step.

The training loop runs it, the memory model traces it on shapes alone, ``--verify`` measures it and the CPU planner
times it.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from autoseg.networks import set_deep_supervision
from autoseg.plans.recipe import Recipe
from autoseg.plans.target import Target
from autoseg.step.averaging import MovingAverage
from autoseg.step.batch import Batch
from autoseg.step.graphs import GraphedGradients
from autoseg.step.objective import Outputs, objective
from autoseg.step.optimizer import TrainedParameters, build_optimizer, restore_optimizer, take_step
from autoseg.step.variant import Variant

#: 32 bits, contiguous, not compiled.
PLAIN = Variant()


@dataclass(frozen=True)
class StepOutcome:
    """Result of a step, on its device: reading it waits until the step is done.

    Attributes:
        loss: of the batch, 0-d.
        finite: bool, 0-d: whether loss and gradient were finite; if not, the weights are unchanged.
    """

    loss: torch.Tensor
    finite: torch.Tensor


class TrainingStep:
    """One training step on a batch: forward, loss, backward, optimizer and average of the weights.

    A step only gives a CUDA device its work, and never waits for it (with Ranger21 it does).

    Args:
        network: on its device; its weights are put into the variant's memory format.
        recipe: loss, optimizer, clipping, average.
        target: what to segment.
        variant: how to compute.
        parameters: argument of the optimizer; all parameters alike where None.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        target: Target,
        variant: Variant = PLAIN,
        parameters: TrainedParameters | None = None,
    ) -> None:
        self.network = network
        self.recipe = recipe
        self.target = target
        self.device = next(network.parameters()).device
        self.variant = variant
        variant.prepare(network)
        fused = variant.fused or self.device.type == "cuda"
        parameters = network.parameters() if parameters is None else parameters
        self.optimizer = build_optimizer(parameters, recipe.optimizer, fused)
        self.average = MovingAverage(network, recipe.ema_decay)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=variant.dtype == torch.float16)
        self._run = variant.run(network)
        self._graphed = GraphedGradients(network) if variant.graphs else None
        #: Running statistics of batch norm; other networks have no such buffers.
        self._statistics = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
        self._before = [buffer.clone() for buffer in self._statistics]
        #: Autocast of the forward pass; the memory model replaces it where the device is absent. It does not refer to
        #: the step, whose memory would then wait for Python's garbage collector.
        self.casts: Callable[[], AbstractContextManager[object]] = partial(variant.casts, self.device)

    @property
    def dtype(self) -> torch.dtype:
        """Data type of autocast; float32 for none."""
        return self.variant.dtype

    def __call__(self, batch: Batch) -> StepOutcome:
        """Train on a batch, and update the average of the weights."""
        self.optimizer.zero_grad(set_to_none=True)
        if self._statistics:
            torch._foreach_copy_(self._before, self._statistics)
        loss = self.gradients(batch) if self._graphed is None else self._graphed(batch, self.gradients)
        finite = self.clip(loss)
        self._restore(finite)
        take_step(self.optimizer, finite)
        self.scaler.update()  # where gradients overflowed 16 bits, it halves the scale
        self.average.update(self.network)
        return StepOutcome(loss, finite)

    def forward(self, batch: Batch) -> Outputs:
        """The network's logits of a batch, in the step's variant."""
        with self.casts():
            outputs: Outputs = self._run(self.variant.arrange(batch.image))
        return outputs

    def loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        """The objective, a scalar."""
        return objective(outputs, batch, self.recipe, self.target)

    def backward(self, loss: torch.Tensor) -> None:
        """Backward pass of the scaled loss."""
        self.scaler.scale(loss).backward()

    def gradients(self, batch: Batch) -> torch.Tensor:
        """The loss of a batch, 0-d, whose backward pass has added to the gradients; what a CUDA graph records."""
        loss = self.loss(self.forward(batch), batch)
        self.backward(loss)
        return loss.detach()

    def clip(self, loss: torch.Tensor) -> torch.Tensor:
        """Unscale and clip the gradients; a 0-d bool: whether loss and gradient are finite."""
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.gradient_clip or math.inf)
        return torch.isfinite(loss.detach()) & torch.isfinite(norm)

    @torch.no_grad()
    def _restore(self, finite: torch.Tensor) -> None:
        """Where a step is skipped, what its forward pass left in the running statistics is skipped, too."""
        if self._statistics:
            pairs = zip(self._statistics, self._before, strict=True)
            torch._foreach_copy_(self._statistics, [torch.where(finite, now, before) for now, before in pairs])

    def state_dict(self) -> dict[str, Any]:
        """All tensors and plain values that are needed to resume exactly."""
        return {
            "network": self.network.state_dict(),
            "average": {} if self.average.network is self.network else self.average.network.state_dict(),
            "average_steps": self.average.steps,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Load what :meth:`state_dict` returned; other keys are ignored."""
        self.network.load_state_dict(saved["network"])
        if saved["average"]:
            self.average.network.load_state_dict(saved["average"])
        self.average.steps = saved["average_steps"]
        restore_optimizer(self.optimizer, saved["optimizer"])
        if self.scaler.is_enabled() and saved["scaler"]:  # empty where it began on a device without 16-bit floats
            self.scaler.load_state_dict(saved["scaler"])

    @torch.no_grad()
    def mean_loss(self, network: nn.Module, batches: Iterable[Batch]) -> float:
        """The mean objective of a network in evaluation mode, such as an average of weights, over some batches."""
        network.eval()
        set_deep_supervision(network, False)
        losses = []
        for batch in batches:
            with self.casts():
                outputs = network(self.variant.arrange(batch.image))
            losses.append(float(self.loss(outputs, batch)))
        return float(np.mean(losses))
