"""Measures of agreement between a predicted mask and its reference, one pair of masks at a time.

What the numbers are where a mask is empty is a convention, and there are two:

``skip`` (default): what is undefined is NaN, and means leave it out. Both empty: every overlap and distance
is NaN (a case without the structure says nothing about how well it is segmented). Only the reference empty
(false alarm): Dice, Jaccard, precision and NSD are 0, sensitivity and distances NaN. Only the prediction
empty (missed): Dice, Jaccard, sensitivity and NSD are 0, precision and distances NaN.

``brats``: every case counts. Both empty: overlaps are 1, distances 0. One empty: overlaps are 0, distances
:data:`BRATS_PENALTY_MM`.
"""

from typing import Literal, get_args

import numpy as np

from autoseg.data.boxes import bounding_box
from autoseg.evaluation.surface import Spacing, SurfaceDistances, surface_distances
from autoseg.utils.errors import UsageError

Empty = Literal["skip", "brats"]

#: Overlaps (share, 0 to 1; more is better).
OVERLAPS = ("dice", "jaccard", "sensitivity", "precision", "nsd")
#: Distances (mm; less is better): 95th percentile, maximum and average of the symmetric surface distances.
DISTANCES = ("hd95", "hd", "assd")
#: Volumes in ml; the difference is prediction minus reference.
VOLUMES = ("prediction_ml", "reference_ml", "difference_ml")
#: Every measure, in the order of the tables.
METRICS = (
    "dice",
    "jaccard",
    "nsd",
    "hd95",
    "hd",
    "assd",
    "sensitivity",
    "precision",
    "specificity",
    *VOLUMES,
)

#: Distance counted where one mask is empty under the BraTS convention, 373.1287 mm: the diagonal of the
#: challenge's 240×240×155 mm image space (later editions round it up to 374).
BRATS_PENALTY_MM = float(np.sqrt(240**2 + 240**2 + 155**2))

#: Tolerance of the normalised surface Dice where none is given, in mm.
TOLERANCE_MM = 2.0


def dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Dice coefficient of two bool arrays of the same shape; NaN where both are empty."""
    size = int(np.count_nonzero(prediction)) + int(np.count_nonzero(reference))
    if size == 0:
        return float("nan")
    return 2 * int(np.count_nonzero(prediction & reference)) / size


def measure(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: Spacing,
    *,
    tolerance: float = TOLERANCE_MM,
    empty: Empty = "skip",
    voxels: int | None = None,
) -> dict[str, float]:
    """Compare a predicted mask with its reference.

    Args:
        prediction: bool ``(z, y, x)``; for a picture ``(1, y, x)``, measured in its plane.
        reference: bool, of the same shape.
        spacing: mm ``(z, y, x)``.
        tolerance: of the normalised surface Dice, in mm.
        empty: convention for empty masks, see the top of this module.
        voxels: number of voxels that count, for the specificity; default: all of the array. Give it where the
            arrays are cut out of a larger image.

    Returns:
        A value for each of :data:`METRICS`, in that order.

    Raises:
        UsageError: the shapes differ, the tolerance is negative, or the convention is unknown.

    Example:
        >>> cube = np.zeros((10, 10, 10), bool)
        >>> cube[2:8, 2:8, 2:8] = True
        >>> round(measure(np.roll(cube, 1, axis=0), cube, (1.0, 1.0, 1.0))["dice"], 3)
        0.833
    """
    check_options(tolerance, empty)
    if prediction.shape != reference.shape:
        raise UsageError(
            f"a prediction of shape {prediction.shape} can't be compared with a reference of "
            f"{reference.shape}; bring both to one grid."
        )
    total = prediction.size if voxels is None else voxels
    box = bounding_box(prediction | reference)
    prediction, reference = prediction[box], reference[box]
    true_positive = int(np.count_nonzero(prediction & reference))
    false_positive = int(np.count_nonzero(prediction)) - true_positive
    false_negative = int(np.count_nonzero(reference)) - true_positive
    predicted, real = true_positive + false_positive, true_positive + false_negative
    negative = total - real
    if predicted and real:
        distances: SurfaceDistances | None = surface_distances(prediction, reference, spacing)
    else:
        distances = None
    ml = float(np.prod(spacing)) / 1000
    found = {
        "dice": _ratio(2 * true_positive, predicted + real),
        "jaccard": _ratio(true_positive, predicted + false_negative),
        "sensitivity": _ratio(true_positive, real),
        "precision": _ratio(true_positive, predicted),
        "specificity": _ratio(negative - false_positive, negative),
        "prediction_ml": predicted * ml,
        "reference_ml": real * ml,
        "difference_ml": (predicted - real) * ml,
        **_surface_metrics(distances, tolerance, anything=bool(predicted or real)),
    }
    if empty == "brats" and distances is None:
        neither = predicted + real == 0
        found.update(dict.fromkeys(OVERLAPS, 1.0 if neither else 0.0))
        found.update(dict.fromkeys(DISTANCES, 0.0 if neither else BRATS_PENALTY_MM))
    return {name: found[name] for name in METRICS}


def check_options(tolerance: float, empty: str) -> None:
    """Refuse what can't be measured with.

    Raises:
        UsageError: a negative tolerance, or an unknown convention.
    """
    if not tolerance >= 0:
        raise UsageError(f"--tolerance {tolerance} is no distance; give 0 or more millimetres.")
    if empty not in get_args(Empty):
        raise UsageError(f"--empty {empty} is unknown; choose one of {', '.join(get_args(Empty))}.")


def _surface_metrics(distances: SurfaceDistances | None, tolerance: float, anything: bool) -> dict[str, float]:
    if distances is None:
        nothing = float("nan")
        return {"hd95": nothing, "hd": nothing, "assd": nothing, "nsd": 0.0 if anything else nothing}
    return {
        "hd95": distances.hausdorff(95),
        "hd": distances.hausdorff(),
        "assd": distances.average(),
        "nsd": distances.dice(tolerance),
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
