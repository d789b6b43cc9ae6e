"""What both networks of Rahimpour et al. share: their data, loss, augmentation, schedule and evaluation.

Rahimpour, Radwan, Vandermeulen, Sunaert, Goffin, Koole, "Investigating certain choices of CNN configurations for brain
lesion segmentation" (technical report).
"""

from collections.abc import Sequence
from dataclasses import replace

from autoseg.plans.augmentation import Augmentation
from autoseg.plans.evaluation import EvaluationRules
from autoseg.plans.inference import Inference
from autoseg.plans.loss import Loss
from autoseg.plans.preprocessing import Normalization
from autoseg.plans.recipe import Initialization, Recipe
from autoseg.plans.schedule import Schedule
from planners.rules.mirroring import flips
from planners.rules.protocol import changed, in_passes, still
from planners.rules.systems import Preparation
from planners.rules.task import Task, case_shapes

#: In the reasons of plans.
RAHIMPOUR = "Rahimpour et al."

#: Voxels ``(z, y, x)`` that every image is cropped to (section 2.1). The paper gives 143×196×144 without naming the
#: axes: a brain at 1 mm is longest from front to back (y), and an image of BraTS is 240×240×155, so 144 along z leaves
#: the least.
BOX = (144, 196, 143)

#: Validations without improvement before the rate falls, and before training stops. Ours: the rate must have fallen
#: before it is worth stopping.
_PATIENCE, _STOPPING = 5, 10

#: Degrees, zoom and voxels of the spatial augmentation, and how often each happens. Ours.
_TURN, _ZOOM, _SHIFT, _OFTEN = 15.0, (0.9, 1.1), 4.0, 0.2

#: Validation cases that a CPU has the time for.
_CPU_VALIDATED = 8


TARGET = (
    f"{RAHIMPOUR}, section 2.5: one network a task, the whole tumour here; --regions names another, or several for a "
    "sigmoid each"
)

RULES = EvaluationRules(
    test_share=0.2,
    reasons={
        "test_share": f"{RAHIMPOUR}, section 2.2: 80 % for training, 20 % for the test",
        "validation_share": f"{RAHIMPOUR}, section 2.2: none apart, but a cross-validation of five folds",
    },
)

#: Reason of a network's size.
SIZE = f"{RAHIMPOUR}, section 3.2: what the others of 25, 50 and 150 % are compared with"


def half_and_half(batch_dice: bool) -> Loss:
    """L_Comb with α = 0.5."""
    return Loss(
        dice_weight=0.5,
        ce_weight=0.5,
        batch_dice=batch_dice,
        reasons={
            "dice_weight": f"{RAHIMPOUR}, eq. 6 and section 3.1: α = 0.5 of L_Comb",
            "ce_weight": f"{RAHIMPOUR}, eq. 6 and section 3.1: 1 − α of L_Comb; unweighted is ours, L_CE of "
            "section 2.3 being weighted or focal",
            "dice_numerator": f"ours: the usual 2·Σ; {RAHIMPOUR}, eq. 5, prints no 2, so that a perfect answer costs ½",
            "smooth": f"ours: {RAHIMPOUR}, eq. 5, gives its ε no value",
            "batch_dice": "ours: the batch counts as one image, of which a patch sees a small part"
            if batch_dice
            else f"{RAHIMPOUR}, section 2.2: over all voxels of an image",
        },
    )


def with_sequences(task: Task) -> Task:
    """The task, saying where its channels come from where the user named none."""
    if task.request.channels:
        return task
    reason = f"{RAHIMPOUR}, section 2.1: four sequences; all that the dataset has"
    return replace(task, reasons={**task.reasons, "channels": reason})


def he_normal() -> Initialization:
    """Random weights, as the networks are built with."""
    where = f"{RAHIMPOUR}, section 2.2: from N(0, √(2/n)) with n inputs of a kernel; biases start at zero"
    return Initialization(reasons={"source": where})


def augmentation(task: Task) -> Augmentation:
    """Scaling, rotation in the plane, translation, flips, and a shift and scale of the intensities (section 2.2)."""
    where = f"{RAHIMPOUR}, section 2.2"
    names = [output.name for output in task.target.outputs]
    flipped = flips(names, task.grid.transpose)
    return changed(
        still(f"none ({where})"),
        {
            "rotation": _TURN,
            "rotation_axes": [list(task.grid.transpose).index(0)],
            "rotation_probability": _OFTEN,
            "scaling": _ZOOM,
            "scaling_axes": [0, 1, 2],
            "scaling_probability": _OFTEN,
            "translation": _SHIFT,
            "translation_probability": _OFTEN,
            "mirror_axes": flipped,
            "mirror_probability": 0.5,
            "transforms": {
                "gaussian_shift": {
                    "std": 0.05,
                    "probability": 1.0,
                    "reasons": {
                        "std": f"{where}: N(0, 0.05), taken as a deviation",
                        "probability": f"{where}: all data",
                    },
                },
                "gaussian_scale": {
                    "std": 0.01,
                    "probability": 1.0,
                    "reasons": {
                        "std": f"{where}: N(0, 0.01), taken as a deviation",
                        "probability": f"{where}: all data",
                    },
                },
            },
        },
        {
            "rotation": "ours: the paper gives no angle",
            "rotation_axes": f"{where}: in the plane, which is the axial one (ours)",
            "rotation_probability": f"{where}: random rotation; how often is ours",
            "scaling": "ours: the paper gives no range",
            "scaling_axes": f"{where}: random scaling; along all axes is ours",
            "scaling_probability": f"{where}: random scaling; how often is ours",
            "translation": "ours: the paper gives no distance",
            "translation_probability": f"{where}: translation; how often is ours",
            "mirror_axes": f"{where}: along the axial, coronal and sagittal axes"
            if len(flipped) == 3
            else f"ours: {', '.join(names)} belong to one side of the body; {where}: along all axes",
            "mirror_probability": f"{where}: 50 %",
            "transforms": f"{where}: of all sequences; a number for each channel is ours",
        },
    )


def on_plateaus() -> Schedule:
    """Divided by five on plateaus of the validation loss."""
    return Schedule(
        name="plateau",
        warmup=0.0,
        follows="validation_loss",
        factor=5.0,
        patience=_PATIENCE,
        reasons={
            "name": f"{RAHIMPOUR}, section 2.3: reduced when the validation loss no longer improves",
            "warmup": f"{RAHIMPOUR}: none",
            "follows": f"{RAHIMPOUR}, section 2.3: the loss of the full validation images",
            "factor": f"{RAHIMPOUR}, section 2.3: by a factor of 5",
            "patience": "ours, in validations",
        },
    )


def recipe_of(task: Task, recipe: Recipe, batch: int) -> Recipe:
    """The recipe with the paper's validation, stopping, and none of what the paper does not have.

    Args:
        task: the data.
        recipe: with loss, optimizer, schedule and sampling.
        batch: patches a step.
    """
    passing = in_passes(recipe, task, RULES, batch)
    cases = max(1, round(0.8 * len(task.fingerprint.cases) / 5))
    validated = min(cases, _CPU_VALIDATED) if task.cpu else cases
    return passing.model_copy(
        update={
            "gradient_clip": 0.0,
            "ema_decay": 0.0,
            "validate_cases": validated,
            "validation_loss": "images",
            "early_stopping": _STOPPING,
            "early_stopping_follows": "validation_loss",
            "reasons": {
                **passing.reasons,
                "epochs": f"at most; {RAHIMPOUR}, section 2.3, stop when the validation loss rises. "
                + passing.reasons["epochs"],
                "gradient_clip": f"{RAHIMPOUR}, section 2.3: Keras's defaults, which clip nothing",
                "ema_decay": f"{RAHIMPOUR} average no weights",
                "validate_cases": f"all of a fold ({RAHIMPOUR}, section 2.3: the full images)"
                if validated == cases
                else f"{_CPU_VALIDATED} of some {cases}, which is what a CPU has the time for",
                "validation_loss": f"{RAHIMPOUR}, section 2.3: of the full images",
                "early_stopping": f"ours, in validations: {RAHIMPOUR}, section 2.3, stop when the loss rises",
                "early_stopping_follows": f"{RAHIMPOUR}, section 2.3",
            },
        }
    )


def inference_of(inference: Inference) -> Inference:
    """The best validation's weights, probabilities averaged, and no test-time augmentation."""
    return inference.model_copy(
        update={
            "checkpoint": "best",
            "average": "probabilities",
            "mirror_axes": [],
            "reasons": {
                **inference.reasons,
                "checkpoint": f"{RAHIMPOUR}, section 2.2: of each fold the model with the highest validation Dice",
                "average": f"{RAHIMPOUR}, section 2.2: the predictions of the five folds are averaged",
                "mirror_axes": f"none: {RAHIMPOUR}, section 2.2, describe no test-time augmentation",
            },
        }
    )


def preparation(task: Task) -> Preparation:
    """The paper's box, normalization and hold-out test."""
    box, why = _box(task)
    return Preparation(
        normalization=Normalization(
            scheme="percentile",
            masked=True,
            reasons={
                "scheme": f"{RAHIMPOUR}, section 3.1: the 95th percentile of each image",
                "masked": f"ours: of the voxels that are not zero, as {RAHIMPOUR}, section 2.3, have it for z-scores",
            },
        ),
        box=box,
        box_reason=why,
        evaluation=RULES,
        target_reason=TARGET if len(task.target.outputs) == 1 else "",
        reasons={
            "bias_correction": f"{RAHIMPOUR}, section 3.1: none, as N4 made it worse",
            "crop": f"{RAHIMPOUR}, section 4: to the non-zero region, which saves time",
            "outside_mask": f"{RAHIMPOUR}, section 2.1: skull-stripped images; a case without a brain mask stays as "
            "it is",
        },
    )


def box_of(task: Task) -> list[int]:
    """The paper's box in the network's order of axes."""
    return [BOX[axis] for axis in task.grid.transpose]


def fits_box(task: Task) -> bool:
    """Whether the box holds most images."""
    return all(n <= side for n, side in zip(task.grid.shape, box_of(task), strict=True))


def _box(task: Task) -> tuple[tuple[int, int, int] | None, str]:
    """The paper's box if most images fit into it, else None; and the reason."""
    box: Sequence[int] = box_of(task)
    if not fits_box(task):
        return None, f"none: most images are larger than the 143×196×144 of {RAHIMPOUR}, section 2.1"
    shapes = case_shapes(task)
    larger = sum(any(n > side for n, side in zip(shape, box, strict=True)) for shape in shapes)
    cut = f"{larger} of {len(shapes)} cases are larger and lose their rim" if larger else "cuts none"
    return (box[0], box[1], box[2]), f"{RAHIMPOUR}, section 2.1: 143×196×144 (along x, y, z is ours); {cut}"
