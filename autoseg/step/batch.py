"""Batch: input and targets of one training step."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

#: Data type of a batch's label maps.
LABEL_TYPE = torch.int16


@dataclass(frozen=True)
class Batch:
    """One batch on the training device.

    Attributes:
        image: float32 ``(batch, channel, *input)``.
        label: integer ``(batch, *output)``, with the dataset's values; for a network with several decoders
            ``(batch, decoder, *output)``.
        drawn: bool ``(batch, decoder)``: whether a sample has the label map for a decoder; all of them where None.
        fields: further targets, by name: ``(batch, channel, *output)`` each
            (:data:`autoseg.step.objective.FIELD_LOSSES`).
    """

    image: torch.Tensor
    label: torch.Tensor
    drawn: np.ndarray | None = None
    fields: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device; tensors that lie there are not copied."""
        fields = {name: values.to(device) for name, values in self.fields.items()}
        return replace(self, image=self.image.to(device), label=self.label.to(device), fields=fields)
