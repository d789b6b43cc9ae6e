"""Shared by planners ``albunet2d`` and ``albunet3d``: the networks of Wacker et al. 2019 (arXiv 1912.12452).

Where the paper is silent, its authors' released code decides: the decoder's widths, a constant rate, the Dice over the
batch, equal weights of overlapping tiles. But its augmentation is left at what section III-D lists.
"""

from collections.abc import Sequence

from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.evaluation import EvaluationRules
from autoseg.plans.families import Inflated
from autoseg.plans.loss import Loss
from autoseg.plans.plan import Plan
from autoseg.plans.preprocessing import Normalization
from autoseg.plans.recipe import Initialization, Optimizer, Recipe, Sampling
from autoseg.plans.schedule import Schedule
from planners.rules.fitting import Wanted, fit
from planners.rules.mirroring import flips
from planners.rules.protocol import changed, lasting, still, without_mirroring
from planners.rules.systems import Preparation, adopt, assemble, base_recipe, configure
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

#: Reason of what the released code alone augments; the list of section III-D need not be whole ("include").
_UNLISTED = f"ours, none: {_PAPER}, section III-D, do not list it; the released code has"


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
    task = open_task(fingerprint, request, _CHANNELS, f"{_PAPER}, section III-A", exclusive=True)
    network = Inflated(
        encoder=_ENCODER,
        first_pool="2x2",
        skips=[4, 8, 16, 32],
        depth_layers=depth_layers,
        reasons={
            "family": f"{_PAPER}, section III-A: slices go through a 2D encoder, whose convolutions are 1×3×3 then",
            "encoder": f"{_PAPER}, section III-A: ResNet34 with every k×k convolution made 1×k×k",
            "first_pool": f"{_PAPER}, figure 2: 2×2 instead of 3×3",
            "skips": f"{_PAPER}, figure 2; none at half the resolution, as in the released code",
            "decoder_features": f"{_PAPER}, released code",
            "decoder_widths": f"{_PAPER}, released code",
            "depth_layers": f"{_PAPER}, section III-A: 3×1×1 convolutions in the upsampling path"
            if depth_layers
            else f"{_PAPER}, section III-A: disabled for single slices",
        },
    )
    unit = [u if side > 1 else 1 for u, side in zip(_UNIT, patch, strict=True)]
    least = [low if side > 1 else 1 for low, side in zip(_LEAST, patch, strict=True)]
    adam = Optimizer(
        name="adam",
        learning_rate=1e-3,
        weight_decay=0.0,
        reasons={
            "name": f"{_PAPER}, section III-C",
            "learning_rate": f"{_PAPER}, section III-C",
            "weight_decay": f"{_PAPER}, section III-C: none",
        },
    )
    dice = Loss(
        dice_weight=1.0,
        ce_weight=0.0,
        background=False,
        batch_dice=True,
        smooth=0.0,
        reasons={
            "dice_weight": f"{_PAPER}, eq. 2: multiple Dice",
            "ce_weight": f"{_PAPER}, section III-B: Dice alone",
            "dice_numerator": f"{_PAPER}, eq. 1",
            "background": f"{_PAPER}, section III-B: K = 3 classes without background; --set "
            "recipe.loss.background=true makes it one, as in the released code, and keeps it out of the classes",
            "batch_dice": f"{_PAPER}, released code: over the whole batch",
            "smooth": f"{_PAPER}, eq. 1, has no ε",
        },
    )
    augmented = changed(
        still(f"none: neither {_PAPER}, section III-D, nor the released code has it"),
        {
            "elastic_probability": 0.1,
            # Without a rotation this only says that single slices are bent in their plane.
            "rotation_axes": [0, 1, 2] if depth_layers else [0],
            "mirror_axes": flips([output.name for output in task.target.outputs], task.grid.transpose),
            "noise_probability": 0.15,
            "noise_std": (0.0, 0.05),
            "blur_probability": 0.15,
            "blur_sigma": (0.5, 1.5),
        },
        {
            "elastic_probability": f"{_PAPER}, section III-D: elastic deformations; as often as in the released code, "
            "how far is ours (there a scale from 0 to 0.25 of its own measure)",
            "rotation_probability": f"{_UNLISTED} 10 % of the samples turned by up to 15°",
            "scaling_probability": f"{_UNLISTED} 10 % of the samples zoomed by 0.75 to 1.25",
            "brightness_probability": f"{_UNLISTED} 15 % of the samples multiplied by 0.7 to 1.5",
            "gamma_probability": f"{_UNLISTED} exponents of 0.5 to 2 in 15 % of the samples",
            "gamma_invert_probability": f"{_UNLISTED} these on inverted intensities in 15 % of the samples",
            "mirror_axes": f"{_PAPER}, section III-D: reflections; released code: along all axes, here but where the "
            "structures have sides",
            "noise_probability": f"{_PAPER}, section III-D: noise; as often as in the released code",
            "noise_std": f"{_PAPER}, released code",
            "blur_probability": f"{_PAPER}, section III-D: blur; as often as in the released code",
            "blur_sigma": f"{_PAPER}, released code",
        },
    )
    sampling = Sampling(
        foreground_share=0.0,
        background="mask",
        reasons={
            "foreground_share": f"{_PAPER}, section III-C: none",
            "background": f"{_PAPER}, section III-C: drawn uniformly from the non-zero area",
        },
    )
    own = Recipe(
        loss=dice,
        optimizer=adam,
        schedule=Schedule(name="constant", warmup=0.0, reasons={"name": f"{_PAPER}, released code"}),
        initialization=Initialization(
            reasons={
                "source": f"{_PAPER}, section V-B: without pretraining; with it is --weights imagenet, which timm "
                "downloads, or --weights FILE"
            }
        ),
        augmentation=augmented,
        sampling=sampling,
        ema_decay=0.0,
        reasons={
            "ema_decay": f"ours: {_PAPER} name none",
            "gradient_clip": f"ours: {_PAPER} name none, nor does the released code clip",
        },
    )
    size = fit(task.full, network, own, Wanted(patch, batch, unit, least, origin=f"{_PAPER}, section III-C"))
    base, applied = base_recipe(task.full, size.patch, size.batch)
    source, shown = f"{_PAPER}, section III-C: 50 epochs of 100 batches", f"{_PAPER}, figure 4: after every epoch"
    recipe = lasting(adopt(base, own), task, (50, 100), source, shown)
    tile = [max(side, mine) for side, mine in zip(_covering(_WINDOW, task.grid.shape), size.patch, strict=True)]
    applied = without_mirroring(applied, f"{_PAPER} describe no test-time augmentation")
    inference = applied.model_copy(
        update={
            "patch_size": tile,
            "step": [tile[0], _STEP_IN_PLANE, _STEP_IN_PLANE],
            "edges": "padded",
            "gaussian_sigma": 0.0,
            "reasons": {
                **applied.reasons,
                "patch_size": f"{_PAPER}, section III-E: as large as the 3D network's patches, where the images are",
                "step": f"{_PAPER}, section III-E: {_STEP_IN_PLANE} pixels in the plane, {_WINDOW[0]} slices along z",
                "edges": f"{_PAPER}, section III-E: exactly so far apart",
                "average": f"{_PAPER}, section III-E: overlapping predictions are averaged; as probabilities is "
                "ours, the released code adds logits",
                "gaussian_sigma": f"{_PAPER}, released code: overlapping windows count alike",
            },
        }
    )
    configuration = configure(task.full, network, size, recipe, inference)
    return assemble(
        task,
        name,
        {"3d_fullres": configuration},
        "3d_fullres",
        "the only one",
        Preparation(
            normalization=Normalization(
                scheme="zscore",
                masked=True,
                reasons={
                    "scheme": f"{_PAPER}, section III-D: each channel of each patient; as z-scores is ours",
                    "masked": f"ours: of the non-zero regions that {_PAPER}, section III-D, crop to",
                },
            ),
            evaluation=EvaluationRules(
                validation_share=0.2,
                reasons={"validation_share": f"{_PAPER}, section IV-B: 20 %, split between patients"},
            ),
            target_reason=f"{_PAPER}, section III-A: a softmax over edema, tumor core, enhancing tumor and background",
            reasons={
                "crop": f"{_PAPER}, section III-D: to the non-zero region",
                "outside_mask": f"{_PAPER}, section IV-C: brain masks are applied; a case without one stays as it is",
            },
        ),
    )


def _covering(window: Sequence[int], image: Sequence[float]) -> list[int]:
    """The window, limited to what covers the image, in whole units of the network."""
    units = [1, _UNIT[1], _UNIT[2]]
    return [min(side, -(-round(n) // u) * u) for side, n, u in zip(window, image, units, strict=True)]
