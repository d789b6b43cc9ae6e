"""Planners of several stages: which there are, what they take from each other, and the papers' numbers."""

import pytest
import torch

from autoseg.networks import build
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.configuration import Memory
from autoseg.plans.plan import Plan
from autoseg.utils.errors import UsageError
from planners import cascade
from planners.papers import region_cascade
from tests.planners.fingerprints import abdomen, brats, fingerprint, hippocampus, pictures
from tests.planners.test_plans import Generous


@pytest.fixture(autouse=True)
def no_matter_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a step takes is tested elsewhere, and walking through one takes seconds."""
    small = Memory(precision="fp16", parameters=1, gradients=1, optimizer=1, activations=1, transient=1)
    monkeypatch.setattr("planners.rules.patches.scaling", lambda *_: Generous())
    monkeypatch.setattr("planners.rules.configure.step_memory", lambda *_, **__: small)
    monkeypatch.setattr("planners.rules.fitting.step_memory", lambda *_, **__: small)
    monkeypatch.setattr("planners.rules.fitting.time_step", lambda *_, **__: 0.1)


def valid(plan: Plan) -> Plan:
    """As it is read from its file; every network is given what its stage has, and answers for its target."""
    for stage in plan.stages:
        patch = stage.configuration.patch_size
        with torch.device("meta"):
            network = build(stage.network, stage.in_channels, stage.heads).eval()
            image = torch.empty(1, stage.in_channels, *patch)
            assert network(image).shape == (1, stage.heads, *patch), stage.name
    return Plan.model_validate(plan.model_dump(mode="json"))


def test_cascade_of_large_images() -> None:
    """An abdomen's patch at full resolution sees too little: the low resolution is the planner unet's own."""
    plan = valid(cascade.plan(abdomen(), ResolvedRequest(gpu_memory_gb=8)))
    assert list(plan.configurations) == ["3d_lowres", "3d_cascade_fullres"]
    assert (plan.planner, plan.recommended) == ("cascade", "3d_cascade_fullres")
    low, full = plan.configurations.values()
    assert "coarse enough for a patch to see 25 %" in low.reasons["spacing"]
    assert full.previous is not None
    assert (full.previous.use, full.previous.configuration) == ("channels", "3d_lowres")
    assert plan.stage().in_channels == 2
    assert [stage.name for stage in plan.stage().chain] == ["3d_lowres", "3d_cascade_fullres"]


def test_cascade_where_none_is_needed() -> None:
    """Half the resolution, up to one step of 3 %, and it says that it is for the asking."""
    plan = valid(cascade.plan(hippocampus(), ResolvedRequest(gpu_memory_gb=8)))
    low, full = plan.configurations.values()
    assert all(2 <= spacing <= 2 * 1.03 for spacing in low.spacing if spacing is not None)
    assert "it was asked for" in low.reasons["spacing"]
    assert full.spacing == (1, 1, 1)
    assert plan.stage().in_channels == 1 + 2
    assert (low.data, full.data) == ("3d_lowres", "3d_fullres")


def test_cascades_are_for_volumes() -> None:
    for planner in (cascade, region_cascade):
        with pytest.raises(UsageError, match="is for volumes"):
            planner.plan(pictures(), ResolvedRequest())


def test_region_cascade_of_nested_regions() -> None:
    plan = valid(region_cascade.plan(brats(), ResolvedRequest(gpu_memory_gb=8)))
    assert list(plan.configurations) == ["whole_tumor", "tumor_core", "enhancing_tumor"]
    assert plan.recommended == "enhancing_tumor"
    for name, configuration in plan.configurations.items():
        assert [output.name for output in plan.stage(name).target.outputs] == [name]
        assert configuration.recipe.optimizer.name == "adam"
        assert configuration.recipe.optimizer.learning_rate == 1e-3
        assert (configuration.recipe.loss.dice_weight, configuration.recipe.loss.ce_weight) == (1, 0)
        assert configuration.batch_size == 5
        assert configuration.recipe.epochs * configuration.recipe.iterations_per_epoch == 20_000
    whole, core, enhancing = plan.configurations.values()
    assert whole.previous is None
    for configuration, output in ((core, "whole_tumor"), (enhancing, "tumor_core")):
        assert configuration.previous is not None
        assert (configuration.previous.use, configuration.previous.output) == ("box", output)
        assert configuration.previous.margin == 5
    # As many voxels as 19×144×144, 19×96×96 and 19×64×64, to within a step of 4, 4 and 2 voxels a side.
    assert [c.patch_size[0] for c in (whole, core, enhancing)] == [72, 56, 42]
    assert [len(c.network.features) for c in (whole, core, enhancing)] == [3, 3, 2]
    assert all(channel.normalization.scheme == "zscore" for channel in plan.channels)


def test_region_cascade_of_labels() -> None:
    """Both parts of a hippocampus as one structure, then each inside its box."""
    plan = valid(region_cascade.plan(hippocampus(), ResolvedRequest(gpu_memory_gb=8)))
    assert list(plan.configurations) == ["foreground", "structures"]
    first, last = plan.configurations.values()
    assert [(o.name, o.values) for o in plan.stage("foreground").target.outputs] == [("foreground", [1, 2])]
    assert plan.stage("structures").target == plan.target
    assert last.previous is not None
    assert last.previous.output == "foreground"
    assert (first.network.fusion, last.network.fusion) == ("sigmoid", "softmax")
    assert plan.stage("structures").result.kind == "labels"


def test_region_cascade_of_one_region() -> None:
    plan = valid(region_cascade.plan(brats(), ResolvedRequest(regions=("tumor_core",))))
    (only,) = plan.configurations.values()
    assert only.previous is None


def test_region_cascade_of_regions_side_by_side() -> None:
    apart = fingerprint(
        (60, 60, 60), labels={"a": 1, "b": 2, "c": 3}, regions={"ab": [1, 2], "bc": [2, 3]}, volumes={1: 9, 2: 9, 3: 5}
    )
    plan = valid(region_cascade.plan(apart, ResolvedRequest()))
    assert list(plan.configurations) == ["foreground", "structures"]
    assert [output.name for output in plan.target.outputs] == ["ab", "bc"]


def test_region_cascade_on_a_cpu() -> None:
    plan = valid(region_cascade.plan(brats(), ResolvedRequest(device="cpu")))
    for configuration in plan.configurations.values():
        assert min(configuration.patch_size) >= 24
        assert max(configuration.patch_size) <= 36
        assert "what a CPU computes in time" in configuration.reasons["patch_size"]
