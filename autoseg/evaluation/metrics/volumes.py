"""Volumes in ml, and the difference: prediction minus reference."""

from autoseg.evaluation.metric import METRICS, MaskPair, Metric


def _prediction(masks: MaskPair) -> float:
    return masks.predicted * masks.voxel_ml


def _reference(masks: MaskPair) -> float:
    return masks.real * masks.voxel_ml


def _difference(masks: MaskPair) -> float:
    return (masks.predicted - masks.real) * masks.voxel_ml


for _name, _heading, _compute in (
    ("prediction_ml", "Predicted", _prediction),
    ("reference_ml", "Reference", _reference),
    ("difference_ml", "Difference", _difference),
):
    METRICS.register(_name, Metric(_compute, _heading, kind="volume", better="neither", unit="ml", digits=2))
