"""Planners of AlbuNet2D and 3D, of any inflated encoder, of Tweedy's and of Yildiz's U-Net."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from autoseg.data.fingerprint import Fingerprint
from autoseg.networks import build, count_parameters
from autoseg.planning.making import make_plan
from autoseg.planning.request import Request, ResolvedRequest
from autoseg.plans.configuration import Configuration
from autoseg.plans.families import Inflated, UNet
from autoseg.plans.plan import Plan
from autoseg.plans.reasons import explanations
from autoseg.utils.errors import AutosegError, UsageError
from planners import inflated
from planners.papers import albunet2d, albunet3d, cropped_unet, region_unet
from tests.planners.fingerprints import abdomen, brats, fingerprint, hippocampus

PLANNERS = {
    "albunet2d": albunet2d.plan,
    "albunet3d": albunet3d.plan,
    "inflated": inflated.plan,
    "region_unet": region_unet.plan,
    "cropped_unet": cropped_unet.plan,
}


def asked(device: str, gigabytes: float, **more: Any) -> ResolvedRequest:
    return ResolvedRequest(device=device, gpu_memory_gb=gigabytes, **more)


def gliomas() -> Fingerprint:
    """BraTS as its layout is read, under the sequences' usual names."""
    like = brats()
    return fingerprint(
        (155, 240, 240),
        cases=369,
        channels=("t1", "t1c", "t2", "flair"),
        labels=like.labels,
        regions=like.regions,
        volumes={1: 20_000, 2: 60_000, 4: 25_000},
        cropped=(138, 170, 138),
    )


@pytest.fixture(autouse=True)
def _slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that takes 2 µs a voxel, whatever else it is doing."""
    monkeypatch.setattr("planners.rules.fitting.time_step", lambda n, c, h, size, batch: 2e-6 * math.prod(size) * batch)


def the_one(plan: Plan) -> Configuration:
    assert list(plan.configurations) == ["3d_fullres"]
    return plan.configurations["3d_fullres"]


@pytest.mark.parametrize("name", PLANNERS)
@pytest.mark.parametrize("data", [gliomas, hippocampus, abdomen])
@pytest.mark.parametrize("request_", [asked("cuda", 8), asked("cuda", 24), asked("cpu", 8)])
def test_plans_are_valid_fit_the_budget_and_run(
    name: str, data: Callable[[], Fingerprint], request_: ResolvedRequest
) -> None:
    plan = PLANNERS[name](data(), request_)
    configuration = the_one(plan)
    assert plan.planner == name
    assert Plan.model_validate(plan.model_dump(mode="json")) == plan
    assert configuration.memory is not None
    assert configuration.memory.total <= request_.gpu_memory_gb * 1e9
    with torch.device("meta"):
        network = build(configuration.network, len(plan.channels), plan.target.heads)
        logits = network(torch.empty(configuration.batch_size, len(plan.channels), *configuration.patch_size))
    assert logits.shape == (configuration.batch_size, plan.target.heads, *configuration.patch_size)
    assert (configuration.parameters, configuration.parameters_with_statistics) == count_parameters(network)
    explained = {path for path, _, _ in explanations(plan)}
    for value in ("patch_size", "batch_size", "memory", "recipe.epochs", "recipe.ema_decay"):
        assert f"configurations.3d_fullres.{value}" in explained


def test_albunet3d_is_the_papers() -> None:
    plan = albunet3d.plan(gliomas(), asked("cuda", 24))
    configuration = the_one(plan)
    assert plan.channel_names == ["flair", "t1c", "t2"]
    assert plan.target.kind == "labels"
    assert [output.name for output in plan.target.outputs] == ["necrosis", "edema", "enhancing"]
    assert (configuration.patch_size, configuration.batch_size) == ([24, 128, 128], 24)
    assert (configuration.inference.patch_size, configuration.inference.step) == ([24, 128, 128], [24, 32, 32])
    network, recipe = configuration.network, configuration.recipe
    assert isinstance(network, Inflated)
    assert (network.encoder.split(".")[0], network.first_pool, network.depth_layers) == ("resnet34", "2x2", True)
    assert (recipe.loss.dice_weight, recipe.loss.ce_weight, recipe.loss.batch_dice) == (1, 0, True)
    assert (recipe.optimizer.name, recipe.optimizer.learning_rate, recipe.schedule.name) == ("adam", 1e-3, "constant")
    assert recipe.initialization.source == "random"
    assert "--weights imagenet" in recipe.initialization.reasons["source"]


def test_albunet2d_is_the_papers() -> None:
    configuration = the_one(albunet2d.plan(gliomas(), asked("cuda", 24)))
    assert isinstance(configuration.network, Inflated)
    assert not configuration.network.depth_layers
    assert (configuration.patch_size, configuration.batch_size) == ([1, 128, 128], 64)
    assert (configuration.inference.patch_size, configuration.inference.step) == ([24, 128, 128], [24, 32, 32])


def test_albunets_on_small_budgets_keep_the_papers_windows() -> None:
    """On a CPU the patch of a step shrinks; a window of a prediction, which nothing is kept for, need not."""
    configuration = the_one(albunet3d.plan(gliomas(), asked("cpu", 8)))
    assert math.prod(configuration.patch_size) * configuration.batch_size * 2e-6 <= 0.6
    assert configuration.inference.patch_size == [24, 128, 128]
    assert the_one(albunet3d.plan(hippocampus(), asked("cpu", 8))).inference.patch_size == [24, 64, 64]


def test_what_the_user_names_comes_before_what_the_paper_does() -> None:
    plan = albunet3d.plan(gliomas(), asked("cuda", 8, channels=("t1", "flair"), regions=("whole_tumor",)))
    assert plan.channel_names == ["t1", "flair"]
    assert (plan.target.kind, plan.target.heads) == ("regions", 1)


def test_any_encoder_can_be_asked_for() -> None:
    plan = inflated.plan(gliomas(), asked("cuda", 8, options={"encoder": "convnext_atto"}))
    network = the_one(plan).network
    assert isinstance(network, Inflated)
    assert (network.encoder, network.reduction) == ("convnext_atto", 32)
    assert plan.channel_names == ["t1", "t1c", "t2", "flair"]
    assert plan.target.kind == "regions"
    with pytest.raises(AutosegError, match="swin_tiny_patch4_window7_224 can't be inflated"):
        inflated.plan(gliomas(), asked("cuda", 8, options={"encoder": "swin_tiny_patch4_window7_224"}))


@pytest.mark.parametrize("planner", ["unet", "albunet3d"])
def test_an_encoder_is_refused_where_there_is_none_to_choose(planner: str) -> None:
    with pytest.raises(UsageError, match=f"--encoder resnet50: planner {planner} has no encoder to choose"):
        make_plan(hippocampus(), Request(planner, "cuda", 8, options={"encoder": "resnet50"}))


def test_region_unet_is_the_papers() -> None:
    plan = region_unet.plan(gliomas(), asked("cuda", 8))
    configuration = the_one(plan)
    recipe = configuration.recipe
    assert plan.channel_names == ["t1c", "t2", "flair"]
    assert [output.name for output in plan.target.outputs] == ["whole_tumor", "tumor_core", "enhancing_tumor"]
    assert isinstance(configuration.network, UNet)
    assert configuration.network.features == [16, 32, 64, 128, 256]
    assert (recipe.loss.dice_weight, recipe.loss.ce_weight, recipe.loss.focal_weight, recipe.loss.focal_gamma) == (
        1, 0, 1, 2,
    )  # fmt: skip
    assert (recipe.optimizer.name, recipe.optimizer.learning_rate) == ("ranger21", 3e-3)
    assert recipe.schedule.name == "explore_exploit"
    assert configuration.inference.mirror_axes == [0, 1, 2]


def test_cropped_unet_is_the_papers() -> None:
    plan = cropped_unet.plan(gliomas(), asked("cuda", 24))
    configuration = the_one(plan)
    recipe = configuration.recipe
    assert plan.channel_names == ["flair"]
    assert plan.preprocessing.box == (128, 128, 128)
    assert (configuration.patch_size, configuration.batch_size) == ([128, 128, 128], 4)
    variant = cropped_unet.plan(gliomas(), asked("cuda", 24, channels=("t1c", "t2", "flair")))
    assert variant.channel_names == ["t1c", "t2", "flair"]
    assert {channel.normalization.scheme for channel in plan.channels} == {"minmax"}
    assert (recipe.loss.dice_weight, recipe.loss.ce_weight, recipe.loss.tversky_weight) == (1, 0, 1)
    assert (recipe.optimizer.name, recipe.optimizer.learning_rate) == ("adam", 1e-3)
    assert recipe.schedule.name == "plateau"
    assert recipe.optimizer.learning_rate * recipe.schedule.floor == pytest.approx(1e-6)
