"""Lesion-wise scores by a challenge's rules, and the 95th percentile between border voxels."""

from collections.abc import Callable

from autoseg.evaluation.metric import METRICS, MaskPair, Metric
from autoseg.evaluation.surface import border_hausdorff_95


def _border_hausdorff(masks: MaskPair) -> float:
    return border_hausdorff_95(masks.prediction, masks.reference, masks.spacing)


def _score(name: str) -> Callable[[MaskPair], float]:
    def compute(masks: MaskPair) -> float:
        return float(getattr(masks.lesion_scores, name))

    return compute


METRICS.register(
    "border_hd95", Metric(_border_hausdorff, "HD95 (voxels)", "distance", "less", unit="mm", digits=2, symmetric=True)
)
METRICS.register("lesion_dice", Metric(_score("dice"), "Lesion Dice", "other", "more"))
METRICS.register("lesion_hd95", Metric(_score("hd95"), "Lesion HD95", "other", "less", unit="mm", digits=2))
METRICS.register("lesions_found", Metric(_score("found"), "Found", "other", "more", digits=1))
METRICS.register("lesions_missed", Metric(_score("missed"), "Missed", "other", "less", digits=1))
METRICS.register("lesions_false", Metric(_score("false"), "False", "other", "less", digits=1))
