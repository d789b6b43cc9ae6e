"""How far a source's patch may shrink, for every family of networks."""

import pytest

from autoseg.plans.augmentation import Augmentation
from autoseg.plans.evaluation import EvaluationRules
from autoseg.plans.families import FullImageUNet
from autoseg.plans.recipe import Initialization, Optimizer, Sampling
from autoseg.utils.errors import UsageError
from planners.finetune import _evaluation, _shrinking
from planners.rules.recipe import optimizer
from planners.rules.tuning import GENERAL, ON_CPU, TUNINGS, _rate, chosen_tuning, lone, louder, unseen
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


@pytest.mark.parametrize(
    ("way", "longer"), [(GENERAL, 0.25), (ON_CPU, 0.25), ("pulled", 0.25), ("layerwise", 0.5), ("lowrank", 0.5)]
)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_short_trainings_take_the_full_rate(way: str, longer: float, device: str) -> None:
    """As they were screened; a GPU's are longer."""
    share = 1.0 if device == "cpu" else longer
    usual, _, _ = optimizer(device, batch=2)
    rate, reason = _rate(TUNINGS[way], make_recipe(optimizer=usual), usual, usual, device)
    assert rate == pytest.approx(share * usual.learning_rate)
    assert reason == f"{'' if share == 1 else f'{share:g} of '}the rate from scratch ({usual.learning_rate:g})"


def test_the_way_to_tune_follows_what_was_screened() -> None:
    """On a CPU, of sources that can do as they are."""
    assert chosen_tuning("", "cpu", True) == "augmented"
    assert chosen_tuning("", "cpu", False) == chosen_tuning("", "cuda", True) == "unfreeze"
    assert chosen_tuning("heads", "cpu", True) == "heads"
    with pytest.raises(UsageError, match="--tuning all_of_it is unknown; choose one of all, layerwise"):
        chosen_tuning("all_of_it", "cpu", True)


def test_changes_of_looks_are_raised_once() -> None:
    """A source that was tuned so has raised ones; a third model does not raise them again."""
    before = Augmentation(noise_probability=0.1, contrast_probability=0.5, rotation_probability=0.2)
    once = louder(before, "augmented")
    assert (once.noise_probability, once.contrast_probability, once.rotation_probability) == (0.25, 1.0, 0.2)
    assert louder(once, "augmented") == once
    assert louder(before, "unfreeze") == before


def test_a_tuning_that_chooses_does_not_stop_by_the_cases_that_judge() -> None:
    """Where nothing is chosen by them, as in the published experiment, it stops as the source did."""
    start = Initialization(source="model", file="f", ensemble=["f"])
    for keep, patience in (("auto", 0), (0.5, 10), (0.0, 10)):
        recipe = make_recipe(early_stopping=10, initialization=start.model_copy(update={"keep": keep}))
        found = unseen(recipe)
        assert found.early_stopping == patience
        assert ("early_stopping" in found.reasons) == (patience == 0)
        assert found.looks_at_judges == ""


def test_how_results_are_measured_is_the_sources() -> None:
    """The convention for absent structures; the shares that it held out are of its own cases."""
    found = _evaluation(EvaluationRules(empty="brats", test_share=0.2))
    assert (found.empty, found.test_share, found.validation_share) == ("brats", 0.0, 0.0)
    assert found.reasons == {
        "empty": "the source's",
        "test_share": "the usual one; the source's, 0.2, is of its own cases",
    }
    assert _evaluation(EvaluationRules()).reasons == {"empty": "the source's"}


def test_where_one_patch_fits_it_is_trained_as_one() -> None:
    """Of two a source's share centred on structures was one of them; of one it is every second."""
    recipe = make_recipe(optimizer=Optimizer(learning_rate=4e-3, reasons={"learning_rate": "the rate from scratch"}))
    found = lone(recipe, "cpu")
    assert found.sampling.foreground_share == 0.5
    assert found.optimizer.learning_rate == pytest.approx(3e-3)
    assert found.optimizer.reasons["learning_rate"].startswith("the rate from scratch; three quarters")
    assert lone(recipe, "cuda").optimizer == recipe.optimizer
    anywhere = recipe.model_copy(update={"sampling": Sampling(foreground_share=0)})
    assert lone(anywhere, "cpu").sampling == anywhere.sampling
