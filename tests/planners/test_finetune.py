"""How far a source's patch may shrink, for every family of networks."""

import pytest

from autoseg.plans.evaluation import EvaluationRules
from autoseg.plans.families import FullImageUNet
from planners.finetune import _evaluation, _shrinking
from planners.rules.recipe import optimizer
from planners.rules.tuning import DEFAULT, TUNINGS, _rate
from tests.builders import make_recipe
from tests.networks.test_parts import SMALL


@pytest.mark.parametrize("name", SMALL)
def test_every_smaller_patch_can_be_taken(name: str) -> None:
    network, small = SMALL[name]
    patch = network.nearest([8 * side for side in small])
    unit, least = _shrinking(network, patch)
    assert all(low <= side for low, side in zip(least, patch, strict=True))
    assert any(low < side for low, side in zip(least, patch, strict=True))
    size = list(patch)
    for axis in range(len(patch)):
        while size[axis] - unit[axis] >= least[axis]:
            size[axis] -= unit[axis]
            assert network.fits(size) is None
    assert size == least
    # What is as small as can be is left as it is.
    assert _shrinking(network, small)[1] == small


def test_whole_images_keep_two_voxels_at_the_lowest_level() -> None:
    """Rahimpour's U-Net pools three times by three: 27 voxels would leave one, which can't be normalized."""
    network = FullImageUNet(factor=3)
    unit, least = _shrinking(network, [32, 32, 32])
    assert (unit, least) == ([4, 4, 4], [28, 28, 28])
    assert network.fits(least) is None
    assert network.fits([24, 24, 24]) is not None


@pytest.mark.parametrize(("device", "share"), [("cpu", 1.0), ("cuda", 0.25)])
def test_short_trainings_take_the_full_rate(device: str, share: float) -> None:
    usual, _, _ = optimizer(device)
    rate, reason = _rate(TUNINGS[DEFAULT], make_recipe(optimizer=usual), usual, usual, device)
    assert rate == pytest.approx(share * usual.learning_rate)
    assert reason == f"{'' if share == 1 else '0.25 of '}the rate from scratch ({usual.learning_rate:g})"


def test_how_results_are_measured_is_the_sources() -> None:
    """The convention for absent structures; the shares that it held out are of its own cases."""
    found = _evaluation(EvaluationRules(empty="brats", test_share=0.2))
    assert (found.empty, found.test_share, found.validation_share) == ("brats", 0.0, 0.0)
    assert found.reasons == {
        "empty": "the source's",
        "test_share": "the usual one; the source's, 0.2, is of its own cases",
    }
    assert _evaluation(EvaluationRules()).reasons == {"empty": "the source's"}
