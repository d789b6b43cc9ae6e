"""What the scores of tiles, mirrorings and folds are averaged as: logits, or probabilities that become logits again."""

from dataclasses import dataclass
from typing import Literal

import torch

from autoseg.plans.stage import Stage

#: Smallest mean probability that a logit is taken of: that of 32 bits beside 1, so that no logit is infinite.
LEAST_PROBABILITY = 2.0**-24


@dataclass(frozen=True)
class Averaging:
    """How a network's logits are made into what is averaged, and back.

    Attributes:
        of: ``logits`` as they are, or probabilities by ``softmax`` or ``sigmoid``.
        heads: of one answer; softmax goes over those.
    """

    of: Literal["logits", "softmax", "sigmoid"] = "logits"
    heads: int = 1

    @classmethod
    def by_plan(cls, stage: Stage) -> "Averaging":
        """As a stage's plan says."""
        if stage.inference.average == "logits":
            return cls("logits", stage.heads)
        return cls("sigmoid" if stage.target.kind == "regions" else "softmax", stage.heads)

    def values(self, logits: torch.Tensor) -> torch.Tensor:
        """What is averaged: of logits ``(batch, answers × heads, *space)``, same shape; probabilities are float32."""
        if self.of == "logits":
            return logits
        if self.of == "sigmoid":
            return torch.sigmoid(logits.float())
        blocks = logits.float().unflatten(1, (-1, self.heads))
        return torch.softmax(blocks, dim=2).flatten(1, 2)

    def logits(self, mean: torch.Tensor) -> torch.Tensor:
        """Logits of mean probabilities, whose softmax or sigmoid they are; float32, same shape."""
        if self.of == "softmax":
            return mean.clamp(min=LEAST_PROBABILITY).log()
        return torch.logit(mean, LEAST_PROBABILITY)

    def finish(self, index: int, first: int, mean: torch.Tensor) -> torch.Tensor:
        """:meth:`logits`, of some rows of one head (:data:`autoseg.inference.slabs.Finish`)."""
        return self.logits(mean)


#: Logits as they are.
AS_LOGITS = Averaging()
