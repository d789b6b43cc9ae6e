"""U-Nets, plain and with a residual encoder (dynamic-network-architectures); weights have nnU-Net's names."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from torch import nn

from autoseg.plans.families import UNet
from autoseg.utils.errors import AutosegError

#: Slope of the leaky ReLU for negative values, which He initialisation takes into account (nnU-Net's).
NEGATIVE_SLOPE = 1e-2


def build_unet(network: UNet, in_channels: int, heads: int) -> nn.Module:
    """Build a ``unet`` or ``resenc`` with He-initialised weights.

    Of the residual encoder, the last normalization of every block starts at zero, so that each block is the
    identity at first (Goyal et al. 2017, section 5.1). With several decoders it is a :class:`SharedEncoder`.

    Raises:
        AutosegError: only one stage.
    """
    if len(network.features) < 2:
        raise AutosegError("network.features has one stage; a U-Net needs at least two.")
    flat = network.dimensions == 2
    arguments: dict[str, Any] = {
        "input_channels": in_channels,
        "n_stages": len(network.features),
        "features_per_stage": list(network.features),
        "conv_op": nn.Conv2d if flat else nn.Conv3d,
        "kernel_sizes": [list(row) for row in network.kernel_sizes],
        "strides": [list(row) for row in network.strides],
        "num_classes": heads,
        "n_conv_per_stage_decoder": list(network.decoder_convs),
        "conv_bias": True,
        "norm_op": _norm(network.norm, flat),
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU if network.activation == "leaky_relu" else nn.ReLU,
        "nonlin_kwargs": {"inplace": True},
        "deep_supervision": network.deep_supervision,
    }
    if network.activation == "leaky_relu":
        arguments["nonlin_kwargs"]["negative_slope"] = NEGATIVE_SLOPE
    if network.dropout:
        # Whole channels are dropped: neighbouring voxels are so alike that dropping single ones has little effect.
        arguments["dropout_op"] = nn.Dropout2d if flat else nn.Dropout3d
        arguments["dropout_op_kwargs"] = {"p": network.dropout, "inplace": True}
    if network.family == "resenc":
        module: nn.Module = ResidualEncoderUNet(n_blocks_per_stage=list(network.encoder_blocks), **arguments)
        module.apply(ResidualEncoderUNet.initialize)
    else:
        arguments["n_conv_per_stage"] = list(network.encoder_blocks)
        module = PlainConvUNet(**arguments)
        if network.pooling == "max":
            _pool_by_maxima(module, arguments)
        module.apply(PlainConvUNet.initialize)
    if network.decoders > 1:
        module = SharedEncoder(module, network.decoders)
    module.register_forward_hook(_full_resolution_only)
    return module


class SharedEncoder(nn.Module):
    """One encoder and several decoders; weights are named ``encoder.…`` and ``decoders.0.…``, ``decoders.1.…``.

    All decoders start from the same weights, so that they differ only by their annotations and not by chance: without
    dropout, identical annotations keep them equal.
    """

    def __init__(self, single: nn.Module, count: int) -> None:
        super().__init__()
        self.encoder = single.get_submodule("encoder")
        decoder = single.get_submodule("decoder")
        del decoder.encoder  # the library's decoder lists its encoder's weights a second time
        self.decoders = nn.ModuleList([decoder, *(copy.deepcopy(decoder) for _ in range(count - 1))])

    def forward(self, image: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Logits ``(batch, decoders × heads, *space)``, the heads of a decoder together, at every resolution."""
        skips = self.encoder(image)
        logits: Sequence[Any] = [decoder(skips) for decoder in self.decoders]
        if isinstance(logits[0], torch.Tensor):
            return torch.cat(list(logits), dim=1)
        return [torch.cat(level, dim=1) for level in zip(*logits, strict=True)]


def _pool_by_maxima(module: nn.Module, arguments: Mapping[str, Any]) -> None:
    """Give a plain U-Net an encoder that pools by maxima in place of strides (Ronneberger et al. 2015)."""
    of_decoder = ("num_classes", "n_conv_per_stage_decoder", "deep_supervision")
    of_encoder = {name: value for name, value in arguments.items() if name not in of_decoder}
    module.encoder = PlainConvEncoder(**of_encoder, return_skips=True, pool="max")
    module.decoder = UNetDecoder(module.encoder, *(arguments[name] for name in of_decoder))


def _norm(name: str, flat: bool) -> type[nn.Module]:
    if name == "batch":
        return nn.BatchNorm2d if flat else nn.BatchNorm3d
    return nn.InstanceNorm2d if flat else nn.InstanceNorm3d


def _full_resolution_only(module: nn.Module, _: Any, output: Any) -> torch.Tensor | None:
    """In evaluation mode a network always gives one tensor, whatever its deep supervision."""
    return output[0] if isinstance(output, list) and not module.training else None
