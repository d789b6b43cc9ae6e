"""Shares of voxels, and of surface, on which a prediction and its reference agree."""

from autoseg.evaluation.metric import METRICS, MaskPair, Metric


def _dice(masks: MaskPair) -> float:
    return masks.ratio(2 * masks.shared, masks.predicted + masks.real)


def _jaccard(masks: MaskPair) -> float:
    return masks.ratio(masks.shared, masks.predicted + masks.real - masks.shared)


def _surface_dice(masks: MaskPair) -> float:
    if masks.an_empty_one:
        return masks.ratio(0.0, masks.predicted + masks.real)
    return masks.surfaces.dice(masks.tolerance_mm)


def _sensitivity(masks: MaskPair) -> float:
    return masks.ratio(masks.shared, masks.real)


def _precision(masks: MaskPair) -> float:
    return masks.ratio(masks.shared, masks.predicted)


def _specificity(masks: MaskPair) -> float:
    negative = masks.voxels - masks.real
    return masks.ratio(negative - (masks.predicted - masks.shared), negative)


def _accuracy(masks: MaskPair) -> float:
    return masks.ratio(masks.voxels - masks.predicted - masks.real + 2 * masks.shared, masks.voxels)


METRICS.register("dice", Metric(_dice, "Dice", kind="overlap", better="more", symmetric=True))
METRICS.register("jaccard", Metric(_jaccard, "Jaccard", kind="overlap", better="more", symmetric=True))
METRICS.register(
    "nsd", Metric(_surface_dice, "NSD", kind="overlap", better="more", symmetric=True, uses_tolerance=True)
)
METRICS.register("sensitivity", Metric(_sensitivity, "Sensitivity", kind="overlap", better="more"))
METRICS.register("precision", Metric(_precision, "Precision", kind="overlap", better="more"))
METRICS.register("specificity", Metric(_specificity, "Specificity", kind="other", better="more", digits=4))
METRICS.register("accuracy", Metric(_accuracy, "Accuracy", kind="other", better="more", digits=4, symmetric=True))
