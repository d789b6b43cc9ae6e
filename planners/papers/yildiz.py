"""What both networks of Yıldız, Çakır & Kızılışık ("Brain tumor segmentation with 3D U-Net") share: their data."""

from autoseg.plans.evaluation import EvaluationRules
from autoseg.plans.preprocessing import Normalization
from planners.rules.systems import Preparation
from planners.rules.task import Task

#: In the reasons of plans.
YILDIZ = "Yıldız et al."

#: Voxels that a volume is cropped to (section 3), all of which a patch covers (section 4.1).
CROP = (128, 128, 128)

RULES_850_250_150 = EvaluationRules(
    test_share=0.12,
    validation_share=0.2,
    reasons={
        "test_share": f"{YILDIZ}, section 5.2.1: 150 of 1,250",
        "validation_share": f"{YILDIZ}, section 5.2.1: 250 of 1,250; 850 to train on",
    },
)


def cropped(target_reason: str) -> Preparation:
    """Cropped to 128³ and scaled to [0, 1], split 850 : 250 : 150.

    Args:
        target_reason: of the plan's target.
    """
    return Preparation(
        normalization=Normalization(
            scheme="minmax",
            reasons={
                "scheme": f"{YILDIZ}, section 3: min–max scaling",
                "masked": f"of all that the crop leaves, which is ours: {YILDIZ}, section 3, scale before they crop",
            },
        ),
        box=CROP,
        box_reason=f"{YILDIZ}, section 3: cropped to 128×128×128; around the middle of the head is ours",
        evaluation=RULES_850_250_150,
        target_reason=target_reason,
        reasons={"outside_mask": f"{YILDIZ}, section 3: skull-stripped; a case without a brain mask stays as it is"},
    )


def cropped_shape(task: Task) -> list[float]:
    """Median shape of the images within the crop, voxels."""
    return [min(side, n) for side, n in zip(CROP, task.grid.shape, strict=True)]
