"""Planner ``region_cascade``: a cascade with one network for each nested region (Wang et al. 2017, BraTS 2017).

The whole tumor is segmented in the image, its core inside the whole tumor's bounding box, the enhancing part inside the
core's. Where regions are not nested, all structures are first segmented as one, then separately inside their box.

Ours, where the released code differs: nnU-Net's augmentation (none there) and sampling of patches (at random), and no
clean-up of what the networks find, which is left to ``autoseg postprocess``.
"""

import math
from dataclasses import dataclass, replace
from itertools import pairwise

from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.configuration import Configuration, Previous
from autoseg.plans.families import MultiView
from autoseg.plans.plan import Plan
from autoseg.plans.preprocessing import Normalization
from autoseg.plans.recipe import Loss, Optimizer, Recipe, Schedule
from autoseg.plans.target import Output, Target
from planners.rules.fitting import Size, Wanted, fit
from planners.rules.protocol import kept_as_ours, without_mirroring
from planners.rules.systems import Preparation, adopt, assemble, base_recipe, configure
from planners.rules.task import Task, open_task, refuse_pictures

_PAPER = "Wang et al. 2017"
_CODE = "its released configuration"

#: Whose baseline it is.
_WACKER = "Wacker et al. 2019"

#: Sides in the plane of the patches of the three networks, their slices, and the patches in a batch (its released
#: configuration; of 19 slices 11 are left by convolutions that are not padded, which ours are).
_SIDES, _SLICES, _BATCH = (144, 96, 64), 19, 5

#: Channels of all convolutions. The third network's structures are small: its plane is halved once only.
_CHANNELS, _LEVELS = 32, (3, 3, 2)

#: Voxels around a structure's bounding box (its released configuration).
_MARGIN = 5

#: Optimizer steps (its released configuration).
_STEPS = 20_000

#: Smallest side of a patch, of an image that is no smaller: what dilated convolutions reach at the lowest resolution
#: must not all be padding.
_LEAST = 24

#: Side of the patches and their number in a batch to start from on a CPU, where a step of the paper's would take a
#: quarter of a minute, and trying every size down from them several.
_CPU_SIDE, _CPU_BATCH = 36, 2

#: Name of all structures together.
_TOGETHER = "foreground"


@dataclass(frozen=True)
class _Stage:
    """One network of the cascade: its name, its target and the index of the paper's network that it follows."""

    name: str
    target: Target
    like: int


def plan(fingerprint: Fingerprint, request: ResolvedRequest) -> Plan:
    """Plan a dataset for a cascade of regions.

    Raises:
        UsageError: unknown channels or regions are requested, or the images are no volumes.
        AutosegError: not even the smallest patch fits the budget.
    """
    task = open_task(fingerprint, request, ("flair", "t1", "t1c", "t2"), f"{_WACKER}, section V-C")
    refuse_pictures(task, "region_cascade")
    stages, why = _stages(task.target)
    configurations: dict[str, Configuration] = {}
    before: _Stage | None = None
    for stage in stages:
        configurations[stage.name] = _configuration(task, stage, before, why)
        before = stage
    return assemble(
        task,
        "region_cascade",
        configurations,
        stages[-1].name,
        "the last stage, which the others are there for",
        Preparation(
            normalization=Normalization(
                scheme="zscore", masked=True, reasons={"scheme": f"mean 0 and deviation 1 of each image ({_PAPER})"}
            )
        ),
    )


def _stages(target: Target) -> tuple[list[_Stage], str]:
    """The stages, and the reason for them."""
    outputs = target.outputs
    nested = all(set(inner.values) < set(outer.values) for outer, inner in pairwise(outputs))
    if target.kind == "regions" and nested:
        stages = [
            _Stage(_folder(output.name), _only(output, target), min(index, len(_SIDES) - 1))
            for index, output in enumerate(outputs)
        ]
        return stages, f"a binary network each, from the largest region to the smallest ({_PAPER})"
    values = sorted({value for output in outputs for value in output.values})
    together = Output(name=_TOGETHER, values=values, paint=values[0])
    return (
        [_Stage(_TOGETHER, _only(together, target), 0), _Stage("structures", target, 1)],
        f"no regions inside each other: all structures together, as {_PAPER} finds the whole tumor, then each of them",
    )


def _only(output: Output, target: Target) -> Target:
    return Target(kind="regions", outputs=[output], ignore=target.ignore)


def _folder(name: str) -> str:
    return name.replace("/", "_").replace("\\", "_").lstrip(".") or "region"


def _configuration(task: Task, stage: _Stage, before: _Stage | None, why: str) -> Configuration:
    levels = _LEVELS[stage.like]
    network = MultiView(
        features=[_CHANNELS] * levels,
        fusion="sigmoid" if stage.target.kind == "regions" else "softmax",
        reasons={
            "family": f"{_WACKER}, section V-A: residual connections, PReLU, dilated convolutions ({_PAPER})",
            "views": f"{_WACKER}, section V-C: axial, sagittal and coronal, fused ({_PAPER})",
            "features": f"{_CHANNELS} everywhere, the plane halved {'twice' if levels > 2 else 'once'} ({_PAPER})",
        },
    )
    # The paper has thin slabs for each view's own network; our views share one patch, a cube with as many voxels.
    factor = network.divisor[0]
    side = factor * round((_SLICES * _SIDES[stage.like] ** 2) ** (1 / 3) / factor)
    paper = f"{_SLICES}×{_SIDES[stage.like]}×{_SIDES[stage.like]}"
    batch = _BATCH
    if task.cpu:
        side, batch = factor * (min(side, _CPU_SIDE) // factor), _CPU_BATCH
    previous = None
    if before is not None:
        previous = Previous(
            configuration=before.name,
            use="box",
            output=before.target.outputs[0].name,
            margin=_MARGIN,
            within="mask",
            reasons={
                "configuration": f"{_WACKER}, section V-A: the whole tumor, then its core, then the active tumor",
                "within": f"{_WACKER}, section V-A: the core inside the edema, the active tumor in it",
                "margin": f"{_PAPER}, {_CODE}",
                "use": f"inside the box of what the stage before found ({_PAPER})",
            },
        )
    asked = replace(task.full, target=stage.target, previous=previous)
    own = Recipe(
        loss=_loss(),
        optimizer=_optimizer(),
        schedule=Schedule(name="constant", warmup=0.0, reasons={"name": f"{_PAPER} names no schedule"}),
        ema_decay=0.0,
        reasons={
            "ema_decay": "the paper averages no weights",
            "gradient_clip": f"ours: {_PAPER} name none, nor does their released code clip",
        },
    )
    least = [min(_LEAST, factor * math.ceil(n / factor)) for n in task.grid.shape]
    size = fit(asked, network, own, Wanted([side] * 3, batch, least=least))
    base, inference = base_recipe(asked, size.patch, size.batch)
    inference = without_mirroring(inference, f"{_PAPER} describe no test-time augmentation")
    recipe = kept_as_ours(
        adopt(base if task.cpu else _length(base), own),
        augmentation=f"ours, nnU-Net's; {_PAPER}, released code: none",
        sampling=f"ours, nnU-Net's; {_PAPER}, released code: at random, but for batches without the structure",
    )
    return configure(asked, network, size, recipe, inference, {"target": why, **_size_reasons(task, size, paper)})


def _size_reasons(task: Task, size: Size, paper: str) -> dict[str, str]:
    if task.cpu:
        why = "what a CPU computes in time"
        return {
            "patch_size": f"{why}; {_PAPER} have {paper} for each view",
            "batch_size": f"{why}; {_PAPER} have {_BATCH}",
        }
    cube = f"a cube here, of as many voxels as {paper} for each view, since all views see one patch"
    return {"patch_size": f"{size.patch_reason} ({cube})"}


def _length(base: Recipe) -> Recipe:
    """The base recipe with the length of the paper's training."""
    reasons = {**base.reasons, "epochs": f"{_STEPS} steps ({_CODE})"}
    return base.model_copy(update={"epochs": max(1, _STEPS // base.iterations_per_epoch), "reasons": reasons})


def _loss() -> Loss:
    return Loss(
        dice_weight=1.0,
        ce_weight=0.0,
        dice_denominator="squares",
        batch_dice=True,
        reasons={
            "dice_weight": f"soft Dice alone ({_PAPER})",
            "ce_weight": f"soft Dice alone ({_PAPER})",
            "dice_denominator": f"that of Milletari et al. 2016, whom {_PAPER} cite",
            "batch_dice": "ours: steadier where a patch holds little or nothing of the structure",
        },
    )


def _optimizer() -> Optimizer:
    return Optimizer(
        name="adam",
        learning_rate=1e-3,
        weight_decay=1e-7,
        reasons={
            "name": _PAPER,
            "learning_rate": f"{_PAPER}, {_CODE}",
            "weight_decay": f"{_PAPER}, {_CODE}",
        },
    )
