"""Measure one pair of masks: a prediction and its reference."""

import math
from collections.abc import Mapping

import numpy as np

from autoseg.data.boxes import bounding_box, volume_box
from autoseg.evaluation.lesions import GLIOMA_2023
from autoseg.evaluation.metric import METRICS, Kind, MaskPair, Metric
from autoseg.evaluation.protocol import STANDARD_METRICS, TOLERANCE_MM, Empty, EvaluationProtocol
from autoseg.utils.errors import UsageError

#: Distance counted where one mask is empty under the BraTS convention, 373.1287 mm: the diagonal of the
#: challenge's 240×240×155 mm image space.
BRATS_PENALTY_MM = float(np.sqrt(240**2 + 240**2 + 155**2))

#: Convention → what an overlap and a distance are worth where both masks are empty, and a distance where one is; the
#: challenges round the diagonal up in 2023, and off in 2026.
_EMPTY: dict[Empty, tuple[float, float, float]] = {
    "skip": (math.nan, math.nan, math.nan),
    "brats": (1.0, 0.0, BRATS_PENALTY_MM),
    "brats2023": (1.0, 0.0, 374.0),
    "brats2026": (math.nan, math.nan, 373.0),
}


def dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Dice coefficient of two bool arrays of the same shape; NaN where both are empty."""
    size = int(np.count_nonzero(prediction)) + int(np.count_nonzero(reference))
    if size == 0:
        return float("nan")
    return 2 * int(np.count_nonzero(prediction & reference)) / size


def measure(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: tuple[float, float, float],
    protocol: EvaluationProtocol = EvaluationProtocol(),
    *,
    voxels: int | None = None,
    lesions: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, float]:
    """Compare a predicted mask with its reference.

    Args:
        prediction: bool ``(z, y, x)``; one slice, along whichever axis, is a picture, measured in its plane.
        reference: bool, of the same shape.
        spacing: mm ``(z, y, x)``.
        protocol: which metrics, and by which conventions.
        voxels: number of voxels that count, for the specificity; default: all of the array. Give it where the
            arrays are cut out of a larger image; of a volume, cut two slices or more along each axis
            (:func:`autoseg.data.boxes.volume_box`).
        lesions: numbered lesions of prediction and reference on the same grid, where the protocol's rules join them
            through other tissues (:meth:`autoseg.evaluation.lesions.LesionRules.grouped`).

    Returns:
        Metric name → value, in the order of the protocol.

    Raises:
        UsageError: the shapes differ, or a metric is unknown.

    Example:
        >>> cube = np.zeros((10, 10, 10), bool)
        >>> cube[2:8, 2:8, 2:8] = True
        >>> round(measure(np.roll(cube, 1, axis=0), cube, (1.0, 1.0, 1.0))["dice"], 3)
        0.833
    """
    if prediction.shape != reference.shape:
        raise UsageError(
            f"a prediction of shape {prediction.shape} can't be compared with a reference of "
            f"{reference.shape}; bring both to one grid."
        )
    across = next((axis for axis, size in enumerate(prediction.shape) if size == 1), 0)
    if across:  # a sagittal or coronal slice is a picture, too
        prediction, reference = (np.moveaxis(mask, across, 0) for mask in (prediction, reference))
        lesions = None if lesions is None else (np.moveaxis(lesions[0], across, 0), np.moveaxis(lesions[1], across, 0))
        first, second = (size for axis, size in enumerate(spacing) if axis != across)
        spacing = spacing[across], first, second
    box = volume_box(bounding_box(prediction | reference), prediction.shape)
    masks = MaskPair(
        prediction[box],
        reference[box],
        spacing,
        prediction.size if voxels is None else voxels,
        protocol.tolerance_mm,
        protocol.lesions or GLIOMA_2023,
        None if lesions is None else (lesions[0][box], lesions[1][box]),
    )
    names = STANDARD_METRICS if protocol.metrics is None else protocol.metrics
    return {name: _value(METRICS.find(name), masks, protocol.empty) for name in names}


def by_convention(values: Mapping[str, float], empty: Empty) -> dict[str, float]:
    """Measured values of a structure as ``skip`` or ``brats`` has them, whichever of the two they were measured by.

    Args:
        values: metric name → value, the volumes among them.
        empty: convention for absent structures.
    """
    predicted, real = values["prediction_ml"] > 0, values["reference_ml"] > 0
    if predicted and real:
        return dict(values)
    # Where one is empty, overlaps don't depend on the other's shape.
    masks = MaskPair(np.full((1, 1, 1), predicted), np.full((1, 1, 1), real), (1.0, 1.0, 1.0), 1, TOLERANCE_MM)
    metrics = {name: METRICS.find(name) for name in values}
    return {
        name: _value(metrics[name], masks, empty) if metrics[name].kind in ("overlap", "distance") else value
        for name, value in values.items()
    }


def overlap_of_absent(empty: Empty) -> float:
    """A convention's value of an overlap where both masks are empty."""
    return _EMPTY[empty][0]


def _of_empty_ones(kind: Kind, neither: bool, empty: Empty) -> float:
    """A convention's value of an overlap or a distance where a mask is empty, or both are."""
    overlap, distance, penalty = _EMPTY[empty]
    if kind == "distance":
        return distance if neither else penalty
    return overlap if neither else 0.0


def _value(metric: Metric, masks: MaskPair, empty: Empty) -> float:
    # The package of 2026 has no distance for masks that share no voxel.
    apart = empty == "brats2026" and not masks.shared
    distance = metric.kind == "distance"
    if (masks.an_empty_one or apart) and (distance or (metric.kind == "overlap" and empty != "skip")):
        return _of_empty_ones(metric.kind, masks.predicted + masks.real == 0, empty)
    return metric.compute(masks)
