"""Decoding: from a network's scores to probabilities and to a label map, and from a label map to channels."""

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import torch

from autoseg.networks.multiview import fuse
from autoseg.plans.target import Target
from autoseg.step.losses import output_masks
from autoseg.utils.integers import integer_type


class OutputProbabilities(Sequence[torch.Tensor]):
    """Probability of each output (the background's, if any, left out), made when it is asked for.

    A few channels are in memory at once, however many there are: ``heads`` may make each when it is asked for.

    Args:
        heads: logits ``space`` of each head.
        target: labels: softmax over heads; regions: sigmoid of each.
        wanted: outputs to give, by their names; all of the target's where None.
    """

    def __init__(self, heads: Sequence[torch.Tensor], target: Target, wanted: Target | None = None) -> None:
        self._heads = heads
        self._target = target
        names = [output.name for output in target.outputs]
        self._places = [names.index(output.name) for output in (wanted or target).outputs]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> torch.Tensor:  # type: ignore[override]
        index = self._places[index]
        if self._target.kind == "regions":
            return torch.sigmoid(self._heads[index].float())
        largest, total = self._normalizer
        return torch.exp(self._heads[index + 1].float() - largest) / total

    @cached_property
    def _normalizer(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The largest logit of each voxel, and the sum of exponentials counted from there."""
        # Softmax in one pass (Milakov & Gimelshein 2018): logits count from the largest so far, so that none is too
        # large for its difference from the others to be exact.
        largest = self._heads[0].float()
        total = torch.ones_like(largest)
        for index in range(1, len(self._heads)):
            logits = self._heads[index].float()
            larger = torch.maximum(largest, logits)
            total = total * torch.exp(largest - larger) + torch.exp(logits - larger)
            largest = larger
        return largest, total


def mean_of_answers(scores: torch.Tensor, target: Target) -> torch.Tensor:
    """Logits ``(answers × heads, *space)`` → logits ``(heads, *space)`` of the answers' mean probabilities."""
    if len(scores) == target.heads:
        return scores
    answers = [block[None] for block in scores.split(target.heads)]
    return fuse(answers, "sigmoid" if target.kind == "regions" else "softmax")[0]


def label_type(target: Target) -> torch.dtype:
    """The smallest of int16, int32 and int64 that holds the values that a target is painted with."""
    kind = integer_type(output.paint for output in target.outputs)
    return {np.int16: torch.int16, np.int32: torch.int32, np.int64: torch.int64}[kind]


def paint_scores(heads: Iterable[torch.Tensor], target: Target) -> torch.Tensor:
    """Logits, a channel at a time, → label map with the dataset's values.

    Taking them one by one keeps two channels in memory, however many labels there are.

    Args:
        heads: logits ``space`` of each head, in the network's order.
        target: labels: the largest logit wins, the background's among them; regions: each one with a logit above 0
            (probability ½) is painted over those before it.

    Returns:
        :func:`label_type` ``space``.
    """
    result: torch.Tensor | None = None
    best: torch.Tensor | None = None
    for index, scores in enumerate(heads):
        if result is None:
            result = torch.zeros_like(scores, dtype=label_type(target))
            best = scores.clone() if target.kind == "labels" else None
            if best is not None:
                continue
        if best is None:
            result[scores > 0] = target.outputs[index].paint
        else:
            result[scores > best] = target.outputs[index - 1].paint
            best = torch.maximum(best, scores)
    assert result is not None
    return result


def paint_probabilities(probabilities: Iterable[torch.Tensor], target: Target) -> torch.Tensor:
    """Probabilities ``space`` of each output, one at a time, → label map, by the rules of :func:`paint_scores`."""
    if target.kind == "regions":
        return paint_scores((p - 0.5 for p in probabilities), target)
    result: torch.Tensor | None = None
    for output, new in zip(target.outputs, probabilities, strict=True):
        if result is None:
            result = torch.full_like(new, output.paint, dtype=label_type(target))
            total, best = new.clone(), new.clone()
        else:
            total += new
            result[new > best] = output.paint
            best = torch.maximum(best, new)
    assert result is not None
    result[best <= 1 - total] = 0
    return result


def one_hot(label: torch.Tensor, target: Target) -> torch.Tensor:
    """A label map ``(batch, *space)`` as a channel for each output: float32 ``(batch, outputs, *space)``, 0 or 1."""
    return output_masks(label, target).float()
