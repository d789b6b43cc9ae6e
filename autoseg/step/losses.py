"""The training loss: a weighted sum of terms (:mod:`autoseg.step.terms`) at every resolution of the network."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from autoseg.plans.loss import Loss
from autoseg.plans.target import Target
from autoseg.step.terms import TERMS, Scored

#: Terms with a weight in :class:`~autoseg.plans.loss.Loss` itself, in the order of summation.
OWN_TERMS = ("dice", "tversky", "ce", "focal", "topk")


def output_masks(label: torch.Tensor, target: Target) -> torch.Tensor:
    """A label map ``(batch, *space)`` as a channel for each output: bool ``(batch, outputs, *space)``.

    Values are compared one by one: nothing is copied to the device, nothing waits for it.

    Args:
        label: integers; its values are the target's.
        target: outputs.
    """
    channels = []
    for output in target.outputs:
        inside = label == output.values[0]
        for value in output.values[1:]:
            inside = inside | (label == value)
        channels.append(inside)
    return torch.stack(channels, dim=1)


def encode(label: torch.Tensor, target: Target) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Encode a label map as the target of the network's heads.

    Args:
        label: integer ``(batch, *space)``; its values are the target's.
        target: outputs and ignore label.

    Returns:
        One-hot (or one channel a region) bool ``(batch, heads, *space)``, and a bool mask ``(batch, 1, *space)`` of
        voxels that count, or None where all do.
    """
    truth = output_masks(label, target)
    if target.kind == "labels":
        truth = torch.cat([~truth.any(dim=1, keepdim=True), truth], dim=1)
    counts = (label != target.ignore)[:, None] if target.ignore is not None else None
    return truth, counts


def segmentation_loss(
    logits: torch.Tensor, truth: torch.Tensor, loss: Loss, kind: str, counts: torch.Tensor | None = None
) -> torch.Tensor:
    """The plan's loss at one resolution; a scalar. Dice and Tversky leave the background out, unless the plan says so.

    Args:
        logits: ``(batch, heads, *space)``.
        truth: bool, same shape.
        loss: weights of the terms.
        kind: ``labels`` or ``regions``.
        counts: bool ``(batch, 1, *space)``, voxels that count; all where None.
    """
    scored = Scored(logits.float(), truth, kind, counts, loss.background)
    total = scored.logits.new_zeros(())
    for name in OWN_TERMS:
        if weight := getattr(loss, f"{name}_weight"):
            total = total + weight * TERMS.find(name)(scored, loss)
    for name, term in loss.terms.items():
        if term.weight:
            total = total + term.weight * TERMS.find(name)(scored, term)
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
    """The training loss, a scalar: :func:`deep_supervision_loss`, or its mean over the network's decoders.

    Each label map counts alike; samples without a label map for a decoder are skipped for it.

    Args:
        outputs: as for :func:`deep_supervision_loss`; for several decoders ``(batch, decoders × heads, *space)``.
        label: integer ``(batch, *space)``, or ``(batch, decoder, *space)``.
        loss: weights of the terms.
        target: what to segment.
        drawn: bool ``(batch, decoder)``: whether a sample has the label map for a decoder; all of them where None.
    """
    levels = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    if label.ndim < levels[0].ndim:
        return deep_supervision_loss(outputs, label, loss, target)
    samples, answers = label.shape[:2]
    counts = [samples] * answers if drawn is None else [int(count) for count in drawn.sum(axis=0)]
    by_answer = [level.unflatten(1, (answers, -1)).unbind(1) for level in levels]
    total = levels[0].new_zeros((), dtype=torch.float32)
    for answer, count in enumerate(counts):
        logits, annotation = [level[answer] for level in by_answer], label[:, answer]
        if drawn is not None and 0 < count < samples:
            # Rows by number, not by an index tensor: copying one to a GPU waits for it.
            rows = [int(row) for row in np.flatnonzero(drawn[:, answer])]
            logits, annotation = [_rows(level, rows) for level in logits], _rows(annotation, rows)
        if count:
            total = total + count * deep_supervision_loss(logits, annotation, loss, target)
    return total / max(sum(counts), 1)


def _rows(tensor: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """Some rows of a tensor, copied."""
    parts = tensor.unbind(0)
    return torch.stack([parts[row] for row in rows])


def deep_supervision_loss(
    outputs: torch.Tensor | Sequence[torch.Tensor], label: torch.Tensor, loss: Loss, target: Target
) -> torch.Tensor:
    """The plan's loss summed over the network's output resolutions (:func:`supervision_weights`); a scalar.

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
        # Several outputs of one resolution, such as a network's views: each counts in full.
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
