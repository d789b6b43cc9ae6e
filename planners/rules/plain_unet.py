"""Plain 3D U-Nets as published systems have them: a number of levels, channels doubled with each."""

import math
from collections.abc import Sequence

from autoseg.plans.families import UNet
from planners.rules.topology import pooling


def plain_unet(
    patch: Sequence[int], image: Sequence[float], spacing: Sequence[float], features: int, levels: int, source: str
) -> UNet:
    """A U-Net with two convolutions 3×3×3 a level, of fewer levels or flatter kernels where the images ask for it.

    Args:
        patch: of the paper, voxels.
        image: median shape of the images, voxels.
        spacing: mm.
        features: channels of the first level.
        levels: of the paper.
        source: where the number of channels comes from.
    """
    size = [min(side, max(1, math.ceil(n))) for side, n in zip(patch, image, strict=True)]
    pooled = pooling(size, spacing)
    strides, kernels = pooled.strides[:levels], pooled.kernels[:levels]
    count = len(strides)
    return UNet(
        features=[features * 2**level for level in range(count)],
        strides=[list(row) for row in strides],
        kernel_sizes=[list(row) for row in kernels],
        encoder_blocks=[2] * count,
        decoder_convs=[2] * (count - 1),
        deep_supervision=False,
        activation="relu",
        reasons={
            "features": f"{features} kernels in the first level ({source}), twice as many in each further one",
            "strides": f"{levels} levels (ours), where the images have the voxels for them",
            "kernel_sizes": "1 across an axis while its spacing is over twice the finest, else 3",
            "deep_supervision": "ours: none",
        },
    )
