"""Planner ``deepmedic``: DeepMedic (Kamnitsas et al. 2017) as Rahimpour et al. (2022) trained it."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.families import DeepMedic
from autoseg.plans.inference import Inference
from autoseg.plans.plan import Plan
from autoseg.plans.preprocessing import Normalization
from autoseg.plans.recipe import Augmentation, Loss, Optimizer, Recipe, Sampling, Schedule
from autoseg.plans.tiles import tile_starts
from planners.rules.fitting import Wanted, fit
from planners.rules.mirroring import mirror_axes
from planners.rules.systems import Preparation, adopt, assemble, base_recipe, configure
from planners.rules.task import Task, case_shapes, open_task, refuse_pictures

#: Voxels of a patch, patches a step and cases they come from at most (Rahimpour et al. 2022).
_PATCH = (25, 25, 25)
_BATCH = 60
_CASES = 10

#: Sides of a tile's output at inference, besides the one that covers the largest image: 63³ are 343 times the voxels
#: of training's 9³ and take 45 times its work.
_SIDES = (9, 18, 27, 36, 45, 54, 63)

#: Tensors of the widest part of the network (the joined pathways and the 1×1×1 layers) that are alive at once in
#: inference: the two pathways and what joins them, and a layer's input and result.
_ALIVE = 3

#: Share of the rounds of Kamnitsas' own configuration after which the rate is halved for the first time (17 of 35),
#: and what five halvings leave of it.
_EXPLORE, _FLOOR = 17 / 35, 0.5**5

_PAPER = "Rahimpour et al. 2022"
_ORIGINAL = "Kamnitsas et al. 2017"


def plan(fingerprint: Fingerprint, request: ResolvedRequest) -> Plan:
    """Plan a dataset for DeepMedic.

    Raises:
        UsageError: unknown channels or regions are requested, or the images are no volumes.
        AutosegError: not even the smallest patch fits the budget.
    """
    task = open_task(fingerprint, request)
    refuse_pictures(task, "deepmedic")
    network = DeepMedic(
        reasons={
            "features": f"{_ORIGINAL}; a third of the resolution, means of 3×3×3 voxels, for the second pathway",
            "norm": f"after every layer but the last ({_PAPER})",
            "dropout": _PAPER,
            "fully_connected_dropout": _PAPER,
        }
    )
    taken = 2 * len(network.features)
    own = Recipe(
        loss=_loss(),
        optimizer=_optimizer(),
        schedule=Schedule(
            name="explore_exploit",
            warmup=0.0,
            explore=round(_EXPLORE, 2),
            floor=_FLOOR,
            reasons={
                "name": f"a straight line through the five halvings of {_ORIGINAL}'s released configuration",
                "explore": "the first of them, after 17 of 35 rounds",
                "floor": "five halvings",
            },
        ),
        sampling=_sampling(),
        ema_decay=0.0,
        reasons={"ema_decay": "the paper averages no weights"},
    )
    # Not the patch but the output is limited by the image.
    around = replace(task.full, shape=[side + taken for side in task.grid.shape])
    least = [taken + network.factor] * 3
    size = fit(around, network, own, Wanted(_PATCH, _BATCH, [network.factor] * 3, least))
    base, _ = base_recipe(task.full, network.output_size(size.patch), size.batch)
    augmentation = _augmentation(task, base.augmentation)
    recipe = adopt(base, own.model_copy(update={"augmentation": augmentation}))
    inference = _inference(task, network, augmentation.mirror_axes)
    configuration = configure(task.full, network, size, recipe, inference)
    return assemble(
        task,
        "deepmedic",
        {"3d_fullres": configuration},
        "3d_fullres",
        "the only one: DeepMedic has its low resolution inside",
        Preparation(
            normalization=Normalization(
                scheme="zscore",
                masked=True,
                reasons={"scheme": _PAPER, "masked": f"mean and deviation of the voxels that are not zero ({_PAPER})"},
            )
        ),
    )


def _loss() -> Loss:
    return Loss(
        dice_weight=0.0,
        ce_weight=1.0,
        reasons={"dice_weight": f"none ({_ORIGINAL})", "ce_weight": f"cross-entropy alone ({_ORIGINAL})"},
    )


def _optimizer() -> Optimizer:
    return Optimizer(
        name="adam",
        learning_rate=1e-3,
        weight_decay=2e-4,
        reasons={
            "name": f"ours: Adam is RMSProp with momentum, which {_ORIGINAL} used",
            "learning_rate": _ORIGINAL,
            "weight_decay": f"L2 penalty of 1e-4 times the squares ({_ORIGINAL}); their L1 penalty of 1e-6 is left out",
        },
    )


def _sampling() -> Sampling:
    return Sampling(
        foreground_share=0.0,
        foreground="voxel",
        background="mask",
        cases_per_batch=_CASES,
        reasons={
            "foreground_share": f"none: uniformly in the mask, as {_PAPER}; --set recipe.sampling.foreground_share=0.5 "
            f"centres half on lesions, as {_ORIGINAL}",
            "background": "the brain mask, or the voxels that are not zero; --set recipe.sampling.background=healthy, "
            "besides, keeps the other half off the lesions",
            "cases_per_batch": f"{_BATCH} patches from at most {_CASES} subjects ({_PAPER})",
        },
    )


def _augmentation(task: Task, base: Augmentation) -> Augmentation:
    """Mirroring as the only spatial augmentation, with this project's intensity augmentations."""
    outputs = [output.name for output in task.target.outputs]
    mirrored, why = mirror_axes(task.fingerprint, "cpu", outputs, task.grid.transpose, 3)
    still = f"none ({_ORIGINAL}); and turned boxes of 57³ for each patch would take longer than the step"
    return base.model_copy(
        update={
            "rotation_probability": 0.0,
            "scaling_probability": 0.0,
            "mirror_axes": mirrored,
            "reasons": {
                **{name: reason for name, reason in base.reasons.items() if not name.startswith("rotation")},
                "rotation_probability": still,
                "scaling_probability": still,
                "mirror_axes": f"left and right only ({_ORIGINAL})" if mirrored else why,
            },
        }
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


def _inference(task: Task, network: DeepMedic, mirrored: Sequence[int]) -> Inference:
    """Inference with larger tiles than in training."""
    taken = 2 * len(network.features)
    tile = _tile(task, network)
    patch = [n + taken for n in tile]
    return Inference(
        patch_size=patch,
        overlap=0.0,
        gaussian_sigma=0.0,
        mirror_axes=list(mirrored),
        tile_batch=1,
        reasons={
            "patch_size": f"an output of {'×'.join(map(str, tile))} voxels: the least work for all cases; the "
            "network is the same at any size",
            "overlap": "none: without padding, what lies at the edge of a tile is as good as its middle",
            "gaussian_sigma": "equal weights: tiles do not overlap",
            "mirror_axes": "those that training mirrored",
        },
    )
