"""Planner ``deepmedic``: DeepMedic (Kamnitsas et al. 2017) as Rahimpour et al. trained it."""

import itertools
import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.families import DeepMedic
from autoseg.plans.inference import Inference
from autoseg.plans.plan import Plan
from autoseg.plans.recipe import Optimizer, Recipe, Sampling
from autoseg.plans.tiles import tile_starts
from planners.papers.rahimpour import (
    RAHIMPOUR,
    SIZE,
    augmentation,
    half_and_half,
    he_normal,
    inference_of,
    on_plateaus,
    preparation,
    recipe_of,
    with_sequences,
)
from planners.rules.fitting import Wanted, fit
from planners.rules.systems import adopt, assemble, base_recipe, configure
from planners.rules.task import Task, case_shapes, open_task, refuse_pictures, whole_of

#: Voxels of a patch, patches a step and cases they come from at most (Rahimpour et al., section 2.2).
_PATCH = (25, 25, 25)
_BATCH = 60
_CASES = 10

#: Sides of a tile's output at inference, besides the one that covers the largest image: 63³ are 343 times the voxels
#: of training's 9³ and take 45 times its work.
_SIDES = (9, 18, 27, 36, 45, 54, 63)

#: Tensors of the widest part of the network (the joined pathways and the 1×1×1 layers) that are alive at once in
#: inference: the two pathways and what joins them, and a layer's input and result.
_ALIVE = 3

_ORIGINAL = "Kamnitsas et al. 2017"


def plan(fingerprint: Fingerprint, request: ResolvedRequest) -> Plan:
    """Plan a dataset for DeepMedic.

    Raises:
        UsageError: unknown channels or regions are requested, or the images are no volumes.
        AutosegError: not even the smallest patch fits the budget.
    """
    task = with_sequences(open_task(fingerprint, whole_of(fingerprint, request)))
    refuse_pictures(task, "deepmedic")
    network = DeepMedic(
        reasons={
            "family": f"{RAHIMPOUR}, section 2.2: {_ORIGINAL}, 11 layers, without padding",
            "size": SIZE,
            "features": f"{RAHIMPOUR}, section 3.2",
            "fully_connected": f"{RAHIMPOUR}, section 3.2 (as convolutions of 1×1×1: section 2.2)",
            "factor": f"{RAHIMPOUR}, section 2.2: images downsampled three times, by which 51³ voxels are seen around "
            "a patch of 25³ (section 4: at least as many); means of 3×3×3 voxels are ours, "
            f"where {_ORIGINAL}'s code takes every third",
            "norm": f"{RAHIMPOUR}, section 2.2: batch normalization, of every layer but the last",
            "dropout": f"{RAHIMPOUR}, section 2.2: 2 % for all convolutional layers",
            "fully_connected_dropout": f"{RAHIMPOUR}, section 2.2: 50 % for the two fully connected layers",
        }
    )
    taken = 2 * len(network.features)
    own = Recipe(
        loss=half_and_half(batch_dice=True),
        optimizer=_optimizer(),
        schedule=on_plateaus(),
        sampling=_sampling(),
        initialization=he_normal(),
    )
    # Not the patch but the output is limited by the image.
    around = replace(task.full, shape=[side + taken for side in task.grid.shape])
    least = [taken + network.factor] * 3
    where = f"{RAHIMPOUR}, section 2.2"
    size = fit(around, network, own, Wanted(_PATCH, _BATCH, [network.factor] * 3, least, origin=where))
    base, _ = base_recipe(task.full, network.output_size(size.patch), size.batch)
    mine = own.model_copy(update={"augmentation": augmentation(task)})
    recipe = recipe_of(task, adopt(base, mine), size.batch)
    counted = f"{RAHIMPOUR}, section 3.2: 663,491 of four sequences and one structure, trainable there; here with the "
    counted += "statistics of batch norm, which are not trained"
    reasons = {"parameters_with_statistics": counted}
    configuration = configure(task.full, network, size, recipe, inference_of(_inference(task, network)), reasons)
    return assemble(
        task,
        "deepmedic",
        {"3d_fullres": configuration},
        "3d_fullres",
        "the only one: DeepMedic has its low resolution inside",
        preparation(task),
    )


def _optimizer() -> Optimizer:
    return Optimizer(
        name="sgd",
        learning_rate=1e-3,
        momentum=0.99,
        weight_decay=0.0,
        reasons={
            "name": f"{RAHIMPOUR}, section 2.3 and section 3.1: SGD with Nesterov momentum",
            "learning_rate": f"{RAHIMPOUR}, section 3.1",
            "momentum": f"{RAHIMPOUR}, section 2.3",
            "weight_decay": f"{RAHIMPOUR}, section 2.3: Keras's defaults, which have none",
        },
    )


def _sampling() -> Sampling:
    return Sampling(
        foreground_share=0.5,
        foreground="voxel",
        background="healthy",
        cases_per_batch=_CASES,
        reasons={
            "foreground_share": f"{RAHIMPOUR}, section 4: equally from foreground and background was best; "
            "--set recipe.sampling.foreground_share=0 --set recipe.sampling.background=mask: uniformly in the brain "
            "mask, as in section 2.2",
            "foreground": "ours: any voxel of the structures",
            "background": f"{RAHIMPOUR}, section 2.3: centred on healthy tissue",
            "cases_per_batch": f"{RAHIMPOUR}, section 2.2: {_BATCH} patches from a maximum of {_CASES} subjects",
        },
    )


def _tile(task: Task, network: DeepMedic) -> list[int]:
    """A tile's output size: of those that fit the memory, the one with the least computation for all cases.

    Larger tiles compute less context twice; a tile that just covers the images computes nothing beyond them.
    """
    taken, factor = 2 * len(network.features), network.factor
    images = np.asarray(case_shapes(task))
    largest = [factor * math.ceil(n / factor) for n in images.max(axis=0)]
    width = 2 * network.features[-1] + max(network.fully_connected)
    # Along each axis: side → tiles that each image takes.
    counts = [
        {
            side: np.array([len(tile_starts(n, side, 0.0)) for n in images[:, axis]])
            for side in {*_SIDES, min(most, _SIDES[-1])}
        }
        for axis, most in enumerate(largest)
    ]

    def work(tile: Iterable[int]) -> float:
        """Voxels that the layers of the fine pathway compute for all cases."""
        sizes = list(tile)
        tiles = np.prod([counts[axis][side] for axis, side in enumerate(sizes)], axis=0).sum()
        return float(tiles) * sum(math.prod(n + rest for n in sizes) for rest in range(0, taken, 2))

    fitting = [
        tile
        for tile in itertools.product(*(sorted(sides) for sides in counts))
        if _ALIVE * 4 * width * math.prod(n + taken for n in tile) <= task.budget
    ]
    return list(min(fitting, key=work, default=(_SIDES[0],) * 3))


def _inference(task: Task, network: DeepMedic) -> Inference:
    """Inference with larger tiles than in training."""
    taken = 2 * len(network.features)
    tile = _tile(task, network)
    patch = [n + taken for n in tile]
    return Inference(
        patch_size=patch,
        overlap=0.0,
        gaussian_sigma=0.0,
        tile_batch=1,
        reasons={
            "patch_size": f"ours: an output of {'×'.join(map(str, tile))} voxels: the least work for all cases; the "
            "network is the same at any size",
            "overlap": "ours, none: without padding, what lies at the edge of a tile is as good as its middle",
            "gaussian_sigma": "ours: equal weights, as tiles do not overlap",
        },
    )
