"""From fingerprint and request to a plan: what planners of all U-Net families have in common, top to bottom."""

import math
from dataclasses import replace

from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.memory import step_memory
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.configuration import Configuration, Previous
from autoseg.plans.plan import Plan
from autoseg.plans.recipe import Recipe
from autoseg.step.setup import StepSetup
from autoseg.utils.errors import UsageError
from planners.rules.budget import precision
from planners.rules.compute import CPU_PATCH_VOXELS, choose_width, cpu_batch
from planners.rules.fitting import Size
from planners.rules.patches import Choice, Need, Patch, choose, largest_batch, patches
from planners.rules.recipe import optimizer
from planners.rules.spacing import coarsen
from planners.rules.systems import assemble, base_recipe, configure
from planners.rules.task import StageTask, Task, open_task
from planners.rules.topology import BASE_FEATURES, Family, network

#: A patch that sees less than this share of the median image lacks context: a low-resolution stage is planned
#: (Isensee et al. 2021).
ENOUGH_CONTEXT = 0.25

#: A low-resolution stage must have at most this share of the voxels to be worth having (nnU-Net's).
WORTHWHILE = 0.5

#: How much coarser a cascade's first stage is where no low resolution is needed: an eighth of the voxels.
HALVED = 2.0

#: A volume with fewer slices than this has nothing to gain from a 3D network.
FEW_SLICES = 4


def plan_family(fingerprint: Fingerprint, request: ResolvedRequest, family: Family) -> Plan:
    """Plan a dataset for one family of networks.

    Raises:
        UsageError: unknown channels or regions are asked for.
        AutosegError: not even the smallest patch fits the budget.
    """
    task = open_task(fingerprint, request)
    configurations = _configurations(task, replace(family, decoders=max(len(request.annotators), 1)))
    recommended, why = _recommend(task.cpu, configurations)
    return assemble(task, family.name, configurations, recommended, why)


def _configurations(task: Task, family: Family) -> dict[str, Configuration]:
    found: dict[str, Configuration] = {}
    grid, full = task.grid, task.full
    # Slices share the volumes' folder where resampling to the target changes nothing between slices.
    volumes = _has_volumes(task)
    slices = full
    if not (volumes and grid.same_slices):
        slices = replace(
            full,
            spacing=(None, grid.spacing[1], grid.spacing[2]),
            spacing_reason=f"{grid.spacing_reason}; each case keeps its own slices",
            data="2d",
        )
    found["2d"] = _configuration(family, slices, _choose(family, slices, "2d"))
    if not volumes:
        return found
    choice = _choose(family, full, "3d_fullres")
    lowres = _low_resolution(family, full, choice.patch)
    if lowres is not None:
        choice = _choose(family, full, "3d_fullres", batch_dice=True)
    found["3d_fullres"] = _configuration(family, full, choice, batch_dice=lowres is not None)
    if lowres is not None:
        low = replace(lowres, spacing_reason=_coarse_enough(choice.patch))
        found["3d_lowres"] = _configuration(family, low, _choose(family, low, "3d_lowres"), batch_dice=False)
    return found


def _has_volumes(task: Task) -> bool:
    return task.fingerprint.dimension == 3 and task.grid.shape[0] >= FEW_SLICES


def _coarse_enough(patch: Patch) -> str:
    return (
        f"coarse enough for a patch to see {100 * ENOUGH_CONTEXT:.0f} % of the median image; at full resolution it "
        f"sees {100 * patch.share:.0f} %"
    )


def _need(family: Family, stage: StageTask) -> Need:
    device = stage.task.request.device
    chosen, _, average = optimizer(device, batch=1)  # the rate takes no memory
    return Need(
        family,
        stage.in_channels,
        stage.target,
        Recipe(optimizer=chosen, ema_decay=average),
        precision(device),
        BASE_FEATURES,
        device,
    )


def _choose(family: Family, stage: StageTask, name: str, batch_dice: bool = False) -> Choice:
    """Patch and batch for a stage; that of the name ``2d`` takes the last two axes.

    Args:
        family: of networks.
        stage: the data.
        name: of the configuration.
        batch_dice: whether the batch counts as one image.
    """
    task, image = stage.task, stage.shape
    dimensions = 2 if name == "2d" else 3
    spacing = [mm if mm is not None else 1.0 for mm in stage.spacing]
    candidates = patches(image[-dimensions:], spacing[-dimensions:])
    cases = len(task.fingerprint.cases)
    limits = [largest_batch(cases, image, patch) for patch in candidates]
    most = math.inf
    if task.cpu:
        most = CPU_PATCH_VOXELS
        limits = [
            cpu_batch(dimensions, p.voxels, limit, batch_dice) for p, limit in zip(candidates, limits, strict=True)
        ]
    return choose(candidates, _need(family, stage), task.budget, limits, most, name)


def _low_resolution(family: Family, full: StageTask, patch: Patch) -> StageTask | None:
    """A low-resolution stage, where the full-resolution patch sees too little of an image."""
    if patch.share >= ENOUGH_CONTEXT:
        return None
    stage, share = replace(full, data="3d_lowres"), patch.share
    while share < ENOUGH_CONTEXT:
        stage = _coarser(stage)
        share = _choose(family, stage, "3d_lowres").patch.share
    if math.prod(stage.shape) > WORTHWHILE * math.prod(full.shape):
        return None
    return stage


def _coarser(stage: StageTask) -> StageTask:
    """The stage one step towards a lower resolution."""
    spacing, shape = coarsen([float(mm) for mm in stage.spacing if mm is not None], stage.shape)
    return replace(stage, spacing=(spacing[0], spacing[1], spacing[2]), shape=shape)


def _configuration(family: Family, stage: StageTask, choice: Choice, batch_dice: bool = True) -> Configuration:
    task, patch, batch = stage.task, choice.patch, choice.batch
    width, width_reason = BASE_FEATURES, "nnU-Net's 32 channels, doubled with each pooling up to a maximum"
    if task.cpu:
        width, _, width_reason = choose_width(
            lambda base: network(family, patch.pooled, base),
            stage.in_channels,
            stage.target.heads,
            patch.size,
            batch,
            task.hours,
        )
    topology = network(family, patch.pooled, width)
    divisor = "×".join(str(d) for d in patch.pooled.divisor)
    topology.reasons = {
        "features": width_reason,
        "strides": f"each axis while it keeps 4 voxels and its spacing is within twice the finest (in all {divisor})",
        "kernel_sizes": "1 across an axis while its spacing is over twice the finest, else 3",
        "encoder_blocks": family.reason,
        **({"decoders": "one for each rater"} if family.decoders > 1 else {}),
    }
    recipe, inference = base_recipe(stage, patch.size, batch, batch_dice, paced=True)
    setup = StepSetup(topology, stage.in_channels, stage.target, patch.size, batch, recipe)
    memory = step_memory(setup, precision(task.request.device), task.request.device)
    batch_reason = "small steps, many of them: compute is the budget" if task.cpu else choice.batch_reason
    size = Size(list(patch.size), batch, memory, choice.patch_reason, batch_reason)
    return configure(stage, topology, size, recipe, inference)


def _recommend(cpu: bool, configurations: dict[str, Configuration]) -> tuple[str, str]:
    if "3d_fullres" not in configurations:
        return "2d", "the images have hardly any slices"
    if "3d_lowres" in configurations and cpu:
        return "3d_lowres", "on a CPU a full-resolution patch sees too little of an image, and there would be many"
    return "3d_fullres", "all of the detail, in three dimensions"


def plan_cascade(fingerprint: Fingerprint, request: ResolvedRequest, family: Family, planner: str) -> Plan:
    """Plan two stages: a low resolution, and the full one, which is given what the low one found (Isensee et al. 2021).

    Raises:
        UsageError: unknown channels or regions are asked for, or the images have too few slices.
        AutosegError: not even the smallest patch fits the budget.
    """
    task = replace(open_task(fingerprint, request), stages=2)
    family = replace(family, decoders=max(len(request.annotators), 1))
    if not _has_volumes(task):
        raise UsageError(f"--planner {planner} is for volumes, and these have hardly any slices; use unet.")
    patch = _choose(family, task.full, "3d_fullres").patch
    low, reason = _low_resolution(family, task.full, patch), _coarse_enough(patch)
    if low is None:
        low, reason = _halved(task.full)
    low = replace(low, spacing_reason=reason)
    why = "what it finds in the whole image tells a patch at full resolution what lies around it (Isensee et al. 2021)"
    full = replace(
        task.full,
        in_channels=len(task.names) + len(task.target.outputs),
        previous=Previous(configuration="3d_lowres", use="channels", reasons={"configuration": why}),
    )
    configurations = {
        "3d_lowres": _configuration(family, low, _choose(family, low, "3d_lowres"), batch_dice=False),
        "3d_cascade_fullres": _configuration(
            family, full, _choose(family, full, "3d_cascade_fullres", batch_dice=True)
        ),
    }
    return assemble(task, planner, configurations, "3d_cascade_fullres", "the last stage, which the first is there for")


def _halved(full: StageTask) -> tuple[StageTask, str]:
    """A low-resolution stage where none is needed, of about half the resolution; and why."""
    stage = replace(full, data="3d_lowres")
    while max((mm or 1.0) / (fine or 1.0) for mm, fine in zip(stage.spacing, full.spacing, strict=True)) < HALVED:
        stage = _coarser(stage)
    return stage, (
        f"{HALVED:g} times coarser; a patch at full resolution sees enough of an image, so that a cascade has little "
        "to add, but it was asked for"
    )
