"""Planner ``finetune``: a source model's plan, with only that changed which the new data and machine make necessary.

Spacing, normalization, patch and network are the source's. Channels, labels and regions are matched by name; patch and
batch shrink where the memory (on a CPU, the time) is less, which leaves the weights' shapes as they are; the recipe
becomes one for a small cohort (:mod:`planners.rules.tuning`).
"""

import math
from collections.abc import Mapping, Sequence

from autoseg import __version__
from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.planners import Abilities, planner_can
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.architecture import Network
from autoseg.plans.augmentation import Augmentation
from autoseg.plans.configuration import Configuration, Previous
from autoseg.plans.evaluation import EvaluationRules
from autoseg.plans.families import DeepMedic, MultiView, UNet
from autoseg.plans.inference import Inference
from autoseg.plans.plan import Plan
from autoseg.plans.preprocessing import Channel
from autoseg.plans.target import Target
from autoseg.transfer.as_it_is import why_not_as_it_is
from autoseg.transfer.source import Source, SourceModel, match_channels, match_outputs, source_initialization
from autoseg.transfer.tensors import HANDED_ON, head_names
from autoseg.transfer.untouched import with_untouched
from autoseg.utils.errors import UsageError
from planners.rules.budget import USABLE
from planners.rules.fitting import Size, Wanted, fit
from planners.rules.mirroring import is_sided, mirror_axes
from planners.rules.normalization import channels as normalized
from planners.rules.recipe import HALF_TURN, TILTED, TILTED_WHY
from planners.rules.spacing import full_resolution
from planners.rules.systems import configure, dropping
from planners.rules.target import choose_channels, choose_target
from planners.rules.task import StageTask, Task
from planners.rules.tuning import beginning, chosen_tuning, keeping, lone, louder, tuned, unseen

#: Voxels of an axis that a patch is left with at least, and in which it shrinks at least.
_LEAST, _STEP = 12, 4

#: Largest tile of a prediction as a multiple of the patch's voxels. A step keeps every feature map for its backward
#: pass, some ten times what a prediction keeps at once.
_TILE = 4


@planner_can(Abilities(start="model", default=True, decoders=True))
def plan(fingerprint: Fingerprint, request: ResolvedRequest) -> Plan:
    """Plan to fine-tune the source that the request names.

    Raises:
        UsageError: no source is given; nothing in common with it; unknown channels or regions are asked for.
        AutosegError: not even the smallest patch fits the budget.
    """
    source = request.carries(Source)
    if source is None:
        raise UsageError("--planner finetune needs a model to start from: --source RUN.")
    model = source.model
    if fingerprint.dimension != model.dimension:
        kinds = {2: "pictures (2D)", 3: "volumes (3D)"}
        raise UsageError(
            f"--source {model.run.path} was trained on {kinds[model.dimension]} and the dataset has "
            f"{kinds[fingerprint.dimension]}; give a source of the same kind."
        )
    networks = [stage.network for stage in model.stage.chain]
    if request.annotators and not (len(networks) == 1 and isinstance(networks[0], UNet)):
        raise UsageError(
            f"--raters: --source {model.run.path} is no single U-Net, which alone can have a decoder for each rater; "
            "leave --raters out."
        )
    names = choose_channels(fingerprint, request.channels)
    target = choose_target(fingerprint, request.regions)
    channels = match_channels(names, model)
    outputs = match_outputs([output.name for output in target.outputs], model)
    _refuse_beyond_stages([output.name for output in target.outputs], outputs, model)
    before = model.plan
    missing = any(name not in case.intensities for case in fingerprint.cases for name in names)
    task = Task(fingerprint, request, names, target, full_resolution(fingerprint), missing)
    return Plan(
        autoseg_version=__version__,
        planner="finetune",
        dataset=fingerprint.dataset,
        device=request.device,
        gpu_memory_gb=request.gpu_memory_gb,
        channels=_channels(task, model, channels),
        allow_missing_channels=missing or before.allow_missing_channels,
        target=target,
        preprocessing=before.preprocessing.model_copy(
            update={
                "harmonize": {
                    name: before.preprocessing.harmonize[other]
                    for name, other in channels.items()
                    if other in before.preprocessing.harmonize
                },
                "reasons": dict.fromkeys(("transpose", "crop"), "the source's"),
            }
        ),
        configurations=_configurations(task, model, channels, outputs),
        recommended=model.stage.name,
        evaluation=_evaluation(before.evaluation),
        raters=list(request.annotators),
        file_ending=fingerprint.file_ending,
        reasons={
            "channels": _channel_reason(names, channels, before.channel_names),
            "recommended": f"the source is {model.title}",
            "gpu_memory_gb": f"plans fill at most {100 * USABLE:.1f} % of it; the rest is for fragmentation",
        },
    )


def _channels(task: Task, model: SourceModel, pairs: Mapping[str, str]) -> list[Channel]:
    """The source's normalization for channels that it has, the usual one for new ones."""
    known = {channel.name: channel.normalization for channel in model.plan.channels}
    usual = {channel.name: channel for channel in normalized(task.fingerprint, task.names)}
    return [
        Channel(
            name=name,
            normalization=known[pairs[name]].model_copy(
                update={"reasons": {"scheme": f"the source's, of {pairs[name]}: its weights expect it"}}
            ),
        )
        if name in pairs
        else usual[name]
        for name in task.names
    ]


def _channel_reason(names: list[str], pairs: Mapping[str, str], before: list[str]) -> str:
    dropped = [name for name in before if name not in pairs.values()]
    renamed = [f"{name} is its {pairs[name]}" for name in names if name in pairs and pairs[name] != name]
    new = [name for name in names if name not in pairs]
    parts = [
        f"the source's {', '.join(before)}",
        *renamed,
        f"new: {', '.join(new)}" if new else "",
        f"left out: {', '.join(dropped)}" if dropped else "",
    ]
    return "; ".join(part for part in parts if part)


def _evaluation(before: EvaluationRules) -> EvaluationRules:
    """The source's convention for absent structures; which of its own cases it kept aside says nothing of these."""
    usual = EvaluationRules()
    shares = {name: getattr(before, name) for name in ("test_share", "validation_share")}
    others = {
        name: f"the usual one; the source's, {share:g}, is of its own cases"
        for name, share in shares.items()
        if share != getattr(usual, name)
    }
    return usual.model_copy(update={"empty": before.empty, "reasons": {"empty": "the source's", **others}})


def _configurations(
    task: Task, model: SourceModel, channels: Mapping[str, str], outputs: Mapping[str, str]
) -> dict[str, Configuration]:
    found: dict[str, Configuration] = {}
    for stage in model.stage.chain:
        before = stage.configuration
        target = (
            task.target if before.target is None else _stage_target(task, model, stage.name, before.target, outputs)
        )
        previous = None if before.previous is None else _previous(before.previous, outputs)
        network = _network(before.network, target.kind, len(task.request.annotators))
        inputs = _inputs(task, found, previous)
        augmentation, inference = _mirrored(task, model, before)
        start = source_initialization(model, stage, inputs, target, channels, outputs)
        separate = len(model.stage.chain) > 1 or bool(task.request.annotators)
        if not separate:
            start = with_untouched(start, stage, model.steps, target, inference.mirror_axes)
        whole = not why_not_as_it_is(start, inputs, head_names(target), task.request.annotators)
        way = chosen_tuning(model.asked.tuning, task.request.device, whole and not separate)
        recipe = dropping(task, tuned(task, model, stage, way))
        start = beginning(keeping(start, whole, separate, way), model)
        augmentation = louder(augmentation, way)
        if start.keep and inference.checkpoint == "best":
            why = "those at the end, which are averaged with the source's"
            reasons = {**inference.reasons, "checkpoint": why}
            inference = inference.model_copy(update={"checkpoint": "weights", "reasons": reasons})
        recipe = unseen(recipe.model_copy(update={"initialization": start, "augmentation": augmentation}))
        asked = StageTask(
            task,
            target,
            len(inputs),
            shape=before.patch_size,
            spacing=before.spacing,
            spacing_reason="the source's: its weights know structures at this size",
            data=before.data,
            resampling=before.resampling,
            previous=previous,
        )
        unit, least = _shrinking(network, before.patch_size)
        wanted = Wanted(before.patch_size, before.batch_size, unit, least, origin="the source's")
        size = fit(asked, network, recipe, wanted)
        if size.batch == 1 < before.batch_size:
            recipe = lone(recipe, task.request.device)
        found[stage.name] = configure(asked, network, size, recipe, _fitted(inference, before, size))
    return found


def _shrinking(network: Network, patch: Sequence[int]) -> tuple[list[int], list[int]]:
    """Steps in which each axis of a patch may shrink, and how far."""
    if isinstance(network, DeepMedic):
        factors: list[int] = [network.factor] * 3
        lowest = network.nearest([1] * 3)
    else:
        factors = network.divisor
        # Two voxels at the lowest resolution, at least: one can't be normalized.
        lowest = [max(2 * factor, _LEAST) for factor in factors]
    unit = [factor * math.ceil(_STEP / factor) for factor in factors]
    while network.fits(lowest) is not None and any(low < side for low, side in zip(lowest, patch, strict=True)):
        lowest = [low + step for low, step in zip(lowest, unit, strict=True)]
    least = [side - max(0, side - low) // step * step for side, low, step in zip(patch, lowest, unit, strict=True)]
    return unit, least


def _inputs(task: Task, stages: Mapping[str, Configuration], previous: Previous | None) -> list[str]:
    """Names of the channels that a configuration's network is given."""
    if previous is None or previous.use != "channels":
        return list(task.names)
    target = stages[previous.configuration].target or task.target
    return [*task.names, *(f"{HANDED_ON}{output.name}" for output in target.outputs)]


def _refuse_beyond_stages(names: Sequence[str], outputs: Mapping[str, str], model: SourceModel) -> None:
    """Refuse an output that no stage of a source of several stages segments."""
    stages = model.stage.chain
    known = {output.name for stage in stages for output in stage.target.outputs}
    new = [name for name in names if outputs.get(name) not in known]
    if len(stages) > 1 and new:
        raise UsageError(
            f"--source {model.run.path} has several stages, none of which segments {', '.join(new)}; leave it out with "
            "--regions, say which is which with --map-label, or give a source without stages."
        )


def _stage_target(task: Task, model: SourceModel, stage: str, before: Target, outputs: Mapping[str, str]) -> Target:
    """What a stage of the source segments, by the names of the dataset."""
    wanted = [output.name for output in before.outputs]
    found = [output for output in task.target.outputs if outputs.get(output.name) in wanted]
    lacking = set(wanted) - {outputs[output.name] for output in found}
    if lacking or before.kind != task.target.kind:
        raise UsageError(
            f"--source {model.run.path} has a stage {stage} that segments {', '.join(wanted)} ({before.kind}), which "
            "the dataset has not all; say which is which with --map-label, or give a source without stages."
        )
    return before.model_copy(update={"outputs": found, "ignore": task.target.ignore})


def _previous(before: Previous, outputs: Mapping[str, str]) -> Previous:
    """The stage before, its box that of the dataset's own output."""
    own = {other: name for name, other in outputs.items()}
    return before.model_copy(update={"output": own.get(before.output, before.output)})


def _network(before: Network, kind: str, decoders: int) -> Network:
    """The source's network; what it fuses views by has no weights and follows the target; a decoder for each rater."""
    update: dict[str, object] = {"reasons": dict.fromkeys(before.reasons, "the source's")}
    if isinstance(before, MultiView):
        update["fusion"] = "sigmoid" if kind == "regions" else "softmax"
    if isinstance(before, UNet):
        update["decoders"] = max(decoders, 1)
    return before.model_copy(update=update)


def _mirrored(task: Task, model: SourceModel, before: Configuration) -> tuple[Augmentation, Inference]:
    """The source's augmentation and inference, without mirroring what is named after a side of the body."""
    augmentation, inference = before.recipe.augmentation, before.inference
    names = [output.name for output in task.target.outputs]
    allowed, why = mirror_axes(
        task.fingerprint,
        "cuda",  # all axes that may ever be mirrored: the source's choice among them stays
        names,
        model.plan.preprocessing.transpose,
        before.network.dimensions,
    )
    if model.plan.preprocessing.orientation == "stored" and any(is_sided(name) for name in names):
        allowed, why = (
            [],
            "structures belong to one side of the body, and files have their axes any way round",
        )
    kept = [axis for axis in augmentation.mirror_axes if axis in allowed]
    if kept != augmentation.mirror_axes:
        reasons = {**augmentation.reasons, "mirror_axes": why}
        update: dict[str, object] = {"mirror_axes": kept, "reasons": reasons}
        if augmentation.rotation > HALF_TURN:  # which would undo it
            reasons["rotation"] = TILTED_WHY
            update["rotation"] = TILTED
        augmentation = augmentation.model_copy(update=update)
    tested = [axis for axis in inference.mirror_axes if axis in allowed]
    return augmentation, inference.model_copy(update={"mirror_axes": tested})


def _fitted(inference: Inference, before: Configuration, size: Size) -> Inference:
    """The source's tiles, so that it predicts as it did, unless they are much larger than patches that shrank."""
    tile = inference.patch_size or before.patch_size
    if list(size.patch) == before.patch_size:
        return inference
    if math.prod(tile) > _TILE * math.prod(size.patch):
        return inference.model_copy(update={"patch_size": None, "step": None})
    reasons = {**inference.reasons, "patch_size": "the source's tiles: a prediction takes less memory than a step"}
    return inference.model_copy(update={"patch_size": list(tile), "reasons": reasons})
