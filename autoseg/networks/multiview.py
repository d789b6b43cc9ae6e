"""Anisotropic networks, one a view, and their fusion (Wang et al. 2017).

Wang, Li, Ourselin, Vercauteren, "Automatic brain tumor segmentation using cascaded anisotropic convolutional neural
networks" (https://arxiv.org/abs/1709.00382). A view stacks slices along one axis: its convolutions are large within
a slice (1×3×3, dilated at the lowest resolution) and few across slices (3×1×1), for a receptive field of 217×217×9
voxels with little memory. Three views along different axes correct each other.

From the paper: ten residual blocks of two convolutions within slices, in four groups, each followed by one convolution
across slices; batch normalization and PReLU after each; results of three depths joined into one. Assumed, where the
paper is silent: the plane is halved by 1×3×3 convolutions (its 217 voxels do not count them; with them 223); all
convolutions are padded, so that the result is as large as the patch.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn

from autoseg.networks.blocks import SLOPE, Rectifier, initialize, normalization
from autoseg.plans.families import MultiView
from autoseg.utils.errors import AutosegError

#: Dilations of the residual blocks in the two groups at the lowest resolution; the others have two blocks without.
DILATIONS = ((1, 2, 3), (3, 2, 1))

#: Groups whose results are joined: the last three.
SCALES = 3


def build_multiview(network: MultiView, in_channels: int, heads: int) -> nn.Module:
    """Build one network for each view; in training mode each view's logits are returned.

    Raises:
        AutosegError: a softmax over one head, which is always 1.
    """
    if network.fusion == "softmax" and heads < 2:
        raise AutosegError("network.fusion softmax needs two heads at least; a region has a sigmoid.")
    return MultiViewNetwork(
        [_View(in_channels, heads, network.features, network.norm) for _ in network.views],
        network.views,
        network.fusion,
    )


class MultiViewNetwork(nn.Module):
    """Views along several axes.

    In training mode with ``deep_supervision`` a list of the views' logits ``(batch, heads, z, y, x)``; else their
    fusion, the mean of their probabilities. It is returned as logits, which everything downstream averages over tiles
    and flips; averaging the views' logits instead would let one confident view outvote two uncertain ones.
    """

    def __init__(self, networks: Sequence[nn.Module], axes: Sequence[int], fusion: str) -> None:
        super().__init__()
        self.views = nn.ModuleList(networks)
        self.axes = list(axes)
        self.fusion = fusion
        self.deep_supervision = True

    def forward(self, image: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Logits for ``(batch, channel, z, y, x)``."""
        logits = [_along(network, image, axis) for network, axis in zip(self.views, self.axes, strict=True)]
        if self.training and self.deep_supervision:
            return logits
        return logits[0] if len(logits) == 1 else fuse(logits, self.fusion)


def _along(network: nn.Module, image: torch.Tensor, axis: int) -> torch.Tensor:
    """Apply a network to slices along ``axis`` (of z, y, x), which becomes its first spatial axis."""
    result: torch.Tensor = network(image.movedim(axis + 2, 2)).movedim(2, axis + 2)
    return result


def fuse(views: Sequence[torch.Tensor], fusion: str) -> torch.Tensor:
    """The mean of the views' probabilities as logits, in 32 bits: ``(batch, heads, *space)``.

    For ``softmax`` the logarithm of the mean, for ``sigmoid`` its logit: the activation gives the mean again.
    """
    stacked = torch.stack([logits.float() for logits in views])
    if fusion == "softmax":
        return torch.logsumexp(torch.log_softmax(stacked, dim=2), dim=0) - math.log(len(views))
    # log(p / (1 − p)) of p = mean σ(x), with 1 − σ(x) = σ(−x): the counts cancel.
    inside = torch.logsumexp(nn.functional.logsigmoid(stacked), dim=0)
    outside = torch.logsumexp(nn.functional.logsigmoid(-stacked), dim=0)
    return inside - outside


class _View(nn.Module):
    """The network of one view; slices are stacked along the first axis of space."""

    def __init__(self, in_channels: int, heads: int, features: Sequence[int], norm: str) -> None:
        super().__init__()
        levels = len(features)
        # Two groups without dilation at least: where the plane is halved once only, both work at full resolution.
        plain = list(range(levels - 1)) if levels > 2 else [0, 0]
        groups = [(level, (1, 1)) for level in plain] + [(levels - 1, dilations) for dilations in DILATIONS]
        self.groups = nn.ModuleList()
        self.scores = nn.ModuleList()
        channels, at = in_channels, 0
        for index, (level, dilations) in enumerate(groups):
            width = features[level]
            parts: list[nn.Module] = []
            if level > at:
                parts.append(_Layer(channels, width, (1, 3, 3), norm, stride=(1, 2, 2)))
                channels, at = width, level
            for dilation in dilations:
                parts.append(_Residual(channels, width, dilation, norm))
                channels = width
            parts.append(_Layer(width, width, (3, 1, 1), norm))
            self.groups.append(nn.Sequential(*parts))
            if index >= len(groups) - SCALES:
                self.scores.append(_Scores(width, heads, 2**level))
        self.join = nn.Conv3d(SCALES * heads, heads, (1, 3, 3), padding=(0, 1, 1))
        initialize(self, SLOPE)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        joined = []
        first = len(self.groups) - SCALES
        for index, group in enumerate(self.groups):
            image = group(image)
            if index >= first:
                joined.append(self.scores[index - first](image))
        result: torch.Tensor = self.join(torch.cat(joined, dim=1))
        return result


class _Layer(nn.Sequential):
    """Convolution, normalization, PReLU."""

    def __init__(
        self,
        channels: int,
        width: int,
        kernel: tuple[int, int, int],
        norm: str,
        stride: tuple[int, int, int] = (1, 1, 1),
        dilation: int = 1,
    ) -> None:
        spread = (1, dilation, dilation)
        padding = tuple(d * (k // 2) for k, d in zip(kernel, spread, strict=True))
        super().__init__(
            nn.Conv3d(channels, width, kernel, stride, padding, spread, bias=False),  # type: ignore[arg-type]
            normalization(norm, width),
            Rectifier(width),
        )


class _Residual(nn.Module):
    """Two layers within slices, added to their input (through 1×1×1 where the channels change)."""

    def __init__(self, channels: int, width: int, dilation: int, norm: str) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _Layer(channels, width, (1, 3, 3), norm, dilation=dilation),
            _Layer(width, width, (1, 3, 3), norm, dilation=dilation),
        )
        self.shortcut = nn.Identity() if channels == width else nn.Conv3d(channels, width, 1, bias=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layers(image) + self.shortcut(image)
        return result


class _Scores(nn.Sequential):
    """Logits of one depth, upsampled in the plane by a transposed convolution."""

    def __init__(self, width: int, heads: int, factor: int) -> None:
        parts: list[nn.Module] = [nn.Conv3d(width, heads, (1, 3, 3), padding=(0, 1, 1))]
        if factor > 1:
            parts.append(nn.ConvTranspose3d(heads, heads, (1, factor, factor), (1, factor, factor)))
        super().__init__(*parts)
