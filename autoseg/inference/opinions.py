"""Opinions: several predictions of one case, by the fold, run, mirroring or rater of an ensemble."""

from collections.abc import Iterator
from typing import Literal

import torch

from autoseg.inference.sliding_window import collector
from autoseg.plans.target import Target

#: What makes an opinion: one fold's network, one run, one mirrored copy of the image, or one rater.
Group = Literal["fold", "run", "mirroring", "rater"]

#: Groups whose opinions are in the scores of any prediction; the others take a prediction of their own.
FROM_SCORES: frozenset[Group] = frozenset({"run", "rater"})


class Opinions:
    """Mean and spread of the probabilities in several predictions of one case.

    The predictions are taken one at a time (Welford 1962, https://doi.org/10.1080/00401706.1962.10490022), so that no
    more than three arrays are in memory however many there are; exact where all are equal.

    Attributes:
        mean: float32 ``(outputs, *space)``: mean probability of each output.
        count: number of opinions.
    """

    def __init__(self) -> None:
        self.mean = torch.empty(0)
        self.count = 0
        self._squares = torch.empty(0)  # sum of squared deviations from the mean

    def add(self, probabilities: torch.Tensor) -> None:
        """Add one prediction's probabilities ``(outputs, *space)``; the first ones become :attr:`mean` and change."""
        self.count += 1
        if self.count == 1:
            self.mean = probabilities
            return
        if self.count == 2:
            self._squares = collector(probabilities.shape, probabilities.device)
        for mean, squares, new in zip(self.mean, self._squares, probabilities, strict=True):
            step = new - mean
            mean += step / self.count
            squares += step * (new - mean)

    def standard_deviation(self) -> torch.Tensor:
        """√(Σ (p − p̄)² / opinions) of each output, ``(outputs, *space)``: 0 to ½; 0 where all agree."""
        return torch.zeros_like(self.mean) if self.count < 2 else self._deviation(self._squares)

    def disagreement(self) -> torch.Tensor:
        """Twice the standard deviation, the largest over the outputs, ``space``: 0 to 1; 0 where all agree.

        A probability's standard deviation is at most ½, where half of the opinions are sure of it and the others of
        the contrary; then this is 1. The largest output counts: a mean over outputs would hide a structure that only
        one of many outputs shows.
        """
        return torch.zeros_like(self.mean[0]) if self.count < 2 else 2 * self._deviation(self._squares.amax(dim=0))

    def entropy(self, target: Target) -> torch.Tensor:
        """Entropy of the mean probabilities in nats: the predictive entropy of an ensemble.

        ``H = −Σ_c p̄_c ln p̄_c`` (Shannon 1948; as the uncertainty of an ensemble's mean prediction: Lakshminarayanan,
        Pritzel, Blundell 2017, https://arxiv.org/abs/1612.01474). It is high where the opinions differ and also where
        all of them are unsure.

        Args:
            target: labels: the sum goes over them and the background; regions overlap, so that each one has an
                entropy of its own, over being in it and not being in it.

        Returns:
            float32 ``(1, *space)`` for labels, 0 to ln(labels + 1); ``(regions, *space)`` for regions, 0 to ln 2.
        """
        if target.kind == "regions":
            return torch.stack([_surprise(p) + _surprise(1 - p) for p in self.mean.clamp(0, 1)])
        background = (1 - self.mean.sum(dim=0)).clamp(min=0)
        total = _surprise(background)
        for probabilities in self.mean:
            total = total + _surprise(probabilities.clamp(0, 1))
        return total[None]

    def _deviation(self, squares: torch.Tensor) -> torch.Tensor:
        return (squares / self.count).clamp(0, 0.25).sqrt()


def gather(predictions: Iterator[torch.Tensor]) -> Opinions:
    """The opinions in some predictions' probabilities, each ``(outputs, *space)``."""
    found = Opinions()
    for probabilities in predictions:
        found.add(probabilities)
    return found


def _surprise(probabilities: torch.Tensor) -> torch.Tensor:
    """−p ln p; 0 for p = 0."""
    return torch.special.entr(probabilities)
