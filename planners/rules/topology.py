"""Topology of a U-Net for a patch and a spacing (Isensee et al. 2021, supplementary note 2)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from autoseg.plans.families import UNet

#: Voxels that an axis keeps at the bottleneck.
BOTTLENECK = 4

#: Axes whose spacing is this many times the finest one's are not pooled, and not convolved across, until pooling the
#: others has evened it out.
SPACING_RATIO = 2.0

#: Channels of the first stage; each stage has twice the channels of the one before, up to a maximum that keeps the
#: number of parameters in bounds.
BASE_FEATURES = 32
MAX_FEATURES = {2: 512, 3: 320}


@dataclass(frozen=True)
class Family:
    """What distinguishes one network family's planner from another's.

    Attributes:
        name: of the family.
        encoder_blocks: stage → convolutions or residual blocks in it.
        decoder_convs: convolutions in each decoder stage.
        reason: where these numbers come from.
        decoders: one for each rater that is learned separately.
    """

    name: Literal["unet", "resenc"]
    encoder_blocks: Callable[[int], int]
    decoder_convs: int
    reason: str
    decoders: int = 1


@dataclass(frozen=True)
class Pooling:
    """How each stage is pooled and convolved; one entry a stage, one number an axis."""

    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]

    @property
    def divisor(self) -> tuple[int, ...]:
        """What the patch must be a multiple of."""
        factors = [1] * len(self.strides[0])
        for stride in self.strides:
            factors = [a * b for a, b in zip(factors, stride, strict=True)]
        return tuple(factors)


def pooling(size: Sequence[float], spacing: Sequence[float]) -> Pooling:
    """Pool each axis while it keeps :data:`BOTTLENECK` voxels and its spacing is within a factor of two of the finest.

    The last axis that could still be pooled alone needs half as many voxels again, as in nnU-Net.

    Args:
        size: of the patch, voxels.
        spacing: mm; any unit, only ratios count.
    """
    return _pooling(tuple(float(v) for v in size), tuple(float(v) for v in spacing))


@lru_cache(maxsize=65536)
def _pooling(size: tuple[float, ...], spacing: tuple[float, ...]) -> Pooling:
    dimensions = len(size)
    voxels, mm = list(size), list(spacing)
    strides = [(1,) * dimensions]
    kernels: list[tuple[int, ...]] = []
    kernel = [1] * dimensions
    while True:
        finest = min(mm)
        # An axis that was once convolved across stays so: its spacing only ever comes closer to the others'.
        kernel = [3 if k == 3 or s / finest < SPACING_RATIO else 1 for k, s in zip(kernel, mm, strict=True)]
        large = [axis for axis in range(dimensions) if voxels[axis] >= 2 * BOTTLENECK]
        if large:
            finest_large = min(mm[axis] for axis in large)
            large = [axis for axis in large if mm[axis] / finest_large < SPACING_RATIO]
        if len(large) == 1 and voxels[large[0]] < 3 * BOTTLENECK:
            large = []
        if not large:
            break
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in large else 1 for axis in range(dimensions)))
        for axis in large:
            # A patch is padded up to a multiple of its divisor, so an odd number of voxels rounds up.
            voxels[axis] = -(-voxels[axis] // 2)
            mm[axis] *= 2
    # Whatever the spacing, nothing is gained by leaving an axis out at the bottleneck.
    kernels.append((3,) * dimensions)
    if len(strides) == 1:
        # Too small to pool at all: a U-Net has two stages, here at the same resolution.
        strides.append((1,) * dimensions)
        kernels.append((3,) * dimensions)
    return Pooling(tuple(strides), tuple(kernels))


def network(family: Family, pooled: Pooling, base_features: int = BASE_FEATURES) -> UNet:
    """The network of a family for a pooling, of a given width."""
    stages = len(pooled.strides)
    dimensions = len(pooled.strides[0])
    most = MAX_FEATURES[dimensions] * base_features // BASE_FEATURES
    return UNet(
        family=family.name,
        features=[min(base_features * 2**stage, most) for stage in range(stages)],
        strides=[list(row) for row in pooled.strides],
        kernel_sizes=[list(row) for row in pooled.kernels],
        encoder_blocks=[family.encoder_blocks(stage) for stage in range(stages)],
        decoder_convs=[family.decoder_convs] * (stages - 1),
        decoders=family.decoders,
    )
