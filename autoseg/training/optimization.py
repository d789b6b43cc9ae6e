"""Optimizer, learning-rate schedule and the moving average of the weights."""

import copy
import math
from collections.abc import Iterable

import torch
from torch import nn

from autoseg.recipe import Optimizer, Schedule


def build_optimizer(parameters: Iterable[nn.Parameter], optimizer: Optimizer) -> torch.optim.Optimizer:
    """The plan's optimizer; SGD uses Nesterov momentum, where it has any."""
    rate, decay = optimizer.learning_rate, optimizer.weight_decay
    if optimizer.name == "sgd":
        return torch.optim.SGD(
            parameters, rate, optimizer.momentum, nesterov=optimizer.momentum > 0, weight_decay=decay
        )
    if optimizer.name == "adam":
        return torch.optim.Adam(parameters, rate, weight_decay=decay)
    return torch.optim.AdamW(parameters, rate, weight_decay=decay)


def rate_factor(schedule: Schedule, progress: float) -> float:
    """Share of the learning rate at ``progress`` (0 to 1) of the budget, be that iterations or time."""
    progress = min(max(progress, 0.0), 1.0)
    if progress < schedule.warmup:
        # Never zero: the very first step should already move.
        return max(progress / schedule.warmup, 0.01)
    rest = (progress - schedule.warmup) / (1 - schedule.warmup)
    if schedule.name == "cosine":
        return schedule.floor + (1 - schedule.floor) * 0.5 * (1 + math.cos(math.pi * rest))
    if schedule.name == "poly":
        return float((1 - rest) ** schedule.power)
    return 1.0


class MovingAverage:
    """Exponential moving average of a network's weights, as a second network.

    The decay grows with the steps, min(decay, (1 + n) / (10 + n)), so that the first weights are soon forgotten
    (as in TensorFlow's ExponentialMovingAverage).

    Args:
        network: whose weights are averaged.
        decay: in the long run; 0 for no average: ``network`` is then the network itself, not a copy.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.network = copy.deepcopy(network).eval().requires_grad_(False) if decay else network

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        if self.network is network:
            return
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        # Parameters and buffers come once each; a state dict lists a U-Net's shared tensors under several names.
        averaged = [*self.network.parameters(), *self.network.buffers()]
        new = [*network.parameters(), *network.buffers()]
        for old, current in zip(averaged, new, strict=True):
            if not old.is_floating_point():
                old.copy_(current)
        pairs = [(old, current) for old, current in zip(averaged, new, strict=True) if old.is_floating_point()]
        torch._foreach_lerp_([old for old, _ in pairs], [current for _, current in pairs], 1 - decay)
