"""The full-image U-Net of Rahimpour et al. ("Investigating certain choices of CNN configurations …", a report)."""

import torch
import torch.nn.functional as F
from torch import nn

from autoseg.networks.blocks import convolution, enlarge, head, initialize
from autoseg.plans.families import FullImageUNet


class WholeImageUNet(nn.Module):
    """A 3D U-Net for images of any size: pooling rounds sizes up, and the decoder crops the extra voxels.

    From the paper: four levels, the first with 20 and 40 kernels, two 1×1×1 layers of 20 with dropout, instance
    normalization, ReLU, 3,878,841 parameters. The rest is assumed, as the regular U-Net that comes nearest to that
    number: the two convolutions of each level have n and 2n kernels, as in Çiçek et al. 2016; in the decoder a 1×1×1
    convolution halves the channels before they are enlarged and concatenated, and two convolutions of n kernels follow;
    no convolution has a bias but the classification, and every other one an affine normalization. That makes 3,884,261
    parameters with four channels and one output, 0.14 % more than the paper's. (Transposed convolutions in place of the
    1×1×1 ones: over 20 % more.)
    """

    def __init__(self, network: FullImageUNet, in_channels: int, heads: int) -> None:
        super().__init__()
        norm, self.factor = network.norm, network.factor
        self.down, self.up, self.join = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for first, second in network.features:
            self.down.append(_pair(in_channels, first, second, norm))
            in_channels = second
        for first, second in reversed(network.features[:-1]):
            half = max(1, in_channels // 2)
            self.up.append(convolution(in_channels, half, 1, norm))
            self.join.append(_pair(half + second, first, first, norm))
            in_channels = first
        self.head = head(in_channels, list(network.fully_connected), norm, network.dropout, heads)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits ``(batch, heads, z, y, x)`` of ``(batch, channel, z, y, x)``."""
        features = self.down[0](image)
        skips = [features]
        for level in list(self.down)[1:]:
            features = level(F.max_pool3d(features, self.factor, ceil_mode=True))
            skips.append(features)
        for up, join, skip in zip(self.up, self.join, reversed(skips[:-1]), strict=True):
            enlarged = enlarge(up(features), self.factor)
            # The pooling rounded up what it could not divide, so an axis may be too long at its end.
            depth, height, width = skip.shape[2:]
            features = join(torch.cat([skip, enlarged[:, :, :depth, :height, :width]], dim=1))
        logits: torch.Tensor = self.head(features)
        return logits


def build_fullimage_unet(network: FullImageUNet, in_channels: int, heads: int) -> nn.Module:
    """Build a ``fullimage_unet`` with He-normal weights."""
    module = WholeImageUNet(network, in_channels, heads)
    initialize(module)
    return module


def _pair(in_channels: int, first: int, second: int, norm: str) -> nn.Sequential:
    return nn.Sequential(
        convolution(in_channels, first, 3, norm, padding=1), convolution(first, second, 3, norm, padding=1)
    )
