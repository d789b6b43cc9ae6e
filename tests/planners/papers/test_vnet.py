"""Planner vnet: the paper's volumes and recipe."""

import pytest

from autoseg.planning.request import ResolvedRequest
from autoseg.plans.configuration import Configuration
from autoseg.plans.plan import Plan
from autoseg.utils.errors import UsageError
from planners.papers.vnet import plan as vnet
from tests.planners.fingerprints import brats, fingerprint, hippocampus, pictures
from tests.planners.steps import planned


def only(plan: Plan) -> Configuration:
    assert list(plan.configurations) == ["3d_fullres"]
    return plan.configurations["3d_fullres"]


def test_the_papers_volumes_fit_24_gb() -> None:
    found = only(planned(vnet, brats(), gigabytes=24))
    assert (found.patch_size, found.batch_size) == ([64, 128, 128], 2)
    assert found.network.features == [16, 32, 64, 128, 256]
    optimizer, loss = found.recipe.optimizer, found.recipe.loss
    assert (optimizer.name, optimizer.learning_rate, optimizer.momentum) == ("sgd", 1e-4, 0.99)
    assert (loss.dice_denominator, loss.dice_weight, loss.ce_weight) == ("squares", 1, 0)


def test_less_memory_makes_the_patch_smaller_before_the_batch_goes_to_one() -> None:
    found = only(planned(vnet, brats(), gigabytes=2))
    assert found.batch_size == 2
    assert found.patch_size[1] < 128
    assert found.patch_size[0] == 64


def test_the_volume_turns_with_the_axes() -> None:
    """x has the lowest resolution and comes first: 128 along it, 64 along z."""
    plan = planned(vnet, fingerprint((200, 200, 100), (1.0, 1.0, 2.0)), gigabytes=24)
    assert plan.preprocessing.transpose == (2, 0, 1)
    assert only(plan).patch_size == [112, 64, 128]


def test_small_images_are_covered() -> None:
    assert only(planned(vnet, hippocampus())).patch_size == [48, 64, 48]
    assert only(planned(vnet, fingerprint((9, 60, 60)))).patch_size == [16, 64, 64]


def test_a_slow_cpu_gets_small_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planners.rules.fitting.time_step", lambda *_: 9.0)
    found = only(planned(vnet, hippocampus(), "cpu"))
    assert (found.patch_size, found.batch_size) == ([32, 32, 32], 1)


def test_pictures_are_refused() -> None:
    with pytest.raises(UsageError, match="--planner vnet is for volumes"):
        vnet(pictures(), ResolvedRequest())


def test_milletaris_own_is_planned_where_channels_are_named() -> None:
    data = fingerprint(
        (155, 240, 240),
        channels=("t1", "flair"),
        labels={"core": 1, "edema": 2},
        regions={"whole_tumor": [1, 2], "tumor_core": [1]},
        cropped=(138, 170, 138),
    )
    on_flair = planned(vnet, data, gigabytes=24)
    assert on_flair.channel_names == ["flair"]
    assert [output.name for output in on_flair.target.outputs] == ["whole_tumor"]
    assert only(on_flair).patch_size == [128, 128, 128]
    assert on_flair.preprocessing.box == (128, 128, 128)
    own = vnet(data, ResolvedRequest(device="cuda", gpu_memory_gb=24.0, channels=("t1", "flair")))
    assert only(own).patch_size == [64, 128, 128]
    assert own.preprocessing.box is None
    assert [output.name for output in own.target.outputs] == ["whole_tumor", "tumor_core"]
    assert {channel.normalization.scheme for channel in own.channels} == {"zscore"}
    for plan, by in ((on_flair, True), (own, False)):
        recipe = only(plan).recipe
        reasons = (only(plan).reasons["batch_size"], recipe.reasons["epochs"], recipe.optimizer.reasons["name"])
        # Yıldız et al., section 4.1, have another batch, length and optimizer, which are taken as their U-Net's.
        assert all(("Yıldız et al., section 4.1" in why) is by for why in reasons)
    for found in (only(on_flair), only(own)):
        # Milletari et al., section 4: 30,000 steps, a tenth after 25,000.
        assert found.recipe.epochs * found.recipe.iterations_per_epoch == 30_000
        assert (found.recipe.schedule.explore, found.recipe.schedule.floor) == (0.83, 0.1)
