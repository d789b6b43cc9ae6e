"""What planners of published systems have in common: the paper's network and recipe, shrunk to what there is.

A planner calls, in this order, :func:`planners.rules.task.open_task` (which data), :func:`planners.rules.fitting.fit`
(patch and batch), :func:`base_recipe` and :func:`adopt` (the recipe), :func:`configure` and :func:`assemble`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from autoseg import __version__
from autoseg.networks import parameters_of
from autoseg.plans.architecture import Network
from autoseg.plans.configuration import Configuration
from autoseg.plans.evaluation import EvaluationRules
from autoseg.plans.inference import Inference
from autoseg.plans.plan import Plan
from autoseg.plans.preprocessing import Normalization, Preprocessing
from autoseg.plans.recipe import Recipe
from planners.rules.budget import USABLE
from planners.rules.fitting import Size
from planners.rules.mirroring import mirror_axes
from planners.rules.normalization import channels
from planners.rules.recipe import Data, inference, recipe
from planners.rules.task import StageTask, Task

#: ``recipe.channel_dropout`` where some cases lack a channel: their patterns are few, and a new case may have another
#: one. An estimate, not yet a measurement.
CHANNEL_DROPOUT = 0.1


@dataclass(frozen=True)
class Preparation:
    """How a paper prepares and splits its data, where it says so; its images are skull-stripped, all of them.

    Attributes:
        normalization: for every channel that is no CT; this project's own rule where None.
        box: that images are cropped to, voxels; none where None.
        box_reason: why this one, or why none.
        evaluation: splits and conventions.
        target_reason: why the target is what it is, in place of the usual reason.
        reasons: of further values of the preprocessing, in place of the usual ones.
    """

    normalization: Normalization | None = None
    box: tuple[int, int, int] | None = None
    box_reason: str = ""
    evaluation: EvaluationRules = field(default_factory=EvaluationRules)
    target_reason: str = ""
    reasons: Mapping[str, str] = field(default_factory=dict)


def base_recipe(
    stage: StageTask, patch: Sequence[int], batch: int, batch_dice: bool = True, paced: bool = False
) -> tuple[Recipe, Inference]:
    """Length of the training, augmentation and mirroring as this project's own planners choose them.

    Args:
        stage: the data.
        patch: voxels.
        batch: patches a step.
        batch_dice: whether a patch sees too little of an image for a Dice of its own.
        paced: whether a step of one patch was planned to take half the time of one of two.
    """
    task = stage.task
    mirrored, why = mirror_axes(
        task.fingerprint,
        task.request.device,
        [output.name for output in task.target.outputs],
        task.grid.transpose,
        len(patch),
    )
    cases = len(task.fingerprint.cases)
    facts = Data(task.request.device, cases, stage.shape, patch, batch, batch_dice, mirrored, why, paced)
    return recipe(facts), inference(mirrored, batch)


def adopt(base: Recipe, own: Recipe) -> Recipe:
    """The base recipe with what comes from a paper.

    Args:
        base: from :func:`base_recipe`.
        own: the paper's; values that are not set in it are the base's. Its ``reasons`` are added to the base's.
    """
    update = {name: getattr(own, name) for name in own.model_fields_set}
    return base.model_copy(update={**update, "reasons": {**base.reasons, **own.reasons}})


def configure(
    stage: StageTask,
    network: Network,
    size: Size,
    recipe: Recipe,
    inference: Inference,
    reasons: Mapping[str, str] | None = None,
) -> Configuration:
    """Put a configuration together.

    Args:
        stage: what it is given, and has to segment.
        network: topology.
        size: patch and batch.
        recipe: how to train it.
        inference: how to apply it.
        reasons: in place of the usual ones, or further ones.
    """
    parameters, with_statistics = parameters_of(network, stage.in_channels, stage.target.heads)
    return Configuration(
        spacing=stage.spacing,
        data=stage.data,
        resampling=stage.resampling,
        patch_size=list(size.patch),
        batch_size=size.batch,
        network=network,
        recipe=recipe,
        inference=inference,
        previous=stage.previous,
        target=None if stage.target is stage.task.target else stage.target,
        memory=size.memory,
        parameters=parameters,
        parameters_with_statistics=with_statistics,
        reasons={
            "spacing": stage.spacing_reason,
            "patch_size": size.patch_reason,
            "batch_size": size.batch_reason,
            "memory": f"computed for one training step in {size.memory.precision}: {size.memory.total / 1e9:.2f} GB",
            **(reasons or {}),
        },
    )


def assemble(
    task: Task,
    planner: str,
    configurations: dict[str, Configuration],
    recommended: str,
    recommended_reason: str,
    preparation: Preparation | None = None,
) -> Plan:
    """Put the plan together.

    Args:
        task: the data.
        planner: name.
        configurations: by name.
        recommended: one of them.
        recommended_reason: why that one.
        preparation: of a paper; None for this project's own.
    """
    published = preparation is not None
    preparation = preparation or Preparation()
    inputs = channels(task.fingerprint, task.names)
    if preparation.normalization is not None:
        inputs = [
            channel
            if channel.normalization.scheme == "ct"
            else channel.model_copy(update={"normalization": preparation.normalization})
            for channel in inputs
        ]
    reasons = {
        "recommended": recommended_reason,
        "gpu_memory_gb": f"plans fill at most {100 * USABLE:.1f} % of it; the rest is for fragmentation",
        **task.reasons,
    }
    if task.allow_missing:
        reasons["allow_missing_channels"] = "some cases lack a channel; it is then zero"
    configurations = {
        name: configuration.model_copy(update={"recipe": dropping(task, configuration.recipe)})
        for name, configuration in configurations.items()
    }
    asked = task.request.annotators
    apart = bool(asked) and all(c.network.answers == len(asked) for c in configurations.values())
    if apart:
        reasons["raters"] = "asked for: each is learned by a decoder of its own, behind one encoder"
    prepared = {
        "transpose": task.grid.transpose_reason,
        "crop": "nothing is to be learned from zeros around the image",
    }
    if preparation.box_reason:
        prepared["box"] = preparation.box_reason
    if published:
        prepared["outside_mask"] = "ours: papers have skull-stripped images; a case without a brain mask stays as it is"
    prepared |= preparation.reasons
    if preparation.target_reason:
        reasons["target"] = preparation.target_reason
    return Plan(
        autoseg_version=__version__,
        planner=planner,
        dataset=task.fingerprint.dataset,
        device=task.request.device,
        gpu_memory_gb=task.request.gpu_memory_gb,
        channels=inputs,
        allow_missing_channels=task.allow_missing,
        target=task.target,
        raters=list(asked) if apart else [],
        preprocessing=Preprocessing(
            transpose=task.grid.transpose,
            box=preparation.box,
            outside_mask="zero" if published else "kept",
            reasons=prepared,
        ),
        configurations=configurations,
        recommended=recommended,
        evaluation=preparation.evaluation,
        file_ending=task.fingerprint.file_ending,
        reasons=reasons,
    )


def dropping(task: Task, recipe: Recipe) -> Recipe:
    """The recipe, trained for cases that lack other channels than those of the training.

    A recipe that drops channels already does so as it did; the only channel is never dropped.
    """
    if len(task.names) == 1:
        return recipe.model_copy(update={"channel_dropout": 0.0})
    if recipe.channel_dropout or not task.allow_missing:
        return recipe
    reason = "some cases lack a channel, and new ones may lack any; an estimate, not measured"
    reasons = {**recipe.reasons, "channel_dropout": reason}
    return recipe.model_copy(update={"channel_dropout": CHANNEL_DROPOUT, "reasons": reasons})
