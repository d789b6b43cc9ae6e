"""Counting the values of a label map."""

import numpy as np

#: Largest value that is counted in a table.
_LARGEST = 1 << 16


def value_counts(labels: np.ndarray) -> dict[int, int]:
    """Value → number of voxels, ascending, of whole numbers; as ``np.unique``, without sorting small integers."""
    if labels.dtype.kind in "ui" and labels.size and labels.min() >= 0 and labels.max() < _LARGEST:
        counts = np.bincount(labels.reshape(-1))
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    values, found = np.unique(labels, return_counts=True)
    return {int(value): int(count) for value, count in zip(values, found, strict=True)}
