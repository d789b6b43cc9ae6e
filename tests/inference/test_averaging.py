"""Averages of probabilities: the same for tiles, mirrorings and folds, and the same as by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoseg.inference.averaging import Averaging
from autoseg.inference.chain import TrainedStage
from autoseg.inference.members import Member
from autoseg.inference.predictor import Predictor
from autoseg.inference.sliding_window import SlidingWindow
from autoseg.plans.stage import Stage
from tests.builders import LABELS, REGIONS, loaded, make_configuration, make_plan

CPU = torch.device("cpu")


class Weighted(nn.Module):
    """Logits that are the image times a number each, shifted by the position along the last axis."""

    def __init__(self, *factors: float) -> None:
        super().__init__()
        self.factors = torch.tensor(factors)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        place = torch.arange(image.shape[-1]) / image.shape[-1]
        return image[:, :1] * self.factors[None, :, None, None, None] + place


def stage_of(target: Any, average: str, **inference: Any) -> Stage:
    how = {"mirror_axes": [2], "overlap": 0.5, "gaussian_sigma": 0.0, "average": average, **inference}
    return make_plan(make_configuration((4, 4, 4), inference=how), target=target).stage()


def activated(logits: np.ndarray, kind: str) -> np.ndarray:
    if kind == "regions":
        return 1 / (1 + np.exp(-logits))
    powers = np.exp(logits - logits.max(axis=0))
    return powers / powers.sum(axis=0)


@pytest.mark.parametrize("target", [LABELS, REGIONS])
def test_tiles_flips_and_folds_by_hand(target: Any) -> None:
    """Two networks, two tiles along the last axis, mirrored along it: the mean of the probabilities of all of them."""
    image = torch.from_numpy(np.random.default_rng(0).normal(0, 2, (1, 4, 4, 6)).astype(np.float32))
    factors = ([3.0, -1.0, 0.5], [-2.0, 0.3, 1.0]) if target.kind == "labels" else ([3.0, -1.0], [-2.0, 0.3])
    networks = [Weighted(*of) for of in factors]
    window = SlidingWindow.of(stage_of(target, "probabilities"), CPU)
    found = activated(window.scores(networks, image).numpy().astype(float), target.kind)
    total, count = np.zeros(found.shape), np.zeros((1, 1, 1, 6))
    for start in (0, 2):
        tile = image[None, ..., start : start + 4]
        for network in networks:
            for flipped in (False, True):
                logits = network(tile.flip(4)).flip(4) if flipped else network(tile)
                total[..., start : start + 4] += activated(logits[0].numpy().astype(float), target.kind)
        count[..., start : start + 4] += 4
    np.testing.assert_allclose(found, total / count, atol=2e-6)
    as_logits = SlidingWindow.of(stage_of(target, "logits"), CPU)
    assert not np.allclose(activated(as_logits.scores(networks, image).numpy(), target.kind), found, atol=1e-2)


def test_it_decides_a_label_map() -> None:
    """One network is sure of the background and two lean to a label: logits say the one, probabilities the other."""

    class Sure(nn.Module):
        def __init__(self, *logits: float) -> None:
            super().__init__()
            self.logits = torch.tensor(logits)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.logits[None, :, None, None, None].expand(1, -1, *image.shape[2:]).clone()

    networks = [Sure(10.0, 0.0, -9.0), Sure(0.0, 2.0, -9.0), Sure(0.0, 2.0, -9.0)]
    case = loaded(np.random.default_rng(0).uniform(1, 2, (6, 6, 6)))
    labels = {}
    for average in ("logits", "probabilities"):
        stage = stage_of(LABELS, average, mirror_axes=[])
        found = Predictor([Member("run", [TrainedStage(stage, networks)])], CPU).predict_case(case, ["probabilities"])
        labels[average] = np.unique(found.label).tolist()
        if average == "probabilities":
            sure = np.exp([[10, 0, -9], [0, 2, -9], [0, 2, -9]])
            mean = (sure / sure.sum(axis=1, keepdims=True)).mean(axis=0)
            np.testing.assert_allclose(found.probabilities["outer"], mean[1], rtol=1e-4)
    assert labels == {"logits": [0], "probabilities": [1]}


def test_certain_means_are_finite() -> None:
    for of, certain in (("softmax", [0.0, 1.0]), ("sigmoid", [0.0, 1.0])):
        logits = Averaging(of, 2).logits(torch.tensor(certain))
        assert torch.isfinite(logits).all()
        assert logits[1] > logits[0] + 16


def test_answers_are_averaged_each_by_itself() -> None:
    """Softmax goes over the heads of one decoder, not over those of all."""
    logits = torch.randn(2, 6, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    values = Averaging("softmax", 3).values(logits)
    expected = torch.cat([torch.softmax(logits[:, :3], 1), torch.softmax(logits[:, 3:], 1)], 1)
    assert torch.allclose(values, expected)
