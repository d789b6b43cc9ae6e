"""Instance normalization of channels-last features, which torch's own copies into the other format and leaves there."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}

#: Devices whose batch normalization has a kernel for a table of voxels × channels.
_DEVICES = ("cpu", "cuda")


class _SampleNorm(torch.autograd.Function):
    """Batch normalization of each sample by itself, as a table of voxels × channels.

    For such tables torch has a kernel, on CPUs and on CUDA. Its ``instance_norm`` makes all samples' channels the
    channels of one sample, which the other format alone allows without a copy.
    """

    @staticmethod
    def forward(ctx: Any, features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
        result = torch.empty_like(features)
        statistics = weight.new_empty((2, len(features), len(weight)))
        for sample, out, mean, inverse in zip(_tables(features), _tables(result), *statistics, strict=True):
            torch.native_batch_norm(sample, weight, bias, None, None, True, 0.0, eps, out=(out, mean, inverse))
        ctx.save_for_backward(features, weight, statistics)
        ctx.eps = eps
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        features, weight, statistics = ctx.saved_tensors
        result = torch.empty_like(features)
        sums = weight.new_empty((2, len(features), len(weight)))
        gradient = gradient.contiguous(memory_format=_FORMATS[gradient.ndim])
        tables = (_tables(tensor) for tensor in (gradient, features, result))
        for given, sample, out, mean, inverse, scale, shift in zip(*tables, *statistics, *sums, strict=True):
            torch.ops.aten.native_batch_norm_backward.out(
                given, sample, weight, None, None, mean, inverse, True, ctx.eps, [True] * 3,
                out0=out, out1=scale, out2=shift,
            )  # fmt: skip
        return result, *sums.sum(1), None


def _tables(features: torch.Tensor) -> Iterator[torch.Tensor]:
    """Views of the samples of channels-last features, ``(voxel, channel)``."""
    for sample in features.movedim(1, -1):
        yield sample.reshape(-1, sample.shape[-1])


class _KeepsFormat:
    """Mixin of an affine instance norm that answers in the format of its input."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Normalize ``(batch, channel, *space)``."""
        norm: Any = self
        if not _is_channels_last(features) or norm.weight is None:
            return super().forward(features)  # type: ignore[misc]
        if torch.compiler.is_compiling():  # which makes a kernel of this
            space = tuple(range(2, features.ndim))
            variance, mean = torch.var_mean(features.float(), space, correction=0, keepdim=True)
            scale, shift = (value.reshape(1, -1, *[1] * len(space)) for value in (norm.weight, norm.bias))
            return ((features - mean) * torch.rsqrt(variance + norm.eps) * scale + shift).to(features.dtype)
        return _SampleNorm.apply(features, norm.weight, norm.bias, norm.eps)


class InstanceNormFlat(_KeepsFormat, nn.InstanceNorm2d):
    """Of slices."""


class InstanceNormVolume(_KeepsFormat, nn.InstanceNorm3d):
    """Of volumes."""


def _is_channels_last(features: torch.Tensor) -> bool:
    """Whether features lie channels-last, and in that way only."""
    return (
        features.device.type in _DEVICES
        and features.ndim in _FORMATS
        and features.is_contiguous(memory_format=_FORMATS[features.ndim])
        and not features.is_contiguous()
    )


def keep_format(network: nn.Module) -> None:
    """Let every instance norm of a network answer in the format of its input; weights keep their names."""
    for part in network.modules():
        if type(part) is nn.InstanceNorm2d:
            part.__class__ = InstanceNormFlat
        elif type(part) is nn.InstanceNorm3d:
            part.__class__ = InstanceNormVolume
