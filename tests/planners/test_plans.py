"""Whole plans: hand-worked datasets, and properties over random ones."""

import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoseg.data.fingerprint import Fingerprint
from autoseg.networks import build
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.architecture import Network
from autoseg.plans.plan import Plan
from autoseg.plans.reasons import explanations
from autoseg.utils.errors import AutosegError, UsageError
from planners import cascade, resenc, unet
from planners.rules.compute import WIDTHS, step_seconds
from tests.planners.fingerprints import STATISTICS, abdomen, brats, fingerprint, hippocampus, pictures


class Generous:
    """More bytes than any network here needs, on a straight line: what is no matter of memory is tested faster."""

    def peak(self, voxels: float) -> float:
        return 1e9 + 2000 * voxels


@pytest.fixture
def generous(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planners.rules.patches.scaling", lambda *_: Generous())


def runs(plan: Plan) -> None:
    """Every configuration's network takes its patch and answers at full resolution."""
    for configuration in plan.configurations.values():
        with torch.device("meta"):
            network = build(configuration.network, len(plan.channels), plan.target.heads)
            outputs = network(torch.empty(configuration.batch_size, len(plan.channels), *configuration.patch_size))
        assert outputs[0].shape == (configuration.batch_size, plan.target.heads, *configuration.patch_size)
        assert configuration.memory is not None
        assert configuration.memory.total <= plan.gpu_memory_gb * 1e9


def test_hippocampus_is_planned_as_by_nnunet() -> None:
    """nnU-Net 2.8.1 plans the same patch, batch, topology and 2d configuration for these 200 cases."""
    plan = unet.plan(hippocampus(), ResolvedRequest(gpu_memory_gb=8))
    full, flat = plan.configurations["3d_fullres"], plan.configurations["2d"]
    assert (full.patch_size, full.batch_size) == ([40, 56, 40], 7)
    assert full.network.features == [32, 64, 128, 256]
    assert (flat.patch_size, flat.batch_size) == ([56, 40], 281)
    assert "3d_lowres" not in plan.configurations
    assert flat.data == full.data == "3d_fullres"
    assert not full.recipe.loss.batch_dice
    assert plan.recommended == "3d_fullres"
    runs(plan)


def test_brats_regions_are_painted_back_to_labels() -> None:
    plan = unet.plan(brats(), ResolvedRequest(gpu_memory_gb=8))
    assert plan.target.kind == "regions"
    assert [(output.name, output.paint) for output in plan.target.outputs] == [
        ("whole_tumor", 2),
        ("tumor_core", 1),
        ("enhancing_tumor", 4),
    ]
    assert all(channel.normalization.masked for channel in plan.channels)
    full = plan.configurations["3d_fullres"]
    assert full.batch_size >= 2
    assert math.prod(full.patch_size) > 0.25 * 138 * 170 * 138
    assert full.memory is not None
    assert full.memory.total > 0.85 * 8e9
    runs(plan)


@pytest.mark.usefixtures("generous")
def test_anisotropic_ct() -> None:
    plan = unet.plan(abdomen(), ResolvedRequest(gpu_memory_gb=8))
    full = plan.configurations["3d_fullres"]
    scheme = plan.channels[0].normalization
    assert (scheme.scheme, scheme.lower, scheme.mean) == ("ct", STATISTICS.percentile_00_5, STATISTICS.mean)
    assert full.network.kernel_sizes[0] == [1, 3, 3]
    assert full.network.strides[1] == [1, 2, 2]
    assert full.recipe.augmentation.rotation_axes == [0]
    runs(plan)


@pytest.mark.usefixtures("generous")
@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("rgb_to_0_1", ("ct", 0.0, 255.0, 0.0, 255.0)),  # divided by 255, as nnU-Net does
        ("rescale_to_0_1", ("minmax", None, None, None, None)),
        ("noNorm", ("none", None, None, None, None)),
    ],
)
def test_normalizations_that_nnunets_names_ask_for(named: str, expected: tuple[object, ...]) -> None:
    data = fingerprint((40, 40, 40), (1.0, 1.0, 1.0))
    data = data.model_copy(update={"modalities": dict.fromkeys(data.channels, named)})
    found = unet.plan(data, ResolvedRequest(gpu_memory_gb=4)).channels[0].normalization
    values = (found.lower, found.upper, found.mean, found.std)
    assert found.scheme == expected[0]
    if expected[1] is not None:
        assert values == expected[1:]


def test_coarsest_axis_comes_first() -> None:
    plan = unet.plan(fingerprint((200, 30, 180), (1.0, 4.0, 1.0)), ResolvedRequest(gpu_memory_gb=4))
    assert plan.preprocessing.transpose == (1, 0, 2)
    assert plan.configurations["3d_fullres"].spacing == (4.0, 1.0, 1.0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_single_slices_are_planned_in_their_plane(axis: int) -> None:
    """A coronal slice has one voxel along y, at whatever distance; nothing can be learned across it."""
    shape, spacing = [300, 400], [0.9, 1.1]
    shape.insert(axis, 1)
    spacing.insert(axis, 0.5)
    plan = unet.plan(fingerprint(shape, spacing), ResolvedRequest())
    assert plan.preprocessing.transpose == (axis, *(other for other in range(3) if other != axis))
    assert set(plan.configurations) == {"2d"}
    configuration = plan.configurations["2d"]
    assert tuple(configuration.spacing[1:]) == (0.9, 1.1)
    assert min(configuration.patch_size) > 100


@pytest.mark.usefixtures("generous")
def test_tenth_percentile_along_a_strongly_anisotropic_axis() -> None:
    data = fingerprint((40, 320, 320), (6.0, 0.5, 0.5), cases=20)
    cases = [
        case.model_copy(update={"spacing": (3.0 + 0.2 * index, 0.5, 0.5)}) for index, case in enumerate(data.cases)
    ]
    plan = unet.plan(data.model_copy(update={"cases": cases}), ResolvedRequest(gpu_memory_gb=4))
    # Tenth percentile of 3.0, 3.2, …, 6.8.
    assert plan.configurations["3d_fullres"].spacing[0] == pytest.approx(3.38)
    assert plan.configurations["2d"].spacing[0] is None
    assert plan.configurations["2d"].data == "2d"
    assert "10th percentile" in plan.configurations["3d_fullres"].reasons["spacing"]


@pytest.mark.usefixtures("generous")
def test_a_large_image_gets_a_low_resolution_stage() -> None:
    plan = unet.plan(fingerprint((500, 400, 400), (0.8, 0.8, 0.8)), ResolvedRequest(gpu_memory_gb=4))
    low, full = plan.configurations["3d_lowres"], plan.configurations["3d_fullres"]
    assert full.recipe.loss.batch_dice
    factor = (low.spacing[0] or 0) / 0.8
    shape = [side / factor for side in (500, 400, 400)]
    assert 0.25 <= math.prod(low.patch_size) / math.prod(shape) < 0.32
    assert low.data != full.data


@pytest.mark.usefixtures("generous")
def test_pictures_get_a_2d_plan_only() -> None:
    plan = unet.plan(pictures(), ResolvedRequest(gpu_memory_gb=4))
    assert list(plan.configurations) == ["2d"]
    assert plan.recommended == "2d"
    assert plan.configurations["2d"].spacing[0] is None
    assert plan.configurations["2d"].network.dimensions == 2
    runs(plan)


def test_residual_planner() -> None:
    plan = resenc.plan(hippocampus(), ResolvedRequest(gpu_memory_gb=8))
    network = plan.configurations["3d_fullres"].network
    assert (plan.planner, network.family) == ("resenc", "resenc")
    assert network.encoder_blocks == [1, 3, 4, 6]
    assert network.decoder_convs == [1, 1, 1]
    runs(plan)


@pytest.mark.usefixtures("generous")
def test_part_of_the_channels_and_regions() -> None:
    plan = unet.plan(brats(), ResolvedRequest(gpu_memory_gb=4, channels=("t2f", "t1c"), regions=("whole_tumor",)))
    assert plan.channel_names == ["t1c", "t2f"]
    assert [output.name for output in plan.target.outputs] == ["whole_tumor"]
    assert plan.target.outputs[0].paint == 2
    assert plan.target.heads == 1


@pytest.mark.usefixtures("generous")
def test_part_of_the_labels() -> None:
    target = unet.plan(hippocampus(), ResolvedRequest(gpu_memory_gb=4, regions=("Posterior",))).target
    assert (target.kind, target.heads, target.outputs[0].values) == ("labels", 2, [2])


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (ResolvedRequest(channels=("flair",)), "--channels flair is unknown; the dataset has t1n, t1c, t2w, t2f"),
        (ResolvedRequest(regions=("tumour",)), "--regions tumour is unknown; the dataset has .*whole_tumor"),
    ],
)
def test_unknown_names_are_refused(request_: ResolvedRequest, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        unet.plan(brats(), request_)


def test_a_hopeless_budget_is_refused() -> None:
    with pytest.raises(AutosegError, match="--gpu-memory"):
        unet.plan(brats(), ResolvedRequest(gpu_memory_gb=0.002))


@pytest.mark.usefixtures("generous")
def test_missing_channels_are_allowed_where_cases_lack_some() -> None:
    data = hippocampus()
    lacking = data.cases[0].model_copy(update={"intensities": {}})
    plan = unet.plan(data.model_copy(update={"cases": [lacking, *data.cases[1:]]}), ResolvedRequest(gpu_memory_gb=4))
    assert plan.allow_missing_channels
    assert {c.recipe.channel_dropout for c in plan.configurations.values()} == {0.0}, (
        "the only channel is never dropped"
    )


@pytest.mark.usefixtures("generous")
@pytest.mark.parametrize("planner", [unet, resenc])
def test_channels_are_dropped_where_cases_lack_some(planner: Any) -> None:
    data = brats()
    whole = planner.plan(data, ResolvedRequest(gpu_memory_gb=8))
    assert {c.recipe.channel_dropout for c in whole.configurations.values()} == {0.0}
    first = data.cases[0]
    lacking = first.model_copy(update={"intensities": dict(list(first.intensities.items())[1:])})
    plan = planner.plan(data.model_copy(update={"cases": [lacking, *data.cases[1:]]}), ResolvedRequest(gpu_memory_gb=8))
    for stage in plan.stages:
        assert 0 < stage.recipe.channel_dropout < 0.5
        assert "not measured" in stage.recipe.reasons["channel_dropout"]
        assert stage.takes_missing_channels


@pytest.mark.usefixtures("generous")
def test_every_derived_value_has_a_reason() -> None:
    found = {path for path, _, _ in explanations(unet.plan(hippocampus(), ResolvedRequest(gpu_memory_gb=8)))}
    for name in (
        "spacing",
        "patch_size",
        "batch_size",
        "network.features",
        "network.strides",
        "recipe.epochs",
        "memory",
    ):
        assert f"configurations.3d_fullres.{name}" in found
    assert {"recommended", "preprocessing.transpose", "target.kind", "channels.MRI.normalization.scheme"} <= found


@pytest.mark.usefixtures("generous")
def test_a_cpu_gets_a_network_it_can_train(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {32: 2.0, 24: 1.2, 16: 0.9, 12: 0.8, 8: 0.7}
    monkeypatch.setattr(
        "planners.rules.compute.time_step", lambda network, *rest: times[network.features[0]] * step_seconds(rest[-1])
    )
    plan = unet.plan(hippocampus(), ResolvedRequest(device="cpu", gpu_memory_gb=8))
    full = plan.configurations["3d_fullres"]
    assert full.network.features[0] == 16
    assert full.patch_size == [40, 56, 40]
    assert full.batch_size == 1
    assert full.recipe.sampling.foreground_share == 0.5
    assert full.recipe.optimizer.learning_rate == 3e-3
    assert full.recipe.optimizer.name == "adamw"
    assert f"{0.9 * step_seconds(1):.3g} s a step" in full.network.reasons["features"]


@pytest.mark.usefixtures("generous")
@pytest.mark.parametrize(("hours", "width"), [(None, 24), (1.0, 12), (1 / 6, 8), (0.02, 8), (10.0, 32)])
def test_a_cpu_gets_a_network_that_it_can_train_in_the_time(
    monkeypatch: pytest.MonkeyPatch, hours: float | None, width: int
) -> None:
    """48,000 steps of one volume: 0.15 s each in the usual two hours, 0.075 in one."""
    times = {8: 0.05, 12: 0.07, 16: 0.1, 24: 0.14, 32: 0.3}
    monkeypatch.setattr("planners.rules.compute.time_step", lambda network, *rest: times[network.features[0]])
    asked = ResolvedRequest(device="cpu", gpu_memory_gb=8, max_time=None if hours is None else hours * 3600)
    full = unet.plan(hippocampus(), asked).configurations["3d_fullres"]
    assert full.network.features[0] == width
    assert f"48000 steps in {hours or 2:.3g} h" in full.network.reasons["features"]


@pytest.mark.usefixtures("generous")
def test_stages_that_follow_each_other_share_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planners.rules.compute.time_step", lambda *rest: 0.01)
    data = fingerprint((138, 170, 138), cases=20)
    for planner, hours in ((unet, "2"), (cascade, "1")):
        plan = planner.plan(data, ResolvedRequest(device="cpu", gpu_memory_gb=8, max_time=7200))
        assert len(plan.configurations) > 1
        for configuration in plan.configurations.values():
            assert f" steps in {hours} h " in configuration.network.reasons["features"]


@pytest.mark.usefixtures("generous")
def test_what_is_far_too_wide_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    times, tried = {8: 0.9, 12: 1.2, 16: 1.0, 24: 1.6}, []

    def time_step(network: Network, *rest: int) -> float:
        tried.append(network.features[0])
        return times[network.features[0]] * step_seconds(rest[-1])

    monkeypatch.setattr("planners.rules.compute.time_step", time_step)
    plan = unet.plan(hippocampus(), ResolvedRequest(device="cpu", gpu_memory_gb=8))
    # 12 channels are too slow, but by so little that 16 may be fast enough, and are.
    assert plan.configurations["3d_fullres"].network.features[0] == 16
    assert set(tried) == set(times)


@pytest.mark.usefixtures("generous")
def test_a_slow_cpu_gets_the_narrowest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planners.rules.compute.time_step", lambda *rest: 60.0)
    plan = unet.plan(fingerprint((138, 170, 138), cases=20), ResolvedRequest(device="cpu", gpu_memory_gb=8))
    assert plan.configurations["3d_fullres"].network.features[0] == WIDTHS[0]
    assert plan.recommended == "3d_lowres"
    assert math.prod(plan.configurations["3d_lowres"].patch_size) <= 64**3
    # A patch at full resolution sees so little that two of them count as one image; at low resolution it sees enough.
    sizes = {name: found.batch_size for name, found in plan.configurations.items()}
    assert (sizes["3d_fullres"], sizes["3d_lowres"]) == (2, 1)
    assert all(found.batch_size > 1 for found in plan.configurations.values() if found.recipe.loss.batch_dice)


@st.composite
def datasets(draw: st.DrawFn) -> Fingerprint:
    flat = draw(st.booleans())
    shape = (1 if flat else draw(st.integers(8, 150)), draw(st.integers(20, 200)), draw(st.integers(20, 200)))
    spacing = tuple(draw(st.sampled_from([0.9, 1.0, 5.0])) for _ in range(3))
    return fingerprint(shape, spacing, cases=draw(st.integers(2, 20)), dimension=2 if flat else 3)


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=datasets(), gigabytes=st.floats(4, 80))
@pytest.mark.usefixtures("generous")
def test_any_dataset_gets_a_plan_that_runs(data: Fingerprint, gigabytes: float) -> None:
    plan = unet.plan(data, ResolvedRequest(gpu_memory_gb=gigabytes))
    runs(plan)
    assert Plan.model_validate(plan.model_dump(mode="json")) == plan


def test_memory_grows_with_the_budget() -> None:
    before = 0
    for gigabytes in (4, 8):
        configuration = unet.plan(brats(), ResolvedRequest(gpu_memory_gb=gigabytes)).configurations["3d_fullres"]
        assert configuration.memory is not None
        assert before <= configuration.memory.total <= gigabytes * 1e9
        before = configuration.memory.total
