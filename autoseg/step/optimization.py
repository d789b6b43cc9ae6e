"""Optimizer, learning-rate schedule and the moving average of the weights."""

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from autoseg.plans.recipe import Optimizer, Schedule
from autoseg.utils.errors import AutosegError

#: ``one_cycle`` rises over this share of the budget, from this share of the rate (torch's and fastai's numbers for the
#: cycle of Smith 2018).
CYCLE_RISE, CYCLE_START = 0.3, 1 / 25

#: A training loss counts as improved where it is lower by this share (as in torch's ReduceLROnPlateau).
IMPROVEMENT = 1e-4


#: What an optimizer is given: parameters, or groups of them (:func:`layer_groups`).
Trained = Iterable[torch.Tensor] | Iterable[dict[str, Any]]


def layer_groups(network: nn.Module, depths: Mapping[str, float], layer_decay: float) -> list[dict[str, Any]]:
    """Groups of parameters, each with the share ``rate_share`` of the learning rate that it is trained with.

    A parameter at depth d (0: first layer, 1: last) gets ``layer_decay`` ** (1 − d).

    Args:
        network: whose parameters.
        depths: name → depth.
        layer_decay: share of the first layer.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        groups.setdefault(depths[name], []).append(parameter)
    return [
        {"params": parameters, "rate_share": layer_decay ** (1 - depth)} for depth, parameters in sorted(groups.items())
    ]


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Train with this learning rate, each group with its share of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("rate_share", 1.0)


def build_optimizer(parameters: Trained, optimizer: Optimizer) -> torch.optim.Optimizer:
    """The plan's optimizer; SGD uses Nesterov momentum, where it has any.

    Raises:
        AutosegError: Ranger21 is asked for and not installed.
    """
    rate, decay = optimizer.learning_rate, optimizer.weight_decay
    if optimizer.name == "sgd":
        return torch.optim.SGD(
            parameters, rate, optimizer.momentum, nesterov=optimizer.momentum > 0, weight_decay=decay
        )
    if optimizer.name == "adam":
        return torch.optim.Adam(parameters, rate, weight_decay=decay)
    if optimizer.name == "ranger21":
        return _ranger21(parameters, rate, decay)
    return torch.optim.AdamW(parameters, rate, weight_decay=decay)


def _ranger21(parameters: Trained, rate: float, decay: float) -> torch.optim.Optimizer:
    """Ranger21 (Wright & Demeure 2021, https://arxiv.org/abs/2106.13731) without its schedule.

    It is AdamW with many additions. On, with the library's defaults: adaptive gradient clipping (0.01), gradient
    centralization, gradient normalization, positive-negative momentum, norm loss (1e-4), stable weight decay, softplus
    in the denominator (β = 50) and Lookahead (every 5 steps, halfway). Off: linear warm-up and the explore–exploit
    schedule; the plan's schedule ``explore_exploit`` does the same.

    Since gradients are normalized, their scale, and the recipe's ``gradient_clip``, matter little. The moments and the
    lookahead take five numbers a weight, where AdamW takes two.
    """
    try:
        from pytorch_optimizer import Ranger21
    except ImportError:
        raise AutosegError(
            "the optimizer ranger21 needs the package pytorch_optimizer; install it with pip install "
            "'autoseg[ranger21]', or choose another optimizer (--set recipe.optimizer.name=adamw)."
        ) from None
    # Its own schedule counts iterations, whose number nobody knows where the budget is a time; so the loop sets the
    # rate before each step as for every optimizer, and the number of iterations it insists on is used for nothing.
    ranger: torch.optim.Optimizer = Ranger21(
        parameters, num_iterations=1, lr=rate, weight_decay=decay, disable_lr_scheduler=True
    )
    return ranger


def rate_factor(schedule: Schedule, progress: float, losses: Sequence[float] = ()) -> float:
    """Share of the learning rate at ``progress`` (0 to 1) of the budget, be that iterations or time.

    Args:
        schedule: of the plan.
        progress: share of the budget that is spent.
        losses: mean training loss of each epoch so far, which ``plateau`` follows.
    """
    progress = min(max(progress, 0.0), 1.0)
    if schedule.name == "one_cycle":
        if progress < CYCLE_RISE:
            return _cosine(CYCLE_START, 1.0, progress / CYCLE_RISE)
        return _cosine(1.0, schedule.floor, (progress - CYCLE_RISE) / (1 - CYCLE_RISE))
    if progress < schedule.warmup:
        # Never zero: the very first step should already move.
        return max(progress / schedule.warmup, 0.01)
    rest = (progress - schedule.warmup) / (1 - schedule.warmup)
    if schedule.name == "cosine":
        return schedule.floor + (1 - schedule.floor) * 0.5 * (1 + math.cos(math.pi * rest))
    if schedule.name == "poly":
        return float((1 - rest) ** schedule.power)
    if schedule.name == "explore_exploit" and progress > schedule.explore:
        return 1 - (1 - schedule.floor) * (progress - schedule.explore) / (1 - schedule.explore)
    if schedule.name == "plateau":
        return max(schedule.factor ** -plateaus(losses, schedule.patience), schedule.floor)
    return 1.0


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


def plateaus(losses: Sequence[float], patience: int) -> int:
    """How often a loss stopped falling for ``patience`` epochs; the waiting begins anew after each time.

    Computed from the history alone, so that an interrupted training goes on with the very rate it had.

    Args:
        losses: of each epoch; NaN is no improvement.
        patience: epochs without improvement.
    """
    best, waited, found = math.inf, 0, 0
    for loss in losses:
        if loss < best * (1 - IMPROVEMENT):
            best, waited = loss, 0
        else:
            waited += 1
        if waited == patience:
            waited, found = 0, found + 1
    return found


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
