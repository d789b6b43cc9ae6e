"""Parts of a network that keep their weights for a share of the training."""

from collections.abc import Collection

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoseg.networks.parts import encoder_names, head_axes
from autoseg.plans.architecture import Network
from autoseg.plans.recipe import Freeze


def frozen_names(freeze: Freeze, architecture: Network, network: nn.Module, in_channels: int, heads: int) -> set[str]:
    """Names of the parameters that are frozen.

    Args:
        freeze: which part.
        architecture: of the network.
        network: built.
        in_channels: of the network.
        heads: of the network.
    """
    names = [name for name, _ in network.named_parameters()]
    if freeze.part == "none":
        return set()
    if freeze.part == "encoder":
        return encoder_names(architecture, names)
    return set(names) - set(head_axes(architecture, in_channels, heads))


def hold(network: nn.Module, names: Collection[str], held: bool) -> None:
    """Keep the weights of these names as they are, statistics of batch norms with them; or let them go.

    Args:
        network: in training mode; what is held of it is put into evaluation mode.
        names: of parameters.
        held: whether they are kept.
    """
    for name, parameter in network.named_parameters():
        if name in names:
            parameter.requires_grad_(not held)
    for name, part in network.named_modules():
        if isinstance(part, _BatchNorm) and f"{name}.weight" in names:
            part.train(not held)
