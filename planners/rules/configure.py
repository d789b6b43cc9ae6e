"""From fingerprint and request to a plan: what planners of all U-Net families have in common, top to bottom."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from autoseg.data.fingerprint import Fingerprint
from autoseg.networks import parameters_of
from autoseg.planning.memory import step_memory
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.configuration import Configuration, Previous
from autoseg.plans.plan import Plan
from autoseg.plans.target import Target
from autoseg.utils.errors import UsageError
from planners.rules.budget import USABLE, precision
from planners.rules.compute import CPU_PATCH_VOXELS, choose_width, cpu_batch
from planners.rules.mirroring import mirror_axes
from planners.rules.patches import Choice, Need, Patch, choose, largest_batch, patches
from planners.rules.recipe import Data, inference, optimizer, recipe
from planners.rules.spacing import Grid, coarsen
from planners.rules.systems import Setting, assemble, open_setting
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


@dataclass(frozen=True)
class _Task:
    """What all configurations of a plan share."""

    family: Family
    fingerprint: Fingerprint
    request: ResolvedRequest
    target: Target
    in_channels: int

    @property
    def cpu(self) -> bool:
        return self.request.device == "cpu"

    def need(self, base_features: int = BASE_FEATURES) -> Need:
        chosen, _, ema = optimizer(self.request.device)
        return Need(
            self.family,
            self.in_channels,
            self.target.heads,
            self.target.kind,
            precision(self.request.device),
            chosen,
            ema > 0,
            base_features,
            self.request.device,
        )


def plan_family(fingerprint: Fingerprint, request: ResolvedRequest, family: Family) -> Plan:
    """Plan a dataset for one family of networks.

    Raises:
        UsageError: unknown channels or regions are asked for.
        AutosegError: not even the smallest patch fits the budget.
    """
    setting = open_setting(fingerprint, request)
    family = replace(family, decoders=max(len(request.raters), 1))
    configurations = _configurations(_task(setting, family), setting.grid)
    recommended, why = _recommend(setting.cpu, configurations)
    return assemble(setting, family.name, configurations, recommended, why, raters=request.raters)


def _task(setting: Setting, family: Family) -> _Task:
    return _Task(family, setting.fingerprint, setting.request, setting.target, len(setting.names))


def _configurations(task: _Task, grid: Grid) -> dict[str, Configuration]:
    found: dict[str, Configuration] = {}
    # Slices share the volumes' folder where resampling to the target changes nothing between slices.
    volumes = _has_volumes(task, grid)
    shared = volumes and grid.same_slices
    flat = (None, grid.spacing[1], grid.spacing[2])
    found["2d"] = _configuration(
        task,
        "2d",
        spacing=grid.spacing if shared else flat,
        data="3d_fullres" if shared else "2d",
        image=grid.shape,
        dimensions=2,
        transpose=grid.transpose,
        reasons={
            "spacing": f"{grid.spacing_reason}; each case keeps its own slices" if not shared else grid.spacing_reason
        },
    )
    if not volumes:
        return found
    choice = _choose(task, "3d_fullres", grid.shape, grid.spacing, 3)
    lowres = _low_resolution(task, grid, choice.patch)
    found["3d_fullres"] = _configuration(
        task,
        "3d_fullres",
        spacing=grid.spacing,
        data="3d_fullres",
        image=grid.shape,
        dimensions=3,
        transpose=grid.transpose,
        batch_dice=lowres is not None,
        choice=choice,
        reasons={"spacing": grid.spacing_reason},
    )
    if lowres is not None:
        found["3d_lowres"] = _low(task, grid, lowres, _coarse_enough(choice.patch))
    return found


def _has_volumes(task: _Task, grid: Grid) -> bool:
    return task.fingerprint.dimension == 3 and grid.shape[0] >= FEW_SLICES


def _coarse_enough(patch: Patch) -> str:
    return (
        f"coarse enough for a patch to see {100 * ENOUGH_CONTEXT:.0f} % of the median image; at full resolution it "
        f"sees {100 * patch.share:.0f} %"
    )


def _low(task: _Task, grid: Grid, lowres: tuple[list[float], list[float]], reason: str) -> Configuration:
    """The low-resolution stage of this spacing and shape."""
    spacing, shape = lowres
    return _configuration(
        task,
        "3d_lowres",
        spacing=(spacing[0], spacing[1], spacing[2]),
        data="3d_lowres",
        image=shape,
        dimensions=3,
        transpose=grid.transpose,
        batch_dice=False,
        reasons={"spacing": reason},
    )


def _choose(
    task: _Task, name: str, image: Sequence[float], spacing: Sequence[float], dimensions: int, base: int = BASE_FEATURES
) -> Choice:
    """Patch and batch for images of this shape; ``dimensions`` 2 takes the last two axes."""
    candidates = patches(image[-dimensions:], spacing[-dimensions:])
    cases = len(task.fingerprint.cases)
    limits = [largest_batch(cases, image, patch) for patch in candidates]
    most = math.inf
    if task.cpu:
        most = CPU_PATCH_VOXELS
        limits = [cpu_batch(dimensions, p.voxels, limit) for p, limit in zip(candidates, limits, strict=True)]
    return choose(candidates, task.need(base), USABLE * task.request.gpu_memory_gb * 1e9, limits, most, name)


def _low_resolution(task: _Task, grid: Grid, patch: Patch) -> tuple[list[float], list[float]] | None:
    """Spacing and shape of a low-resolution stage, where the full-resolution patch sees too little of an image."""
    if patch.share >= ENOUGH_CONTEXT:
        return None
    spacing, shape = list(grid.spacing), list(grid.shape)
    share = patch.share
    while share < ENOUGH_CONTEXT:
        spacing, shape = coarsen(spacing, shape)
        share = _choose(task, "3d_lowres", shape, spacing, 3).patch.share
    if math.prod(shape) > WORTHWHILE * math.prod(grid.shape):
        return None
    return spacing, shape


def _configuration(
    task: _Task,
    name: str,
    spacing: tuple[float | None, float | None, float | None],
    data: str,
    image: Sequence[float],
    dimensions: int,
    transpose: Sequence[int],
    reasons: dict[str, str],
    batch_dice: bool = True,
    choice: Choice | None = None,
) -> Configuration:
    mm = [s if s is not None else 1.0 for s in spacing]
    choice = choice or _choose(task, name, image, mm, dimensions)
    patch, batch = choice.patch, choice.batch
    width, width_reason = BASE_FEATURES, "nnU-Net's 32 channels, doubled with each pooling up to a maximum"
    if task.cpu:
        width, _, width_reason = choose_width(
            lambda base: network(task.family, patch.pooled, base),
            task.in_channels,
            task.target.heads,
            patch.size,
            batch,
        )
    topology = network(task.family, patch.pooled, width)
    divisor = "×".join(str(d) for d in patch.pooled.divisor)
    topology.reasons = {
        "features": width_reason,
        "strides": f"each axis while it keeps 4 voxels and its spacing is within twice the finest (in all {divisor})",
        "kernel_sizes": "1 across an axis while its spacing is over twice the finest, else 3",
        "encoder_blocks": task.family.reason,
        **({"decoders": "one for each rater"} if task.family.decoders > 1 else {}),
    }
    mirrored, mirror_reason = mirror_axes(
        task.fingerprint,
        task.request.device,
        [output.name for output in task.target.outputs],
        transpose,
        dimensions,
    )
    data_facts = Data(
        task.request.device,
        len(task.fingerprint.cases),
        image,
        patch.size,
        batch,
        batch_dice,
        mirrored,
        mirror_reason,
    )
    chosen = recipe(data_facts)
    memory = step_memory(
        topology,
        task.in_channels,
        task.target.heads,
        patch.size,
        batch,
        precision(task.request.device),
        chosen.optimizer,
        ema=chosen.ema_decay > 0,
        kind=task.target.kind,
        loss=chosen.loss,
        device=task.request.device,
    )
    parameters, with_statistics = parameters_of(topology, task.in_channels, task.target.heads)
    return Configuration(
        spacing=spacing,
        data=data,
        patch_size=list(patch.size),
        batch_size=batch,
        network=topology,
        recipe=chosen,
        inference=inference(mirrored, batch),
        memory=memory,
        parameters=parameters,
        parameters_with_statistics=with_statistics,
        reasons={
            **reasons,
            "patch_size": choice.patch_reason,
            "batch_size": choice.batch_reason if not task.cpu else "small steps, many of them: compute is the budget",
            "memory": f"computed for one training step in {memory.precision}: {memory.total / 1e9:.2f} GB",
        },
    )


def _recommend(cpu: bool, configurations: dict[str, Configuration]) -> tuple[str, str]:
    if "3d_fullres" not in configurations:
        return "2d", "the images have no third axis to speak of"
    if "3d_lowres" in configurations and cpu:
        return "3d_lowres", "on a CPU a full-resolution patch sees too little of an image, and there would be many"
    return "3d_fullres", "all of the detail, in three dimensions"


def plan_cascade(fingerprint: Fingerprint, request: ResolvedRequest, family: Family, planner: str) -> Plan:
    """Plan two stages: a low resolution, and the full one, which is given what the low one found (Isensee et al. 2021).

    Raises:
        UsageError: unknown channels or regions are asked for, or the images have too few slices.
        AutosegError: not even the smallest patch fits the budget.
    """
    setting = open_setting(fingerprint, request)
    task, grid = _task(setting, family), setting.grid
    if not _has_volumes(task, grid):
        raise UsageError(f"--planner {planner} is for volumes, and these have no third axis to speak of; use unet.")
    patch = _choose(task, "3d_fullres", grid.shape, grid.spacing, 3).patch
    lowres, reason = _low_resolution(task, grid, patch), _coarse_enough(patch)
    if lowres is None:
        lowres, reason = _halved(grid)
    low = _low(task, grid, lowres, reason)
    given = replace(task, in_channels=task.in_channels + len(task.target.outputs))
    full = _configuration(
        given,
        "3d_cascade_fullres",
        spacing=grid.spacing,
        data="3d_fullres",
        image=grid.shape,
        dimensions=3,
        transpose=grid.transpose,
        batch_dice=True,
        reasons={"spacing": grid.spacing_reason},
    )
    why = "what it finds in the whole image tells a patch at full resolution what lies around it (Isensee et al. 2021)"
    previous = Previous(configuration="3d_lowres", use="channels", reasons={"configuration": why})
    configurations = {"3d_lowres": low, "3d_cascade_fullres": full.model_copy(update={"previous": previous})}
    return assemble(
        setting, planner, configurations, "3d_cascade_fullres", "the last stage, which the first is there for"
    )


def _halved(grid: Grid) -> tuple[tuple[list[float], list[float]], str]:
    """Spacing and shape of a low-resolution stage where none is needed, about half the resolution; and why."""
    spacing, shape = list(grid.spacing), list(grid.shape)
    while max(s / full for s, full in zip(spacing, grid.spacing, strict=True)) < HALVED:
        spacing, shape = coarsen(spacing, shape)
    return (spacing, shape), (
        f"{HALVED:g} times coarser; a patch at full resolution sees enough of an image, so that a cascade has little "
        "to add, but it was asked for"
    )
