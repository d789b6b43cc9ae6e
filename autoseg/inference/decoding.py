"""Decoding: from a network's scores to probabilities and to a label map, and from a label map to channels."""

from collections.abc import Iterable, Iterator, Sequence

import torch

from autoseg.networks.multiview import fuse
from autoseg.plans.target import Target


def probability_channels(heads: Sequence[torch.Tensor], target: Target) -> Iterator[torch.Tensor]:
    """Logits of each head → probability of each output (the background's, if any, left out), one at a time.

    A few channels are in memory at once, however many there are: ``heads`` may make each when it is asked for.

    Args:
        heads: logits ``space`` of each head.
        target: labels: softmax over heads; regions: sigmoid of each.
    """
    if target.kind == "regions":
        for index in range(len(heads)):
            yield torch.sigmoid(heads[index].float())
        return
    # Softmax in one pass (Milakov & Gimelshein 2018): logits count from the largest so far, so that none is too large
    # for its difference from the others to be exact.
    largest = heads[0].float()
    total = torch.ones_like(largest)
    for index in range(1, len(heads)):
        logits = heads[index].float()
        larger = torch.maximum(largest, logits)
        total = total * torch.exp(largest - larger) + torch.exp(logits - larger)
        largest = larger
    for index in range(1, len(heads)):
        yield torch.exp(heads[index].float() - largest) / total


def mean_of_answers(scores: torch.Tensor, target: Target) -> torch.Tensor:
    """Logits ``(answers × heads, *space)`` → logits ``(heads, *space)`` of the answers' mean probabilities."""
    if len(scores) == target.heads:
        return scores
    answers = [block[None] for block in scores.split(target.heads)]
    return fuse(answers, "sigmoid" if target.kind == "regions" else "softmax")[0]


def paint_scores(heads: Iterable[torch.Tensor], target: Target) -> torch.Tensor:
    """Logits, a channel at a time, → label map with the dataset's values.

    Taking them one by one keeps two channels in memory, however many labels there are.

    Args:
        heads: logits ``space`` of each head, in the network's order.
        target: labels: the largest logit wins, the background's among them; regions: each one with a logit above 0
            (probability ½) is painted over those before it.

    Returns:
        int16 ``space``.
    """
    result: torch.Tensor | None = None
    best: torch.Tensor | None = None
    for index, scores in enumerate(heads):
        if target.kind == "regions":
            if result is None:
                result = torch.zeros_like(scores, dtype=torch.int16)
            result[scores > 0] = target.outputs[index].paint
        elif result is None or best is None:
            result, best = torch.zeros_like(scores, dtype=torch.int16), scores.clone()
        else:
            wins = scores > best
            result[wins] = target.outputs[index - 1].paint
            best = torch.maximum(best, scores)
    assert result is not None
    return result


def paint_probabilities(probabilities: torch.Tensor, target: Target) -> torch.Tensor:
    """Probabilities ``(outputs, *space)`` → int16 label map, by the rules of :func:`paint_scores`."""
    if target.kind == "regions":
        return paint_scores((p - 0.5 for p in probabilities), target)
    background = 1 - probabilities.sum(dim=0)
    return paint_scores((background, *probabilities), target)


def one_hot(label: torch.Tensor, target: Target) -> torch.Tensor:
    """A label map ``(batch, *space)`` as a channel for each output: float32 ``(batch, outputs, *space)``, 0 or 1."""
    channels = []
    for output in target.outputs:
        inside = label == output.values[0]
        for value in output.values[1:]:
            inside = inside | (label == value)
        channels.append(inside)
    return torch.stack(channels, dim=1).float()
