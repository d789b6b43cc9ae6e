"""The last layer of a network apart from the rest, where it makes each voxel's logits of that voxel's features alone.

Such a layer is linear: the sum of logits over mirrored copies and networks can be made by products of matrices, which
add to it in place, and features are mirrored instead of logits. With more heads than features that is less to compute
and to keep: 101 heads of a tile of 96³ have 0.36 GB.
"""

from dataclasses import dataclass

import torch
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from torch import nn


@dataclass(frozen=True)
class LastLayer:
    """The last layer of a U-Net's decoder: a convolution with a kernel of one voxel.

    Attributes:
        network: the whole, in evaluation mode.
        layers: of its decoder, a head for each resolution; the highest is the last.
        last: that one.
    """

    network: nn.Module
    layers: nn.ModuleList
    last: nn.Conv2d | nn.Conv3d

    @classmethod
    def of(cls, network: nn.Module) -> "LastLayer | None":
        """That of a network; None where it has no such layer, or more than one."""
        decoder = getattr(network, "decoder", None)
        if not isinstance(decoder, UNetDecoder):
            return None
        last = decoder.seg_layers[-1]
        if not isinstance(last, nn.Conv2d | nn.Conv3d) or last.groups != 1 or set(last.kernel_size) != {1}:
            return None
        return cls(network, decoder.seg_layers, last)

    @property
    def heads(self) -> int:
        """How many logits it makes of each voxel."""
        return self.last.out_channels

    @property
    def channels(self) -> int:
        """How many features it makes them of."""
        return self.last.in_channels

    def features(self, image: torch.Tensor) -> torch.Tensor:
        """What it is given for images ``(batch, channel, *space)``: ``(batch, channels, *space)``."""
        self.layers[-1] = nn.Identity()
        try:
            found: torch.Tensor = self.network(image)
        finally:
            self.layers[-1] = self.last
        return found

    def add(self, features: torch.Tensor, sums: torch.Tensor, first: bool) -> None:
        """Add its logits to a sum, in place.

        Args:
            features: float32 ``(channels, *space)``.
            sums: float32 ``(heads, *space)``, contiguous.
            first: whether nothing is in the sum yet, whatever its numbers are.
        """
        weight, given = self.last.weight.flatten(1), features.flatten(1)
        if self.last.bias is not None:  # as the weight of one feature more, which is 1 everywhere
            weight = torch.cat([weight, self.last.bias[:, None]], dim=1)
            given = torch.cat([given, given.new_ones(1, given.shape[1])])
        sums.view(len(sums), -1).addmm_(weight, given, beta=0 if first else 1)
