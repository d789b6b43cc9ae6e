"""Fingerprints of what the scores of a source, and of shares of its weights, depend on: others are no longer true."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from autoseg.plans.reasons import without_reasons
from autoseg.plans.recipe import ABOUT_MODEL
from autoseg.preprocessing.store import StoredCase
from autoseg.runs.fold import Fold
from autoseg.utils.digest import digest
from autoseg.utils.files import read_json_table

#: Keys that recipes and inference have got since shares were first chosen: at their defaults they leave the
#: fingerprints of older scores valid.
NEWER = {
    *("average", "begin", "checkpoint", "edges"),
    *("dice_numerator", "focal_reduction", "eps", "follows", "harmonized", "rank", "source_cases"),
    *("mirror_probability", "scaling_axes", "translation", "translation_probability"),
    *("early_stopping_follows", "epoch_length", "validate_always", "validation_batches", "validation_loss"),
}

#: File beside predictions: what they were made of.
SCORED = "scored.json"


def of_source(fold: Fold) -> dict[str, Any]:
    """What tells a source, and how its channels and outputs are used, from another one."""
    initialization = fold.stage.recipe.initialization
    return {"ensemble": initialization.ensemble, "names": initialization.names}


def made_of_source(fold: Fold) -> str:
    """A fingerprint of all that the source's score depends on."""
    data = fold.run.preprocessed(fold.stage.configuration.data)
    starts = [stage.recipe.initialization for stage in fold.stage.chain]
    names = [part for start in starts for part in start.names_part]
    steps = [step.model_dump() for step in starts[-1].postprocessing]
    return digest(
        {
            "source": [start.ensemble for start in starts],
            "stage": fold.stage.identity,
            "inference": without_reasons(without_newer(fold.stage.inference)),
            "cases": [[case, StoredCase(data, case).content] for case in fold.validation_cases],
            **({"names": names} if names else {}),
            **({"postprocessing": steps} if steps else {}),
            **starts[-1].untouched_part,
        }
    )


def made_of_tuning(fold: Fold) -> str:
    """A fingerprint of what a tuning depends on, beside the source's score."""
    return digest([made_of_source(fold), without_reasons(without_newer(fold.stage.recipe)), fold.training_cases])


def without_newer(part: BaseModel) -> dict[str, Any]:
    """The values of a part of a plan, without those of :data:`NEWER` at their defaults and those about a model."""
    values = part.model_dump(mode="json")
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        if name in ABOUT_MODEL or (name in NEWER and value == field.get_default(call_default_factory=True)):
            del values[name]
        elif isinstance(value, BaseModel):
            values[name] = without_newer(value)
    return values


def noted(folder: Path) -> object:
    """What the scores in a folder were made of; None where there are none."""
    return read_json_table(folder / SCORED).get("made_of")
