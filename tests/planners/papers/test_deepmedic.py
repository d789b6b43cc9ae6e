"""Planner deepmedic: the paper's numbers where they fit."""

import pytest

from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.configuration import Configuration
from autoseg.plans.plan import Plan
from autoseg.utils.errors import UsageError
from planners.papers.deepmedic import plan as deepmedic
from tests.planners.fingerprints import brats, fingerprint, hippocampus, pictures
from tests.planners.steps import planned


def only(plan: Plan) -> Configuration:
    assert list(plan.configurations) == ["3d_fullres"]
    return plan.configurations["3d_fullres"]


def larger_first_case(data: Fingerprint) -> Fingerprint:
    wide = data.cases[0].model_copy(update={"cropped_shape": (60, 60, 60)})
    return data.model_copy(update={"cases": [wide, *data.cases[1:]]})


@pytest.mark.parametrize("gigabytes", [8, 24])
def test_the_papers_patches_and_batch_fit_a_gpu(gigabytes: float) -> None:
    plan = planned(deepmedic, brats(), gigabytes=gigabytes)
    found = only(plan)
    assert (found.patch_size, found.batch_size) == ([25, 25, 25], 60)
    assert found.network.features == [30, 30, 40, 40, 40, 40, 50, 50]
    # Rahimpour et al., section 3.2: one output, the whole tumour.
    assert [output.name for output in plan.target.outputs] == ["whole_tumor"]
    assert found.parameters_with_statistics == 663_491


def test_tiles_take_the_least_work() -> None:
    """4·36 = 144 and 4·45 = 180 hold 138×170×138 voxels with less to spare than 3·54 and 3·63."""
    found = only(planned(deepmedic, brats()))
    assert (found.tile_size, found.tile_context) == ([36, 45, 36], [24, 24, 24])
    assert (found.inference.overlap, found.inference.gaussian_sigma) == (0, 0)
    # 36×50×35 voxels, in whole threes: one tile a case. Where one case is larger, it is better cut than all padded.
    assert only(planned(deepmedic, hippocampus())).tile_size == [36, 51, 36]
    assert only(planned(deepmedic, larger_first_case(hippocampus()))).tile_size == [36, 54, 36]


def test_little_memory_makes_tiles_and_batch_smaller() -> None:
    found = only(planned(deepmedic, brats(), gigabytes=0.5))
    assert found.batch_size < 60
    assert found.patch_size == [25, 25, 25]
    assert max(found.tile_size) < 45
    assert "made smaller" in found.reasons["batch_size"]


def test_a_cpu_gets_fewer_patches_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "planners.rules.fitting.time_step", lambda network, channels, heads, patch, batch: 0.095 * batch
    )
    found = only(planned(deepmedic, hippocampus(), "cpu"))
    assert (found.patch_size, found.batch_size) == ([25, 25, 25], 6)


def test_a_flat_image_needs_no_patch_that_is_higher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven slices: a result of 9 along z covers them, one of 6 would not."""
    assert only(planned(deepmedic, fingerprint((7, 80, 80)))).patch_size == [25, 25, 25]
    assert only(planned(deepmedic, fingerprint((3, 80, 80)))).patch_size == [19, 25, 25]


def test_sides_are_not_swapped() -> None:
    data = fingerprint((40, 60, 60), labels={"hippocampus_left": 1, "hippocampus_right": 2})
    assert only(planned(deepmedic, data)).recipe.augmentation.mirror_axes == [0, 1]


def test_pictures_are_refused() -> None:
    with pytest.raises(UsageError, match="--planner deepmedic is for volumes"):
        deepmedic(pictures(), ResolvedRequest())
