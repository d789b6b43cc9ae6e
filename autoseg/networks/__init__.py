"""Networks: from the plan's description to a module; one module of this package a family.

Works on tensors only and imports without SimpleITK, so that a network can be profiled on a bare machine.
"""

from torch import nn

from autoseg.errors import AutosegError
from autoseg.networks.unet import build_unet
from autoseg.plan import Network

__all__ = ["build", "count_parameters", "set_deep_supervision"]


def build(network: Network, in_channels: int, heads: int, deep_supervision: bool | None = None) -> nn.Module:
    """Build a network with freshly initialised weights (from torch's global random state).

    In training mode with deep supervision it returns a list of logits ``(batch, heads, *space)``, the highest
    resolution first; otherwise one tensor. Weights have the same names either way.

    Args:
        network: topology, from the plan.
        in_channels: channels of the image.
        heads: channels of the result (``plan.target.heads``).
        deep_supervision: overrides the plan's choice where given.

    Raises:
        AutosegError: the topology can't be built.

    Example:
        >>> from autoseg.plan import UNet
        >>> flat = UNet(features=[8, 16], strides=[[1, 1], [2, 2]], kernel_sizes=[[3, 3], [3, 3]],
        ...             encoder_blocks=[2, 2], decoder_convs=[2])
        >>> count_parameters(build(flat, in_channels=1, heads=2))
        (6562, 6562)
    """
    if len(network.features) < 2:
        raise AutosegError("network.features has one stage; a U-Net needs at least two.")
    module = build_unet(network, in_channels, heads)
    set_deep_supervision(module, network.deep_supervision if deep_supervision is None else deep_supervision)
    return module


def set_deep_supervision(network: nn.Module, enabled: bool) -> None:
    """Switch the results at lower resolutions on (a list, in training mode) or off (one tensor, always)."""
    network.decoder.deep_supervision = enabled  # type: ignore[union-attr]


def count_parameters(network: nn.Module) -> tuple[int, int]:
    """Number of trainable parameters, and the same plus the running statistics of normalization layers."""
    trainable = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    statistics = sum(buffer.numel() for buffer in network.buffers() if buffer.is_floating_point())
    return trainable, trainable + statistics
