"""Preprocessing settings of a plan: normalization, cropping, resampling."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveInt, SerializeAsAny, model_validator

from autoseg.plans.components import by_name, find
from autoseg.plans.reasons import Reasoned
from autoseg.utils.registry import Registry

if TYPE_CHECKING:
    from typing import Self


#: Number of intensities that a channel is harmonized by (:data:`autoseg.data.landmarks.PERCENTILES`).
LANDMARKS = 11

#: The largest value of a colour of 8 bits.
BRIGHTEST = 255.0


class Normalization(Reasoned):
    """How one channel's intensities are normalized.

    Attributes:
        scheme: ``zscore`` per image; ``ct`` clips to [lower, upper] and z-scores with the dataset's mean and std;
            ``minmax`` to [0, 1]; ``percentile`` divides by the image's 95th percentile; ``none``.
        masked: take the statistics from non-zero (or brain-mask) voxels only, and leave the others at zero.
        lower: lower clip of ``ct`` (0.5th percentile of the foreground).
        upper: upper clip of ``ct`` (99.5th percentile of the foreground).
        mean: foreground mean for ``ct``.
        std: foreground standard deviation for ``ct``.
    """

    scheme: str = "zscore"
    masked: bool = False
    lower: float | None = None
    upper: float | None = None
    mean: float | None = None
    std: float | None = None

    @model_validator(mode="after")
    def _complete(self) -> "Self":
        if find(NORMALIZATIONS, self.scheme) is not type(self):
            raise ValueError(f"scheme {self.scheme} is described by another class than {type(self).__name__}")
        if self.scheme == "ct":
            if None in (self.lower, self.upper, self.mean, self.std):
                raise ValueError("scheme ct needs lower, upper, mean and std")
            if self.lower > self.upper or self.std <= 0:  # type: ignore[operator]
                raise ValueError("scheme ct needs lower ≤ upper and std > 0")
        return self

    @property
    def of_colours(self) -> bool:
        """Whether it divides colours of 8 bits by 255 (nnU-Net's ``RGBTo01Normalization``), written as a ``ct``.

        No measured mean is the lower limit itself, so that the numbers tell.
        """
        numbers = self.lower, self.upper, self.mean, self.std
        return self.scheme == "ct" and numbers == (0.0, BRIGHTEST, 0.0, BRIGHTEST)


#: Normalizations: scheme → description. The functions are in :data:`autoseg.preprocessing.normalize.NORMALIZERS`.
NORMALIZATIONS: Registry[type[Normalization]] = Registry("normalization", package="autoseg.preprocessing")
for _scheme in ("zscore", "ct", "minmax", "percentile", "none"):
    NORMALIZATIONS.register(_scheme, Normalization)


class Channel(Reasoned):
    """One input channel of the network."""

    name: str
    normalization: Annotated[
        Normalization, BeforeValidator(by_name(NORMALIZATIONS, "scheme", "zscore")), SerializeAsAny()
    ] = Normalization()


class Preprocessing(Reasoned):
    """Steps applied to every case before resampling.

    Attributes:
        orientation: axes that a volume is reoriented to first: ``canonical`` (LPS), the same for all;
            ``stored``, each as its file has them (what nnU-Net does); or ``ras``.
        transpose: order of those ``(z, y, x)`` axes; the one with the lowest resolution comes first.
        crop: ``nonzero`` cuts to the bounding box of non-zero (or brain-mask) voxels.
        box: largest size in voxels, around the centre of that crop; voxels outside are never segmented.
        bias_correction: ``n4`` divides each channel but a CT scan by its bias field (Tustison et al. 2010) before
            normalization.
        outside_mask: what becomes of voxels outside of a case's brain mask, whatever the normalization: ``kept``, or
            ``zero`` before everything else, as if the image were skull-stripped. A case without a mask stays as it is.
        holes: whether zeros enclosed by non-zero voxels count as ``outside`` of the image, or ``inside`` (nnU-Net).
        harmonize: channel → intensities that the percentiles of its non-zero voxels are mapped to before normalization
            (:mod:`autoseg.data.landmarks`); other channels stay as they are.
    """

    orientation: Literal["canonical", "stored", "ras"] = "canonical"
    transpose: tuple[int, int, int] = (0, 1, 2)
    crop: Literal["nonzero", "none"] = "nonzero"
    box: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    bias_correction: Literal["none", "n4"] = "none"
    outside_mask: Literal["kept", "zero"] = "kept"
    holes: Literal["outside", "inside"] = "outside"
    harmonize: dict[str, list[float]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _permutation(self) -> "Self":
        for name, values in self.harmonize.items():
            if len(values) != LANDMARKS or sorted(values) != values:
                raise ValueError(f"harmonize.{name} must have {LANDMARKS} intensities in ascending order")
        if sorted(self.transpose) != [0, 1, 2]:
            raise ValueError(f"transpose {list(self.transpose)} is no permutation of [0, 1, 2]")
        return self


class Resampling(Reasoned):
    """How cases are resampled to the target spacing.

    Attributes:
        image_order: order of the spline for images (3: cubic).
        label_order: 0 nearest, 1 linear on one-hot labels.
        separate_axis: resample this axis on its own with nearest neighbour: ``auto`` where an image's or the target's
            largest spacing exceeds ``anisotropy`` times the smallest (nnU-Net's rule), ``never``.
        anisotropy: ratio of spacings from which an axis counts as strongly anisotropic.
    """

    image_order: int = Field(3, ge=0, le=5)
    label_order: int = Field(1, ge=0, le=1)
    separate_axis: Literal["auto", "never"] = "auto"
    anisotropy: float = Field(3.0, gt=1)
