"""A case to the network's grid and back: with a network that sees the truth, the truth must come out."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.data.dataset import Case, ChannelFile, load_case
from autoseg.inference.chain import TrainedStage
from autoseg.inference.formats.format import write_label
from autoseg.inference.members import Member
from autoseg.inference.predictor import Predictor
from autoseg.plans.preprocessing import Channel, Normalization, Preprocessing
from autoseg.preprocessing.case import Trace, preprocess_case, restore
from autoseg.preprocessing.scores import scores_on_original
from autoseg.utils.errors import AutosegError
from tests.builders import Perfect, blob, loaded, make_configuration, make_plan, picture_of, write


def plan_with(transpose=(0, 1, 2), crop="nonzero", spacing=(1.0, 1.0, 1.0), box=None, bias="none", **changes):
    preprocessing = Preprocessing(transpose=transpose, crop=crop, box=box, bias_correction=bias)
    return make_plan(make_configuration(spacing=spacing), preprocessing=preprocessing, **changes)


def prepare(case, plan):
    return preprocess_case(case, plan.stage("small"))


def test_crop_and_transpose_by_hand() -> None:
    image = np.zeros((4, 5, 6), np.float32)
    image[1:3, 2:5, 3:4] = np.arange(6).reshape(2, 3, 1) + 1
    label = (image > 3).astype(np.int16)
    found = prepare(loaded(image, label, (1.0, 2.0, 3.0)), plan_with((2, 0, 1), spacing=(None, None, None)))
    assert found.image.shape == (1, 1, 2, 3)
    assert np.array_equal(found.image[0, 0], image[1:3, 2:5, 3])
    assert np.array_equal(found.label[0], label[1:3, 2:5, 3])
    assert found.trace.spacing == (3.0, 1.0, 2.0)
    assert found.trace.shape == (6, 4, 5)
    assert found.trace.box == ((3, 4), (1, 3), (2, 5))
    assert found.trace.cropped_shape == (1, 2, 3)


def test_any_channel_keeps_a_voxel() -> None:
    image = np.zeros((2, 4, 4, 4), np.float32)
    image[0, 0, 1, 1], image[1, 3, 2, 2] = 1, 1
    found = prepare(loaded(image), plan_with(channels=("a", "b")))
    assert found.image.shape == (2, 4, 2, 2)


@pytest.mark.parametrize(("value", "said"), [(256, "from 1 to 256"), (-1, "from -1 to 1"), (65535, "from 1 to 65535")])
def test_values_that_are_no_colours_of_8_bits_are_refused(value: float, said: str) -> None:
    """nnU-Net's RGBTo01Normalization stops at them; clipped, a picture of 16 bits is all white."""
    image = np.ones((2, 3, 4), np.float32)
    channels = [Channel(name="red", normalization=Normalization(scheme="ct", lower=0, upper=255, mean=0, std=255))]
    plan = plan_with().model_copy(update={"channels": channels})
    image[1, 1, 1] = 255
    assert prepare(loaded(image), plan).image.max() == 1
    image[1, 1, 1] = value
    with pytest.raises(AutosegError, match=f"red has values {said}, and the plan takes colours of 8 bits, 0 to 255"):
        prepare(loaded(image), plan)
    # A scan whose intensities are brought to the training data's may come with any.
    harmonized = plan.preprocessing.model_copy(update={"harmonize": {"red": [float(v) for v in range(11)]}})
    prepare(loaded(image), plan.model_copy(update={"preprocessing": harmonized}))
    # And a CT's range is measured: beyond it there is metal.
    channels[0].normalization.mean = 1.0
    prepare(loaded(image), plan)


def test_mask_decides_crop_and_statistics() -> None:
    image = np.full((4, 4, 4), 5.0, np.float32)
    mask = np.zeros((4, 4, 4), bool)
    mask[1:3, 1:3, 1:3] = True
    image[1, 1, 1] = 13.0  # inside: seven fives and a thirteen: mean 6, std √7
    mask[2, 2, 2] = True
    channels = [Channel(name="mr", normalization=Normalization(scheme="zscore", masked=True))]
    found = prepare(loaded(image, mask=mask), plan_with().model_copy(update={"channels": channels}))
    assert found.image.shape == (1, 2, 2, 2)
    expected = np.full((2, 2, 2), -1 / np.sqrt(7))
    expected[0, 0, 0] = 7 / np.sqrt(7)
    np.testing.assert_allclose(found.image[0], expected, rtol=1e-5)


@pytest.mark.parametrize("scheme", ["none", "minmax", "percentile", "zscore"])
def test_a_mask_is_applied_whatever_the_normalization(scheme: str) -> None:
    """As the same image with zeros outside of its mask."""
    image = np.random.default_rng(0).uniform(50, 100, (2, 4, 5, 6)).astype(np.float32)
    mask = np.zeros((4, 5, 6), bool)
    mask[1:3, 1:4, 2:5] = True
    mask[2, 2, 3] = False  # a hole
    channels = [Channel(name=name, normalization=Normalization(scheme=scheme)) for name in ("a", "b")]
    plan = plan_with().model_copy(update={"channels": channels})
    zeroed = Preprocessing(**{**plan.preprocessing.model_dump(), "outside_mask": "zero"})
    found = prepare(loaded(image, mask=mask), plan.model_copy(update={"preprocessing": zeroed}))
    expected = prepare(loaded(image * mask, mask=mask), plan)
    np.testing.assert_array_equal(found.image, expected.image)
    kept = prepare(loaded(image, mask=mask), plan)
    assert not np.array_equal(found.image, kept.image)
    if scheme != "zscore":
        assert (found.image[:, 1, 1, 1] == 0).all()
    without = prepare(loaded(image, mask=np.zeros_like(mask)), plan.model_copy(update={"preprocessing": zeroed}))
    np.testing.assert_array_equal(without.image, prepare(loaded(image), plan).image)


def test_empty_mask_counts_as_none() -> None:
    """As cropping does: the image would otherwise be nothing but zeros."""
    label = blob()
    channels = [Channel(name="mr", normalization=Normalization(scheme="zscore", masked=True))]
    plan = plan_with().model_copy(update={"channels": channels})
    without = prepare(loaded(picture_of(label)), plan)
    empty = prepare(loaded(picture_of(label), mask=np.zeros(label.shape, bool)), plan)
    assert np.array_equal(empty.image, without.image)
    assert without.image.std() > 0.5


def test_image_of_zeros_survives() -> None:
    channels = [Channel(name="mr", normalization=Normalization(scheme="zscore", masked=True))]
    found = prepare(loaded(np.zeros((3, 4, 5))), plan_with().model_copy(update={"channels": channels}))
    assert found.image.shape == (1, 3, 4, 5)
    assert not found.image.any()


def test_absent_channel_is_zero() -> None:
    """Also where normalization would turn zeros into something else."""
    ct = Normalization(scheme="ct", lower=-5, upper=5, mean=2, std=1)
    channels = [Channel(name="a"), Channel(name="b", normalization=ct)]
    image = np.stack([picture_of(blob()), np.zeros(blob().shape)])
    plan = plan_with().model_copy(update={"channels": channels})
    assert not prepare(loaded(image, present=(True, False)), plan).image[1].any()
    assert prepare(loaded(image), plan).image[1].any()


def test_trace_survives_json() -> None:
    import json

    trace = prepare(loaded(picture_of(blob()), spacing=(5.0, 1.0, 1.0)), plan_with((2, 0, 1))).trace
    assert Trace.from_json(json.loads(json.dumps(trace.to_json()))) == trace
    assert trace.separate_axis == 1


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(2, 6)] * 3),
    transpose=st.permutations([0, 1, 2]),
    crop=st.sampled_from(["nonzero", "none"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_restore_inverts(shape: tuple, transpose: list, crop: str, seed: int) -> None:
    """Without resampling the way there and back is exact, whatever is cropped and turned."""
    rng = np.random.default_rng(seed)
    image = rng.uniform(1, 2, shape) * (rng.random(shape) < 0.2)
    found = prepare(loaded(image), plan_with(tuple(transpose), crop, (None, None, None)))
    back = restore(found.image[0], found.trace)
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, image.astype(np.float32))
    assert torch.equal(
        scores_on_original(torch.from_numpy(found.image[0]), found.trace, make_plan().stage()),
        torch.tensor(found.image[0]),
    )


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.5, 0.5), (0.7, 1.1, 0.9), (0.25, 1.0, 1.0)])
@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_round_trip_through_a_finer_grid(spacing: tuple, transpose: tuple) -> None:
    label = np.kron(blob((6, 6, 6))[:5, :, :] > 0, np.ones((4, 3, 2))).astype(np.int16)
    image = loaded(1.0 + label, label)
    found = prepare(image, plan_with(transpose, spacing=spacing))
    back = restore(
        (scores_on_original(torch.from_numpy(found.image[0]), found.trace, make_plan().stage()) > 1.5).numpy(),
        found.trace,
    )
    assert np.array_equal(back, label > 0)


def test_box_by_hand() -> None:
    """Of a crop of 3 × 6 × 5 transposed voxels the middle 2 × 4 × 5 stay; the image's order is another."""
    image = np.zeros((8, 7, 9), np.float32)
    image[1:7, 1:6, 3:6] = np.arange(90).reshape(6, 5, 3) + 1
    label = (image > 40).astype(np.int16)
    plan = plan_with((2, 0, 1), spacing=(None, None, None), box=(2, 4, 30))
    found = prepare(loaded(image, label), plan)
    assert found.trace.box == ((3, 5), (2, 6), (1, 6))
    part = image[2:6, 1:6, 3:5]
    assert np.array_equal(found.image[0], part.transpose(2, 0, 1))
    assert np.array_equal(found.label, (part > 40).transpose(2, 0, 1))
    back = restore(found.image[0], found.trace)
    assert np.array_equal(back[2:6, 1:6, 3:5], part)
    assert np.count_nonzero(back) == part.size


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(2, 9)] * 3),
    transpose=st.permutations([0, 1, 2]),
    crop=st.sampled_from(["nonzero", "none"]),
    box=st.tuples(*[st.integers(1, 10)] * 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_box_there_and_back(shape: tuple, transpose: list, crop: str, box: tuple, seed: int) -> None:
    """What is inside comes back where it was, what is not is zero; an image that is no larger is left alone."""
    rng = np.random.default_rng(seed)
    image = rng.uniform(1, 2, shape).astype(np.float32) * (rng.random(shape) < 0.3)
    case, free = loaded(image), (None, None, None)
    whole = prepare(case, plan_with(tuple(transpose), crop, free))
    found = prepare(case, plan_with(tuple(transpose), crop, free, box=box))
    assert found.image.shape[1:] == tuple(min(a, b) for a, b in zip(whole.image.shape[1:], box, strict=True))
    if found.image.shape == whole.image.shape:
        assert np.array_equal(found.image, whole.image)
        assert found.trace == whole.trace
    kept = restore(np.ones(found.trace.cropped_shape, bool), found.trace)
    assert np.array_equal(restore(found.image[0], found.trace), np.where(kept, image, 0))


def test_box_comes_before_resampling() -> None:
    label = blob((10, 12, 14))
    found = prepare(loaded(picture_of(label), label), plan_with(spacing=(0.5, 1.0, 2.0), box=(4, 6, 8)))
    assert found.trace.box == ((3, 7), (3, 9), (3, 11))
    assert found.label.shape == (8, 6, 4)


def test_inside_is_the_mask_on_the_new_grid() -> None:
    label = blob((10, 12, 14))
    mask = label > 0
    found = prepare(loaded(picture_of(label), label, mask=mask), plan_with((1, 0, 2), spacing=(0.5, 1.0, 1.0)))
    part = mask[2:7, 3:10, 2:9].transpose(1, 0, 2)
    assert np.array_equal(found.inside, np.repeat(part, 2, axis=0))
    # Without a mask: what is not zero in some channel.
    image = np.stack([np.where(label == 1, 5.0, 0), np.where(label == 2, 5.0, 0)])
    assert np.array_equal(prepare(loaded(image, label), plan_with(channels=("a", "b"))).inside, part.transpose(1, 0, 2))


def test_bias_is_corrected_before_normalization() -> None:
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in (20, 24, 22)], indexing="ij")
    inside = z**2 + y**2 + x**2 < 0.9
    tissue = np.where(z**2 + y**2 + x**2 < 0.4, 200.0, 100.0)
    case = loaded(np.where(inside, tissue * np.exp(0.5 * x + 0.3 * y), 0))
    scaled = [Channel(name="mr", normalization=Normalization(scheme="minmax", masked=True))]
    plans = [plan_with(bias=bias).model_copy(update={"channels": scaled}) for bias in ("none", "n4")]
    raw, corrected = (prepare(case, plan) for plan in plans)
    part = inside[corrected.trace.slices]
    outer = part & (tissue[corrected.trace.slices] == 100)
    assert corrected.image.min() == 0
    assert corrected.image.max() == 1
    assert corrected.image[0][outer].std() < 0.3 * raw.image[0][outer].std()
    ct = Normalization(scheme="ct", lower=0, upper=300, mean=100, std=50)
    plans = [plan.model_copy(update={"channels": [Channel(name="ct", normalization=ct)]}) for plan in plans]
    assert np.array_equal(*(prepare(case, plan).image for plan in plans))


def rotation(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


DIRECTIONS = {
    "straight": np.eye(3),
    "flipped": np.diag([-1.0, -1.0, 1.0]),
    "turned": np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]),
    "oblique": rotation(17),
    "oblique and flipped": rotation(-25) @ np.diag([1.0, -1.0, -1.0])[:, [2, 0, 1]],
}


@pytest.mark.parametrize("name", DIRECTIONS)
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.9, 2.5)])
def test_perfect_network_gives_the_label_back(tmp_path: Path, name: str, spacing: tuple) -> None:
    """From files to files: same voxels in the same order, same geometry, whatever the file's axes are."""
    matrix = DIRECTIONS[name]
    label = blob((10, 12, 14)).astype(np.uint8)
    place = {"spacing": spacing, "origin": (-20.5, 33.25, 7.0), "direction": tuple(matrix.ravel())}
    case = Case(
        id="a", channels={"mr": ChannelFile(path=write(tmp_path / "a.nii.gz", picture_of(label).astype("f4"), **place))}
    )
    # Each case keeps its spacing: nothing is resampled, so nothing may change at all.
    plan = plan_with((2, 0, 1), spacing=(None, None, None))
    member = Member("run", [TrainedStage(plan.stage("small"), [Perfect()])])
    prediction = Predictor([member], torch.device("cpu")).predict_case(case)
    write_label(tmp_path / "out.nii.gz", prediction.label, prediction.geometry)
    written, original = sitk.ReadImage(str(tmp_path / "out.nii.gz")), sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(written), label)
    assert written.GetSize() == original.GetSize()
    assert written.GetSpacing() == pytest.approx(original.GetSpacing())
    assert written.GetOrigin() == pytest.approx(original.GetOrigin())
    assert written.GetDirection() == pytest.approx(original.GetDirection(), abs=1e-6)


def test_prediction_with_a_box(tmp_path: Path) -> None:
    """Prediction does what training did: right inside the box, nothing outside."""
    label = blob((10, 12, 14))
    path = write(tmp_path / "a.nii.gz", picture_of(label))
    plan = plan_with((2, 0, 1), box=(6, 8, 8), spacing=(None, None, None))
    member = Member("run", [TrainedStage(plan.stage("small"), [Perfect()])])
    case = Case(id="a", channels={"mr": ChannelFile(path=path)})
    prediction = Predictor([member], torch.device("cpu")).predict_case(case)
    kept = np.zeros(label.shape, bool)
    kept[1:9, 2:10, 4:10] = True
    assert 0 < np.count_nonzero(label[kept]) < np.count_nonzero(label)
    assert np.array_equal(prediction.label, np.where(kept, label, 0))


def test_orientation_does_not_matter_to_the_network(tmp_path: Path) -> None:
    """The same head stored in another order of axes reaches the network as the same voxels."""
    volume = picture_of(blob())
    straight = write(tmp_path / "a.nii.gz", volume)
    image = sitk.DICOMOrient(sitk.ReadImage(str(straight)), "RSP")
    sitk.WriteImage(image, str(tmp_path / "b.nii.gz"))
    assert image.GetSize() != sitk.ReadImage(str(straight)).GetSize()
    plan = plan_with()
    found = [
        prepare(load_case(Case(id="x", channels={"mr": ChannelFile(path=path)}), ["mr"]), plan).image
        for path in (straight, tmp_path / "b.nii.gz")
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)


@pytest.mark.parametrize("orientation", ["canonical", "stored", "ras"])
@pytest.mark.parametrize("transpose", [(0, 1, 2), (1, 2, 0)])
def test_image_and_label_as_they_lie(tmp_path: Path, orientation: str, transpose: tuple) -> None:
    """Against SimpleITK: what the network sees, and the label map back in the file."""
    label = blob((8, 12, 16))
    direction = sitk.DICOMOrientImageFilter.GetDirectionCosinesFromOrientation("PIR")
    where = {"spacing": (1.0, 2.0, 3.0), "direction": direction}
    case = Case(
        id="a",
        channels={"mr": ChannelFile(path=write(tmp_path / "a.nii.gz", picture_of(label), **where))},
        label=write(tmp_path / "l.nii.gz", label, **where),
    )
    seen = sitk.ReadImage(str(case.label))
    if orientation != "stored":
        seen = sitk.DICOMOrient(seen, {"canonical": "LPS", "ras": "RAS"}[orientation])
    plan = plan_with(transpose, spacing=(None, None, None))
    plan = plan.model_copy(
        update={"preprocessing": plan.preprocessing.model_copy(update={"orientation": orientation, "crop": "none"})}
    )
    found = prepare(load_case(case, ["mr"]), plan)
    expected = sitk.GetArrayFromImage(seen).transpose(transpose)
    assert np.array_equal(found.label, expected)
    assert np.array_equal(found.image[0] > 50, expected > 0)
    assert found.trace.spacing == tuple(np.array(seen.GetSpacing()[::-1])[list(transpose)])
    trace = Trace.from_json(found.trace.to_json())
    assert trace == found.trace
    write_label(tmp_path / "back.nii.gz", restore(found.label, trace), trace.geometry)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "back.nii.gz"))), label)


def test_a_trace_of_before_has_canonical_axes() -> None:
    found = prepare(loaded(picture_of(blob()), blob()), plan_with())
    stored = found.trace.to_json()
    del stored["orientation"]
    assert Trace.from_json(stored) == found.trace


def test_enclosed_zeros_count_as_asked() -> None:
    image = np.full((5, 5, 5), 4.0, np.float32)
    image[2, 2, 2] = 0
    plan = plan_with()
    inside = plan.model_copy(update={"preprocessing": plan.preprocessing.model_copy(update={"holes": "inside"})})
    case = loaded(image)
    assert prepare(case, plan).inside.sum() == 124
    assert prepare(case, inside).inside.all()
