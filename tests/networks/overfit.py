"""Whether a network can learn at all: one image, a few steps."""

import torch
from torch import nn


def dice_after(network: nn.Module, steps: int = 25, seed: int = 0) -> float:
    """Dice of a box brighter than its noisy surroundings, in evaluation mode, after so many steps of Adam."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.zeros(1, 1, 16, 16, 16)
    label[..., 3:11, 5:12, 4:14] = 1
    image = label + 0.3 * torch.randn(label.shape, generator=generator)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(network(image), label).backward()
        optimizer.step()
    with torch.no_grad():
        found = network.eval()(image) > 0
    return float(2 * (found & (label > 0)).sum() / (found.sum() + label.sum()))
