import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.data.dataset import Case, ChannelFile, Dataset
from autoseg.data.fingerprint import SAMPLE, Fingerprint, fingerprint
from autoseg.utils.errors import AutosegError


def toy(tmp_path, write_volume, **cases):
    """A dataset of one channel; each case is (image, label or None)."""
    found = []
    for name, (image, label) in cases.items():
        path = write_volume(tmp_path / f"{name}.nii.gz", image, spacing=(1.0, 2.0, 3.0))
        drawn = None
        if label is not None:
            drawn = write_volume(tmp_path / f"{name}_seg.nii.gz", label, spacing=(1.0, 2.0, 3.0))
        found.append(Case(id=name, channels={"x": ChannelFile(path=path)}, label=drawn))
    return Dataset(
        name="toy",
        root=tmp_path,
        layout="manifest",
        channels=("x",),
        labels={"a": 1, "b": 2},
        regions={"all": (1, 2)},
        ignore_label=7,
        cases=tuple(found),
    )


def test_one_case_by_hand(tmp_path, write_volume):
    rng = np.random.default_rng(1)
    image = np.zeros((6, 8, 10), np.float32)
    image[1:5, 2:7, 3:9] = rng.normal(100, 20, (4, 5, 6))
    label = np.zeros((6, 8, 10), np.uint8)
    label[2, 3, 4:8] = 1
    label[3, 4, 4:6] = 7
    (case,) = fingerprint(toy(tmp_path, write_volume, one=(image, label)), workers=1).cases
    assert case.shape == (6, 8, 10)
    assert case.cropped_shape == (4, 5, 6)
    assert case.spacing == (3.0, 2.0, 1.0), "mm in array order"
    assert case.nonzero_share == 1.0
    assert case.label_voxels == {1: 4, 2: 0, 7: 2}
    voxels = image[label == 1]
    found = case.intensities["x"]
    assert found.mean == pytest.approx(voxels.mean(), rel=1e-6)
    assert found.std == pytest.approx(voxels.std(), rel=1e-5)
    expected = np.percentile(voxels, [0.5, 50, 99.5])
    assert [found.percentile_00_5, found.percentile_50, found.percentile_99_5] == pytest.approx(expected)


def test_without_foreground_the_non_zero_voxels_count(tmp_path, write_volume):
    image = np.zeros((4, 4, 4), np.int16)
    image[1:3] = np.arange(1, 33).reshape(2, 4, 4)
    found = fingerprint(toy(tmp_path, write_volume, one=(image, np.zeros((4, 4, 4), np.uint8))), workers=1)
    assert found.cases[0].intensities["x"].mean == pytest.approx(16.5)


def test_a_case_without_labels_has_no_say_in_the_pool(tmp_path, write_volume):
    """Its whole body and the air around would outnumber small structures, and set a CT's window."""
    rng = np.random.default_rng(4)
    scans = {name: rng.normal(40, 10, (6, 8, 10)).astype(np.float32) for name in ("one", "other", "none", "ignored")}
    labels = {name: np.zeros((6, 8, 10), np.uint8) for name in scans}
    labels["one"][2, 3, 4:8], labels["other"][1:3, 2:4, 2:4], labels["ignored"][1, 1, 1:9] = 1, 2, 7
    for name in ("none", "ignored"):
        scans[name][:4] = -1000
    cases = {name: (scans[name], labels[name]) for name in scans}
    found = fingerprint(toy(tmp_path / "all", write_volume, **cases), workers=1)
    labelled = {name: cases[name] for name in ("one", "other")}
    assert found.intensities == fingerprint(toy(tmp_path / "two", write_volume, **labelled), workers=1).intensities
    assert found.cases[2].intensities["x"].percentile_00_5 == -1000, "its own entry keeps them"
    # Where no case has labelled voxels, there is nothing but the others.
    bare = {name: cases[name] for name in ("none", "ignored")}
    pooled = fingerprint(toy(tmp_path / "bare", write_volume, **bare), workers=1).intensities["x"]
    assert pooled.mean == pytest.approx(np.mean([scans["none"], scans["ignored"]]), rel=1e-5)


def test_a_big_foreground_is_sampled_for_the_pool_only(tmp_path, write_volume):
    rng = np.random.default_rng(2)
    image = rng.normal(50, 5, (40, 40, 40)).astype(np.float32)
    ones = np.ones((40, 40, 40), np.uint8)
    dim = image[:10, :10, :10] - 40
    dataset = toy(tmp_path, write_volume, big=(image, ones), small=(dim, ones[:10, :10, :10]))
    found = fingerprint(dataset, workers=1)
    assert found.cases[0].intensities["x"].mean == pytest.approx(image.mean(), rel=1e-6)
    weights = SAMPLE, 1000
    expected = np.average([image.mean(), dim.mean()], weights=weights)
    assert found.intensities["x"].mean == pytest.approx(expected, rel=5e-3)
    assert fingerprint(dataset, workers=1) == found, "the sample is seeded"
    assert fingerprint(dataset, workers=1, seed=1).intensities != found.intensities


def test_workers_change_nothing(tmp_path, write_volume):
    rng = np.random.default_rng(3)
    cases = {
        name: (rng.normal(size=(4, 5, 6)).astype(np.float32), rng.integers(0, 3, (4, 5, 6)).astype(np.uint8))
        for name in "abc"
    }
    dataset = toy(tmp_path, write_volume, **cases)
    assert fingerprint(dataset, workers=2) == fingerprint(dataset, workers=1)


def test_the_file_round_trips(tmp_path, write_volume):
    ones = np.ones((3, 3, 3), np.uint8)
    found = fingerprint(toy(tmp_path, write_volume, one=(ones * 9, ones)), workers=1)
    assert Fingerprint.model_validate(found.model_dump(mode="json")) == found
    assert found.regions == {"all": [1, 2]}
    assert found.ignore_label == 7


def test_all_unusable_cases_are_named(tmp_path, write_volume):
    ones = np.ones((3, 3, 3), np.uint8)
    dataset = toy(tmp_path, write_volume, good=(ones, ones), odd=(ones, ones[:2]), gone=(ones, ones))
    (tmp_path / "gone.nii.gz").unlink()
    with pytest.raises(AutosegError, match=r"2 of 3 cases.*odd.*gone") as error:
        fingerprint(dataset, workers=1)
    assert "autoseg inspect" in str(error.value)


def test_no_labelled_case(tmp_path):
    with pytest.raises(AutosegError, match="no labelled case"):
        fingerprint(Dataset(name="t", root=tmp_path, layout="msd", channels=("x",), labels={}, cases=()))


def test_flat_images(tmp_path):
    picture = np.arange(30, dtype=np.uint8).reshape(5, 6)
    sitk.WriteImage(sitk.GetImageFromArray(picture), str(tmp_path / "p.png"))
    sitk.WriteImage(sitk.GetImageFromArray((picture > 20).astype(np.uint8)), str(tmp_path / "p_seg.png"))
    case = Case(id="p", channels={"x": ChannelFile(path=tmp_path / "p.png")}, label=tmp_path / "p_seg.png")
    dataset = Dataset(name="t", root=tmp_path, layout="msd", channels=("x",), labels={"a": 1}, cases=(case,))
    found = fingerprint(dataset, workers=1)
    assert found.dimension == 2
    assert found.cases[0].shape == (1, 5, 6)
    assert found.cases[0].label_voxels == {1: 9}


@pytest.mark.data
def test_brats13_against_numpy(real_data):
    dataset = Dataset.open(real_data("brats13"))
    dataset = dataset.model_copy(update={"cases": dataset.cases[:1]})
    (found,) = fingerprint(dataset, workers=1).cases

    def voxels(path):
        return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))

    (case,) = dataset.cases
    label, flair, mask = voxels(case.label), voxels(case.channels["flair"].path), voxels(case.mask)
    where = np.argwhere(mask > 0)
    assert found.cropped_shape == tuple(where.max(axis=0) - where.min(axis=0) + 1)
    assert found.label_voxels == {value: int((label == value).sum()) for value in (1, 2, 3, 4)}
    assert found.intensities["flair"].mean == pytest.approx(flair[label > 0].mean(), rel=1e-4)
    assert found.intensities["flair"].percentile_99_5 == pytest.approx(np.percentile(flair[label > 0], 99.5), rel=1e-5)
