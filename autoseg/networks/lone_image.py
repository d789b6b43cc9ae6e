"""Convolution of one volume on a CPU by oneDNN, as of several.

Of a batch of one, torch (2.14) convolves volumes of few channels and slices by a kernel of its own, which takes two
to four times as long as oneDNN's: 40×56×40 voxels with 8 channels, and the deeper stages of most networks.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

#: Channels × slices × rows of a batch of one up to which torch leaves oneDNN aside (``use_mkldnn`` of its
#: ``Convolution.cpp``, which does not count columns).
LEFT_ASIDE = 20480


def is_left_aside(features: torch.Tensor, weight: torch.Tensor, groups: int) -> bool:
    """Whether torch would convolve these features ``(batch, channel, z, y, x)`` without oneDNN."""
    return (
        len(features) == 1
        and features.device.type == "cpu"
        and features.dtype == torch.float32
        and groups == 1
        and 1 < max(weight.shape[2:]) <= 3
        and features[0, ..., 0].numel() <= LEFT_ASIDE
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def convolve(
    features: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> torch.Tensor:
    """As ``torch.nn.functional.conv3d`` of one float32 volume ``(1, channel, z, y, x)``, by oneDNN."""
    return _Lone.apply(features, weight, bias, tuple(stride), tuple(padding), tuple(dilation))


class _Lone(torch.autograd.Function):
    """Forward by oneDNN's own function; backward as a batch of two, the halves of the volume."""

    @staticmethod
    def forward(
        ctx: Any,
        features: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
    ) -> torch.Tensor:
        ctx.save_for_backward(features, weight)
        ctx.has_bias, ctx.geometry = bias is not None, (stride, padding, dilation)
        return torch.mkldnn_convolution(features, weight, bias, padding, stride, dilation, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        features, weight = ctx.saved_tensors
        stride, padding, dilation = ctx.geometry
        lengths = gradient.shape[2:]
        axis = max(range(len(lengths)), key=lambda index: lengths[index])
        half = (lengths[axis] + 1) // 2
        begin = lengths[axis] - half
        # What the halves of the result were computed from, with the volume's border.
        reach = (half - 1) * stride[axis] + dilation[axis] * (weight.shape[2 + axis] - 1) + 1
        around = [padding[axis] if index == axis else 0 for index in reversed(range(len(lengths))) for _ in range(2)]
        padded = F.pad(features, around)
        starts = (0, begin * stride[axis])
        parts = torch.cat([padded.narrow(2 + axis, start, reach) for start in starts])
        wanted = torch.cat([gradient.narrow(2 + axis, start, half) for start in (0, begin)])
        if 2 * half > lengths[axis]:
            wanted[1:].narrow(2 + axis, 0, 1).zero_()  # an odd length's middle is in both
        inside = [0 if index == axis else width for index, width in enumerate(padding)]
        asked = [*ctx.needs_input_grad[:2], ctx.has_bias and ctx.needs_input_grad[2]]
        sizes = [weight.shape[0]] if ctx.has_bias else None
        of_parts, of_weight, of_bias = torch.ops.aten.convolution_backward(
            wanted, parts, weight, sizes, stride, inside, dilation, False, [0] * len(lengths), 1, asked
        )
        of_features = None
        if asked[0]:
            whole = torch.zeros_like(padded)
            for start, part in zip(starts, of_parts, strict=True):
                whole.narrow(2 + axis, start, reach).add_(part[None])
            of_features = whole.narrow(2 + axis, padding[axis], features.shape[2 + axis])
        return of_features, of_weight, of_bias, None, None, None
