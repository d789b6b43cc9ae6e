"""What planners of published systems have in common: the paper's network and recipe, shrunk to what there is.

A planner calls, in this order, :func:`open_setting` (which data), :func:`base_recipe` (the part of the recipe that
does not come from a paper), :func:`fit` (patch and batch), :func:`configure` and :func:`assemble`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autoseg import __version__
from autoseg.data.fingerprint import Fingerprint
from autoseg.networks import parameters_of
from autoseg.planning.memory import step_memory
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.configuration import Configuration, Memory, Previous
from autoseg.plans.families import Network
from autoseg.plans.inference import Inference
from autoseg.plans.plan import Plan
from autoseg.plans.preprocessing import Normalization, Preprocessing, Resampling
from autoseg.plans.recipe import Loss, Optimizer, Recipe, Schedule
from autoseg.plans.target import Target
from autoseg.utils.errors import AutosegError, UsageError
from planners.rules.budget import USABLE, precision
from planners.rules.compute import SYSTEM_STEP_SECONDS, time_step
from planners.rules.mirroring import mirror_axes
from planners.rules.normalization import channels
from planners.rules.recipe import Data, inference, recipe
from planners.rules.spacing import Grid, full_resolution
from planners.rules.target import choose_channels, choose_target

#: ``recipe.channel_dropout`` where some cases lack a channel: their patterns are few, and a new case may have another
#: one. An estimate, not yet a measurement.
CHANNEL_DROPOUT = 0.1

#: Patches a step below which a patch is made smaller instead.
LEAST_BATCH = 2


@dataclass(frozen=True)
class Setting:
    """The data that a system is planned for.

    Attributes:
        fingerprint: of the dataset.
        request: what the user asked for.
        names: channels, in the paper's order where they are the paper's, else in the dataset's.
        target: what to segment.
        grid: full resolution, and the median shape there.
        allow_missing: whether some cases lack a channel.
    """

    fingerprint: Fingerprint
    request: ResolvedRequest
    names: list[str]
    target: Target
    grid: Grid
    allow_missing: bool
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def cpu(self) -> bool:
        """Whether a CPU will train, where compute is the budget."""
        return self.request.device == "cpu"

    @property
    def budget(self) -> float:
        """Bytes that a step may take."""
        return USABLE * self.request.gpu_memory_gb * 1e9


@dataclass(frozen=True)
class Size:
    """Patch and batch, and why these."""

    patch: list[int]
    batch: int
    memory: Memory
    patch_reason: str
    batch_reason: str


def open_setting(
    fingerprint: Fingerprint, request: ResolvedRequest, preferred: Sequence[str] = (), exclusive: bool = False
) -> Setting:
    """Choose channels, target and grid.

    Args:
        fingerprint: of the dataset.
        request: the channels it names are taken.
        preferred: channels of the paper, taken in this order where the user names none and the dataset has all of them.
        exclusive: segment the labels even where the dataset has regions, unless the user names some.

    Raises:
        UsageError: unknown channels or regions are asked for.
    """
    wanted = request.channels
    reasons = {}
    if not wanted and preferred and set(preferred) <= set(fingerprint.channels):
        wanted = tuple(preferred)
        if len(preferred) < len(fingerprint.channels):
            reasons["channels"] = f"the paper's: {', '.join(preferred)}"
    names = choose_channels(fingerprint, wanted)
    if set(names) == set(preferred):
        names = list(preferred)
    outputs = request.regions
    if exclusive and not outputs and fingerprint.regions:
        outputs = tuple(fingerprint.labels)
    missing = any(name not in case.intensities for case in fingerprint.cases for name in names)
    return Setting(
        fingerprint,
        request,
        names,
        choose_target(fingerprint, outputs),
        full_resolution(fingerprint),
        missing,
        reasons,
    )


def refuse_pictures(setting: Setting, planner: str) -> None:
    """For systems whose network looks along three axes.

    Raises:
        UsageError: the dataset's images are two-dimensional.
    """
    if setting.fingerprint.dimension != 3:
        raise UsageError(f"--planner {planner} is for volumes and the dataset has pictures; use --planner unet.")


def case_shapes(setting: Setting) -> list[list[int]]:
    """Voxels of each case along the network's axes, cropped and at full resolution."""
    axes = list(zip(setting.grid.transpose, setting.grid.spacing, strict=True))
    return [
        [max(1, round(case.cropped_shape[axis] * case.spacing[axis] / mm)) for axis, mm in axes]
        for case in setting.fingerprint.cases
    ]


def base_recipe(
    setting: Setting, patch: Sequence[int], batch: int, shape: Sequence[float] | None = None
) -> tuple[Recipe, Inference]:
    """Length of the training, augmentation and mirroring as this project's own planners choose them.

    Args:
        setting: the data.
        patch: voxels.
        batch: patches a step.
        shape: median shape of the images at the configuration's spacing; at full resolution where None.
    """
    mirrored, why = mirror_axes(
        setting.fingerprint,
        setting.request.device,
        [output.name for output in setting.target.outputs],
        setting.grid.transpose,
        len(patch),
    )
    facts = Data(
        setting.request.device,
        len(setting.fingerprint.cases),
        setting.grid.shape if shape is None else shape,
        patch,
        batch,
        True,
        mirrored,
        why,
    )
    return recipe(facts), inference(mirrored, batch)


def adopt(base: Recipe, loss: Loss, optimizer: Optimizer, schedule: Schedule, no_average: str, **parts: Any) -> Recipe:
    """The base recipe with what comes from a paper; weights are not averaged.

    Args:
        base: from :func:`base_recipe`.
        loss: of the paper.
        optimizer: of the paper.
        schedule: of the paper.
        no_average: why there is no average of the weights.
        parts: further values of :class:`autoseg.plans.recipe.Recipe`; ``reasons`` are added to the base's.
    """
    reasons = {**base.reasons, **parts.pop("reasons", {}), "ema_decay": no_average}
    update = {"loss": loss, "optimizer": optimizer, "schedule": schedule, "ema_decay": 0.0, **parts, "reasons": reasons}
    return base.model_copy(update=update)


def fit(
    setting: Setting,
    network: Network,
    patch: Sequence[int],
    batch: int,
    recipe: Recipe,
    *,
    unit: Sequence[int] | None = None,
    least: Sequence[int] | None = None,
    shape: Sequence[float] | None = None,
    in_channels: int | None = None,
    target: Target | None = None,
    whole: bool = False,
    origin: str = "the paper's",
) -> Size:
    """The paper's patch and batch, or a source's, made smaller until a step fits the memory and, on a CPU, the time.

    The batch shrinks first, down to :data:`LEAST_BATCH`, then the longest axis of the patch, at last the batch to 1.

    Args:
        setting: the data and the budget.
        network: topology.
        patch: of the paper, voxels.
        batch: of the paper.
        recipe: its optimizer, loss and average take memory, too.
        unit: steps in which an axis shrinks; the network's divisor where None.
        least: smallest patch; one unit an axis where None.
        shape: median shape of the images, which a patch need not exceed; at full resolution where None.
        in_channels: of the network; the setting's where None.
        target: of the configuration; the setting's where None.
        whole: keep the patch as large as the image where it could be smaller: the batch then shrinks to 1 first.
        origin: whose patch and batch these are, for the reasons.

    Raises:
        AutosegError: not even the smallest patch fits.
    """
    target = target or setting.target
    channels = in_channels or len(setting.names)
    step = list(unit or network.divisor)
    floor = list(least or step)
    image = [math.ceil(side) for side in (shape or setting.grid.shape)][-len(patch) :]
    size = []
    for side, n, s, low in zip(patch, image, step, floor, strict=True):
        enough = low + math.ceil(max(0, n - low) / s) * s
        size.append(max(low, min(side, enough)))
    count = batch
    seconds_allowed = SYSTEM_STEP_SECONDS if setting.cpu else math.inf

    def memory_of(size: Sequence[int], count: int) -> Memory:
        return step_memory(
            network,
            channels,
            target.heads,
            size,
            count,
            precision(setting.request.device),
            recipe.optimizer,
            ema=recipe.ema_decay > 0,
            kind=target.kind,
            loss=recipe.loss,
            device=setting.request.device,
        )

    smallest_batch = 1 if whole else LEAST_BATCH
    while True:
        seconds = time_step(network, channels, target.heads, size, count) if setting.cpu else 0.0
        axes = [axis for axis in range(len(size)) if size[axis] - step[axis] >= floor[axis]]
        excess = seconds / seconds_allowed
        if excess <= 1 or not (axes or count > 1):  # what is too slow anyway need not be walked through
            memory = memory_of(size, count)
            excess = max(excess, memory.total / setting.budget)
            if excess <= 1:
                break
        if count > smallest_batch:
            count = max(smallest_batch, min(count - 1, int(count / excess)))
        elif axes:
            longest = max(axes, key=lambda axis: size[axis] / floor[axis])
            size[longest] -= step[longest]
        elif count > 1:
            count = 1
        elif memory.total > setting.budget:
            raise AutosegError(
                f"the smallest patch of {network.family} needs {memory.total / 1e9:.2f} GB and the budget is "
                f"{setting.budget / 1e9:.2f} GB; give more with --gpu-memory."
            )
        else:  # slow, but nothing smaller exists
            break
    means = f"{setting.budget / 1e9:.2f} GB" + (f" and {SYSTEM_STEP_SECONDS:g} s a step" if setting.cpu else "")
    covers = all(side >= n for side, n in zip(size, image, strict=True))
    if list(size) == list(patch):
        patch_reason = origin
    elif covers:
        patch_reason = "covers the median image, which is no larger"
    else:
        fits = f"the images and {means}" if any(n < side for n, side in zip(image, patch, strict=True)) else means
        patch_reason = f"{origin} {'×'.join(map(str, patch))}, made smaller to fit {fits}"
    batch_reason = origin if count == batch else f"{origin} {batch}, made smaller to fit {means}"
    return Size(size, count, memory, patch_reason, batch_reason)


def configure(
    setting: Setting,
    network: Network,
    size: Size,
    recipe: Recipe,
    inference: Inference,
    *,
    data: str = "3d_fullres",
    spacing: tuple[float | None, float | None, float | None] | None = None,
    spacing_reason: str | None = None,
    previous: Previous | None = None,
    target: Target | None = None,
    in_channels: int | None = None,
    resampling: Resampling | None = None,
    reasons: Mapping[str, str] | None = None,
) -> Configuration:
    """Put a configuration together; spacing is the grid's where None, target the plan's where None."""
    heads = (target or setting.target).heads
    parameters, with_statistics = parameters_of(network, in_channels or len(setting.names), heads)
    return Configuration(
        spacing=spacing or setting.grid.spacing,
        data=data,
        resampling=resampling or Resampling(),
        patch_size=list(size.patch),
        batch_size=size.batch,
        network=network,
        recipe=recipe,
        inference=inference,
        previous=previous,
        target=target,
        memory=size.memory,
        parameters=parameters,
        parameters_with_statistics=with_statistics,
        reasons={
            "spacing": spacing_reason or setting.grid.spacing_reason,
            "patch_size": size.patch_reason,
            "batch_size": size.batch_reason,
            "memory": f"computed for one training step in {size.memory.precision}: {size.memory.total / 1e9:.2f} GB",
            **(reasons or {}),
        },
    )


def assemble(
    setting: Setting,
    planner: str,
    configurations: dict[str, Configuration],
    recommended: str,
    recommended_reason: str,
    *,
    normalization: Normalization | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    preprocessing_reasons: Mapping[str, str] | None = None,
    raters: Sequence[str] = (),
) -> Plan:
    """Put the plan together.

    Args:
        setting: the data.
        planner: name.
        configurations: by name.
        recommended: one of them.
        recommended_reason: why that one.
        normalization: of the paper, for every channel that is no CT; this project's own rule where None.
        preprocessing: further values of :class:`autoseg.plans.preprocessing.Preprocessing`.
        preprocessing_reasons: why these.
        raters: who are learned separately.
    """
    inputs = channels(setting.fingerprint, setting.names)
    if normalization is not None:
        inputs = [
            channel
            if channel.normalization.scheme == "ct"
            else channel.model_copy(update={"normalization": normalization})
            for channel in inputs
        ]
    reasons = {
        "recommended": recommended_reason,
        "gpu_memory_gb": f"plans fill at most {100 * USABLE:.1f} % of it; the rest is for fragmentation",
        **setting.reasons,
    }
    if setting.allow_missing:
        reasons["allow_missing_channels"] = "some cases lack a channel; it is then zero"
    configurations = {
        name: configuration.model_copy(update={"recipe": dropping(setting, configuration.recipe)})
        for name, configuration in configurations.items()
    }
    if raters:
        reasons["raters"] = "asked for: each is learned by a decoder of its own, behind one encoder"
    return Plan(
        autoseg_version=__version__,
        planner=planner,
        dataset=setting.fingerprint.dataset,
        device=setting.request.device,
        gpu_memory_gb=setting.request.gpu_memory_gb,
        channels=inputs,
        allow_missing_channels=setting.allow_missing,
        target=setting.target,
        raters=list(raters),
        preprocessing=Preprocessing(
            transpose=setting.grid.transpose,
            **(preprocessing or {}),
            reasons={
                "transpose": setting.grid.transpose_reason,
                "crop": "nothing is to be learned from zeros around the image",
                **(preprocessing_reasons or {}),
            },
        ),
        configurations=configurations,
        recommended=recommended,
        file_ending=setting.fingerprint.file_ending,
        reasons=reasons,
    )


def dropping(setting: Setting, recipe: Recipe) -> Recipe:
    """The recipe, trained for cases that lack other channels than those of the training.

    A recipe that drops channels already does so as it did; the only channel is never dropped.
    """
    if len(setting.names) == 1:
        return recipe.model_copy(update={"channel_dropout": 0.0})
    if recipe.channel_dropout or not setting.allow_missing:
        return recipe
    reason = "some cases lack a channel, and new ones may lack any; an estimate, not measured"
    reasons = {**recipe.reasons, "channel_dropout": reason}
    return recipe.model_copy(update={"channel_dropout": CHANNEL_DROPOUT, "reasons": reasons})
