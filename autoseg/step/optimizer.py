"""Optimizers, and learning rates by layer."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from autoseg.plans.recipe import Optimizer
from autoseg.utils.errors import AutosegError
from autoseg.utils.extras import how_to_install

#: Argument of an optimizer: parameters, or groups of them (:func:`layer_groups`).
TrainedParameters = Iterable[torch.Tensor] | Iterable[dict[str, Any]]


def layer_groups(network: nn.Module, depths: Mapping[str, float], layer_decay: float) -> list[dict[str, Any]]:
    """Groups of parameters by depth, each with its share ``rate_share`` of the learning rate.

    A parameter at depth d (0: first layer, 1: last) gets ``layer_decay`` ** (1 − d).

    Args:
        network: whose parameters are grouped.
        depths: name of each parameter → depth, 0 to 1.
        layer_decay: ``rate_share`` of the first layer.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        groups.setdefault(depths[name], []).append(parameter)
    return [
        {"params": parameters, "rate_share": layer_decay ** (1 - depth)} for depth, parameters in sorted(groups.items())
    ]


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate, of each group by its share."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("rate_share", 1.0)


def build_optimizer(parameters: TrainedParameters, optimizer: Optimizer, fused: bool = False) -> torch.optim.Optimizer:
    """Build the plan's optimizer; SGD with momentum uses Nesterov's.

    Args:
        parameters: to train.
        optimizer: name and hyperparameters.
        fused: whether its step is one kernel, where there is one; it can then skip a step on the device
            (:func:`take_step`).

    Raises:
        AutosegError: the optimizer is Ranger21, which is not installed.
    """
    rate, decay, eps = optimizer.learning_rate, optimizer.weight_decay, optimizer.eps
    one_kernel = True if fused else None
    if optimizer.name == "ranger21":
        return _ranger21(parameters, rate, decay, eps)
    if optimizer.name == "adam":
        return torch.optim.Adam(parameters, rate, eps=eps, weight_decay=decay, fused=one_kernel)
    if optimizer.name == "adamw":
        return torch.optim.AdamW(parameters, rate, eps=eps, weight_decay=decay, fused=one_kernel)
    momentum = optimizer.momentum
    sgd = torch.optim.SGD(parameters, rate, momentum, nesterov=momentum > 0, weight_decay=decay, fused=one_kernel)
    if fused and momentum:
        sgd.register_step_pre_hook(_begin_momentum)
    return sgd


def take_step(optimizer: torch.optim.Optimizer, finite: torch.Tensor) -> None:
    """Take the optimizer's step, unless the gradient is not finite.

    A fused optimizer decides on the device; for another one this waits until the device knows.

    Args:
        optimizer: with unscaled gradients.
        finite: bool, 0-d, on the device of the parameters.
    """
    if optimizer.defaults.get("fused"):
        # What GradScaler.step sets (torch/amp/grad_scaler.py); the kernel does nothing where found_inf is 1.
        optimizer.grad_scale = None  # type: ignore[attr-defined]
        optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        optimizer.step()
    elif bool(finite):
        optimizer.step()


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Load an optimizer's state, also one that was saved on another device, by another implementation or format.

    Args:
        optimizer: built as for the training.
        saved: its ``state_dict``.
    """
    own = [{key: group[key] for key in ("fused", "foreach") if key in group} for group in optimizer.param_groups]
    groups = [{**group, **mine} for group, mine in zip(saved["param_groups"], own, strict=True)]
    optimizer.load_state_dict({**saved, "param_groups": groups})
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            # A fused kernel takes weights and moments only with the same strides.
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape and value.ndim:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _begin_momentum(optimizer: torch.optim.Optimizer, arguments: Any, keywords: Any) -> None:
    """Zeros as the momentum before the first step, which give torch's first step.

    A fused first step that is skipped leaves an uninitialised momentum behind (torch 2.14), and one on some of the
    parameters, the others being frozen, none for those.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and optimizer.state[parameter].get("momentum_buffer") is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _ranger21(parameters: TrainedParameters, rate: float, decay: float, eps: float) -> torch.optim.Optimizer:
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
            "the optimizer ranger21 needs the package pytorch_optimizer; install it with "
            f"{how_to_install('ranger21')}, or choose another optimizer (--set recipe.optimizer.name=adamw)."
        ) from None
    # Its own schedule needs the number of iterations, which is unknown where the budget is a time. The loop sets the
    # rate before each step as for every optimizer; the required number of iterations has no effect.
    ranger: torch.optim.Optimizer = Ranger21(
        parameters, num_iterations=1, lr=rate, weight_decay=decay, eps=eps, disable_lr_scheduler=True
    )
    return ranger
