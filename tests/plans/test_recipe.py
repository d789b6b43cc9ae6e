"""The recipe refuses what can't be trained, and its defaults stay what they were."""

from typing import Any

import pytest
from pydantic import ValidationError

from autoseg.plans.recipe import Initialization, Loss, Optimizer, Recipe, Sampling, Schedule


def test_defaults() -> None:
    """Plans of before have none of the newer keys; they must go on meaning Dice plus cross-entropy, and so on."""
    recipe = Recipe()
    loss = recipe.loss
    assert (loss.dice_weight, loss.ce_weight) == (1, 1)
    assert (loss.focal_weight, loss.tversky_weight, loss.topk_weight, loss.omega) == (0, 0, 0, None)
    assert (loss.dice_denominator, loss.batch_dice) == ("sum", True)
    assert (recipe.optimizer.name, recipe.schedule.name) == ("adamw", "cosine")
    sampling = recipe.sampling
    assert (sampling.foreground, sampling.background, sampling.cases_per_batch) == ("class", "anywhere", None)


def test_one_term_is_enough() -> None:
    for term in ("dice", "ce", "focal", "tversky", "topk"):
        Loss(**{"dice_weight": 0, "ce_weight": 0, f"{term}_weight": 0.5})


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        (Loss, {"dice_weight": 0, "ce_weight": 0}, "nothing to minimise"),
        (Loss, {"focal_weight": -1}, "focal_weight"),
        (Loss, {"tversky_alpha": 0, "tversky_beta": 0}, "no mistake would cost anything"),
        (Loss, {"omega": 0}, "omega"),
        (Loss, {"omega": 1.01}, "omega"),
        (Loss, {"topk_share": 0}, "topk_share"),
        (Loss, {"topk_share": 1.5}, "topk_share"),
        (Loss, {"dice_denominator": "cubes"}, "dice_denominator"),
        (Optimizer, {"name": "lion"}, "name"),
        (Schedule, {"name": "explore_exploit", "warmup": 0.8}, "before warmup 0.8"),
        (Schedule, {"factor": 1}, "factor"),
        (Schedule, {"patience": 0}, "patience"),
        (Sampling, {"foreground": "label"}, "foreground"),
        (Sampling, {"background": "lesion"}, "background"),
        (Sampling, {"cases_per_batch": 0}, "cases_per_batch"),
    ],
)
def test_refused(part: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        part(**values)


def test_what_looks_at_the_cases_that_judge() -> None:
    """Where these choose a share of the source: an early stop, and a rate that follows them."""
    chosen = Initialization(source="model", file="f", ensemble=["f"], keep="auto")
    looking: dict[str, Any] = {"early_stopping": 5, "schedule": Schedule(name="plateau", follows="validation_loss")}
    assert Recipe(initialization=chosen).looks_at_judges == ""
    assert Recipe(**looking).looks_at_judges == ""
    assert Recipe(initialization=chosen.model_copy(update={"keep": 0.5}), **looking).looks_at_judges == ""
    told = Recipe(initialization=chosen, **looking).looks_at_judges
    assert "set recipe.early_stopping=0 and recipe.schedule.follows=training_loss, or keep to a number" in told
    told = Recipe(initialization=chosen, early_stopping=5).looks_at_judges
    assert "set recipe.early_stopping=0, or keep to a number" in told


def test_names_of_a_source_that_are_its_own_leave_older_scores_valid() -> None:
    names: dict[str, Any] = {"source_channels": ["t1c"], "source_outputs": ["a", "b"], "channels": {"t1c": "t1c"}}
    own, swapped = ({"a": "a", "b": "b"}, {"a": "b", "b": "a"})
    starts = [Initialization(source="model", file="f", **names, outputs=outputs) for outputs in (own, swapped)]
    assert starts[0].names != starts[1].names
    assert [start.names_part for start in starts] == [[], [starts[1].names]]
