from itertools import chain, combinations

import numpy as np
import pytest

from autoseg.data.description import StructureMasks
from autoseg.data.structure_masks import combination_value, labels_of_masks, missing_masks, read_label_map
from autoseg.utils.errors import AutosegError
from tests.builders import write

NAMES = ("cord", "grey")


def masks(folder, **arrays):
    paths = {name: write(folder / f"{name}.nii.gz", np.asarray(array)) for name, array in arrays.items()}
    return StructureMasks(structures=NAMES, masks=paths)


def line(*voxels):
    return np.array(voxels, np.uint8).reshape(1, 1, -1)


@pytest.mark.parametrize("structures", [1, 3, 5])
def test_every_combination_has_a_value_of_its_own(structures):
    """All non-empty subsets are numbered from 1 without a gap, small ones first."""
    subsets = chain.from_iterable(combinations(range(structures), size) for size in range(1, structures + 1))
    values = {subset: combination_value(subset, structures) for subset in subsets}
    assert sorted(values.values()) == list(range(1, 2**structures))
    assert [values[n,] for n in range(structures)] == list(range(1, structures + 1))


def test_too_many_at_one_place_is_refused():
    with pytest.raises(AutosegError, match="more than a label map can hold"):
        combination_value(range(8), 117)


def test_masks_apart_are_labels(tmp_path):
    source = masks(tmp_path, cord=line(255, 0, 0, 0), grey=line(0, 0, 1, 1).astype(float))
    assert labels_of_masks([source]) == ({"cord": 1, "grey": 2}, {})
    np.testing.assert_array_equal(read_label_map(source).array[0], line(1, 0, 2, 2))


def test_masks_that_overlap_are_regions(tmp_path):
    source = masks(tmp_path, cord=line(1, 1, 0, 0), grey=line(0, 1, 1, 0))
    labels, regions = labels_of_masks([source])
    assert labels == {"cord only": 1, "grey only": 2, "cord and grey": 3}
    assert regions == {"cord": (1, 3), "grey": (2, 3)}
    label = read_label_map(source).array[0]
    np.testing.assert_array_equal(label, line(1, 3, 2, 0))
    np.testing.assert_array_equal(np.isin(label, regions["cord"]), line(1, 1, 0, 0))
    np.testing.assert_array_equal(np.isin(label, regions["grey"]), line(0, 1, 1, 0))


def test_a_few_voxels_outside_are_nested_and_said(tmp_path, capsys):
    cord, grey = np.zeros((2, 1, 20, 20), np.uint8)
    cord[:, 1:] = 1
    grey[:, 1:11] = 1
    grey[0, 0, 0] = 1
    _, regions = labels_of_masks([masks(tmp_path, cord=cord, grey=grey)])
    assert set(regions["grey"]) < set(regions["cord"])
    assert "1 of 201 voxels of grey lie outside cord" in capsys.readouterr().err


def test_a_case_may_lack_a_mask(tmp_path):
    whole = masks(tmp_path / "a", cord=line(1, 0, 0, 0), grey=line(0, 0, 1, 1))
    part = masks(tmp_path / "b", grey=line(0, 1, 0, 0))
    assert labels_of_masks([whole, part])[0] == {"cord": 1, "grey": 2}
    np.testing.assert_array_equal(read_label_map(part).array[0], line(0, 2, 0, 0))
    assert missing_masks([whole, part, None]) == {"cord": 1}


def test_what_is_no_mask_is_named(tmp_path):
    with pytest.raises(AutosegError, match=r"cord.nii.gz holds the values 0, 1, 2; a mask of one structure"):
        read_label_map(masks(tmp_path, cord=line(0, 1, 2, 0)))
    with pytest.raises(AutosegError, match=r"grey.nii.gz does not lie on the grid of"):
        read_label_map(masks(tmp_path, cord=line(0, 1, 0, 0), grey=line(0, 1, 0)))
