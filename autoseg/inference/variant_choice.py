"""In which variant networks predict: that of their training, where it was on such a device."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from autoseg.plans.stage import Stage
from autoseg.runs.weight_files import read_metadata
from autoseg.step.setup import StepSetup
from autoseg.step.tune import fastest_forward, known_variant
from autoseg.step.variant import VARIANT, Variant, recorded


def inference_variant(stage: Stage, device: torch.device, weights: Sequence[Path] = (), passes: int = 0) -> Variant:
    """The variant to predict in; never compiled, since the shapes of batches vary.

    The first of: the variant that the weights say they were trained in, on a device like this; the fastest known
    from a training of such a stage on this device; the fastest forward pass, measured where many are to come; a guess.
    The precision is the plan's, where it has one for predictions.

    Args:
        stage: of the plan.
        device: to compute on.
        weights: files of the stage's networks.
        passes: of a network over a batch of tiles, that are to come; 0 where unknown.
    """
    recipe = stage.recipe
    if stage.inference.precision is not None:
        recipe = recipe.model_copy(update={"precision": stage.inference.precision})
    setup = replace(StepSetup.of(stage), recipe=recipe)
    records = (recorded(read_metadata(path).get(VARIANT, ""), device) for path in weights)
    found = next((variant for variant in records if variant is not None), None) or known_variant(setup, device)
    if found is None:
        tiles = setup.at(stage.configuration.tile_size, stage.inference.tile_batch)
        found = fastest_forward(tiles, device, passes)
    dtype = found.dtype if recipe.precision == "auto" else Variant.untimed(recipe, device).dtype
    return Variant(dtype, found.channels_last)
