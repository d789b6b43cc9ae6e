"""DeepMedic (Kamnitsas et al. 2017, Medical Image Analysis 36): two pathways, no padding, much context."""

import torch
import torch.nn.functional as F
from torch import nn

from autoseg.networks.blocks import convolution, crop, enlarge, head, initialize
from autoseg.plans.families import DeepMedic


class TwoPathways(nn.Module):
    """Convolutions at full and at a lower resolution around the same centre, joined by 1×1×1 layers.

    Its input has ``network.input_size(patch)`` voxels and its output ``network.output_size(patch)``: a patch of 25³ of
    the fine pathway lies in the centre of 57³, whose means over 3×3×3 voxels are the coarse pathway's 19³; after eight
    convolutions 9³ and 3³ are left. A voxel of the result depends on 17³ voxels through the fine pathway and on 51³
    (around the 3³ that it is one of) through the coarse one.

    The coarse pathway takes means, not every third voxel as in Kamnitsas' own code, to avoid aliasing.

    The number of parameters (663,491 with four channels and one output in Rahimpour et al.) is matched exactly
    where only the classification has a bias and every other layer, the two of 1×1×1 included, a normalization.
    """

    def __init__(self, network: DeepMedic, in_channels: int, heads: int) -> None:
        super().__init__()
        self.factor = network.factor
        # Voxels on each side that only the coarse pathway needs around the result.
        self.surplus = len(network.features) * (network.factor - 1)
        self.fine = _pathway(network, in_channels)
        self.coarse = _pathway(network, in_channels)
        self.head = head(
            2 * network.features[-1],
            list(network.fully_connected),
            network.norm,
            network.fully_connected_dropout,
            heads,
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits ``(batch, heads, *output)`` of ``(batch, channel, *input)``."""
        fine = self.fine(crop(image, self.surplus))
        coarse = self.coarse(F.avg_pool3d(image, self.factor))
        logits: torch.Tensor = self.head(torch.cat([fine, enlarge(coarse, self.factor)], dim=1))
        return logits


def build_deepmedic(network: DeepMedic, in_channels: int, heads: int) -> nn.Module:
    """Build a ``deepmedic`` with He-normal weights."""
    module = TwoPathways(network, in_channels, heads)
    initialize(module)
    return module


def _pathway(network: DeepMedic, in_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in network.features:
        layers += [convolution(in_channels, width, 3, network.norm), nn.Dropout(network.dropout)]
        in_channels = width
    return nn.Sequential(*layers)
