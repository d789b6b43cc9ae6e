"""Training and prediction with a network that sees more than it speaks about, end to end."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg.inference.chain import TrainedStage
from autoseg.inference.members import Member
from autoseg.inference.predictor import Predictor
from autoseg.networks import build
from autoseg.networks.weights import load_network
from autoseg.plans.families import DeepMedic
from autoseg.plans.inference import Inference
from autoseg.plans.recipe import Loss, Optimizer, Sampling
from autoseg.training import callbacks
from autoseg.training.training import Budget
from autoseg.training.validation import validation_scores
from tests.builders import blob, loaded, make_configuration, make_plan, make_recipe, picture_of, still, store, train_in

CPU = torch.device("cpu")

#: Two convolutions: a patch of 7 leaves 3, and is given 15.
NETWORK = DeepMedic(features=[6, 6], fully_connected=[8], dropout=0.0, fully_connected_dropout=0.0)


@pytest.mark.parametrize("turned", [False, True])
def test_learns_where_the_structures_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turned: bool) -> None:
    """A label that is read off the voxel itself is learned to a Dice over 0.9; a voxel of shift allows 0.7."""
    monkeypatch.setattr(callbacks, "VALIDATION_SHARE", math.inf)
    cases = [
        store(tmp_path / "data", f"c{n}", blob(shift=n % 2), picture_of(blob(shift=n % 2)) / 100) for n in range(3)
    ]
    augmentation = still(mirror_axes=[0, 1, 2], rotation_probability=0.5, rotation=10.0) if turned else still()
    recipe = make_recipe(
        augmentation=augmentation,
        loss=Loss(dice_weight=0),
        optimizer=Optimizer(name="adam", learning_rate=0.02, weight_decay=0),
        sampling=Sampling(foreground_share=0.5),
        iterations_per_epoch=50,
        ema_decay=0.0,
    )
    inference = Inference(patch_size=[13, 10, 16], overlap=0, gaussian_sigma=0, mirror_axes=[0])
    configuration = make_configuration(
        (7, 7, 7), network=NETWORK, recipe=recipe, batch_size=8, inference=inference.model_dump()
    )
    assert (configuration.tile_size, configuration.tile_context) == ([9, 6, 12], [6, 6, 6])
    plan = make_plan(configuration)
    state = train_in(tmp_path / "fold", plan.stage(), cases[:-1], cases[-1:], Budget(iterations=100), seed=1)
    assert state.best_dice > 0.9

    network = load_network(tmp_path / "fold" / "weights.safetensors", plan.stage(), CPU)
    shifted = np.roll(picture_of(blob()) / 100, 1, axis=2)
    found = Predictor([Member("run", [TrainedStage(plan.stage(), [network])])], CPU).predict_case(loaded(shifted))
    expected = np.roll(blob(), 1, axis=2)
    for value in (1, 2):
        both = int(((found.label == value) & (expected == value)).sum())
        assert 2 * both / int((found.label == value).sum() + (expected == value).sum()) > 0.85


def test_small_tiles_find_what_large_ones_find(tmp_path: Path) -> None:
    """Nothing is learned here: two ways of cutting an image whose sizes are whole tiles agree."""
    case = store(tmp_path / "data", "c", blob((12, 12, 18)), picture_of(blob((12, 12, 18))) / 100)
    torch.manual_seed(0)
    configurations = [
        make_configuration((7, 7, 7), network=NETWORK, inference={"patch_size": p, "overlap": 0, "gaussian_sigma": 0})
        for p in ([7, 7, 7], [10, 10, 13], [16, 16, 22])
    ]
    network = build(NETWORK, 1, 3).eval()
    found = [
        validation_scores(network, [case], make_plan(configuration).stage(), CPU, torch.float32)
        for configuration in configurations
    ]
    assert found[0] == found[1] == found[2]
    assert any(value > 0 for value in found[0].dice["outer"])
