"""Freezing parts of a network for a share of the training."""

from collections.abc import Collection

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoseg.networks.parts import encoder_names, head_axes
from autoseg.plans.architecture import Network
from autoseg.plans.recipe import Freeze


def frozen_names(freeze: Freeze, architecture: Network, network: nn.Module, in_channels: int, heads: int) -> set[str]:
    """Names of the parameters that are frozen.

    Args:
        freeze: part of the network that is frozen.
        architecture: description of the network.
        network: network built from it.
        in_channels: number of the network's input channels.
        heads: number of its output channels.
    """
    names = [name for name, _ in network.named_parameters()]
    if freeze.part == "none":
        return set()
    if freeze.part == "kernels":
        return {name for name, parameter in network.named_parameters() if parameter.ndim > 1}
    if freeze.part == "encoder":
        return encoder_names(architecture, names)
    return set(names) - set(head_axes(architecture, in_channels, heads))


def set_frozen(network: nn.Module, names: Collection[str], frozen: bool) -> None:
    """Freeze or unfreeze parameters, with the running statistics of their batch norms.

    Args:
        network: in training mode; frozen batch norms are put into evaluation mode.
        names: of parameters.
        frozen: whether to freeze them.
    """
    for name, parameter in network.named_parameters():
        if name in names:
            parameter.requires_grad_(not frozen)
    for name, part in network.named_modules():
        if isinstance(part, _BatchNorm) and f"{name}.weight" in names:
            part.train(not frozen)
