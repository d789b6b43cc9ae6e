"""Batch: what a network is given in one step, and what it is compared with."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

#: Type of the label maps that a step is given.
LABEL_TYPE = torch.int16


@dataclass(frozen=True)
class Batch:
    """One batch on the training device.

    Attributes:
        image: float32 ``(batch, channel, *input)``.
        label: integer ``(batch, *output)``, with the dataset's values; where the network gives several answers
            ``(batch, answer, *output)``.
        drawn: bool ``(batch, answer)``: which of these label maps there are of which sample; all of them where None.
        fields: further things to compare with, by name: ``(batch, channel, *output)`` each
            (:data:`autoseg.step.objective.FIELD_LOSSES`).
    """

    image: torch.Tensor
    label: torch.Tensor
    drawn: np.ndarray | None = None
    fields: Mapping[str, torch.Tensor] = field(default_factory=dict)
