"""Shared by planners ``albunet2d`` and ``albunet3d``: the networks of Wacker et al. 2019 (arXiv 1912.12452).

Where the paper is silent, its authors' released code decides: the decoder's widths, Adam at a
constant 1e-3, equal weights of overlapping tiles, windows a quarter of a patch apart in the plane.
"""

from collections.abc import Sequence

from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.families import Inflated
from autoseg.plans.plan import Plan
from autoseg.plans.recipe import Initialization, Loss, Optimizer, Recipe, Schedule
from planners.rules.fitting import Wanted, fit
from planners.rules.systems import adopt, assemble, base_recipe, configure
from planners.rules.task import open_task

#: Red, green and blue of the paper.
_CHANNELS = ("flair", "t1c", "t2")

#: The weights that the paper's code starts from are torchvision's.
_ENCODER = "resnet34.tv_in1k"

#: Window of the sliding prediction, overlapping in the plane and adjacent along z. Without depth layers the number of
#: slices does not change the result, and several together are faster.
_WINDOW = (24, 128, 128)
_STEP_IN_PLANE = 32

#: Steps in which a patch is reduced, and the smallest: a slice of 64×64 leaves the encoder 2×2 pixels.
_UNIT = (4, 32, 32)
_LEAST = (8, 64, 64)

_PAPER = "Wacker et al. 2019"


def plan_albunet(
    fingerprint: Fingerprint, request: ResolvedRequest, name: str, patch: Sequence[int], batch: int, depth_layers: bool
) -> Plan:
    """Plan a dataset for an AlbuNet.

    Args:
        fingerprint: of the dataset.
        request: of the user.
        name: of the planner.
        patch: of the paper, voxels.
        batch: of the paper.
        depth_layers: whether 3×1×1 convolutions join slices.

    Raises:
        UsageError: unknown channels or regions are requested.
        AutosegError: timm is missing, or not even the smallest patch fits the budget.
    """
    task = open_task(fingerprint, request, _CHANNELS, exclusive=True)
    network = Inflated(
        encoder=_ENCODER,
        first_pool="2x2",
        skips=[4, 8, 16, 32],
        depth_layers=depth_layers,
        reasons={
            "encoder": f"ResNet34 with every k×k convolution made 1×k×k ({_PAPER})",
            "first_pool": f"2×2 instead of 3×3 ({_PAPER})",
            "skips": f"none at half the resolution ({_PAPER}, released code)",
            "decoder_features": f"{_PAPER}, released code",
            "decoder_widths": f"{_PAPER}, released code",
            "depth_layers": f"3×1×1 convolutions that join slices ({_PAPER})"
            if depth_layers
            else f"single slices: nothing to join ({_PAPER})",
        },
    )
    unit = [u if side > 1 else 1 for u, side in zip(_UNIT, patch, strict=True)]
    least = [low if side > 1 else 1 for low, side in zip(_LEAST, patch, strict=True)]
    adam = Optimizer(
        name="adam",
        learning_rate=1e-3,
        weight_decay=0.0,
        reasons={"name": f"{_PAPER}, released code", "learning_rate": f"{_PAPER}, released code"},
    )
    dice = Loss(
        dice_weight=1.0,
        ce_weight=0.0,
        background=True,
        batch_dice=True,
        reasons={
            "dice_weight": f"multiple Dice: averaged over the tissue classes ({_PAPER})",
            "ce_weight": f"Dice alone ({_PAPER})",
            "background": f"a class, too ({_PAPER}, released code): else nothing keeps it out of a class not found yet",
            "batch_dice": f"over the whole batch ({_PAPER}, released code)",
        },
    )
    own = Recipe(
        loss=dice,
        optimizer=adam,
        schedule=Schedule(name="constant", warmup=0.0, reasons={"name": f"{_PAPER}, released code"}),
        initialization=Initialization(
            reasons={"source": "the paper's is --weights imagenet, which timm downloads; or --weights FILE"}
        ),
        ema_decay=0.0,
        reasons={"ema_decay": "the paper has none"},
    )
    size = fit(task.full, network, own, Wanted(patch, batch, unit, least))
    base, applied = base_recipe(task.full, size.patch, size.batch)
    recipe = adopt(base, own)
    tile = [max(side, mine) for side, mine in zip(_covering(_WINDOW, task.grid.shape), size.patch, strict=True)]
    inference = applied.model_copy(
        update={
            "patch_size": tile,
            "step": [tile[0], _STEP_IN_PLANE, _STEP_IN_PLANE],
            "gaussian_sigma": 0.0,
            "reasons": {
                **applied.reasons,
                "patch_size": f"windows as large as the 3D network's patches, where the images are ({_PAPER})",
                "step": f"{_STEP_IN_PLANE} pixels in the plane, the window's depth along z ({_PAPER})",
                "gaussian_sigma": f"overlapping windows count alike ({_PAPER}, released code)",
            },
        }
    )
    configuration = configure(task.full, network, size, recipe, inference)
    return assemble(task, name, {"3d_fullres": configuration}, "3d_fullres", "the only one")


def _covering(window: Sequence[int], image: Sequence[float]) -> list[int]:
    """The window, limited to what covers the image, in whole units of the network."""
    units = [1, _UNIT[1], _UNIT[2]]
    return [min(side, -(-round(n) // u) * u) for side, n, u in zip(window, image, units, strict=True)]
