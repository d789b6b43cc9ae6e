"""Building blocks that several networks share."""

import torch
import torch.nn.functional as F
from torch import nn

from autoseg.networks.lone_image import convolve, is_left_aside

#: Slope of a parametric rectifier below zero before it has learned one (He et al. 2015, who introduced it).
SLOPE = 0.25


class Rectifier(nn.Module):
    """PReLU with one slope per channel, for features of any dtype.

    torch's own PReLU needs slopes of the features' dtype, and autocast does not cast them on every device.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.full((channels,), SLOPE))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Same shape and dtype as ``features``, ``(batch, channel, z, y, x)``."""
        return torch.prelu(features, self.slope.to(features.dtype))


def normalization(name: str, channels: int) -> nn.Module:
    """Affine 3D normalization: ``instance``, ``batch``, or the identity for ``none``."""
    if name == "none":
        return nn.Identity()
    if name == "batch":
        return nn.BatchNorm3d(channels)
    return nn.InstanceNorm3d(channels, affine=True)


class Convolution(nn.Conv3d):
    """A convolution that pads an image smaller than its kernel beforehand; the result is the same.

    Of one image on a CPU it is oneDNN's, too (:mod:`autoseg.networks.lone_image`).

    oneDNN (torch 2.15, CPU) gives such a convolution's weights gradients up to 1e36 in bfloat16 where it pads itself.
    Observed with 3×3×3, 3×1×1 and 5×5×5; kernels within slices (1×3×3) are correct.
    """

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Convolve ``(batch, channel, z, y, x)``."""
        if isinstance(self.padding, str) or self.padding_mode != "zeros":
            return super().forward(features)
        short = any(side < kernel for side, kernel in zip(features.shape[2:], self.kernel_size, strict=True))
        if not short or self.kernel_size[0] == 1:
            if is_left_aside(features, self.weight, self.groups):
                return convolve(features, self.weight, self.bias, self.stride, self.padding, self.dilation)
            return super().forward(features)
        around = [int(side) for side in reversed(self.padding) for _ in range(2)]  # the last axis comes first
        return F.conv3d(F.pad(features, around), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def pad_beforehand(network: nn.Module) -> None:
    """Turn every plain ``nn.Conv3d`` of a network into a :class:`Convolution`; weights keep their names."""
    for part in network.modules():
        if type(part) is nn.Conv3d:
            part.__class__ = Convolution


def convolution(in_channels: int, out_channels: int, kernel: int, norm: str, padding: int = 0) -> nn.Sequential:
    """Convolution, normalization, ReLU. No bias: the normalization would cancel it."""
    return nn.Sequential(
        Convolution(in_channels, out_channels, kernel, padding=padding, bias=False),
        normalization(norm, out_channels),
        nn.ReLU(inplace=True),
    )


def head(in_channels: int, widths: list[int], norm: str, dropout: float, heads: int) -> nn.Sequential:
    """1×1×1 layers, each followed by dropout, and a 1×1×1 classification layer with a bias.

    Args:
        in_channels: of the features.
        widths: of the 1×1×1 layers.
        norm: normalization of each.
        dropout: probability after each; drops single values, not channels, as the published networks do.
        heads: channels of the result.
    """
    layers: list[nn.Module] = []
    for width in widths:
        layers += [convolution(in_channels, width, 1, norm), nn.Dropout(dropout)]
        in_channels = width
    return nn.Sequential(*layers, nn.Conv3d(in_channels, heads, 1))


def enlarge(features: torch.Tensor, factor: int) -> torch.Tensor:
    """Repeat each voxel ``factor`` times along each axis; ``(batch, channel, z, y, x)``.

    Only a copy: autocast keeps its dtype, and the backward pass is a sum that needs no saved activations.
    """
    batch, channels, depth, height, width = features.shape
    spread = features[:, :, :, None, :, None, :, None]
    spread = spread.expand(batch, channels, depth, factor, height, factor, width, factor)
    return spread.reshape(batch, channels, depth * factor, height * factor, width * factor)


def crop(features: torch.Tensor, margin: int) -> torch.Tensor:
    """``(batch, channel, z, y, x)`` without ``margin`` voxels on each side of each axis."""
    depth, height, width = (slice(margin, size - margin) for size in features.shape[2:])
    return features[:, :, depth, height, width]


def initialize(network: nn.Module, slope: float = 0.0) -> None:
    """He-normal weights (He et al. 2015) of all convolutions, for a rectifier of this slope below zero; biases zero."""
    for part in network.modules():
        if isinstance(part, nn.Conv3d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(part.weight, a=slope)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
