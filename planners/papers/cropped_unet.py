"""Planner ``cropped_unet``: the 3D U-Net of Yıldız et al. on FLAIR volumes cropped to 128³.

Ours, where the paper is silent: 16 kernels in the first level, as many in both convolutions of a level, the
weights of the Tversky index (those of Salehi et al. 2017), the factor and patience of the falling rate.
"""

from dataclasses import replace

from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.request import ResolvedRequest
from autoseg.plans.loss import Loss
from autoseg.plans.plan import Plan
from autoseg.plans.recipe import Optimizer, Recipe, Sampling
from autoseg.plans.schedule import Schedule
from planners.papers.yildiz import CROP, YILDIZ, cropped, cropped_shape
from planners.rules.fitting import Wanted, fit
from planners.rules.plain_unet import plain_unet
from planners.rules.protocol import lasting, still, without_mirroring
from planners.rules.systems import adopt, assemble, base_recipe, configure
from planners.rules.task import open_task

_FEATURES = 16
_LEVELS = 5
_BATCH = 4

#: Epochs, and batches of each.
_LENGTH = (30, 213)


def plan(fingerprint: Fingerprint, request: ResolvedRequest) -> Plan:
    """Plan a dataset for the cropped U-Net.

    Raises:
        UsageError: unknown channels or regions are requested.
        AutosegError: not even the smallest patch fits the budget.
    """
    where = f"{YILDIZ}, section 3, has its final model on one scan (--channels t1c,t2,flair is the other model)"
    task = open_task(fingerprint, request, ("flair",), where, exclusive=True)
    shape = cropped_shape(task)
    stage = replace(task.full, shape=shape)
    source = f"ours; {YILDIZ}, section 2.4, has 64 in its example for a plane"
    plain = plain_unet(CROP, shape, task.grid.spacing, _FEATURES, _LEVELS, source)
    network = plain.model_copy(
        update={
            "pooling": "max",
            "norm": "batch",
            "reasons": {
                **plain.reasons,
                "family": f"{YILDIZ}, section 2.4: transposed convolutions and skip connections",
                "strides": f"{YILDIZ}, section 2.4: pooled four times by two, where the images have the voxels for it",
                "pooling": f"{YILDIZ}, section 2.4: max pooling",
                "encoder_blocks": f"{YILDIZ}, section 2.4: two convolutions a level",
                "activation": f"{YILDIZ}, section 2.4: ReLU",
                "norm": f"{YILDIZ}, section 2.4.1: batch normalization, which the 3D U-Net has and V-Net eschews",
                "features": f"{plain.reasons['features']}; as many in both convolutions of a level is ours, where "
                f"{YILDIZ}, section 2.4.1, halve all but the one before a pooling (32 and 64, 64 and 128)",
            },
        }
    )
    own = Recipe(
        loss=_loss(),
        optimizer=Optimizer(
            name="adam",
            learning_rate=1e-3,
            weight_decay=0.0,
            reasons={
                "name": f"{YILDIZ}, section 4.1",
                "learning_rate": f"{YILDIZ}, section 4.1",
                "weight_decay": f"ours: {YILDIZ} name none",
            },
        ),
        schedule=Schedule(
            name="plateau",
            warmup=0.0,
            floor=1e-3,
            follows="validation_loss",
            reasons={
                "name": f"{YILDIZ}, section 4.1: reduced on plateaus",
                "warmup": f"ours: {YILDIZ} name none",
                "floor": f"{YILDIZ}, section 4.1: from 1e-3 to no less than 1e-6",
                "follows": f"{YILDIZ}, section 4.1: the validation loss; of a part of the cases is ours",
                "factor": "ours",
                "patience": "ours, in validations: a tenth of the training",
            },
            patience=3,
        ),
        augmentation=still(f"{YILDIZ}, section 4.1: none is described"),
        sampling=Sampling(
            foreground_share=0.0,
            reasons={"foreground_share": f"none: a patch is all that is cropped ({YILDIZ}, section 4.1)"},
        ),
        ema_decay=0.0,
        reasons={"ema_decay": f"ours: {YILDIZ} name none", "gradient_clip": f"ours: {YILDIZ} name none"},
    )
    least = [2 * factor for factor in network.divisor]
    size = fit(stage, network, own, Wanted(CROP, _BATCH, least=least, whole=True, origin=f"{YILDIZ}, section 4.1"))
    base, inference = base_recipe(stage, size.patch, size.batch)
    recipe = lasting(adopt(base, own), task, _LENGTH, f"{YILDIZ}, section 4.1: 30 epochs of 213 batches")
    inference = without_mirroring(inference, f"{YILDIZ} describe no test-time augmentation")
    return assemble(
        task,
        "cropped_unet",
        {"3d_fullres": configure(stage, network, size, recipe, inference)},
        "3d_fullres",
        "the only one",
        cropped(f"{YILDIZ}, section 2.3 and table 4: softmax over NCR, ED, ET" if task.target.kind == "labels" else ""),
    )


def _loss() -> Loss:
    both = f"{YILDIZ}, table 4: Dice + Tversky; the compared one is --set recipe.loss.dice_weight=0 --set "
    return Loss(
        dice_weight=1.0,
        ce_weight=0.0,
        tversky_weight=1.0,
        background=True,
        reasons={
            "dice_weight": f"{YILDIZ}, table 4: Dice + Tversky",
            "ce_weight": f"{both}recipe.loss.tversky_weight=0 --set recipe.loss.ce_weight=1",
            "tversky_weight": f"{YILDIZ}, table 4; 1 − the index, as eq. 7 grows where the network is right",
            "tversky_alpha": "ours: that of Salehi et al. 2017",
            "tversky_beta": f"{YILDIZ}, section 3.0.2: false negatives weigh more; as much as in Salehi et al. 2017",
            "dice_numerator": f"{YILDIZ}, eq. 3",
            "smooth": f"ours: {YILDIZ}, eq. 3, gives its ε no value",
            "background": f"{YILDIZ}, section 3.0.1: the classes are a partition of all voxels",
            "batch_dice": "ours: the batch counts as one image",
        },
    )
