"""Augmentation: random changes of training batches."""

from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, Field, PositiveInt, SerializeAsAny, model_validator

from autoseg.plans.components import table_of
from autoseg.plans.reasons import Reasoned
from autoseg.utils.registry import Registry

if TYPE_CHECKING:
    from typing import Self

#: An axis of a patch; the configuration checks it against the number of axes.
Axis = Annotated[int, Field(ge=0, le=2)]


class Transform(Reasoned):
    """Base of an augmentation's description (:data:`TRANSFORMS`); subclasses add their parameters.

    Attributes:
        probability: per sample.
    """

    probability: float = Field(0.2, ge=0, le=1)


#: Further augmentations: name → description. The functions are in :data:`autoseg.training.augmentation.TRANSFORMERS`.
TRANSFORMS: Registry[type[Transform]] = Registry("augmentation", package="autoseg.training")


@TRANSFORMS.register("gaussian_shift")
class GaussianShift(Transform):
    """Adds a number from N(0, std) to every voxel, another one for each channel of each sample.

    Attributes:
        std: standard deviation, in units of the normalized intensities (Rahimpour et al., section 2.2: 0.05).
    """

    std: float = Field(0.05, ge=0)


@TRANSFORMS.register("gaussian_scale")
class GaussianScale(Transform):
    """Multiplies every voxel by 1 plus a number from N(0, std), another one for each channel of each sample.

    Attributes:
        std: standard deviation (Rahimpour et al., section 2.2: 0.01).
    """

    std: float = Field(0.01, ge=0)


@TRANSFORMS.register("bias_field")
class BiasField(Transform):
    """Multiplies intensities by a smooth field, as a coil's: another one for each channel of each sample.

    Its logarithm is a polynomial of third order over the patch (as Van Leemput et al. 1999 model it), with random
    coefficients and no constant. Intensities are taken from the patch's smallest on, which is air's; voxels of exactly
    0, as outside of a mask, stay.

    Attributes:
        strength: range of the logarithm's largest deviation from 0; the range itself is ours.
    """

    strength: tuple[float, float] = (0.0, 0.4)

    @model_validator(mode="after")
    def _range(self) -> "Self":
        if not 0 <= self.strength[0] <= self.strength[1]:
            raise ValueError("strength is no range: the first number must be the smaller one, from 0")
        return self


class Augmentation(Reasoned):
    """Random changes of a training batch; defaults are nnU-Net's ranges.

    A probability is per sample, and per channel where noted; values are sampled uniformly from a range.

    Attributes:
        rotation: degrees, sampled from ±rotation about each axis.
        rotation_axes: axes of the patch to rotate about; for a strongly anisotropic patch only the first. A slice is
            rotated in its plane wherever there is one.
        rotation_probability: of rotating a sample.
        scaling: zoom factors.
        scaling_axes: axes of the patch that are zoomed. Where None, all; but a volume whose only rotation axis is the
            first is then also zoomed, shifted, bent and made coarser in its plane only, as an anisotropic one needs.
        scaling_probability: of zooming a sample.
        translation: voxels, sampled from ±translation along each axis; zeros come in from beyond the image.
        translation_probability: of shifting a sample.
        elastic_magnitude: largest displacement in voxels of the coarse displacement field's nodes.
        elastic_spacing: voxels between the nodes of that field.
        elastic_probability: of deforming a sample.
        mirror_axes: axes that may be flipped, each with ``mirror_probability``.
        mirror_probability: of flipping a sample along an axis.
        noise_std: standard deviation of added Gaussian noise (nnU-Net names this range a variance and uses it as this).
        noise_probability: per sample.
        blur_sigma: voxels.
        blur_probability: per sample; each channel then with ½.
        brightness: factors.
        brightness_probability: per sample.
        contrast: factors by which intensities move away from the patch's mean, kept within its range.
        contrast_probability: per sample.
        low_resolution: zoom factors of the simulated acquisition.
        low_resolution_probability: per sample; each channel then with ½.
        gamma: exponents.
        gamma_probability: per sample.
        gamma_invert_probability: per sample, of a gamma curve on the inverted intensities.
        previous_morphology_probability: per sample, of dilating, eroding, opening or closing a random label of the
            previous stage's segmentation; this and the next three only apply where the network has that as input. All
            four are from nnU-Net's cascade (Isensee et al. 2021); they simulate errors of the previous stage.
        previous_morphology_radius: of the ball, in voxels.
        previous_removal_probability: per sample and label, of removing one of its connected components there.
        previous_removal_share: of the patch that such a component may cover, at most.
        transforms: further changes of the intensities, by name (:data:`TRANSFORMS`), after all those above and in this
            order.
    """

    rotation: float = Field(30.0, ge=0, le=180)
    rotation_axes: list[Axis] = Field(default_factory=lambda: [0, 1, 2])
    rotation_probability: float = Field(0.2, ge=0, le=1)
    scaling: tuple[float, float] = (0.7, 1.4)
    scaling_axes: list[Axis] | None = None
    scaling_probability: float = Field(0.2, ge=0, le=1)
    translation: float = Field(4.0, ge=0)
    translation_probability: float = Field(0.0, ge=0, le=1)
    elastic_magnitude: float = Field(4.0, ge=0)
    elastic_spacing: int = Field(12, ge=2)
    elastic_probability: float = Field(0.0, ge=0, le=1)
    mirror_axes: list[Axis] = Field(default_factory=lambda: [0, 1, 2])
    mirror_probability: float = Field(0.5, ge=0, le=1)
    noise_std: tuple[float, float] = (0.0, 0.1)
    noise_probability: float = Field(0.1, ge=0, le=1)
    blur_sigma: tuple[float, float] = (0.5, 1.0)
    blur_probability: float = Field(0.2, ge=0, le=1)
    brightness: tuple[float, float] = (0.75, 1.25)
    brightness_probability: float = Field(0.15, ge=0, le=1)
    contrast: tuple[float, float] = (0.75, 1.25)
    contrast_probability: float = Field(0.15, ge=0, le=1)
    low_resolution: tuple[float, float] = (0.5, 1.0)
    low_resolution_probability: float = Field(0.25, ge=0, le=1)
    gamma: tuple[float, float] = (0.7, 1.5)
    gamma_probability: float = Field(0.3, ge=0, le=1)
    gamma_invert_probability: float = Field(0.1, ge=0, le=1)
    previous_morphology_probability: float = Field(0.4, ge=0, le=1)
    previous_morphology_radius: tuple[PositiveInt, PositiveInt] = (1, 8)
    previous_removal_probability: float = Field(0.2, ge=0, le=1)
    previous_removal_share: float = Field(0.15, ge=0, le=1)
    transforms: Annotated[dict[str, SerializeAsAny[Transform]], BeforeValidator(table_of(TRANSFORMS))] = Field(
        default_factory=dict
    )

    @model_validator(mode="after")
    def _ranges(self) -> "Self":
        for name in (
            "scaling",
            "noise_std",
            "blur_sigma",
            "brightness",
            "contrast",
            "low_resolution",
            "gamma",
            "previous_morphology_radius",
        ):
            low, high = getattr(self, name)
            if low > high or low < 0:
                raise ValueError(
                    f"{name} [{low}, {high}] is no range: the first number must be the smaller one, from 0"
                )
        if self.low_resolution[0] == 0 or self.scaling[0] == 0 or self.low_resolution[1] > 1:
            raise ValueError("scaling and low_resolution need factors above 0, low_resolution none above 1")
        return self
