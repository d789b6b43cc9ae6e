"""Dice by counting voxels, of all outputs at once: counts of parts of an image add up, and so do changes of them."""

import numpy as np

from autoseg.evaluation.masks import overlap_of_absent
from autoseg.evaluation.protocol import Empty
from autoseg.plans.target import Target


def counts(prediction: np.ndarray, reference: np.ndarray, target: Target) -> np.ndarray:
    """Voxels of each output: in the prediction, in the reference, in both; ignored ones do not count.

    Args:
        prediction: label values.
        reference: label values, of the same shape.
        target: whose outputs.

    Returns:
        int64 ``(output, 3)``.
    """
    if target.ignore is not None:
        known = reference != target.ignore
        prediction, reference = prediction[known], reference[known]
    found = []
    for output in target.outputs:
        predicted, real = (np.isin(label, output.values) for label in (prediction, reference))
        if target.ignore in output.values:
            predicted &= prediction != target.ignore
        found.append([np.count_nonzero(mask) for mask in (predicted, real, predicted & real)])
    return np.array(found, np.int64)


def dices(counted: np.ndarray, empty: Empty) -> np.ndarray:
    """Dice from :func:`counts` ``(…, 3)``; where both masks are empty, what the convention says."""
    size = counted[..., 0] + counted[..., 1]
    return np.where(size > 0, 2 * counted[..., 2] / np.maximum(size, 1), overlap_of_absent(empty))
