"""V-Net (Milletari et al. 2016, 3DV): residual blocks, strided convolutions in place of pooling."""

import torch
from torch import nn

from autoseg.networks.blocks import SLOPE, Convolution, Rectifier, initialize, normalization
from autoseg.plans.families import VNet


class Block(nn.Module):
    """A residual block: its input is added to the last convolution's output, before the rectifier (figure 2)."""

    def __init__(self, in_channels: int, channels: int, count: int, network: VNet) -> None:
        super().__init__()
        self.channels = channels
        self.convolutions, self.rectifiers = nn.ModuleList(), nn.ModuleList()
        for _ in range(count):
            self.convolutions.append(
                nn.Sequential(
                    Convolution(
                        in_channels,
                        channels,
                        network.kernel_size,
                        padding=network.kernel_size // 2,
                        bias=network.norm == "none",
                    ),
                    normalization(network.norm, channels),
                )
            )
            self.rectifiers.append(Rectifier(channels))
            in_channels = channels
        self.dropout = nn.Dropout3d(network.dropout)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """``(batch, channel, z, y, x)``; an input of fewer channels is repeated to as many before it is added."""
        features = inputs
        for convolution, rectifier in zip(list(self.convolutions)[:-1], list(self.rectifiers)[:-1], strict=True):
            features = rectifier(convolution(features))
        features = self.convolutions[-1](features)
        if inputs.shape[1] != self.channels:
            repeats = -(-self.channels // inputs.shape[1])
            inputs = inputs.repeat(1, repeats, 1, 1, 1)[:, : self.channels]
        # The image is float32 under autocast: without the cast all later layers would be, too.
        result: torch.Tensor = self.dropout(self.rectifiers[-1](features + inputs.to(features.dtype)))
        return result


class ResidualVNet(nn.Module):
    """The encoder halves each axis and doubles the channels with 2×2×2 convolutions; the decoder reverses that.

    A decoder block works on the upsampled features and the skipped ones concatenated: twice the level's channels.
    The first block's residual is the image itself, its channels repeated to as many as the first level has (for one
    channel that is the paper's broadcast).
    """

    def __init__(self, network: VNet, in_channels: int, heads: int) -> None:
        super().__init__()
        features, convolutions = network.features, network.convolutions
        self.down, self.enter = nn.ModuleList(), nn.ModuleList()
        self.up, self.leave = nn.ModuleList(), nn.ModuleList()
        self.enter.append(Block(in_channels, features[0], convolutions[0], network))
        for level in range(1, len(features)):
            self.down.append(_strided(nn.Conv3d, features[level - 1], features[level], network))
            self.enter.append(Block(features[level], features[level], convolutions[level], network))
        channels = features[-1]
        for level in reversed(range(len(features) - 1)):
            self.up.append(_strided(nn.ConvTranspose3d, channels, features[level], network))
            channels = 2 * features[level]
            self.leave.append(Block(channels, channels, convolutions[level], network))
        self.classify = nn.Conv3d(channels, heads, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits ``(batch, heads, z, y, x)`` of ``(batch, channel, z, y, x)``."""
        features = self.enter[0](image)
        skips = [features]
        for down, enter in zip(self.down, list(self.enter)[1:], strict=True):
            features = enter(down(features))
            skips.append(features)
        for up, leave, skip in zip(self.up, self.leave, reversed(skips[:-1]), strict=True):
            features = leave(torch.cat([up(features), skip], dim=1))
        logits: torch.Tensor = self.classify(features)
        return logits


def build_vnet(network: VNet, in_channels: int, heads: int) -> nn.Module:
    """Build a ``vnet`` with He-normal weights."""
    module = ResidualVNet(network, in_channels, heads)
    initialize(module, SLOPE)
    return module


def _strided(kind: type[nn.Conv3d] | type[nn.ConvTranspose3d], before: int, after: int, network: VNet) -> nn.Sequential:
    return nn.Sequential(
        kind(before, after, 2, stride=2, bias=network.norm == "none"),
        normalization(network.norm, after),
        Rectifier(after),
    )
