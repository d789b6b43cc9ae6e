"""What a model knew before it was fine-tuned, kept in part: the average of its weights before and after.

Weight-space ensembles (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models"): on the line between the two lie
networks that are better than both ends, and forget less of the cases that the few new ones do not show.
"""

import copy
from collections.abc import Callable, Mapping

import torch
from torch import nn

from autoseg.networks.parts import own_tensors

#: A share that makes the training loss rise by more than this is halved: the source is no good for these data. Half of
#: a source that fits costs some 0.02 on the hippocampus; of one that does not, the loss of no training at all.
TOLERANCE = 0.1

#: A share below this is not worth having.
LEAST = 0.1


def weights_of(network: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of a network's weights on the CPU, by name."""
    return {name: tensor.detach().cpu().clone() for name, tensor in own_tensors(network).items()}


@torch.no_grad()
def blend(network: nn.Module, start: Mapping[str, torch.Tensor], share: float) -> nn.Module:
    """A copy of a network whose weights are (1 − share) · its own + share · those of the start.

    Args:
        network: trained.
        start: from :func:`weights_of`, before the training.
        share: 0 to 1.
    """
    blended = copy.deepcopy(network)
    for name, tensor in own_tensors(blended).items():
        if tensor.is_floating_point():
            tensor.lerp_(start[name].to(tensor), share)
    return blended


def average_with_source(
    network: nn.Module, start: Mapping[str, torch.Tensor], share: float, loss: Callable[[nn.Module], float]
) -> tuple[nn.Module, float]:
    """Blend a trained network with what it started from, as far as the training cases bear it.

    Args:
        network: trained.
        start: from :func:`weights_of`, before the training.
        share: of the start; halved while the loss rises by more than :data:`TOLERANCE`.
        loss: of a network, on training cases.

    Returns:
        The blended network, and the share that was kept: 0 where nothing of the start is of use.
    """
    bearable = loss(network) + TOLERANCE
    while share >= LEAST:
        blended = blend(network, start, share)
        if loss(blended) <= bearable:
            return blended, share
        share /= 2
    return network, 0.0
