"""The average of a model's weights before and after fine-tuning.

Weight-space ensembles (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models"): networks between the two can be
better than both, and forget less about cases that the few new ones do not represent.
"""

import copy
from collections.abc import Callable, Mapping

import torch
from torch import nn

from autoseg.networks.parts import own_tensors

#: A share that raises the training loss by more than this is halved. Measured on the hippocampus: half of a source that
#: suits the data raises the loss by some 0.02; half of one that does not, to that of an untrained network.
TOLERANCE = 0.1

#: Smallest share; below it nothing is kept.
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
    """Average a trained network with its initial weights, as long as the loss on training cases allows.

    Args:
        network: trained.
        start: from :func:`weights_of`, before the training.
        share: of the start; halved while the loss rises by more than :data:`TOLERANCE`.
        loss: mean loss of a network on training cases.

    Returns:
        The averaged network and the share of the start in it, or the trained network and 0.
    """
    limit = loss(network) + TOLERANCE
    while share >= LEAST:
        blended = blend(network, start, share)
        if loss(blended) <= limit:
            return blended, share
        share /= 2
    return network, 0.0
