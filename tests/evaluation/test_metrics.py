"""Metrics of one pair of masks: hand-worked values, other libraries, invariants, conventions for empty masks."""

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import autoseg
from autoseg.data.boxes import bounding_box
from autoseg.data.image import read_image
from autoseg.evaluation.cases import Structure, evaluate_arrays
from autoseg.evaluation.lesion_groups import Tissue
from autoseg.evaluation.lesions import LesionRules
from autoseg.evaluation.masks import BRATS_PENALTY_MM, by_convention, dice, measure
from autoseg.evaluation.metric import METRICS, MaskPair, Metric
from autoseg.evaluation.protocol import STANDARD_METRICS, EvaluationProtocol
from autoseg.evaluation.summary import Evaluation, Row
from autoseg.utils.errors import UsageError
from tests.builders import write

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the package uses names that SciPy 2 will lack
    import surface_distance

MM = (1.0, 1.0, 1.0)

OVERLAPS = ("dice", "jaccard", "sensitivity", "precision", "nsd")
DISTANCES = ("hd95", "hd", "assd")
BRATS = EvaluationProtocol(empty="brats")


def _pair(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(st.tuples(*[st.integers(1, 7)] * 3))
    masks = arrays(bool, shape, elements=st.booleans())
    return draw(masks), draw(masks)


PAIRS = st.composite(_pair)()


def _cubes() -> tuple[np.ndarray, np.ndarray]:
    """A prediction of 2×4×4 voxels that shares 2×4×2 with a reference of 2×4×3."""
    prediction, reference = np.zeros((6, 8, 10), bool), np.zeros((6, 8, 10), bool)
    prediction[2:4, 2:6, 2:6] = True
    reference[2:4, 2:6, 4:7] = True
    return prediction, reference


def test_hand_worked_cuboids() -> None:
    found = measure(*_cubes(), (2.0, 1.0, 0.5))
    assert tuple(found) == STANDARD_METRICS
    # 16 voxels shared, 16 only predicted, 8 only in the reference; 480 voxels of 1 mm³.
    assert found["dice"] == pytest.approx(32 / 56)
    assert found["jaccard"] == pytest.approx(16 / 40)
    assert found["sensitivity"] == pytest.approx(16 / 24)
    assert found["precision"] == pytest.approx(16 / 32)
    assert found["specificity"] == pytest.approx((480 - 24 - 16) / (480 - 24))
    assert found["prediction_ml"] == pytest.approx(0.032)
    assert found["reference_ml"] == pytest.approx(0.024)
    assert found["difference_ml"] == pytest.approx(0.008)
    assert found["hd"] == pytest.approx(1.0)  # two voxels of 0.5 mm on one side


def test_specificity_of_a_cut_out_counts_the_whole_image() -> None:
    prediction, reference = _cubes()
    box = bounding_box(prediction | reference)
    whole, cut = measure(prediction, reference, MM), measure(prediction[box], reference[box], MM, voxels=480)
    assert whole == cut


@pytest.mark.data
def test_real_segmentation_agrees_with_the_reference_values(real_data: Callable[[str], Path]) -> None:
    folder = real_data("metrics")
    expected = json.loads((folder / "reference.json").read_text())
    prediction, reference = (read_image(folder / f"spine_{name}.nii.gz") for name in ("pred", "ref"))
    for label, values in expected["labels"].items():
        pair = prediction.array[0] == int(label), reference.array[0] == int(label)
        found = measure(*pair, reference.spacing)
        for ours, theirs in {
            "dice": "dice",
            "jaccard": "jaccard",
            "hd95": "hd95_surface_distance",
            "hd": "hd100_surface_distance",
            "assd": "assd_surface_distance",
            "nsd": "nsd_2mm_surface_distance",
            "prediction_ml": "volume_pred_ml",
            "reference_ml": "volume_ref_ml",
        }.items():
            assert found[ours] == pytest.approx(values[theirs], abs=1e-6), (label, ours)
        counted = values["tp"], values["fp"], values["fn"]
        assert found["sensitivity"] == pytest.approx(counted[0] / (counted[0] + counted[2]))
        assert found["precision"] == pytest.approx(counted[0] / (counted[0] + counted[1]))


def test_blobs_agree_with_simpleitk() -> None:
    random = np.random.default_rng(0)
    z, y, x = np.ogrid[:24, :30, :28]
    for _ in range(5):
        masks = []
        for _ in range(2):
            c, r = random.uniform(9, 15, 3), random.uniform(3, 8, 3)
            masks.append(((z - c[0]) / r[0]) ** 2 + ((y - c[1]) / r[1]) ** 2 + ((x - c[2]) / r[2]) ** 2 <= 1)
        spacing = tuple(random.uniform(0.5, 3, 3))
        found = measure(*masks, spacing)
        images = [sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in masks]
        for image in images:
            image.SetSpacing(spacing[::-1])
        overlap = sitk.LabelOverlapMeasuresImageFilter()
        overlap.Execute(images[0], images[1])  # the second is the truth
        assert found["dice"] == pytest.approx(overlap.GetDiceCoefficient())
        assert found["jaccard"] == pytest.approx(overlap.GetJaccardCoefficient())
        assert 1 - found["sensitivity"] == pytest.approx(overlap.GetFalseNegativeError(), abs=1e-12)
        hausdorff = sitk.HausdorffDistanceImageFilter()
        hausdorff.Execute(images[0], images[1])
        # It measures between voxel centres, ours runs between voxels: at most a voxel's diagonal apart.
        assert found["hd"] == pytest.approx(hausdorff.GetHausdorffDistance(), abs=float(np.linalg.norm(spacing)))


@settings(deadline=None, max_examples=80)
@given(PAIRS)
def test_invariants(pair: tuple[np.ndarray, np.ndarray]) -> None:
    prediction, reference = pair
    forth, back = measure(prediction, reference, MM), measure(reference, prediction, MM)
    for name in ("dice", "jaccard", "nsd", *DISTANCES):
        assert forth[name] == pytest.approx(back[name], nan_ok=True)
    assert forth["sensitivity"] == pytest.approx(back["precision"], nan_ok=True)
    assert forth["difference_ml"] == pytest.approx(-back["difference_ml"])
    assert forth["dice"] == pytest.approx(dice(prediction, reference), nan_ok=True)
    if not np.isnan(forth["dice"]):
        assert forth["jaccard"] == pytest.approx(forth["dice"] / (2 - forth["dice"]))
        assert all(0 <= forth[name] <= 1 or np.isnan(forth[name]) for name in OVERLAPS)
    if reference.any():
        same = measure(reference, reference, MM, EvaluationProtocol(tolerance_mm=0.0))
        assert all(same[name] == 1 for name in OVERLAPS)
        assert all(same[name] == 0 for name in (*DISTANCES, "difference_ml"))


@settings(deadline=None, max_examples=30)
@given(PAIRS, st.integers(0, 4))
def test_empty_space_around_changes_only_the_specificity(pair: tuple[np.ndarray, np.ndarray], margin: int) -> None:
    if 1 in pair[0].shape:
        return  # a slice becomes a volume
    near = measure(*pair, MM)
    far = measure(*(np.pad(mask, margin) for mask in pair), MM)
    for name in set(STANDARD_METRICS) - {"specificity"}:
        assert near[name] == pytest.approx(far[name], nan_ok=True)


def _squares(z: int) -> tuple[np.ndarray, np.ndarray]:
    """A square of 9×9 voxels in one slice of seven, and the same with a hole of 3×3: the prediction."""
    reference = np.zeros((7, 20, 20), bool)
    reference[z, 5:14, 5:14] = True
    prediction = reference.copy()
    prediction[z, 8:11, 8:11] = False
    return prediction, reference


@pytest.mark.parametrize("z", [0, 3, 6])
def test_a_structure_in_one_slice_of_a_volume_has_a_surface(z: int) -> None:
    """By hand: the edge of the hole lies on the whole square's faces; in a picture, it is 3 mm from the outline."""
    protocol = EvaluationProtocol(metrics=("nsd", "hd95", "hd", "border_hd95"))
    # 2×2 mm² of each face are 1 mm from the edge of the hole, 2 % of all: too few for HD95. Of 153 voxels, all at the
    # border, the 9 of the hole are 1 mm off, and one of them 2 mm.
    expected = {"nsd": 1.0, "hd95": 0.0, "hd": 1.0, "border_hd95": 1.0}
    prediction, reference = _squares(z)
    assert measure(prediction, reference, (5.0, 1.0, 1.0), protocol) == expected
    square = Structure("square", (1,))
    maps = prediction.astype(np.uint8), reference.astype(np.uint8)
    assert evaluate_arrays(*maps, (5.0, 1.0, 1.0), [square], protocol) == {"square": expected}
    picture = measure(prediction[z : z + 1], reference[z : z + 1], (5.0, 1.0, 1.0), protocol)
    assert picture["nsd"] < 1
    assert {**picture, "nsd": 1} == {"nsd": 1, "hd95": 3.0, "hd": 3.0, "border_hd95": 2.0}


@pytest.mark.parametrize("axis", [1, 2])
def test_a_slice_is_a_picture_along_whichever_axis(axis: int) -> None:
    """By hand: a square of 60×60 that is 2 mm off: two edges, half of its contour, and little of a slab's surface."""
    reference = np.zeros((1, 70, 70), bool)
    reference[0, 5:65, 5:65] = True
    prediction = np.roll(reference, 2, axis=2)
    spacing = (7.0, 1.5, 1.0)
    names = (*STANDARD_METRICS, "border_hd95", "lesion_dice", "lesion_hd95")
    turned = [np.moveaxis(mask, 0, axis) for mask in (prediction, reference)]
    other = (1.5, 7.0, 1.0) if axis == 1 else (1.5, 1.0, 7.0)
    square = Structure("square", (1,))
    through = (Tissue((2,), 3, 0.0),)
    for lesions in (LesionRules("joined", through=through), LesionRules("touching"), LesionRules("one_to_one", 0, 0.0)):
        protocol = EvaluationProtocol(metrics=names, lesions=lesions)
        expected = measure(prediction, reference, spacing, protocol)
        assert expected["hd95"] == expected["lesion_hd95" if lesions.dilation else "hd"] == 2.0
        assert measure(turned[0], turned[1], other, protocol) == expected
        maps = [mask.astype(np.uint8) for mask in turned]
        assert evaluate_arrays(maps[0], maps[1], other, [square], protocol) == {"square": expected}


@settings(deadline=None, max_examples=40)
@given(arrays(bool, (2, 1, 6, 7)), st.integers(0, 3))
def test_one_slice_of_a_volume_agrees_with_the_reference_package(masks: np.ndarray, z: int) -> None:
    prediction, reference = (np.pad(mask, ((z, 3 - z), (0, 0), (0, 0))) for mask in masks)
    if not (prediction.any() and reference.any()):
        return
    found = measure(prediction, reference, (5.0, 0.7, 1.3), EvaluationProtocol(tolerance_mm=1.2345))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = surface_distance.compute_surface_distances(reference, prediction, (5.0, 0.7, 1.3))
    average = np.mean(surface_distance.compute_average_surface_distance(theirs))
    assert found["assd"] == pytest.approx(average, rel=1e-5, abs=1e-9)
    assert found["hd"] == pytest.approx(surface_distance.compute_robust_hausdorff(theirs, 100))
    dice_within = surface_distance.compute_surface_dice_at_tolerance(theirs, 1.2345)
    assert found["nsd"] == pytest.approx(dice_within, rel=1e-5)


@settings(deadline=None, max_examples=30)
@given(PAIRS)
def test_nsd_grows_with_the_tolerance(pair: tuple[np.ndarray, np.ndarray]) -> None:
    if pair[0].any() and pair[1].any():
        values = [measure(*pair, MM, EvaluationProtocol(tolerance))["nsd"] for tolerance in (0.0, 0.9, 2.1, 50.0)]
        assert values == sorted(values)
        assert values[-1] == pytest.approx(1.0)


def _is(found: dict[str, float], names: tuple[str, ...], value: float) -> None:
    for name in names:
        assert found[name] == pytest.approx(value, nan_ok=True), name


def test_empty_masks_are_skipped_by_default() -> None:
    some, none = _cubes()[0], np.zeros((6, 8, 10), bool)
    nan = float("nan")
    _is(measure(none, none, MM), (*OVERLAPS, *DISTANCES), nan)
    missed = measure(none, some, MM)
    _is(missed, ("dice", "jaccard", "sensitivity", "nsd"), 0.0)
    _is(missed, ("precision", *DISTANCES), nan)
    alarm = measure(some, none, MM)
    _is(alarm, ("dice", "jaccard", "precision", "nsd"), 0.0)
    _is(alarm, ("sensitivity", *DISTANCES), nan)
    assert alarm["difference_ml"] == pytest.approx(0.032)
    assert alarm["specificity"] == pytest.approx(1 - 32 / 480)


def test_empty_masks_count_in_brats() -> None:
    some, none = _cubes()[0], np.zeros((6, 8, 10), bool)
    both = measure(none, none, MM, BRATS)
    _is(both, OVERLAPS, 1.0)
    _is(both, DISTANCES, 0.0)
    for pair in ((some, none), (none, some)):
        found = measure(*pair, MM, BRATS)
        _is(found, OVERLAPS, 0.0)
        _is(found, DISTANCES, BRATS_PENALTY_MM)
    assert pytest.approx(373.1287, abs=1e-4) == BRATS_PENALTY_MM
    assert measure(*_cubes(), MM, BRATS) == measure(*_cubes(), MM)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"tolerance_mm": -1.0}, "--tolerance -1.0"), ({"tolerance_mm": float("nan")}, "nan"), ({"empty": "no"}, "brats")],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        EvaluationProtocol(**options)


def test_different_shapes_are_refused() -> None:
    with pytest.raises(UsageError, match="shape"):
        measure(np.zeros((2, 2, 2), bool), np.zeros((2, 2, 3), bool), MM)


def test_only_the_named_metrics_in_the_order_named() -> None:
    found = measure(*_cubes(), MM, EvaluationProtocol(metrics=("hd95", "dice")))
    assert list(found) == ["hd95", "dice"]
    assert found["dice"] == measure(*_cubes(), MM)["dice"]
    with pytest.raises(UsageError, match="--metrics no_metric"):
        measure(*_cubes(), MM, EvaluationProtocol(metrics=("no_metric",)))


def test_what_is_said_of_each_metric() -> None:
    """By hand: kinds and directions of the standard metrics; the symmetric ones are so in the invariants above."""
    kinds = {name: METRICS.find(name).kind for name in STANDARD_METRICS}
    assert {name for name, kind in kinds.items() if kind == "overlap"} == set(OVERLAPS)
    assert {name for name, kind in kinds.items() if kind == "distance"} == set(DISTANCES)
    worse_when_larger = {name for name in STANDARD_METRICS if METRICS.find(name).better == "less"}
    assert worse_when_larger == set(DISTANCES)
    neither = {name for name in STANDARD_METRICS if METRICS.find(name).better == "neither"}
    assert neither == {"prediction_ml", "reference_ml", "difference_ml"}
    symmetric = {name for name in STANDARD_METRICS if METRICS.find(name).symmetric}
    assert symmetric == {"dice", "jaccard", "nsd", *DISTANCES}
    assert METRICS.find("hd95").title == "HD95 mm"


@pytest.fixture
def volume_similarity() -> Iterator[str]:
    """One more metric, from outside the package; forgotten after the test."""
    name = "test_volume_similarity"

    def compute(masks: MaskPair) -> float:
        return 1 - masks.ratio(abs(masks.predicted - masks.real), masks.predicted + masks.real)

    METRICS.register(name, Metric(compute, "Volume similarity", kind="overlap", better="more", digits=1))
    yield name
    del METRICS._things[name]


def test_one_more_metric(volume_similarity: str, tmp_path: Path) -> None:
    prediction, reference = _cubes()  # 32 and 24 voxels
    expected = 1 - 8 / 56
    for folder, mask in (("predictions", prediction), ("references", reference)):
        for case in ("a", "b"):
            write(tmp_path / folder / f"{case}.nii.gz", mask.astype(np.uint8))
    evaluation = autoseg.evaluate(
        tmp_path / "predictions",
        tmp_path / "references",
        protocol=EvaluationProtocol(metrics=("dice", volume_similarity)),
        out=tmp_path / "out",
    )
    assert evaluation.mean(volume_similarity) == pytest.approx(expected)
    assert evaluation.metrics == ("dice", volume_similarity, "prediction_ml", "reference_ml")
    assert evaluation.counts("label 1")["cases"] == 2
    header = (tmp_path / "out" / "metrics.csv").read_text().splitlines()[0]
    assert header == f"case,target,dice,{volume_similarity},prediction_ml,reference_ml"
    again = Evaluation.read(tmp_path / "out")
    assert again.mean(volume_similarity) == pytest.approx(expected)
    assert [str(column.header) for column in again.table().columns][2] == "Volume similarity"
    empty = np.zeros_like(reference)
    assert measure(empty, reference, MM, EvaluationProtocol(empty="brats", metrics=(volume_similarity,))) == {
        volume_similarity: 0.0
    }
    for shift, name in ((0.0, "plain"), (0.1, "better")):
        rows = [Row(f"c{n}", "x", {volume_similarity: n / 20 + shift}) for n in range(8)]
        rows = [Row(r.case, r.target, {**r.values, "prediction_ml": 1.0, "reference_ml": 1.0}) for r in rows]
        Evaluation(tuple(rows), ("x",)).write(tmp_path / name)
    compared = autoseg.compare([tmp_path / "plain", tmp_path / "better"], metrics=[volume_similarity])
    assert compared.directions == {"x": "more"}
    assert "better is significantly better than plain" in compared.verdicts()[0]


@given(pair=PAIRS)
def test_accuracy_by_counting(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """The share of all voxels that are the same in both; of a whole image that the masks were cut from, too."""
    prediction, reference = pair
    protocol = EvaluationProtocol(metrics=("accuracy", "dice"))
    same = int((prediction == reference).sum())
    assert measure(prediction, reference, MM, protocol)["accuracy"] == pytest.approx(same / prediction.size)
    larger = prediction.size + 100
    found = measure(prediction, reference, MM, protocol, voxels=larger)["accuracy"]
    assert found == pytest.approx((same + 100) / larger)
    assert "accuracy" not in STANDARD_METRICS


@given(pair=PAIRS)
def test_stored_values_by_another_convention(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """What was measured by the other convention becomes what measuring by this one gives."""
    skipped, counted = measure(*pair, MM), measure(*pair, MM, BRATS)
    for wanted, empty in ((counted, "brats"), (skipped, "skip")):
        for stored in (skipped, counted):
            found = by_convention(stored, empty)
            assert list(found) == list(wanted)
            np.testing.assert_array_equal(list(found.values()), list(wanted.values()))


def test_an_evaluation_by_the_brats_convention() -> None:
    empty = np.zeros((2, 2, 2), bool)
    skipped = Evaluation((Row("a", "t", measure(empty, empty, MM)), Row("b", "t", measure(~empty, empty, MM))), ("t",))
    assert skipped.mean("dice") == 0
    counted = skipped.counting_absent("brats")
    assert counted.empty == "brats"
    assert list(counted.values("dice", "t")) == [1, 0]
    assert list(counted.values("hd95", "t")) == [0, BRATS_PENALTY_MM]
    assert skipped.counting_absent("skip") is skipped
    again = counted.counting_absent("skip")
    assert (again.empty, str(again.rows)) == ("skip", str(skipped.rows))
