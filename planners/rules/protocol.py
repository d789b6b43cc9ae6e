"""A published protocol in a plan: its length in passes over the cases, and none of what the paper does not have."""

from typing import Any

from autoseg.plans.augmentation import Augmentation
from autoseg.plans.evaluation import EvaluationRules
from autoseg.plans.inference import Inference
from autoseg.plans.recipe import Recipe
from autoseg.runs.splits import FOLDS
from planners.rules.task import Task

#: Steps between two validations on whole images, about, where a paper does not say how often it validates. On a CPU a
#: step takes longer. An estimate.
_STEPS_BETWEEN = {"cpu": 250}
_USUAL_STEPS_BETWEEN = 500


def still(reason: str) -> Augmentation:
    """No augmentation.

    Args:
        reason: why none.
    """
    names = _probabilities()
    return Augmentation(
        **dict.fromkeys(names, 0.0), mirror_axes=[], reasons=dict.fromkeys([*names, "mirror_axes"], reason)
    )


def _probabilities() -> list[str]:
    """Of all changes but mirroring, and those of a previous stage's segmentation."""
    return [
        name
        for name in Augmentation.model_fields
        if name.endswith("_probability") and name != "mirror_probability" and not name.startswith("previous")
    ]


def kept_as_ours(recipe: Recipe, augmentation: str, sampling: str) -> Recipe:
    """The recipe, saying that its augmentation and its sampling are this project's, where a paper has others.

    Args:
        recipe: with both from :func:`planners.rules.systems.base_recipe`.
        augmentation: why it is ours, and what the paper or its code has; a reason that a value has already follows.
        sampling: the same of the share of patches on a structure.
    """
    changes, positions = recipe.augmentation, recipe.sampling
    names = [name for name in _probabilities() if getattr(changes, name) > 0]
    given = {
        name: f"{augmentation}. {changes.reasons[name]}" if name in changes.reasons else augmentation
        for name in [*names, "mirror_axes"]
    }
    noted = {**positions.reasons, "foreground_share": sampling}
    return recipe.model_copy(
        update={
            "augmentation": changes.model_copy(update={"reasons": {**changes.reasons, **given}}),
            "sampling": positions.model_copy(update={"reasons": noted}),
        }
    )


def changed(augmentation: Augmentation, values: dict[str, Any], reasons: dict[str, str]) -> Augmentation:
    """An augmentation with other values, validated; their ``reasons`` are added."""
    return Augmentation.model_validate(
        {**augmentation.model_dump(), **values, "reasons": {**augmentation.reasons, **reasons}}
    )


def training_cases(task: Task, rules: EvaluationRules) -> int:
    """Training cases of a fold, about."""
    rest = 1 - rules.test_share
    share = rest - rules.validation_share if rules.validation_share else rest * (1 - 1 / FOLDS)
    return max(1, round(share * len(task.fingerprint.cases)))


def in_passes(recipe: Recipe, task: Task, rules: EvaluationRules, batch: int) -> Recipe:
    """The recipe with epochs of one pass over the training cases, in place of a number of steps.

    Its length stays about the same, and so do the steps between validations.

    Args:
        recipe: with epochs of a number of steps; its sampling says from how many cases a batch comes.
        task: the data.
        rules: what is held out.
        batch: patches a step.
    """
    passing = recipe.model_copy(update={"epoch_length": "pass"})
    cases = training_cases(task, rules)
    steps = passing.steps_of_epoch(cases, batch)
    total = recipe.epochs * recipe.iterations_per_epoch
    between = _STEPS_BETWEEN.get(task.request.device, _USUAL_STEPS_BETWEEN)
    every = max(1, round(between / steps))
    return passing.model_copy(
        update={
            "epochs": max(1, round(total / steps)),
            "iterations_per_epoch": steps,
            "validate_every": every,
            "reasons": {
                **recipe.reasons,
                "epochs": f"ours, about {total} steps: {recipe.reasons.get('epochs', 'as usual')}",
                "epoch_length": "ours: one pass over the training cases, as the paper defines no epoch",
                "iterations_per_epoch": f"what a pass over about {cases} cases takes",
                "validate_every": f"ours: some {between} steps",
            },
        }
    )


def lasting(recipe: Recipe, task: Task, length: tuple[int, int], source: str, validated: str = "") -> Recipe:
    """The recipe with a paper's epochs; validated after each on a GPU, and as often as usual on a CPU.

    On as many cases as this project's own planners have it, not on all as papers do.

    Args:
        recipe: of another length.
        task: the data.
        length: epochs, and steps of each.
        source: of both numbers.
        validated: where the paper shows a validation after each epoch, if it does.
    """
    every = max(1, round(_STEPS_BETWEEN["cpu"] / length[1])) if task.cpu else 1
    reasons = {
        "epochs": source,
        "iterations_per_epoch": source,
        "validate_every": validated if validated and every == 1 else f"ours: some {every * length[1]} steps",
        "validate_cases": f"ours, for time: {recipe.validate_cases} at most; the paper speaks of all",
    }
    return recipe.model_copy(
        update={
            "epochs": length[0],
            "iterations_per_epoch": length[1],
            "validate_every": every,
            "reasons": {**recipe.reasons, **reasons},
        }
    )


def without_mirroring(inference: Inference, reason: str) -> Inference:
    """Inference without test-time augmentation, where a paper describes none; probabilities are averaged."""
    return inference.model_copy(
        update={
            "mirror_axes": [],
            "average": "probabilities",
            "reasons": {**inference.reasons, "mirror_axes": reason, "average": "ours: what papers average"},
        }
    )
