import numpy as np
import pytest

from autoseg.data.counts import value_counts


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64, np.float32, bool])
def test_counts_are_numpys(kind):
    labels = np.random.default_rng(0).integers(0, 5, (3, 4, 5)).astype(kind)
    values, counts = np.unique(labels, return_counts=True)
    assert value_counts(labels) == dict(zip(values.tolist(), counts.tolist(), strict=True))
    assert list(value_counts(labels)) == sorted(value_counts(labels))


def test_values_that_no_table_holds():
    assert value_counts(np.array([[-3, 7], [7, 1 << 30]])) == {-3: 1, 7: 2, 1 << 30: 1}
    assert value_counts(np.zeros((0, 2), np.uint8)) == {}
