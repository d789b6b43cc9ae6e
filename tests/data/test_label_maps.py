"""Label maps as programs store them."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.data.dataset import Case, ChannelFile, Dataset, load_case
from autoseg.data.image import read_image
from autoseg.data.label_maps import LARGEST_LABEL, NotALabelMap, label_values
from autoseg.evaluation.cases import read_labels
from tests.builders import picture_of, write
from tests.nifti import scaled


def test_integers_with_a_slope_are_rounded(tmp_path: Path) -> None:
    labels = np.zeros((3, 4, 5), np.int16)
    labels[1, 1, :4] = [1, 2, 100, 30000]
    path = scaled(write(tmp_path / "label.nii", labels), 0.99999)
    assert not np.array_equal(read_image(path).array[0], labels), "the slope is applied to images"
    assert np.array_equal(label_values(read_image(path)), labels)
    assert np.array_equal(read_labels(path)[0], labels)
    case = Case(id="c", channels={"mr": ChannelFile(path=write(tmp_path / "c.nii", picture_of(labels)))}, label=path)
    assert np.array_equal(load_case(case, ["mr"]).label, labels)


def test_values_between_whole_numbers_are_refused(tmp_path: Path) -> None:
    labels = np.zeros((3, 4, 5), np.float32)
    labels[0, 0, 0] = 0.5
    path = write(tmp_path / "label.nii", labels)
    with pytest.raises(NotALabelMap, match="1 voxels of the label are no whole numbers"):
        label_values(read_image(path))
    half = scaled(write(tmp_path / "half.nii", (labels > 0).astype(np.int16)), 0.5)
    with pytest.raises(NotALabelMap, match="no whole numbers"):
        label_values(read_image(half))


@pytest.mark.parametrize("value", [40000, 614454277, LARGEST_LABEL])
def test_values_of_32_bits(tmp_path: Path, value: int) -> None:
    path = tmp_path / "label.nii.gz"
    labels = np.zeros((3, 4, 5), np.uint32)
    labels[1, 2, 3] = value
    sitk.WriteImage(sitk.GetImageFromArray(labels), str(path))
    assert label_values(read_image(path)).max() == value
    assert read_labels(path)[0][1, 2, 3] == value


def test_a_larger_value_can_not_be_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=f"label big has the value {2**32}; the largest possible one is {LARGEST_LABEL}"
    ):
        Dataset(name="d", root=tmp_path, layout="manifest", channels=("mr",), labels={"big": 2**32}, cases=())
