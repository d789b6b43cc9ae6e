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
from autoseg.step.objective import Outputs, objective
from autoseg.step.optimizer import TrainedParameters, build_optimizer
from autoseg.step.precision import autocast


@dataclass(frozen=True)
class StepOutcome:
    """Result of a step.

    Attributes:
        loss: of the batch.
        finite: whether loss and gradient were finite; if not, the weights are unchanged.
    """

    loss: torch.Tensor
    finite: torch.Tensor


class TrainingStep:
    """One training step on a batch: forward, loss, backward, optimizer and average of the weights.

    Args:
        network: on its device.
        recipe: loss, optimizer, clipping, average.
        target: what to segment.
        dtype: of autocast; float32 for none.
        parameters: argument of the optimizer; all parameters alike where None.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        target: Target,
        dtype: torch.dtype = torch.float32,
        parameters: TrainedParameters | None = None,
    ) -> None:
        self.network = network
        self.recipe = recipe
        self.target = target
        self.device = next(network.parameters()).device
        self.dtype = dtype
        self.optimizer = build_optimizer(network.parameters() if parameters is None else parameters, recipe.optimizer)
        self.average = MovingAverage(network, recipe.ema_decay)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype == torch.float16)
        #: Autocast of the forward pass; the memory model replaces it where the device is absent.
        self.casts: Callable[[], AbstractContextManager[object]] = partial(autocast, self.device, dtype)

    def __call__(self, batch: Batch) -> StepOutcome:
        """Train on a batch, and update the average of the weights."""
        self.optimizer.zero_grad(set_to_none=True)
        outputs = self.forward(batch)
        outcome = self.learn(self.loss(outputs, batch))
        self.average.update(self.network)
        return outcome

    def forward(self, batch: Batch) -> Outputs:
        """The network's logits of a batch, in the step's precision."""
        with self.casts():
            outputs: Outputs = self.network(batch.image)
        return outputs

    def loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        """The objective, a scalar."""
        return objective(outputs, batch, self.recipe, self.target)

    def learn(self, loss: torch.Tensor) -> StepOutcome:
        """Backward pass, clipping and the optimizer's step, which is skipped where loss or gradient is not finite."""
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.gradient_clip or math.inf)
        value = float(loss.detach())
        if not self.scaler.is_enabled():
            finite = math.isfinite(value) and bool(torch.isfinite(norm))
            del norm
            if finite:
                self.optimizer.step()
            return StepOutcome(loss.detach(), torch.tensor(finite))
        # The scaler leaves out a step whose gradients overflowed 16 bits, and halves the scale.
        scale = self.scaler.get_scale()
        if math.isfinite(value):
            self.scaler.step(self.optimizer)
        self.scaler.update()
        return StepOutcome(loss.detach(), torch.tensor(math.isfinite(value) and self.scaler.get_scale() >= scale))

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
        self.optimizer.load_state_dict(saved["optimizer"])
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
                outputs = network(batch.image)
            losses.append(float(self.loss(outputs, batch)))
        return float(np.mean(losses))
