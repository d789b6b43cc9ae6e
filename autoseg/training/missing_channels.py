"""Missing channels in training: what a case lacks stays zero, and what it has is left out at random.

A network that is to segment cases without some sequence has to meet such cases: whole channels are dropped, as in
HeMIS (Havaei et al. 2016) and later networks for incomplete exams. A channel that is dropped looks exactly like one
that a case never had: zero in every voxel, after normalization and augmentation.
"""

import numpy as np
import torch


def kept_channels(present: np.ndarray, probability: float, rng: np.random.Generator) -> np.ndarray:
    """Draw which channels each sample keeps.

    Each channel that a case has is dropped with ``probability``, one by one. Where all would be, one of them, any with
    equal chance, stays. With a probability of 0 nothing is drawn.

    Args:
        present: bool ``(batch, channel)``: which channels each case has; one at least.
        probability: from 0 to below 1.
        rng: decides.

    Returns:
        bool ``(batch, channel)``: those of ``present`` that are kept, one at least.
    """
    if not probability:
        return present
    draws = np.where(present, rng.random(present.shape), -1.0)
    # The largest of the draws is above the probability, or none is: it is kept in either case.
    return (draws >= probability) | (present & (draws == draws.max(axis=1, keepdims=True)))


def only_channels(image: torch.Tensor, kept: np.ndarray) -> torch.Tensor:
    """The image with all but some channels at zero; where all are kept, the very same tensor.

    Args:
        image: float32 ``(batch, channel, *space)``; channels beyond those of ``kept`` (which a stage before handed on)
            stay as they are.
        kept: bool ``(batch, channel)``.
    """
    if kept.all():
        return image
    factor = torch.ones(image.shape[:2], dtype=torch.bool)
    factor[:, : kept.shape[1]] = torch.from_numpy(kept)
    return image.masked_fill(~factor.reshape(*factor.shape, *[1] * (image.ndim - 2)).to(image.device), 0.0)
