"""A U-Net with the same results on mirrored images.

nnU-Net can read images in RAS order, while canonical images are in LPS: two axes are mirrored. With mirrored kernels, a
network gives the mirrored output for the mirrored image. For a convolution of stride 1, and for a transposed one whose
stride is its kernel size, that is enough. A convolution of stride s starts at the first voxel and, mirrored, has to
start at the other end: its kernel is shifted by s − 1 voxels inside a wider one. nnU-Net has one kernel size for all
convolutions of a stage, so the others are padded with zeros.
"""

from collections.abc import Sequence

import torch
from torch import nn

from autoseg.networks import build
from autoseg.plans.families import UNet


def mirrored_architecture(network: UNet, axes: Sequence[int]) -> UNet:
    """Description of the U-Net for images mirrored along ``axes`` of the patch."""
    wider = [
        [
            size + 2 * (stride - 1) * (axis in axes)
            for axis, (size, stride) in enumerate(zip(sizes, strides, strict=True))
        ]
        for sizes, strides in zip(network.kernel_sizes, network.strides, strict=True)
    ]
    return network.model_copy(update={"kernel_sizes": wider})


def mirrored(module: nn.Module, network: UNet, in_channels: int, heads: int, axes: Sequence[int]) -> nn.Module:
    """A module with the outputs of ``module`` on mirrored images, if strides divide the image's size.

    Args:
        module: with trained weights.
        network: its description.
        in_channels: of the image.
        heads: of the result.
        axes: of the patch, that images are mirrored along.
    """
    result = build(mirrored_architecture(network, axes), in_channels, heads)
    sources = dict(module.named_modules())
    with torch.no_grad():
        for name, part in result.named_modules():
            source = sources[name]
            if isinstance(part, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
                part.weight.copy_(_kernel(source, part, axes))  # type: ignore[arg-type]
                if part.bias is not None:
                    part.bias.copy_(source.bias)
            else:
                own = {key: value for key, value in source.state_dict().items() if "." not in key}
                part.load_state_dict(own, strict=False)
    return result.eval()


def _kernel(source: nn.Conv3d, target: nn.Conv3d, axes: Sequence[int]) -> torch.Tensor:
    """The mirrored weights of a convolution, in a kernel of the target's size."""
    weight = source.weight.flip([axis + 2 for axis in axes])
    if source.transposed:
        return weight
    result = torch.zeros_like(target.weight)
    places = []
    for axis, (size, wider, stride) in enumerate(
        zip(source.kernel_size, target.kernel_size, source.stride, strict=True)
    ):
        first = (wider - size) // 2 + (stride - 1 if axis in axes else 0)
        places.append(slice(first, first + size))
    result[(slice(None), slice(None), *places)] = weight
    return result
