"""The moving average of a network's weights, which is validated and saved."""

import copy

import torch
from torch import nn


class MovingAverage:
    """Exponential moving average of a network's weights, as a second network.

    The decay grows with the steps, min(decay, (1 + n) / (10 + n)), so that the initial weights soon have little
    weight (as in TensorFlow's ExponentialMovingAverage).

    Args:
        network: whose weights are averaged.
        decay: final value; 0 for no average: ``network`` is then the network itself, not a copy.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.network = copy.deepcopy(network).eval().requires_grad_(False) if decay else network

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Update the average with the weights after a step."""
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
