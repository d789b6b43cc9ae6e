"""Loss: what a training minimises, a weighted sum of terms."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from autoseg.plans.components import table_of
from autoseg.plans.reasons import Reasoned
from autoseg.utils.registry import Registry

if TYPE_CHECKING:
    from typing import Self


class LossTerm(Reasoned):
    """Base of a loss term's description (:data:`LOSS_TERMS`); subclasses add their parameters.

    Attributes:
        weight: of the term.
    """

    weight: float = Field(1.0, ge=0)


#: Further terms of a loss: name → description. The functions are in :data:`autoseg.step.terms.TERMS`.
LOSS_TERMS: Registry[type[LossTerm]] = Registry("loss", package="autoseg.step")


class Loss(Reasoned):
    """The training loss: the sum of weight × term over the terms below.

    Every term is defined for exclusive labels (softmax; Dice and Tversky leave the background out, unless
    ``background``) and for regions (sigmoid, channel by channel), and leaves out the voxels of the ignore label.

    Attributes:
        dice_weight: of 1 − soft Dice.
        ce_weight: of the mean cross-entropy (binary for regions).
        focal_weight: of the focal loss, −(1 − p)^γ·log p (Lin et al. 2017).
        tversky_weight: of 1 − Tversky index (Salehi et al. 2017).
        topk_weight: of the mean cross-entropy of the hardest voxels.
        dice_numerator: of the soft Dice, from Σ of probability × truth and ``smooth``. ``twice``: 2·Σ + smooth, which
            is the usual one (Yıldız et al., eq. 3; Wacker et al. 2019, eq. 1, with ``smooth`` 0). ``once``: Σ + smooth
            (Rahimpour et al., eq. 5, as printed), at most about ½. ``twice_smoothed``: 2·(Σ + smooth) (Tweedy, as
            printed), so that an absent structure that is not predicted costs −1.
        dice_denominator: of the soft Dice: ``sum`` of probabilities and truth, or of their ``squares`` (Milletari et
            al. 2016).
        tversky_alpha: weight of false positives.
        tversky_beta: weight of false negatives; both ½ is Dice with the plain sum.
        focal_reduction: ``mean`` over voxels, or their ``sum`` (Tweedy, as printed), averaged over samples and
            structures.
        focal_gamma: the larger, the less well-classified voxels count; 0 is cross-entropy.
        omega: weight of the structures' voxels in cross-entropy, focal loss and top-k; all others weigh 1 − omega; at 1
            these cost nothing (the end of the range of Rahimpour et al., section 2.3). All weigh 1 where None, so omega
            = ½ halves the loss.
        topk_share: share of a batch's voxels that count as the hardest.
        background: whether the background is a class of Dice and Tversky, too (exclusive labels). Needed without a term
            over every voxel (cross-entropy, focal): otherwise false positives of a label without overlap cost
            nothing.
        batch_dice: Dice and Tversky sum over the batch before dividing, as if it were one image; steadier for small
            structures.
        smooth: added to numerator and denominator of the soft Dice.
        terms: further terms, by name (:data:`LOSS_TERMS`), each with its own weight.
    """

    dice_weight: float = Field(1.0, ge=0)
    ce_weight: float = Field(1.0, ge=0)
    focal_weight: float = Field(0.0, ge=0)
    tversky_weight: float = Field(0.0, ge=0)
    topk_weight: float = Field(0.0, ge=0)
    dice_numerator: Literal["twice", "once", "twice_smoothed"] = "twice"
    dice_denominator: Literal["sum", "squares"] = "sum"
    tversky_alpha: float = Field(0.3, ge=0)
    tversky_beta: float = Field(0.7, ge=0)
    focal_reduction: Literal["mean", "sum"] = "mean"
    focal_gamma: float = Field(2.0, ge=0)
    omega: float | None = Field(None, gt=0, le=1)
    topk_share: float = Field(0.1, gt=0, le=1)
    background: bool = False
    batch_dice: bool = True
    smooth: float = Field(1e-5, ge=0)
    terms: Annotated[dict[str, SerializeAsAny[LossTerm]], BeforeValidator(table_of(LOSS_TERMS))] = Field(
        default_factory=dict
    )

    @model_validator(mode="after")
    def _something(self) -> "Self":
        weights = [name for name in type(self).model_fields if name.endswith("_weight")]
        if not any(getattr(self, name) for name in weights) and not any(term.weight for term in self.terms.values()):
            raise ValueError(f"{', '.join(weights)} are all 0: nothing to minimise")
        if self.tversky_alpha == self.tversky_beta == 0:
            raise ValueError("tversky_alpha and tversky_beta are both 0: no mistake would cost anything")
        return self
