"""Loss terms, on logits or probabilities; every one leaves out the voxels that do not count.

All are defined for exclusive labels (``labels``: softmax over the heads, the truth one-hot, the background first) and
for regions (``regions``: a sigmoid for each head).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F

from autoseg.plans.loss import Loss
from autoseg.utils.registry import Registry

#: Least 1 − p in the focal loss: at 1 − p = 0 its power has no finite gradient for 0 < γ < 1.
_LEAST_DOUBT = 1e-8


@dataclass(frozen=True)
class Scored:
    """Logits at one resolution and the truth: the arguments of every loss term.

    Attributes:
        logits: float32 ``(batch, heads, *space)``.
        truth: bool, same shape: one-hot (background first) for labels, a channel a region.
        kind: ``labels`` or ``regions``.
        counts: bool ``(batch, 1, *space)``, voxels that count; all where None.
        background: of labels, whether the background is a class of terms that compare structures.
    """

    logits: torch.Tensor
    truth: torch.Tensor
    kind: str
    counts: torch.Tensor | None = None
    background: bool = False

    @property
    def _first(self) -> int:
        return 1 if self.kind == "labels" and not self.background else 0

    @cached_property
    def probabilities(self) -> torch.Tensor:
        """Of each structure: softmax for labels (then without the background, unless it is a class), or sigmoid."""
        if self.kind == "labels":
            return torch.softmax(self.logits, dim=1)[:, self._first :]
        return torch.sigmoid(self.logits)

    @cached_property
    def structures(self) -> torch.Tensor:
        """The truth of each structure in :attr:`probabilities`."""
        return self.truth[:, self._first :] if self.kind == "labels" else self.truth


#: A loss term: a scalar from logits and truth, and the term's description.
Term = Callable[[Scored, Any], torch.Tensor]

#: Name → function. autoseg's own terms have their weights and parameters in :class:`autoseg.plans.loss.Loss`
#: (``<name>_weight``); further ones have a description in :data:`autoseg.plans.loss.LOSS_TERMS` under their name.
TERMS: Registry[Term] = Registry("loss", package="autoseg.step")


#: Numerators of the soft Dice, of the overlap and ``smooth`` (:attr:`autoseg.plans.loss.Loss.dice_numerator`).
NUMERATORS: dict[str, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "twice": lambda overlap, smooth: 2 * overlap + smooth,
    "once": lambda overlap, smooth: overlap + smooth,
    "twice_smoothed": lambda overlap, smooth: 2 * (overlap + smooth),
}


@TERMS.register("dice")
def dice_term(scored: Scored, loss: Loss) -> torch.Tensor:
    """1 − soft Dice."""
    return soft_dice_loss(
        scored.probabilities,
        scored.structures,
        scored.counts,
        loss.batch_dice,
        loss.smooth,
        loss.dice_denominator,
        loss.dice_numerator,
    )


@TERMS.register("tversky")
def tversky_term(scored: Scored, loss: Loss) -> torch.Tensor:
    """1 − Tversky index."""
    return tversky_loss(
        scored.probabilities,
        scored.structures,
        loss.tversky_alpha,
        loss.tversky_beta,
        scored.counts,
        loss.batch_dice,
        loss.smooth,
    )


@TERMS.register("ce")
def cross_entropy_term(scored: Scored, loss: Loss) -> torch.Tensor:
    """Mean cross-entropy."""
    return cross_entropy(scored.logits, scored.truth, scored.kind, scored.counts, loss.omega)


@TERMS.register("focal")
def focal_term(scored: Scored, loss: Loss) -> torch.Tensor:
    """Mean or sum of the focal loss."""
    return focal_loss(
        scored.logits,
        scored.truth,
        scored.kind,
        scored.counts,
        loss.focal_gamma,
        loss.omega,
        loss.focal_reduction,
    )


@TERMS.register("topk")
def topk_term(scored: Scored, loss: Loss) -> torch.Tensor:
    """Mean cross-entropy of the hardest voxels."""
    return topk_cross_entropy(scored.logits, scored.truth, scored.kind, scored.counts, loss.topk_share, loss.omega)


def soft_dice_loss(
    probabilities: torch.Tensor,
    truth: torch.Tensor,
    counts: torch.Tensor | None = None,
    batch_dice: bool = True,
    smooth: float = 1e-5,
    denominator: str = "sum",
    numerator: str = "twice",
) -> torch.Tensor:
    """1 − soft Dice, averaged over channels.

    2·Σpt / (Σp + Σt) with the plain sum, as nnU-Net's, or 2·Σpt / (Σp² + Σt²) with ``squares`` (Milletari et al. 2016,
    section 3). For ``numerator`` see :class:`autoseg.plans.loss.Loss`.

    Args:
        probabilities: ``(batch, channel, *space)``.
        truth: 0/1, same shape.
        counts: voxels that count, ``(batch, 1, *space)``.
        batch_dice: sum over the batch first.
        smooth: added to numerator and denominator, so that an absent and unpredicted structure costs nothing.
        denominator: ``sum`` or ``squares``.
        numerator: ``twice``, ``once`` or ``twice_smoothed``.
    """
    axes = tuple(range(2, probabilities.ndim))
    truth = truth.to(probabilities.dtype)
    if counts is not None:
        probabilities = probabilities * counts
        truth = truth * counts
    overlap = (probabilities * truth).sum(axes)
    # The truth is 0 or 1, so it is its own square.
    summands = probabilities if denominator == "sum" else probabilities.square()
    volume = summands.sum(axes) + truth.sum(axes)
    if batch_dice:
        overlap, volume = overlap.sum(0), volume.sum(0)
    # The clamp matters for an absent, unpredicted structure with smooth = 0.
    return 1 - (NUMERATORS[numerator](overlap, smooth) / (volume + smooth).clamp(min=1e-8)).mean()


def tversky_loss(
    probabilities: torch.Tensor,
    truth: torch.Tensor,
    alpha: float,
    beta: float,
    counts: torch.Tensor | None = None,
    batch_dice: bool = True,
    smooth: float = 1e-5,
) -> torch.Tensor:
    """1 − Tversky index TP / (TP + α·FP + β·FN), averaged over channels (Salehi et al. 2017, equation 4).

    With α = β = ½ it is the soft Dice loss with the plain sum; ``smooth`` is halved so that this holds for any value.

    Args:
        probabilities: ``(batch, channel, *space)``.
        truth: 0/1, same shape.
        alpha: cost of false positives.
        beta: cost of false negatives.
        counts: voxels that count, ``(batch, 1, *space)``.
        batch_dice: sum over the batch first.
        smooth: as in :func:`soft_dice_loss`.
    """
    axes = tuple(range(2, probabilities.ndim))
    truth = truth.to(probabilities.dtype)
    if counts is not None:
        probabilities = probabilities * counts
        truth = truth * counts
    hit = (probabilities * truth).sum(axes)
    false = probabilities.sum(axes) - hit
    missed = truth.sum(axes) - hit
    if batch_dice:
        hit, false, missed = hit.sum(0), false.sum(0), missed.sum(0)
    total = hit + alpha * false + beta * missed + smooth / 2
    return 1 - ((hit + smooth / 2) / total.clamp(min=1e-8)).mean()


def voxel_costs(logits: torch.Tensor, truth: torch.Tensor, kind: str) -> torch.Tensor:
    """−log of the predicted probability of each voxel's true class.

    Args:
        logits: ``(batch, heads, *space)``.
        truth: 0/1, same shape.
        kind: ``labels`` or ``regions``.

    Returns:
        ``(batch, 1, *space)`` for labels, ``(batch, heads, *space)`` for regions.
    """
    if kind == "labels":
        # With a one-hot truth a product and a sum suffice, without finding class indices first.
        return -(torch.log_softmax(logits, dim=1) * truth).sum(dim=1, keepdim=True)
    return F.binary_cross_entropy_with_logits(logits, truth.to(logits.dtype), reduction="none")


def weigh(costs: torch.Tensor, truth: torch.Tensor, kind: str, omega: float | None) -> torch.Tensor:
    """Multiply the costs of structures' voxels by ω and those of all others by 1 − ω.

    Args:
        costs: of each voxel, from :func:`voxel_costs`.
        truth: bool ``(batch, heads, *space)``.
        kind: ``labels`` (all structures together against the background) or ``regions`` (each for itself).
        omega: above 0, at most 1; all voxels weigh 1 where None.
    """
    if omega is None:
        return costs
    inside = ~truth[:, :1] if kind == "labels" else truth
    return costs * torch.where(inside, omega, 1 - omega)


def cross_entropy(
    logits: torch.Tensor,
    truth: torch.Tensor,
    kind: str,
    counts: torch.Tensor | None = None,
    omega: float | None = None,
) -> torch.Tensor:
    """Mean cross-entropy over the voxels that count: categorical for ``labels``, binary a channel for ``regions``.

    Args:
        logits: ``(batch, heads, *space)``.
        truth: bool, same shape.
        kind: ``labels`` or ``regions``.
        counts: voxels that count, ``(batch, 1, *space)``.
        omega: weight of the structures' voxels; all weigh 1 where None. The mean is over voxels, not over weights.
    """
    return _mean(weigh(voxel_costs(logits, truth, kind), truth, kind, omega), counts)


def focal_loss(
    logits: torch.Tensor,
    truth: torch.Tensor,
    kind: str,
    counts: torch.Tensor | None = None,
    gamma: float = 2.0,
    omega: float | None = None,
    reduction: str = "mean",
) -> torch.Tensor:
    """Mean of −ω·(1 − p)^γ·log p, where p is the probability of a voxel's true class (Lin et al. 2017, equation 5).

    As a sum, in 32 bits: over 128³ voxels it is 10⁵ and more at first, and drowns every other term.

    Args:
        logits: ``(batch, heads, *space)``.
        truth: bool, same shape.
        kind: ``labels`` or ``regions``.
        counts: voxels that count, ``(batch, 1, *space)``.
        gamma: 0 makes it the cross-entropy.
        omega: as in :func:`cross_entropy`.
        reduction: ``mean``, or ``sum`` over voxels, averaged over samples and structures.
    """
    costs = voxel_costs(logits, truth, kind)
    if gamma:
        # 1 − p from log p without cancellation.
        costs = (-torch.expm1(-costs)).clamp(min=_LEAST_DOUBT) ** gamma * costs
    costs = weigh(costs, truth, kind, omega)
    if reduction == "sum":
        return (costs if counts is None else costs * counts).flatten(2).sum(2).mean()
    return _mean(costs, counts)


def topk_cross_entropy(
    logits: torch.Tensor,
    truth: torch.Tensor,
    kind: str,
    counts: torch.Tensor | None = None,
    share: float = 0.1,
    omega: float | None = None,
) -> torch.Tensor:
    """Mean cross-entropy of the ``share`` of the batch's voxels where it is largest (as nnU-Net's top-k loss).

    Args:
        logits: ``(batch, heads, *space)``.
        truth: bool, same shape.
        kind: ``labels``, or ``regions``, whose costs are averaged before the hardest voxels are chosen.
        counts: voxels that count, ``(batch, 1, *space)``; the share is of these.
        share: rounded to whole voxels, at least one; 1 makes it the cross-entropy.
        omega: as in :func:`cross_entropy`; the weighted costs decide which voxels are hard.
    """
    costs = weigh(voxel_costs(logits, truth, kind), truth, kind, omega).mean(1, keepdim=True)
    most = max(1, round(share * costs.numel()))
    if counts is None:
        return costs.flatten().topk(most).values.mean()
    # The number of voxels that count is known on the device only: take the largest possible k and mask the rest.
    hardest = costs.masked_fill(~counts, 0).flatten().topk(most).values
    number = (share * counts.sum()).round().clamp(1, most)
    used = torch.arange(most, device=hardest.device) < number
    return (hardest * used).sum() / number


def softened_divergence(
    logits: torch.Tensor,
    teacher: torch.Tensor,
    kind: str,
    temperature: float,
    counts: torch.Tensor | None = None,
) -> torch.Tensor:
    """T² times the mean of KL(teacher ‖ student), both softened by T (Hinton et al. 2015, equation 1, section 2.1).

    The gradient by a logit z is T·(q − p), where q and p are the student's and teacher's probabilities at T. Its size
    does not depend on T, since the difference falls with 1/T.

    Args:
        logits: of the student, ``(batch, heads, *space)``.
        teacher: logits or log-probabilities, same shape.
        kind: ``labels`` (softmax) or ``regions`` (a sigmoid for each head; heads are averaged).
        temperature: T.
        counts: voxels that count, ``(batch, 1, *space)``.
    """
    student, teacher = logits / temperature, teacher / temperature
    if kind == "labels":
        teacher = torch.log_softmax(teacher, dim=1)
        costs = (teacher.exp() * (teacher - torch.log_softmax(student, dim=1))).sum(dim=1, keepdim=True)
    else:
        # p·log(p/q) + (1 − p)·log((1 − p)/(1 − q)), where log p − log(1 − p) is the logit.
        costs = torch.sigmoid(teacher) * (teacher - student) + F.softplus(student) - F.softplus(teacher)
    return temperature**2 * _mean(costs, counts)


def _mean(costs: torch.Tensor, counts: torch.Tensor | None) -> torch.Tensor:
    """Mean over the voxels that count; channels are averaged first."""
    if costs.shape[1] > 1:
        costs = costs.mean(1, keepdim=True)
    if counts is None:
        return costs.mean()
    return (costs * counts).sum() / counts.sum().clamp(min=1)
