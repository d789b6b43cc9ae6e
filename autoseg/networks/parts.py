"""Parts of a network: tensors that depend on its channels or heads, its encoder, and the depth of each parameter.

Determined by building and running it on torch's meta device, without memory, so that this works for every family.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autoseg.networks import build
from autoseg.plans.architecture import Network


@dataclass(frozen=True)
class GrowingAxis:
    """An axis of a tensor that grows with the number of channels or of heads.

    Attributes:
        number: of the axis.
        blocks: how often the channels or heads follow each other along it (once, most of the time).
    """

    number: int
    blocks: int


#: Name of a tensor → its axes that grow.
GrowingAxes = dict[str, list[GrowingAxis]]


def own_tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name, each once; a state dict lists a U-Net's shared ones under several names."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def input_axes(network: Network, in_channels: int, heads: int) -> GrowingAxes:
    """Axes of each tensor that grow with the number of input channels."""
    return _growing(_shapes(network, in_channels, heads), _shapes(network, in_channels + 1, heads), in_channels)


def head_axes(network: Network, in_channels: int, heads: int) -> GrowingAxes:
    """Axes of each tensor that grow with the number of heads."""
    return _growing(_shapes(network, in_channels, heads), _shapes(network, in_channels, heads + 1), heads)


def _shapes(network: Network, in_channels: int, heads: int) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in own_tensors(build(network, in_channels, heads)).items()}


def _growing(fewer: dict[str, torch.Size], more: dict[str, torch.Size], count: int) -> GrowingAxes:
    growing: GrowingAxes = {}
    for name, shape in fewer.items():
        axes = [
            GrowingAxis(number, large - small)
            for number, (small, large) in enumerate(zip(shape, more.get(name, shape), strict=True))
            if large != small and small == count * (large - small)
        ]
        if axes:
            growing[name] = axes
    return growing


def encoder_names(network: Network, names: Sequence[str]) -> set[str]:
    """Those of these tensors that belong to the encoder; empty for a network that has none."""
    return {name for name in names if name.startswith(network.encoder_prefixes)}


def depths(network: Network, in_channels: int, heads: int, patch: Sequence[int]) -> dict[str, float]:
    """Relative depth of each parameter: 0 for the first layer, 1 for the last one and the heads.

    The longest path from a parameter to an output counts: for a U-Net's first layer that is the path through the lowest
    resolution, not the skip connection. Parallel pathways have the same depths.

    Args:
        network: topology.
        in_channels: of the image.
        heads: of the result.
        patch: voxels of a patch that the network takes.

    Returns:
        Name of each parameter → depth from 0 to 1.
    """
    with torch.device("meta"):
        module = build(network, in_channels, heads, network.supervised_levels).train()
        # Two samples: batch norm must have something to average over.
        results = module(torch.empty((2, in_channels, *network.input_size(patch)), device="meta"))
    distances = _distances([result.grad_fn for result in ([results] if isinstance(results, torch.Tensor) else results)])
    far = {name: distances[id(parameter)] for name, parameter in module.named_parameters()}
    nearest, farthest = min(far.values()), max(far.values())
    at_the_end = head_axes(network, in_channels, heads)
    return {
        name: 1.0 if name in at_the_end else (farthest - steps) / max(farthest - nearest, 1)
        for name, steps in far.items()
    }


def _distances(results: Sequence[Any]) -> dict[int, int]:
    """``id`` of each parameter → layers (operations with parameters) on its longest path to an output."""
    order: list[Any] = []
    visited: set[Any] = set()
    waiting = [(node, False) for node in results]
    while waiting:  # depth first, without recursion: deep networks have long graphs
        node, finished = waiting.pop()
        if finished:
            order.append(node)
        elif node is not None and node not in visited:
            visited.add(node)
            waiting.append((node, True))
            waiting += [(before, False) for before, _ in node.next_functions]
    steps = dict.fromkeys(visited, 0)
    for node in reversed(order):  # from the outputs back, each node after all that use it
        befores = [before for before, _ in node.next_functions if before is not None]
        layer = any(hasattr(before, "variable") for before in befores)
        for before in befores:
            steps[before] = max(steps[before], steps[node] + layer)
    return {id(node.variable): count for node, count in steps.items() if hasattr(node, "variable")}
