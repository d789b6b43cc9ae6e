import numpy as np
import pytest
from pydantic import ValidationError

from autoseg.data.dataset import Case, ChannelFile, Dataset, load_case
from autoseg.utils.errors import AutosegError, UsageError


@pytest.fixture
def case(tmp_path, write_volume):
    """Channels a and c of a case that lacks b, a float label and a mask, in a flipped orientation."""
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    turned = {"direction": (-1, 0, 0, 0, 1, 0, 0, 0, 1), "spacing": (1.0, 2.0, 3.0)}
    return Case(
        id="p",
        channels={
            "a": ChannelFile(path=write_volume(tmp_path / "a.nii.gz", array, **turned)),
            "c": ChannelFile(path=write_volume(tmp_path / "c.nii.gz", array * 2, **turned)),
        },
        label=write_volume(tmp_path / "label.nii.gz", (array % 3).astype(np.float32), **turned),
        mask=write_volume(tmp_path / "mask.nii.gz", (array > 5).astype(np.uint8) * 255, **turned),
    )


def test_load_case_in_the_order_asked_for(case):
    loaded = load_case(case, ["c", "b", "a"])
    flipped = np.arange(24).reshape(2, 3, 4)[..., ::-1]
    np.testing.assert_array_equal(loaded.image, np.stack([flipped * 2, np.zeros_like(flipped), flipped]))
    assert loaded.image.dtype == np.float32
    assert loaded.present == (True, False, True)
    assert loaded.spacing == (3.0, 2.0, 1.0)
    np.testing.assert_array_equal(loaded.label, flipped % 3)
    np.testing.assert_array_equal(loaded.mask, flipped > 5)
    assert load_case(case, ["a"], with_label=False).label is None


def test_load_case_refuses_other_grids_and_absent_channels(case, tmp_path, write_volume):
    with pytest.raises(AutosegError, match="none of the channels b"):
        load_case(case, ["b"])
    other = ChannelFile(path=write_volume(tmp_path / "b.nii.gz", np.ones((2, 3, 5))))
    with pytest.raises(AutosegError, match=r"b\.nii\.gz does not lie on the grid of .*a\.nii\.gz"):
        load_case(case.model_copy(update={"channels": {**case.channels, "b": other}}), ["a", "b"])
    beyond = ChannelFile(path=case.channels["a"].path, component=1)
    with pytest.raises(AutosegError, match="channel a should be number 1"):
        load_case(case.model_copy(update={"channels": {"a": beyond}}), ["a"])


def test_files_are_listed_once(case):
    assert [path.name for path in case.files] == ["a.nii.gz", "c.nii.gz", "label.nii.gz", "mask.nii.gz"]
    assert case.model_copy(update={"raters": {"x": case.label}}).files == case.files


def test_opening_what_is_not_there(tmp_path):
    with pytest.raises(AutosegError, match="does not exist"):
        Dataset.open(tmp_path / "gone")
    with pytest.raises(AutosegError, match="autoseg inspect"):
        Dataset.open(tmp_path)
    with pytest.raises(UsageError, match="--layout excel is unknown"):
        Dataset.open(tmp_path, layout="excel")


def test_finding_a_case(tmp_path):
    labelled, test = Case(id="a", channels={}), Case(id="b", channels={})
    dataset = Dataset(
        name="t", root=tmp_path, layout="msd", channels=("x",), labels={}, cases=(labelled,), unlabelled=(test,)
    )
    assert dataset.case("b") == test
    with pytest.raises(AutosegError, match="no case c"):
        dataset.case("c")


@pytest.mark.parametrize(
    "wrong", [{"channels": ()}, {"labels": {"x": 0}}, {"regions": {"r": (1, 5)}}, {"colour": "red"}]
)
def test_inconsistent_datasets_are_refused(tmp_path, wrong):
    fields = {"name": "t", "root": tmp_path, "layout": "msd", "channels": ("x",), "labels": {"a": 1}, "cases": ()}
    with pytest.raises(ValidationError):
        Dataset(**{**fields, **wrong})
