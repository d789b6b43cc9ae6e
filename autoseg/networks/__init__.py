"""Networks: build a module from the plan's description; one Python module for each family.

Works on tensors only and imports without SimpleITK, so that a network can be profiled on a bare machine.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any

import torch
from torch import nn

from autoseg.networks.blocks import pad_beforehand
from autoseg.networks.channels_last import keep_format
from autoseg.plans.architecture import Architecture, Network
from autoseg.utils.registry import Registry

__all__ = ["BUILDERS", "build", "count_parameters", "parameters_of", "resized", "set_deep_supervision"]

#: Builds a module from a description, the number of input channels and the number of heads.
Builder = Callable[[Any, int, int], nn.Module]

#: Family → builder (:data:`autoseg.plans.architecture.FAMILIES` has its description). A family's module is imported
#: when it is first built, since some need an extra to be installed.
BUILDERS: Registry[Builder] = Registry("network family", package="autoseg.networks")


#: Channels and heads that parameters are counted for where a network's size is chosen: BraTS' four sequences, and the
#: fewest that every family can have.
COUNTED_FOR = (4, 2)

#: Halvings of the interval of factors; the last differ by less than a kernel.
_HALVINGS = 11


def _in_module(module: str, function: str) -> Builder:
    def build_family(network: Any, in_channels: int, heads: int) -> nn.Module:
        built: nn.Module = getattr(import_module(f"autoseg.networks.{module}"), function)(network, in_channels, heads)
        return built

    return build_family


for _family, _module in (
    ("unet", "unet"),
    ("resenc", "unet"),
    ("deepmedic", "deepmedic"),
    ("fullimage_unet", "fullimage_unet"),
    ("vnet", "vnet"),
    ("inflated", "inflated"),
    ("multiview", "multiview"),
):
    BUILDERS.register(_family, _in_module(_module, f"build_{_module}"))


def build(network: Network, in_channels: int, heads: int, deep_supervision: bool | None = None) -> nn.Module:
    """Build a network with freshly initialised weights (from torch's global random state).

    In training mode with deep supervision it returns a list of logits ``(batch, heads, *space)``, the highest
    resolution first; otherwise one tensor. Weights have the same names either way.

    Args:
        network: topology, from the plan.
        in_channels: channels of the image.
        heads: output channels of each decoder (``plan.target.heads``).
        deep_supervision: overrides the plan's choice where given.

    Raises:
        AutosegError: the topology can't be built.

    Example:
        >>> from autoseg.plans.families import UNet
        >>> flat = UNet(features=[8, 16], strides=[[1, 1], [2, 2]], kernel_sizes=[[3, 3], [3, 3]],
        ...             encoder_blocks=[2, 2], decoder_convs=[2])
        >>> count_parameters(build(flat, in_channels=1, heads=2))
        (6562, 6562)
    """
    network = resized(network)
    module = BUILDERS.find(network.family)(network, in_channels, heads)
    pad_beforehand(module)
    keep_format(module)
    set_deep_supervision(module, network.supervised_levels if deep_supervision is None else deep_supervision)
    return module


def resized(network: Network) -> Network:
    """The network that is built for a description: itself, or with as many kernels as come nearest to its size.

    Parameters are counted for :data:`COUNTED_FOR` channels and heads, so that kernels depend on the description alone.

    Raises:
        AutosegError: the topology can't be built.
    """
    if network.size == 1:
        return network
    kernels = _kernels(type(network), network.model_dump_json(exclude={"reasons"}))
    return network.scaled(kernels).model_copy(update={"reasons": network.reasons})


@lru_cache(maxsize=64)
def _kernels(kind: type[Architecture], description: str) -> float:
    """The factor on the kernels of a description that gives the share of parameters it asks for."""
    network = kind.model_validate_json(description)
    with torch.random.fork_rng(devices=[]):
        own = network.scaled(1.0)
        wanted = network.size * parameters_of(own, *COUNTED_FOR)[0]
        low, high, best, nearest = 0.0, 2 * network.size**0.5 + 1, 1.0, math.inf
        for _ in range(_HALVINGS):
            factor = (low + high) / 2
            if own.scaled(low) == own.scaled(high):
                break
            count = parameters_of(own.scaled(factor), *COUNTED_FOR)[0]
            if abs(count / wanted - 1) < nearest:
                best, nearest = factor, abs(count / wanted - 1)
            low, high = (factor, high) if count < wanted else (low, factor)
    return best


def set_deep_supervision(network: nn.Module, enabled: bool) -> None:
    """Switch auxiliary outputs (lower resolutions, single views) on or off.

    On, the network returns a list of logits in training mode; off, one tensor. A network without auxiliary outputs (no
    part has an attribute ``deep_supervision``) is left unchanged.
    """
    for part in network.modules():
        if hasattr(part, "deep_supervision"):
            part.deep_supervision = enabled  # type: ignore[assignment]


def count_parameters(network: nn.Module) -> tuple[int, int]:
    """Number of trainable parameters, and the same plus the running statistics of normalization layers."""
    trainable = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    statistics = sum(buffer.numel() for buffer in network.buffers() if buffer.is_floating_point())
    return trainable, trainable + statistics


def parameters_of(network: Network, in_channels: int, heads: int) -> tuple[int, int]:
    """:func:`count_parameters` of a network that is built on the meta device, without memory for weights."""
    with torch.device("meta"):
        return count_parameters(build(network, in_channels, heads))
