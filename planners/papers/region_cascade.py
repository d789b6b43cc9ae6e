"""Planner ``region_cascade``: one structure inside the other, a network each (Wang et al. 2017, BraTS 2017).

The whole tumor is looked for in the image, its core inside the whole tumor's bounding box, the enhancing part inside
the core's. Where regions are not nested, all structures are found together first, then told apart inside their box.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.configuration import Configuration, Previous
from autoseg.plans.families import MultiView
from autoseg.plans.plan import Plan
from autoseg.plans.preprocessing import Normalization
from autoseg.plans.recipe import Loss, Optimizer, Recipe, Schedule
from autoseg.plans.target import Output, Target
from planners.rules.systems import (
    Setting,
    Size,
    adopt,
    assemble,
    base_recipe,
    configure,
    fit,
    open_setting,
    refuse_pictures,
)

PAPER = "Wang et al. 2017"
CODE = "its released configuration"

#: Sides in the plane of the patches of the three networks, their slices, and the patches in a batch (its released
#: configuration; of 19 slices 11 are left by convolutions that are not padded, which ours are).
SIDES, SLICES, BATCH = (144, 96, 64), 19, 5

#: Channels of all convolutions. The third network's structures are small: its plane is halved once only.
CHANNELS, LEVELS = 32, (3, 3, 2)

#: Voxels around a structure's bounding box (its released configuration).
MARGIN = 5

#: Optimizer steps (its released configuration).
STEPS = 20_000

#: Smallest side of a patch, of an image that is no smaller: what dilated convolutions reach at the lowest resolution
#: must not all be padding.
LEAST = 24

#: Side of the patches and their number in a batch to start from on a CPU, where a step of the paper's would take a
#: quarter of a minute, and trying every size down from them several.
CPU_SIDE, CPU_BATCH = 36, 2

#: What all structures together are called.
TOGETHER = "foreground"


@dataclass(frozen=True)
class _Stage:
    """One network of the cascade: its name, what it segments and which of the paper's three it is like."""

    name: str
    target: Target
    like: int


def plan(fingerprint: Fingerprint, request: ResolvedRequest) -> Plan:
    """Plan a dataset for a cascade of regions.

    Raises:
        UsageError: unknown channels or regions are asked for, or the images are no volumes.
        AutosegError: not even the smallest patch fits the budget.
    """
    setting = open_setting(fingerprint, request, ("flair", "t1", "t1c", "t2"))
    refuse_pictures(setting, "region_cascade")
    stages, why = _stages(setting.target)
    configurations: dict[str, Configuration] = {}
    before: _Stage | None = None
    for stage in stages:
        configurations[stage.name] = _configuration(setting, stage, before, why)
        before = stage
    return assemble(
        setting,
        "region_cascade",
        configurations,
        stages[-1].name,
        "the last stage, which the others are there for",
        normalization=Normalization(
            scheme="zscore", masked=True, reasons={"scheme": f"mean 0 and deviation 1 of each image ({PAPER})"}
        ),
    )


def _stages(target: Target) -> tuple[list[_Stage], str]:
    """The stages, and why these."""
    outputs = target.outputs
    nested = all(set(inner.values) < set(outer.values) for outer, inner in pairwise(outputs))
    if target.kind == "regions" and nested:
        found = [
            _Stage(_folder(output.name), _only(output, target), min(index, len(SIDES) - 1))
            for index, output in enumerate(outputs)
        ]
        return found, f"a binary network each, from the largest region to the smallest ({PAPER})"
    values = sorted({value for output in outputs for value in output.values})
    together = Output(name=TOGETHER, values=values, paint=values[0])
    return (
        [_Stage(TOGETHER, _only(together, target), 0), _Stage("structures", target, 1)],
        f"no regions inside each other: all structures together, as {PAPER} finds the whole tumor, then each of them",
    )


def _only(output: Output, target: Target) -> Target:
    return Target(kind="regions", outputs=[output], ignore=target.ignore)


def _folder(name: str) -> str:
    return name.replace("/", "_").replace("\\", "_").lstrip(".") or "region"


def _configuration(setting: Setting, stage: _Stage, before: _Stage | None, why: str) -> Configuration:
    levels = LEVELS[stage.like]
    network = MultiView(
        features=[CHANNELS] * levels,
        fusion="sigmoid" if stage.target.kind == "regions" else "softmax",
        reasons={
            "views": f"axial, sagittal and coronal, fused ({PAPER})",
            "features": f"{CHANNELS} everywhere, the plane halved {'twice' if levels > 2 else 'once'} ({PAPER})",
        },
    )
    # The paper cuts thin slabs for each view's own network; ours see the same patch, so it is a cube as large.
    factor = network.divisor[0]
    side = factor * round((SLICES * SIDES[stage.like] ** 2) ** (1 / 3) / factor)
    paper = f"{SLICES}×{SIDES[stage.like]}×{SIDES[stage.like]}"
    batch = BATCH
    if setting.cpu:
        side, batch = factor * (min(side, CPU_SIDE) // factor), CPU_BATCH
    recipe = Recipe(loss=_loss(), optimizer=_optimizer(), ema_decay=0)
    size = fit(
        setting,
        network,
        [side] * 3,
        batch,
        recipe,
        least=[min(LEAST, factor * math.ceil(n / factor)) for n in setting.grid.shape],
        target=stage.target,
    )
    base, inference = base_recipe(setting, size.patch, size.batch)
    return configure(
        setting,
        network,
        size,
        _recipe(setting, base),
        inference,
        previous=None
        if before is None
        else Previous(
            configuration=before.name,
            use="box",
            output=before.target.outputs[0].name,
            margin=MARGIN,
            reasons={"margin": f"{PAPER}, {CODE}", "use": f"inside the box of what the stage before found ({PAPER})"},
        ),
        target=None if stage.target is setting.target else stage.target,
        reasons={
            "target": why,
            **_size_reasons(setting, size, paper),
        },
    )


def _size_reasons(setting: Setting, size: Size, paper: str) -> dict[str, str]:
    if setting.cpu:
        why = "what a CPU computes in time"
        return {
            "patch_size": f"{why}; {PAPER} have {paper} for each view",
            "batch_size": f"{why}; {PAPER} have {BATCH}",
        }
    cube = f"a cube here, of as many voxels as {paper} for each view, since all views see one patch"
    return {"patch_size": f"{size.patch_reason} ({cube})"}


def _recipe(setting: Setting, base: Recipe) -> Recipe:
    epochs, epochs_reason = base.epochs, base.reasons.get("epochs", "")
    if not setting.cpu:
        epochs = max(1, STEPS // base.iterations_per_epoch)
        epochs_reason = f"{STEPS} steps ({CODE})"
    return adopt(
        base,
        epochs=epochs,
        loss=_loss(),
        optimizer=_optimizer(),
        schedule=Schedule(name="constant", warmup=0.0, reasons={"name": f"{PAPER} names no schedule"}),
        no_average="the paper averages no weights",
        reasons={"epochs": epochs_reason},
    )


def _loss() -> Loss:
    return Loss(
        dice_weight=1.0,
        ce_weight=0.0,
        dice_denominator="squares",
        batch_dice=True,
        reasons={
            "dice_weight": f"soft Dice alone ({PAPER})",
            "ce_weight": f"soft Dice alone ({PAPER})",
            "dice_denominator": f"that of Milletari et al. 2016, whom {PAPER} cite",
            "batch_dice": "ours: steadier where a patch holds little or nothing of the structure",
        },
    )


def _optimizer() -> Optimizer:
    return Optimizer(
        name="adam",
        learning_rate=1e-3,
        weight_decay=1e-7,
        reasons={
            "name": PAPER,
            "learning_rate": f"{PAPER}, {CODE}",
            "weight_decay": f"{PAPER}, {CODE}",
        },
    )
