"""Opinions: their mean, spread and entropy by hand, and what each grouping of an ensemble gives."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from autoseg.inference.chain import TrainedStage
from autoseg.inference.members import Member
from autoseg.inference.opinions import Opinions
from autoseg.inference.predictor import Predictor
from autoseg.plans.inference import Inference
from autoseg.utils.errors import UsageError
from tests.builders import LABELS, REGIONS, blob, loaded, make_configuration, make_plan, picture_of
from tests.inference.test_chain import INNER, WHOLE, Above, chain
from tests.inference.test_raters import Constant, plan_of

CPU = torch.device("cpu")
CASE = loaded(picture_of(blob()))


def of(*probabilities: Sequence) -> Opinions:
    found = Opinions()
    for one in probabilities:
        found.add(torch.tensor(one))
    return found


def member(*networks: nn.Module, **inference: list[int]) -> Member:
    plan = make_plan(make_configuration(inference=Inference(mirror_axes=inference.get("mirror_axes", []), overlap=0)))
    return Member("run", [TrainedStage(plan.stage("small"), list(networks))])


def softmax(*logits: float) -> np.ndarray:
    """Probabilities of the two outputs."""
    return np.exp(logits)[1:] / np.exp(logits).sum()


def agree(found: Opinions, *opinions: np.ndarray) -> None:
    """Everywhere, the opinions are these probabilities of the two outputs."""
    assert found.count == len(opinions)
    inside = found.mean[:, blob() > 0], found.standard_deviation()[:, blob() > 0]
    for output in range(2):
        assert inside[0][output].numpy() == pytest.approx(np.mean(opinions, axis=0)[output], abs=1e-5)
        assert inside[1][output].numpy() == pytest.approx(np.std(opinions, axis=0)[output], abs=1e-5)


def test_disagreement_by_hand() -> None:
    """One output of which two of three are sure, one nobody disputes; half against half; and all alike."""
    opinions = Opinions()
    for first in (1.0, 1.0, 0.0):
        opinions.add(torch.tensor([[first, 0.5], [0.25, 0.5]]))
    assert opinions.mean.tolist() == pytest.approx(np.array([[2 / 3, 0.5], [0.25, 0.5]]))
    assert opinions.disagreement().tolist() == [pytest.approx(2 * math.sqrt(2) / 3, abs=1e-6), 0.0]
    halves = Opinions()
    for value in (1.0, 0.0, 0.0, 1.0):
        halves.add(torch.tensor([[value]]))
    assert halves.disagreement().item() == pytest.approx(1)
    alike = Opinions()
    said = torch.rand((3, 50), generator=torch.Generator().manual_seed(2))
    for _ in range(5):
        alike.add(said.clone())
    assert not alike.disagreement().any()
    assert torch.equal(alike.mean, said)


def test_standard_deviation_and_disagreement_as_numpy() -> None:
    each = np.random.default_rng(0).uniform(size=(7, 3, 4, 5)).astype(np.float32)
    found = of(*each)
    assert found.mean.numpy() == pytest.approx(each.mean(0), abs=1e-6)
    assert found.standard_deviation().numpy() == pytest.approx(each.std(0), abs=1e-6)
    assert found.disagreement().numpy() == pytest.approx(2 * each.std(0).max(0), abs=1e-6)
    assert not of(each[0]).standard_deviation().any()


def test_entropy_as_scipy() -> None:
    each = np.random.default_rng(1).dirichlet(np.ones(3), size=(4, 20)).astype(np.float32)  # opinion, voxel, class
    mean = each.mean(0)
    labels = of(*each[:, :, 1:].transpose(0, 2, 1)).entropy(LABELS)
    assert labels.shape == (1, 20)
    assert labels[0].numpy() == pytest.approx(stats.entropy(mean, axis=1), abs=1e-5)
    regions = of(*each[:, :, 1:].transpose(0, 2, 1)).entropy(REGIONS)
    for index in (0, 1):
        p = mean[:, index + 1]
        assert regions[index].numpy() == pytest.approx(stats.entropy([p, 1 - p]), abs=1e-5)


def test_entropy_where_all_are_sure() -> None:
    """Rounding may leave a sum of probabilities a little above 1: no logarithm of a negative number."""
    sure = [[0.0, 1.0, 0.6], [0.0, 1e-7, 0.4000001]]
    for target in (LABELS, REGIONS):
        found = of(sure, sure).entropy(target)
        assert torch.isfinite(found).all()
        assert found[:, 0].tolist() == [0.0] * len(found)
    assert of([[0.5]]).entropy(REGIONS).item() == pytest.approx(math.log(2))


def test_by_run() -> None:
    """Folds are averaged by their logits inside each run."""
    predictor = Predictor([member(Constant(0, 2, 0), Constant(0, 4, 0)), member(Constant(0, 0, 1))], CPU)
    agree(predictor.opinions(CASE, "run"), softmax(0, 3, 0), softmax(0, 0, 1))


def test_by_fold() -> None:
    predictor = Predictor([member(Constant(0, 2, 0), Constant(0, 4, 0)), member(Constant(0, 0, 1))], CPU)
    agree(predictor.opinions(CASE, "fold"), softmax(0, 2, 0), softmax(0, 4, 0), softmax(0, 0, 1))


def test_by_fold_of_a_chain() -> None:
    """Fold by fold through both stages: the first fold's second stage works in the box of its own first stage."""
    first, second = chain("box", WHOLE, INNER, target=REGIONS).stage("last").chain

    def run(*folds: tuple[nn.Module, nn.Module]) -> Predictor:
        networks = [[fold[stage] for fold in folds] for stage in (0, 1)]
        return Predictor([Member("run", [TrainedStage(first, networks[0]), TrainedStage(second, networks[1])])], CPU)

    folds = (Above(0.5), Above(1.5)), (Above(1.5), Above(0.5))
    each = [run(fold) for fold in folds]
    found = run(*folds).opinions(CASE, "fold")
    wanted = torch.stack([one.opinions(CASE, "run").mean for one in each])
    torch.testing.assert_close(found.mean, wanted.mean(0))
    torch.testing.assert_close(found.standard_deviation(), wanted.std(0, correction=0), atol=1e-6, rtol=1e-4)
    assert found.standard_deviation().any()


def test_folds_are_matched_by_number() -> None:
    """The first stage was trained in folds 0 and 1, the second in 1 and 2: only fold 1 has both."""
    first, second = chain("box", WHOLE, INNER, target=REGIONS).stage("last").chain
    networks = [Above(0.5), Above(1.5)], [Above(2.5), Above(3.5)]
    run = Member("run", [TrainedStage(first, networks[0], [0, 1]), TrainedStage(second, networks[1], [1, 2])])
    one, two = run.by_fold()
    assert [stage.networks for stage in one.stages] == [[networks[0][1]], [networks[1][0]]]
    assert [stage.networks for stage in two.stages] == [networks[0], [networks[1][1]]]


class Slope(nn.Module):
    """Logits of the first output that rise along the last axis of a tile."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        rise = torch.arange(float(image.shape[-1])).expand_as(image)
        return torch.cat([torch.zeros_like(rise), rise, torch.zeros_like(rise)], dim=1)


def test_by_mirroring() -> None:
    """Two copies of the image, of which one falls where the other rises; without mirroring only one."""
    case = loaded(np.ones((8, 8, 8), np.float32))
    predictor = Predictor([member(Slope(), mirror_axes=[2])], CPU)
    found = predictor.opinions(case, "mirroring")
    assert found.count == 2
    rising = np.array([softmax(0, x, 0)[0] for x in range(8)])
    both = np.stack([rising, rising[::-1]])
    assert found.mean[0, 3, 5].numpy() == pytest.approx(both.mean(0), abs=1e-5)
    assert found.standard_deviation()[0, 3, 5].numpy() == pytest.approx(both.std(0), abs=1e-5)
    assert Predictor([member(Slope(), mirror_axes=[2])], CPU, mirror=False).opinions(case, "mirroring").count == 1
    # The ensemble itself averages logits over mirrorings: here 3.5 everywhere.
    assert predictor.opinions(case, "run").mean[0].numpy() == pytest.approx(softmax(0, 3.5, 0)[0], abs=1e-5)


def test_by_rater() -> None:
    stage = plan_of("ann", "ben").stage("small")
    two = [
        Member("run", [TrainedStage(stage, [Constant(0, 3, 0, 2, 0, 0)])]),
        Member("run", [TrainedStage(stage, [Constant(0, 0, 1, 0, 0, 0)])]),
    ]
    ann, ben = (softmax(0, 3, 0) + softmax(0, 0, 1)) / 2, (softmax(2, 0, 0) + softmax(0, 0, 0)) / 2
    agree(Predictor(two, CPU).opinions(CASE, "rater"), ann, ben)
    agree(Predictor(two[:1], CPU).opinions(CASE, "run"), (softmax(0, 3, 0) + softmax(2, 0, 0)) / 2)
    with pytest.raises(UsageError, match="did not learn the same raters separately"):
        Predictor([member(Constant(0, 0, 1))], CPU).opinions(CASE, "rater")
