"""Pieces that several networks are made of."""

import torch
import torch.nn.functional as F
from torch import nn

#: Slope of a parametric rectifier below zero before it has learned one (He et al. 2015, who introduced it).
SLOPE = 0.25


class Rectifier(nn.Module):
    """PReLU with a slope a channel, whatever the type that autocast has given the features.

    Torch's own needs slopes of the features' type, and not every device's autocast sees to that.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.full((channels,), SLOPE))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Same shape and type."""
        return torch.prelu(features, self.slope.to(features.dtype))


def normalization(name: str, channels: int) -> nn.Module:
    """An affine ``instance`` or ``batch`` normalization of volumes; nothing for ``none``."""
    if name == "none":
        return nn.Identity()
    if name == "batch":
        return nn.BatchNorm3d(channels)
    return nn.InstanceNorm3d(channels, affine=True)


class Convolution(nn.Conv3d):
    """A convolution that pads an image smaller than its kernel beforehand; the result is the same.

    oneDNN (torch 2.15, CPU) gives such a convolution's weights gradients up to 1e36 in bfloat16 where it pads itself.
    Seen with 3×3×3, 3×1×1 and 5×5×5; kernels within slices (1×3×3) are right.
    """

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """``(batch, channel, z, y, x)``."""
        short = any(side < kernel for side, kernel in zip(features.shape[2:], self.kernel_size, strict=True))
        if not short or self.kernel_size[0] == 1 or isinstance(self.padding, str):
            return super().forward(features)
        around = [int(side) for side in reversed(self.padding) for _ in range(2)]  # the last axis comes first
        return F.conv3d(F.pad(features, around), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def pad_beforehand(network: nn.Module) -> None:
    """Make a :class:`Convolution` of every plain one in a network, whoever built it; its weights keep their names."""
    for part in network.modules():
        if type(part) is nn.Conv3d:
            part.__class__ = Convolution


def convolution(in_channels: int, out_channels: int, kernel: int, norm: str, padding: int = 0) -> nn.Sequential:
    """Convolution, normalization, ReLU. The convolution has no bias, which the normalization would take away again."""
    return nn.Sequential(
        Convolution(in_channels, out_channels, kernel, padding=padding, bias=False),
        normalization(norm, out_channels),
        nn.ReLU(inplace=True),
    )


def head(in_channels: int, widths: list[int], norm: str, dropout: float, heads: int) -> nn.Sequential:
    """Fully connected layers of each voxel, each with dropout behind it, and the classification (with a bias).

    Args:
        in_channels: of the features.
        widths: of the 1×1×1 layers.
        norm: normalization of each.
        dropout: probability behind each; single values are dropped, as in the networks this is used for.
        heads: channels of the result.
    """
    layers: list[nn.Module] = []
    for width in widths:
        layers += [convolution(in_channels, width, 1, norm), nn.Dropout(dropout)]
        in_channels = width
    return nn.Sequential(*layers, nn.Conv3d(in_channels, heads, 1))


def enlarge(features: torch.Tensor, factor: int) -> torch.Tensor:
    """Repeat each voxel ``factor`` times along each axis; ``(batch, channel, z, y, x)``.

    Made of a copy alone: autocast leaves its type alone, the backward pass is a sum and needs nothing saved.
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
