"""The network families: hyperparameters of each, as the part of a plan that :func:`autoseg.networks.build` takes."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from autoseg.plans.architecture import FAMILIES, Architecture, scaled_kernels

if TYPE_CHECKING:
    from typing import Self


def _odd(size: int) -> int:
    if size % 2 == 0:
        raise ValueError("a kernel needs an odd size, so that it has a middle")
    return size


#: Voxels along an axis of a convolution's kernel.
KernelSize = Annotated[PositiveInt, AfterValidator(_odd)]


@FAMILIES.register("resenc")
@FAMILIES.register("unet")
class UNet(Architecture):
    """A U-Net: plain (``unet``) or with a residual encoder (``resenc``).

    Attributes:
        family: ``unet``: stacked convolutions; ``resenc``: residual blocks in the encoder.
        features: channels of each stage, the highest resolution first.
        strides: per stage, how much each axis is pooled in the encoder (first stage: all 1).
        pooling: of a stage's input in the encoder, by its first convolution's ``strides``; or, of a ``unet``, by the
            ``max`` of as many voxels (Ronneberger et al. 2015, Çiçek et al. 2016).
        kernel_sizes: per stage.
        encoder_blocks: convolutions (``unet``) or residual blocks (``resenc``) per encoder stage.
        decoder_convs: convolutions per decoder stage (one fewer than stages).
        norm: normalization layer.
        activation: non-linearity.
        dropout: probability after each convolution; 0 for none.
        deep_supervision: losses at lower decoder resolutions during training.
        decoders: number of decoders on the shared encoder, one for each annotator who is learned separately.
    """

    family: Literal["unet", "resenc"] = "unet"
    features: list[PositiveInt] = Field(min_length=1)
    strides: list[list[PositiveInt]]
    pooling: Literal["strides", "max"] = "strides"
    kernel_sizes: list[list[KernelSize]]
    encoder_blocks: list[PositiveInt]
    decoder_convs: list[PositiveInt]
    norm: Literal["instance", "batch"] = "instance"
    activation: Literal["leaky_relu", "relu"] = "leaky_relu"
    dropout: float = Field(0.0, ge=0, lt=1)
    deep_supervision: bool = True
    decoders: PositiveInt = 1

    def scaled(self, factor: float) -> "Self":
        """All stages alike."""
        return self.model_copy(update={"features": scaled_kernels(self.features, factor), "size": 1.0})

    @property
    def answers(self) -> int:
        """One for each decoder."""
        return self.decoders

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return len(self.strides[0])

    @property
    def divisor(self) -> list[int]:
        """Product of the strides along each axis."""
        return [math.prod(stride[axis] for stride in self.strides) for axis in range(self.dimensions)]

    @property
    def supervised_levels(self) -> bool:
        """Whether the plan switches deep supervision on."""
        return self.deep_supervision

    @property
    def encoder_prefixes(self) -> tuple[str, ...]:
        """The way down."""
        return ("encoder.",)

    @property
    def summary(self) -> str:
        """Channels of the stages; decoders, where there are several."""
        features = " ".join(str(width) for width in self.features)
        return features if self.decoders == 1 else f"{features}, {self.decoders} decoders"

    @model_validator(mode="after")
    def _lengths(self) -> "Self":
        stages = len(self.features)
        for name, expected in (
            ("strides", stages),
            ("kernel_sizes", stages),
            ("encoder_blocks", stages),
            ("decoder_convs", stages - 1),
        ):
            if len(getattr(self, name)) != expected:
                raise ValueError(f"{name} has {len(getattr(self, name))} entries; {stages} stages need {expected}")
        if any(len(row) != self.dimensions for row in (*self.strides, *self.kernel_sizes)):
            raise ValueError("strides and kernel_sizes need one number an axis, the same number of axes in each stage")
        if any(stride != 1 for stride in self.strides[0]):
            raise ValueError("the first stage works at full resolution: its strides are all 1")
        if self.pooling == "max" and self.family == "resenc":
            raise ValueError("pooling is max, which is for the family unet; resenc pools by strides")
        return self


@FAMILIES.register("deepmedic")
class DeepMedic(Architecture):
    """DeepMedic (Kamnitsas et al. 2017): two pathways around the same centre, one at a lower resolution.

    No convolution is padded: ``len(features)`` convolutions of 3×3×3 take ``2·len(features)`` voxels off each axis.
    The output is what is left of the patch; the input has ``factor`` times its context.

    Attributes:
        family: of the network.
        features: kernels of each 3×3×3 convolution, in both pathways.
        fully_connected: kernels of the 1×1×1 layers that join the pathways.
        factor: how much coarser the second pathway is.
        norm: normalization layer.
        dropout: probability after each 3×3×3 convolution.
        fully_connected_dropout: probability after each 1×1×1 layer.
    """

    family: Literal["deepmedic"] = "deepmedic"
    features: list[PositiveInt] = Field(default_factory=lambda: [30, 30, 40, 40, 40, 40, 50, 50], min_length=1)
    fully_connected: list[PositiveInt] = Field(default_factory=lambda: [150, 150], min_length=1)
    factor: Literal[3, 5] = 3
    norm: Literal["instance", "batch"] = "batch"
    dropout: float = Field(0.02, ge=0, lt=1)
    fully_connected_dropout: float = Field(0.5, ge=0, lt=1)

    def scaled(self, factor: float) -> "Self":
        """Both pathways and the layers that join them."""
        kernels = {name: scaled_kernels(getattr(self, name), factor) for name in ("features", "fully_connected")}
        return self.model_copy(update={**kernels, "size": 1.0})

    def fits(self, patch: Sequence[int]) -> str | None:
        """The result must be a whole number of the coarse pathway's voxels."""
        for axis, size in enumerate(patch):
            left = size - 2 * len(self.features)
            if left < self.factor or left % self.factor:
                return (
                    f"patch_size[{axis}] = {size} can't be taken by {len(self.features)} unpadded convolutions: it "
                    f"must be {2 * len(self.features)} plus a multiple of {self.factor}"
                )
        return None

    def nearest(self, patch: Sequence[int]) -> list[int]:
        """Rounded down to the convolutions' margin plus a whole number of the coarse pathway's voxels."""
        taken = 2 * len(self.features)
        return [taken + max((size - taken) // self.factor, 1) * self.factor for size in patch]

    def output_size(self, patch: Sequence[int]) -> list[int]:
        """The patch without the margin of the unpadded convolutions."""
        return [size - 2 * len(self.features) for size in patch]

    def input_size(self, patch: Sequence[int]) -> list[int]:
        """The coarse pathway's context: ``factor`` × (result / ``factor`` + what its convolutions take off)."""
        return [size + 2 * len(self.features) * self.factor for size in self.output_size(patch)]

    @property
    def encoder_prefixes(self) -> tuple[str, ...]:
        """The two pathways."""
        return ("fine.", "coarse.")

    @property
    def summary(self) -> str:
        """Kernels of the convolutions, and of the joining layers."""
        return f"2×({' '.join(map(str, self.features))}) {' '.join(map(str, self.fully_connected))}"


@FAMILIES.register("fullimage_unet")
class FullImageUNet(Architecture):
    """The full-image U-Net of Rahimpour et al.: four levels, two 1×1×1 layers before the classification.

    Attributes:
        family: of the network.
        features: kernels of the two convolutions of each level, the highest resolution first.
        fully_connected: kernels of the 1×1×1 layers at the end.
        factor: of the max pooling from one level to the next, along each axis.
        norm: normalization layer.
        dropout: probability after each of these layers.
    """

    family: Literal["fullimage_unet"] = "fullimage_unet"
    features: list[tuple[PositiveInt, PositiveInt]] = Field(
        default_factory=lambda: [(20, 40), (40, 80), (80, 160), (160, 320)], min_length=2
    )
    fully_connected: list[PositiveInt] = Field(default_factory=lambda: [20, 20])
    factor: int = Field(2, ge=2, le=4)
    norm: Literal["instance", "batch"] = "instance"
    dropout: float = Field(0.5, ge=0, lt=1)

    def scaled(self, factor: float) -> "Self":
        """All levels, and the layers at the end."""
        levels = [tuple(scaled_kernels(level, factor)) for level in self.features]
        end = scaled_kernels(self.fully_connected, factor)
        return self.model_copy(update={"features": levels, "fully_connected": end, "size": 1.0})

    def fits(self, patch: Sequence[int]) -> str | None:
        """Any size, as long as the lowest level is left more than one voxel to normalize."""
        coarsest = self.factor ** (len(self.features) - 1)
        if min(patch) < 1 or max(patch) <= coarsest:
            return (
                f"patch_size = {list(patch)} is too small for {len(self.features)} levels: its longest axis must be "
                f"over {coarsest}"
            )
        return None

    @property
    def encoder_prefixes(self) -> tuple[str, ...]:
        """The way down."""
        return ("down.",)

    @property
    def summary(self) -> str:
        """Kernels of the levels."""
        return " ".join(f"{first}-{second}" for first, second in self.features)


@FAMILIES.register("vnet")
class VNet(Architecture):
    """V-Net (Milletari et al. 2016): residual blocks, strided convolutions down and up, no pooling.

    Attributes:
        family: of the network.
        features: channels of each level, the highest resolution first; each level halves every axis.
        convolutions: 5×5×5 convolutions in each level's encoder block; the decoder has the same, without the lowest.
        kernel_size: of the blocks' convolutions.
        norm: normalization layer; the paper has none.
        dropout: probability after each block.
    """

    family: Literal["vnet"] = "vnet"
    features: list[PositiveInt] = Field(default_factory=lambda: [16, 32, 64, 128, 256], min_length=2)
    convolutions: list[PositiveInt] = Field(default_factory=lambda: [1, 2, 3, 3, 3])
    kernel_size: KernelSize = 5
    norm: Literal["instance", "batch", "none"] = "batch"
    dropout: float = Field(0.0, ge=0, lt=1)

    def scaled(self, factor: float) -> "Self":
        """All levels alike."""
        return self.model_copy(update={"features": scaled_kernels(self.features, factor), "size": 1.0})

    @property
    def divisor(self) -> list[int]:
        """Two a level below the first."""
        return [2 ** (len(self.features) - 1)] * 3

    @model_validator(mode="after")
    def _lengths(self) -> "Self":
        if len(self.convolutions) != len(self.features):
            raise ValueError(f"convolutions has {len(self.convolutions)} entries; features has {len(self.features)}")
        return self

    @property
    def encoder_prefixes(self) -> tuple[str, ...]:
        """The way down."""
        return ("enter.", "down.")

    @property
    def summary(self) -> str:
        """Channels of the levels."""
        return " ".join(map(str, self.features))


@FAMILIES.register("inflated")
class Inflated(Architecture):
    """A 2D image encoder (timm) made a volume encoder: every k×k convolution becomes 1×k×k (Wacker et al. 2019).

    The decoder has one stage for each factor of two: a convolution 1×3×3 and a transposed one that doubles the plane.
    The defaults are the AlbuNet3D's of Wacker et al.

    Attributes:
        family: of the network.
        encoder: name of a timm model with feature maps (``resnet34``).
        encoder_width: factor on the channels of the encoder's stages, of a ResNet; at 1 it takes image weights.
        first_pool: the encoder's own first pooling, or maxima of 2×2 pixels in its place.
        skips: reductions (2: half the resolution) of the encoder's maps that the decoder uses; all where None.
        decoder_features: output channels of each decoder stage, the lowest resolution first.
        decoder_widths: channels of each stage's convolution, before the transposed one.
        depth_layers: 3×1×1 convolutions, which join slices: below the encoder and after every second stage of the
            decoder; without them a network for single slices.
        channels: how weights for three colours are adapted to other channels: ``repeat`` them in turn and rescale,
            or give each channel their ``mean``.
        reduction: how much the encoder reduces the plane: 32 for most.
    """

    family: Literal["inflated"] = "inflated"
    encoder: str = "resnet34"
    encoder_width: float = Field(1.0, gt=0, le=8)
    first_pool: Literal["encoder", "2x2"] = "encoder"
    skips: list[PositiveInt] | None = None
    decoder_features: list[PositiveInt] = Field(default_factory=lambda: [128, 128, 32, 64, 16])
    decoder_widths: list[PositiveInt] = Field(default_factory=lambda: [256, 256, 128, 64, 64])
    depth_layers: bool = True
    channels: Literal["repeat", "mean"] = "repeat"
    reduction: PositiveInt = 32

    def scaled(self, factor: float) -> "Self":
        """The encoder's stages and the decoder."""
        decoder = {name: scaled_kernels(getattr(self, name), factor) for name in ("decoder_features", "decoder_widths")}
        return self.model_copy(update={**decoder, "encoder_width": factor * self.encoder_width, "size": 1.0})

    @property
    def divisor(self) -> list[int]:
        """Slices stay; the plane is reduced."""
        return [1, self.reduction, self.reduction]

    @property
    def takes_image_weights(self) -> bool:
        """The encoder does, at its own width."""
        return self.size == 1 and self.encoder_width == 1

    @property
    def encoder_prefixes(self) -> tuple[str, ...]:
        """The 2D encoder, and the layer below it that joins slices."""
        return ("encoder.", "bottom.")

    def fits(self, patch: Sequence[int]) -> str | None:
        """A slice must leave the encoder more than one pixel: batch norm has nothing to average over one of them."""
        if list(patch) == self.divisor:
            return f"patch_size {list(patch)} leaves {self.encoder} a single pixel: make it larger"
        return super().fits(patch)

    @property
    def summary(self) -> str:
        """The encoder's name and the decoder's channels."""
        return f"{self.encoder} {' '.join(map(str, self.decoder_features))}"

    @model_validator(mode="after")
    def _stages(self) -> "Self":
        stages = self.reduction.bit_length() - 1
        if self.reduction != 2**stages or stages < 1:
            raise ValueError(f"reduction {self.reduction} is no power of two from 2")
        for name in ("decoder_features", "decoder_widths"):
            if len(getattr(self, name)) != stages:
                raise ValueError(
                    f"{name} has {len(getattr(self, name))} entries; a reduction of {self.reduction} needs {stages}"
                )
        return self


@FAMILIES.register("multiview")
class MultiView(Architecture):
    """Anisotropic networks along several axes (views), whose probabilities are averaged (Wang et al. 2017).

    In training mode it returns the logits of each view, so that each view has a loss of its own.

    Attributes:
        family: of the network.
        views: axes of the patch that a view's slices are stacked along: one network each.
        features: channels of the convolutions at full, half and quarter resolution in the plane (the networks of
            whole tumour and core; that of the enhancing tumour has no quarter).
        norm: normalization layer.
        fusion: activation whose probabilities are averaged: ``softmax`` for labels, ``sigmoid`` for regions.
    """

    family: Literal["multiview"] = "multiview"
    views: list[Annotated[int, Field(ge=0, le=2)]] = Field(default_factory=lambda: [0, 1, 2], min_length=1)
    features: list[PositiveInt] = Field(default_factory=lambda: [32, 32, 32], min_length=1)
    norm: Literal["instance", "batch"] = "batch"
    fusion: Literal["softmax", "sigmoid"] = "softmax"

    def scaled(self, factor: float) -> "Self":
        """All views alike."""
        return self.model_copy(update={"features": scaled_kernels(self.features, factor), "size": 1.0})

    @property
    def divisor(self) -> list[int]:
        """Two a level below the first, along the axes in the plane of some view."""
        factor = 2 ** (len(self.features) - 1)
        return [factor if any(view != axis for view in self.views) else 1 for axis in range(3)]

    @property
    def supervised_levels(self) -> bool:
        """The logits of each view."""
        return True

    def suits(self, kind: str) -> str | None:
        """Labels are fused as softmax, regions as sigmoid."""
        required = "sigmoid" if kind == "regions" else "softmax"
        return None if self.fusion == required else f"network.fusion is {self.fusion}, but {kind} need {required}"

    @property
    def summary(self) -> str:
        """Channels, times views."""
        return f"{len(self.views)}×({' '.join(map(str, self.features))})"

    @model_validator(mode="after")
    def _distinct(self) -> "Self":
        if len(set(self.views)) != len(self.views):
            raise ValueError(f"views {self.views} names an axis twice")
        return self
