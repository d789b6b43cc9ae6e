"""Missing channels in training: channels that a case lacks stay zero, and others are dropped at random.

A network for cases without some sequence has to be trained on such cases: whole channels are dropped, as in HeMIS
(Havaei et al. 2016) and later networks for incomplete exams. A dropped channel is like a missing one: zero in every
voxel, after normalization and augmentation.
"""

import numpy as np
import torch


def kept_channels(present: np.ndarray, probability: float, rng: np.random.Generator) -> np.ndarray:
    """Choose at random which channels each sample keeps.

    Each channel that a case has is dropped with ``probability``, independently. If all would be dropped, one of them,
    at random, is kept. With a probability of 0 the generator is not used.

    Args:
        present: bool ``(batch, channel)``: which channels each case has; one at least.
        probability: from 0 to below 1.
        rng: random generator.

    Returns:
        bool ``(batch, channel)``: those of ``present`` that are kept, one at least.
    """
    if not probability:
        return present
    draws = np.where(present, rng.random(present.shape), -1.0)
    # The largest of the draws is above the probability, or none is: it is kept in either case.
    return (draws >= probability) | (present & (draws == draws.max(axis=1, keepdims=True)))


def only_channels(image: torch.Tensor, kept: np.ndarray) -> torch.Tensor:
    """The image with dropped channels set to zero; the same tensor where all are kept.

    Args:
        image: float32 ``(batch, channel, *space)``; channels beyond those of ``kept`` (of the previous stage) are
            unchanged.
        kept: bool ``(batch, channel)``.
    """
    if kept.all():
        return image
    image = image.clone()
    for sample, channel in np.argwhere(~kept):
        image[int(sample), int(channel)].zero_()
    return image
