"""The plan's loss: a weighted sum of terms (:mod:`autoseg.step.terms`), at every resolution of the network."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from autoseg.plans.recipe import Loss
from autoseg.plans.target import Target
from autoseg.step.terms import cross_entropy, focal_loss, soft_dice_loss, topk_cross_entropy, tversky_loss


def encode(label: torch.Tensor, target: Target) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Turn a label map with the dataset's values into what the network should say.

    Args:
        label: integer ``(batch, *space)`` with the dataset's own values.
        target: outputs and ignore label.

    Returns:
        One-hot (or one channel a region) bool ``(batch, heads, *space)``, and a bool mask ``(batch, 1, *space)`` of
        voxels that count, or None where all do.
    """
    channels = []
    for output in target.outputs:
        inside = label == output.values[0]
        for value in output.values[1:]:
            inside = inside | (label == value)
        channels.append(inside)
    truth = torch.stack(channels, dim=1)
    if target.kind == "labels":
        truth = torch.cat([~truth.any(dim=1, keepdim=True), truth], dim=1)
    counts = (label != target.ignore)[:, None] if target.ignore is not None else None
    return truth, counts


def segmentation_loss(
    logits: torch.Tensor, truth: torch.Tensor, loss: Loss, kind: str, counts: torch.Tensor | None = None
) -> torch.Tensor:
    """The plan's loss at one resolution; the background takes no part in Dice and Tversky unless it is asked to.

    Args:
        logits: ``(batch, heads, *space)``.
        truth: bool, same shape.
        loss: weights of the terms.
        kind: ``labels`` or ``regions``.
        counts: voxels that count.
    """
    logits = logits.float()
    total = logits.new_zeros(())
    if loss.dice_weight or loss.tversky_weight:
        if kind == "labels":
            first = 0 if loss.background else 1
            probabilities, wanted = torch.softmax(logits, dim=1)[:, first:], truth[:, first:]
        else:
            probabilities, wanted = torch.sigmoid(logits), truth
        if loss.dice_weight:
            dice = soft_dice_loss(probabilities, wanted, counts, loss.batch_dice, loss.smooth, loss.dice_denominator)
            total = total + loss.dice_weight * dice
        if loss.tversky_weight:
            tversky = tversky_loss(
                probabilities, wanted, loss.tversky_alpha, loss.tversky_beta, counts, loss.batch_dice, loss.smooth
            )
            total = total + loss.tversky_weight * tversky
    if loss.ce_weight:
        total = total + loss.ce_weight * cross_entropy(logits, truth, kind, counts, loss.omega)
    if loss.focal_weight:
        total = total + loss.focal_weight * focal_loss(logits, truth, kind, counts, loss.focal_gamma, loss.omega)
    if loss.topk_weight:
        hardest = topk_cross_entropy(logits, truth, kind, counts, loss.topk_share, loss.omega)
        total = total + loss.topk_weight * hardest
    return total


def supervision_weights(resolutions: int) -> list[float]:
    """Weights of the losses at decreasing resolutions: halved each time, the lowest 0, summing to 1 (nnU-Net)."""
    if resolutions == 1:
        return [1.0]
    weights = [0.5**level for level in range(resolutions - 1)] + [0.0]
    return [weight / sum(weights) for weight in weights]


def training_loss(
    outputs: torch.Tensor | Sequence[torch.Tensor],
    label: torch.Tensor,
    loss: Loss,
    target: Target,
    drawn: np.ndarray | None = None,
) -> torch.Tensor:
    """What a training makes small: :func:`deep_supervision_loss`, or its mean over raters where they have one each.

    Each drawing (a rater's of a sample) counts alike; a sample does not exist for a rater who did not draw it.

    Args:
        outputs: as :func:`deep_supervision_loss` has them; of several raters ``(batch, raters × heads, *space)``.
        label: integer ``(batch, *space)``, or ``(batch, rater, *space)``.
        loss: weights of the terms.
        target: what to segment.
        drawn: bool ``(batch, rater)``: who drew which sample; everybody all where None.
    """
    levels = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    if label.ndim < levels[0].ndim:
        return deep_supervision_loss(outputs, label, loss, target)
    samples, raters = label.shape[:2]
    counts = [samples] * raters if drawn is None else [int(count) for count in drawn.sum(axis=0)]
    said = [level.unflatten(1, (raters, -1)).unbind(1) for level in levels]
    total = levels[0].new_zeros((), dtype=torch.float32)
    for rater, count in enumerate(counts):
        own, wanted = [level[rater] for level in said], label[:, rater]
        if drawn is not None and 0 < count < samples:
            rows = torch.as_tensor(np.flatnonzero(drawn[:, rater]), device=label.device)
            own, wanted = [level[rows] for level in own], wanted[rows]
        if count:
            total = total + count * deep_supervision_loss(own, wanted, loss, target)
    return total / max(sum(counts), 1)


def deep_supervision_loss(
    outputs: torch.Tensor | Sequence[torch.Tensor], label: torch.Tensor, loss: Loss, target: Target
) -> torch.Tensor:
    """The plan's loss at every resolution the network speaks at.

    Args:
        outputs: logits ``(batch, heads, *space)``, or a list of them, the highest resolution first.
        label: integer ``(batch, *space)`` with the dataset's values; lower resolutions take its nearest voxels.
        loss: weights of the terms.
        target: what to segment.
    """
    levels = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    total = levels[0].new_zeros((), dtype=torch.float32)
    weights = supervision_weights(len(levels))
    if len({logits.shape for logits in levels}) == 1:
        # No lower resolutions but several opinions, of a network's views for one: each counts in full.
        weights = [1.0] * len(levels)
    for logits, weight in zip(levels, weights, strict=True):
        if weight == 0:
            continue
        here = label
        if logits.shape[2:] != label.shape[1:]:
            here = F.interpolate(label[:, None].float(), size=logits.shape[2:], mode="nearest-exact")[:, 0].to(
                label.dtype
            )
        truth, counts = encode(here, target)
        total = total + weight * segmentation_loss(logits, truth, loss, target.kind, counts)
    return total
