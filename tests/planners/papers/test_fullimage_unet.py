"""Planner fullimage_unet: whole images where they fit."""

import pytest

from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.configuration import Configuration
from autoseg.plans.plan import Plan
from autoseg.utils.errors import UsageError
from planners.papers.fullimage_unet import plan as fullimage
from tests.planners.fingerprints import abdomen, brats, fingerprint, hippocampus, pictures
from tests.planners.steps import planned


def only(plan: Plan) -> Configuration:
    assert list(plan.configurations) == ["3d_fullres"]
    return plan.configurations["3d_fullres"]


def test_whole_images_of_brats_fit_24_gb() -> None:
    """The paper's whole box, so that no longer head is cut to tiles."""
    plan = planned(fullimage, brats(), gigabytes=24)
    found = only(plan)
    assert (found.patch_size, found.batch_size) == ([144, 196, 143], 2)
    assert plan.preprocessing.box == (144, 196, 143)
    assert "cuts none" in plan.preprocessing.reasons["box"]
    assert found.recipe.sampling.foreground_share == 0
    assert not found.recipe.loss.batch_dice


def test_a_single_whole_image_before_parts_of_two() -> None:
    found = only(planned(fullimage, brats(), gigabytes=8))
    assert (found.patch_size, found.batch_size) == ([144, 196, 143], 1)


def test_little_memory_makes_patches() -> None:
    found = only(planned(fullimage, brats(), gigabytes=3))
    assert found.batch_size == 1
    assert found.patch_size[1] < 170
    assert "slides" in found.reasons["patch_size"]
    assert found.recipe.sampling.foreground_share == 0.5


def test_the_box_has_the_networks_order_of_axes() -> None:
    """The lowest resolution from left to right: x comes first, and with it the paper's 143."""
    plan = planned(fullimage, fingerprint((120, 150, 60), (1.0, 1.0, 2.0)), gigabytes=24)
    assert plan.preprocessing.transpose == (2, 0, 1)
    assert plan.preprocessing.box == (143, 144, 196)


def larger(data: Fingerprint) -> Fingerprint:
    wide = data.cases[0].model_copy(update={"cropped_shape": (138, 200, 138)})
    return data.model_copy(update={"cases": [wide, *data.cases[1:]]})


def test_cases_that_lose_their_rim_are_counted() -> None:
    assert "1 of 369 cases" in planned(fullimage, larger(brats()), gigabytes=24).preprocessing.reasons["box"]


def test_no_box_where_images_are_larger() -> None:
    plan = planned(fullimage, abdomen(), gigabytes=8)
    assert plan.preprocessing.box is None
    assert "larger" in plan.preprocessing.reasons["box"]


def test_small_images_are_covered() -> None:
    found = only(planned(fullimage, hippocampus()))
    assert (found.patch_size, found.batch_size) == ([40, 56, 40], 2)
    assert "none of which is cut" in found.reasons["patch_size"]


def test_a_slow_cpu_gets_one_image_and_then_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "planners.rules.fitting.time_step",
        lambda network, channels, heads, patch, batch: batch * patch[0] * patch[1] * patch[2] * 1e-5,
    )
    found = only(planned(fullimage, hippocampus(), "cpu"))
    # 40·56·40 voxels would take 0.9 s; 0.6 s are allowed.
    assert found.batch_size == 1
    assert found.patch_size[0] * found.patch_size[1] * found.patch_size[2] <= 60_000
    assert found.patch_size[1] < 50


def test_pictures_are_refused() -> None:
    with pytest.raises(UsageError, match="--planner fullimage_unet is for volumes"):
        fullimage(pictures(), ResolvedRequest())


def test_several_regions_overlap() -> None:
    """The paper's softmax is over healthy and tumour; regions inside each other need a sigmoid each."""
    asked = ResolvedRequest(device="cuda", gpu_memory_gb=24.0, regions=("whole_tumor", "tumor_core"))
    assert fullimage(brats(), asked).target.kind == "regions"
    assert fullimage(brats(), ResolvedRequest(device="cuda", gpu_memory_gb=24.0)).target.kind == "labels"


def test_much_smaller_images_are_not_padded_to_the_papers_box() -> None:
    """The largest case decides, so that none is cut to tiles."""
    data = fingerprint((60, 70, 60))
    longest = data.cases[0].model_copy(update={"cropped_shape": (60, 81, 60)})
    data = data.model_copy(update={"cases": [longest, *data.cases[1:]]})
    assert only(planned(fullimage, data)).patch_size == [64, 88, 64]
