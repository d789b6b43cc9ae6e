"""Label maps in files: targets, ignore label, grids, summaries, folders."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import SimpleITK as sitk
from rich.console import Console

from autoseg.data.dataset import Case, ChannelFile, Dataset
from autoseg.data.image import read_image, write_image
from autoseg.evaluation.cases import Structure, evaluate_arrays, evaluate_pairs
from autoseg.evaluation.folders import (
    dataset_structures,
    evaluate,
    label_maps,
    parse_structures,
    plan_structures,
    refuse_other_values,
)
from autoseg.evaluation.masks import measure
from autoseg.evaluation.protocol import STANDARD_METRICS, EvaluationProtocol
from autoseg.evaluation.summary import Evaluation, Row, Statistics
from autoseg.plans.target import Output, Target
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import write_json
from tests.report.fake import make_plan

INNER, OUTER, WHOLE = Structure("inner", (2,)), Structure("outer", (1,)), Structure("whole", (1, 2))


def labels(shift: int = 0, inner: bool = True) -> np.ndarray:
    """A cuboid of label 1 with label 2 inside, ``(z, y, x)``."""
    array = np.zeros((8, 12, 14), np.uint8)
    array[2:6, 3:9, 3 + shift : 10 + shift] = 1
    if inner:
        array[3:5, 5:7, 5 + shift : 8 + shift] = 2
    return array


def save(path: Path, array: np.ndarray, spacing: tuple[float, float, float] = (2.0, 1.0, 0.5)) -> Path:
    """Write ``(z, y, x)`` label values with a spacing in the same order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[::-1])
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three cases; the second lacks the inner label in the prediction, the third in both."""
    for case, (moved, predicted, real) in {
        "a": (0, True, True),
        "b": (1, False, True),
        "c": (2, False, False),
    }.items():
        save(tmp_path / "predictions" / f"{case}.nii.gz", labels(moved, predicted))
        save(tmp_path / "references" / f"{case}.nii.gz", labels(0, real))
    return tmp_path / "predictions", tmp_path / "references"


def test_each_target_is_measured_as_its_mask() -> None:
    prediction, reference = labels(1), labels()
    found = evaluate_arrays(prediction, reference, (2.0, 1.0, 0.5), [OUTER, INNER, WHOLE])
    for target in (OUTER, INNER, WHOLE):
        masks = (np.isin(array, target.values) for array in (prediction, reference))
        assert found[target.name] == measure(*masks, (2.0, 1.0, 0.5))


def test_ignored_voxels_do_not_count() -> None:
    reference = labels()
    reference[:, :, :5] = 9
    found = evaluate_arrays(labels(), reference, (1.0, 1.0, 1.0), [WHOLE], EvaluationProtocol(ignore=9))["whole"]
    assert found["dice"] == 1.0
    assert found["specificity"] == 1.0
    assert found["reference_ml"] == pytest.approx(4 * 6 * 5 / 1000)
    wrong = evaluate_arrays(labels(), reference, (1.0, 1.0, 1.0), [WHOLE])["whole"]
    assert wrong["dice"] < 1.0
    # One false voxel outside: the background of the specificity is what is neither ignored nor foreground.
    prediction = labels()
    prediction[0, 0, 12] = 1
    alarm = evaluate_arrays(prediction, reference, (1.0, 1.0, 1.0), [WHOLE], EvaluationProtocol(ignore=9))["whole"]
    assert alarm["specificity"] == pytest.approx(1 - 1 / (8 * 12 * 9 - 4 * 6 * 5))


def test_pairs_are_written_and_read_back(folders: tuple[Path, Path], tmp_path: Path) -> None:
    predictions, references = folders
    pairs = [(case, predictions / f"{case}.nii.gz", references / f"{case}.nii.gz") for case in "abc"]
    evaluation = evaluate_pairs(pairs, [OUTER, INNER, WHOLE], tmp_path / "out", workers=2)
    assert evaluation.cases == ["a", "b", "c"]
    assert evaluation.values("dice", "inner")[:2].tolist() == [1.0, 0.0]
    assert np.isnan(evaluation.values("dice", "inner")[2])
    assert evaluation.mean("dice", "inner") == pytest.approx(0.5)
    means = [evaluation.mean("dice", target) for target in evaluation.targets]
    assert evaluation.mean() == pytest.approx(np.mean(means))
    assert evaluation.counts("inner") == {"cases": 3, "missed": 1, "false_alarms": 0, "absent": 1}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"metrics.csv", "summary.csv", "summary.json"}
    again = Evaluation.read(tmp_path / "out")
    assert (again.targets, again.cases) == (evaluation.targets, evaluation.cases)
    for metric in STANDARD_METRICS:
        for target in again.targets:
            np.testing.assert_allclose(again.values(metric, target), evaluation.values(metric, target), rtol=1e-8)


def test_the_table_says_where_a_metric_is_undefined(folders: tuple[Path, Path]) -> None:
    evaluation = evaluate(*folders, targets=[WHOLE, INNER])
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(evaluation.table())
    text = console.export_text()
    assert "inner: 1 missed, 1 absent from both" in text
    assert "0.500 ± 0.707 (n 2)" in text
    assert "NSD 2 mm" in text


def test_statistics_leave_undefined_values_out() -> None:
    found = Statistics.of([1.0, float("nan"), 2.0, 4.0, 5.0])
    assert (found.n, found.mean, found.median, found.minimum, found.maximum) == (4, 3.0, 3.0, 1.0, 5.0)
    assert found.std == pytest.approx(np.std([1, 2, 4, 5], ddof=1))
    assert (found.q25, found.q75) == (1.75, 4.25)
    assert Statistics.of([]).n == 0
    assert np.isnan(Statistics.of([3.0]).std)


def test_the_rows_of_a_case_and_of_a_target_are_looked_for_once() -> None:
    read = 0

    class Rows(tuple[Row, ...]):
        def __iter__(self) -> Iterator[Row]:
            nonlocal read
            read += 1
            return super().__iter__()

    targets = ("x", "y")
    rows = Rows(
        Row(f"c{n}", target, {"dice": n + shift, "hd95": float("nan")})
        for n in range(50)
        for shift, target in enumerate(targets)
    )
    evaluation = Evaluation(rows, targets)
    assert [evaluation.case_mean(case) for case in evaluation.cases] == [n + 0.5 for n in range(50)]
    assert np.isnan(evaluation.case_mean("c7", "hd95"))
    assert np.isnan(evaluation.case_mean("none"))
    assert evaluation.values("dice", "y").tolist() == list(range(1, 51))
    assert evaluation.values("dice", "none").size == 0
    assert read == 2


def test_folds_are_merged() -> None:
    def fold(case: str, value: float) -> Evaluation:
        return Evaluation((Row(case, "x", dict.fromkeys(STANDARD_METRICS, value)),), ("x",))

    merged = Evaluation.merge([fold("a", 0.5), fold("b", 1.0)])
    assert merged.mean() == 0.75
    with pytest.raises(AutosegError, match="case a was evaluated in two folds"):
        Evaluation.merge([fold("a", 0.5), fold("a", 1.0)])
    with pytest.raises(AutosegError, match="no evaluations"):
        Evaluation.merge([])
    with pytest.raises(AutosegError, match="different targets"):
        Evaluation.merge([fold("a", 0.5), Evaluation((), ("y",))])


def test_another_grid_is_one_clear_sentence(folders: tuple[Path, Path]) -> None:
    predictions, references = folders
    save(predictions / "b.nii.gz", labels(), (2.0, 1.0, 0.7))
    with pytest.raises(AutosegError, match=r"case b: .*b.nii.gz does not lie on the grid of .*spacing"):
        evaluate(predictions, references)
    save(predictions / "b.nii.gz", labels()[:7])
    with pytest.raises(AutosegError, match=r"size 14×12×7 instead of 14×12×8"):
        evaluate(predictions, references)


def test_the_order_of_axes_in_the_file_is_free(tmp_path: Path) -> None:
    reference = save(tmp_path / "reference.nii.gz", labels())
    turned = sitk.DICOMOrient(sitk.ReadImage(str(reference)), "RAI")
    flipped = tmp_path / "prediction.nii.gz"
    sitk.WriteImage(sitk.DICOMOrient(turned, "SAR"), str(flipped))
    evaluation = evaluate(flipped, reference)
    assert evaluation.mean() == 1.0
    assert evaluation.mean("hd95") == 0.0
    moved = sitk.ReadImage(str(flipped))
    moved.SetOrigin([value + 3 for value in moved.GetOrigin()])
    sitk.WriteImage(moved, str(flipped))
    with pytest.raises(AutosegError, match="grid"):
        evaluate(flipped, reference)


def test_missing_predictions_are_all_listed_or_left_out(folders: tuple[Path, Path]) -> None:
    predictions, references = folders
    (predictions / "a.nii.gz").unlink()
    (predictions / "c.nii.gz").unlink()
    with pytest.raises(AutosegError, match=r"lacks predictions of 2 of 3 cases: a, c; .*--partial"):
        evaluate(predictions, references)
    assert evaluate(predictions, references, partial=True).cases == ["b"]
    (predictions / "b.nii.gz").rename(predictions / "b_pred.nii.gz")
    with pytest.raises(AutosegError, match=r"no file in .* is named after a case .*found b_pred; expected a, b, c"):
        evaluate(predictions, references, partial=True)


def test_every_label_value_is_found_without_names(folders: tuple[Path, Path]) -> None:
    assert evaluate(*folders).targets == ("label 1", "label 2")
    assert evaluate(*folders, protocol=EvaluationProtocol(ignore=2)).targets == ("label 1",)


def test_a_dataset_gives_names_and_the_ignore_label(folders: tuple[Path, Path], tmp_path: Path) -> None:
    predictions, references = folders
    dataset = Dataset(
        name="cuboids",
        root=tmp_path,
        layout="manifest",
        channels=("image",),
        labels={"outer": 1, "inner": 2},
        regions={"whole": (1, 2), "core": (2,)},
        cases=tuple(
            Case(id=case, channels={"image": ChannelFile(path=references / f"{case}.nii.gz")}, label=path)
            for case, path in label_maps(references).items()
        ),
    )
    assert evaluate(predictions, dataset).targets == ("outer", "whole", "core")
    assert [s.values for s in dataset_structures(dataset)] == [(1,), (1, 2), (2,)]


def test_predictions_of_a_test_set_are_compared_with_its_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What ``autoseg predict RUN DATASET`` writes, in nnU-Net's layout; labelled cases go first where there are any."""
    label = labels(inner=False)
    data = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "tumour": 1}, "file_ending": ".nii.gz"}
    write_json(tmp_path / "data" / "dataset.json", data)
    for part, case in (("Tr", "c"), ("Ts", "t"), ("Ts", "u")):
        save(tmp_path / "data" / f"images{part}" / f"{case}_0000.nii.gz", label.astype(np.float32))
        save(tmp_path / "data" / f"labels{part}" / f"{case}.nii.gz", label)
    for case in "tu":
        save(tmp_path / "results" / f"{case}.nii.gz", label)
    evaluation = evaluate(tmp_path / "results", tmp_path / "data")
    assert evaluation.cases == ["t", "u"]
    assert evaluation.mean("dice") == 1
    said = f"The predictions are of the test set of {tmp_path / 'data'}, with whose labels they are compared."
    assert said in capsys.readouterr().err.replace("\n", " ")
    one = tmp_path / "results" / "t.nii.gz"
    assert evaluate(one, tmp_path / "data", partial=True).cases == ["t"]
    save(tmp_path / "results" / "c.nii.gz", label)
    assert evaluate(tmp_path / "results", tmp_path / "data").cases == ["c"]
    save(tmp_path / "others" / "x.nii.gz", label)
    with pytest.raises(AutosegError, match=r"no file in .* is named after a case"):
        evaluate(tmp_path / "others", tmp_path / "data")


def test_a_label_with_the_name_of_a_region_is_measured_as_the_region(folders: tuple[Path, Path]) -> None:
    """Else two rows had one name and the values of the region, which then counted twice in the mean."""
    predictions, references = folders
    dataset = Dataset(
        name="cuboids",
        root=references,
        layout="manifest",
        channels=("image",),
        labels={"outer": 1, "inner": 2},
        regions={"outer": (1, 2)},
        cases=tuple(Case(id=case, channels={}, label=path) for case, path in label_maps(references).items()),
    )
    assert dataset_structures(dataset) == [INNER, Structure("outer", (1, 2))]
    evaluation = evaluate(predictions, dataset)
    assert evaluation.targets == ("inner", "outer")
    alone = [evaluate(predictions, references, targets=[target]).mean("dice") for target in (INNER, WHOLE)]
    assert evaluation.mean("dice") == pytest.approx(sum(alone) / 2)


def test_a_picture_is_measured_in_its_plane(tmp_path: Path) -> None:
    square = np.zeros((20, 20), np.uint8)
    square[5:13, 5:13] = 1
    for name, array in (("prediction", np.roll(square, 2, axis=1)), ("reference", square)):
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / f"{name}.png"))
    evaluation = evaluate(tmp_path / "prediction.png", tmp_path / "reference.png")
    assert evaluation.mean("dice") == pytest.approx(6 / 8)
    assert evaluation.mean("hd") == 2.0


def test_what_is_no_label_map_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    predictions, references = folders
    save(predictions / "a.nii.gz", labels().astype(np.float32) + 0.5)
    with pytest.raises(AutosegError, match=r"a.nii.gz has values that are not whole numbers"):
        evaluate(predictions, references)
    with pytest.raises(AutosegError, match="does not exist"):
        evaluate(tmp_path / "nowhere", references)
    (tmp_path / "empty").mkdir()
    with pytest.raises(AutosegError, match="has no label maps"):
        evaluate(tmp_path / "empty", references)
    save(references / "a.mha", labels())
    with pytest.raises(AutosegError, match="two files of case a"):
        evaluate(predictions, references)


def test_names_of_labels_and_regions_are_parsed() -> None:
    assert parse_structures("edema=2, whole=1+2+4") == [Structure("edema", (2,)), Structure("whole", (1, 2, 4))]
    for text, message in (("edema", "'edema' is not"), ("a=1,a=2", "a twice"), ("a=0", "below 1"), ("=3", "'=3'")):
        with pytest.raises(UsageError, match=message):
            parse_structures(text)


def test_nothing_to_do_is_refused(folders: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match="--workers 0"):
        evaluate(*folders, targets=[WHOLE], workers=0)
    with pytest.raises(UsageError, match="nothing to evaluate"):
        evaluate_pairs([("a", folders[0] / "a.nii.gz", folders[1] / "a.nii.gz")], [])
    with pytest.raises(AutosegError, match="no predictions"):
        evaluate_pairs([], [WHOLE])


def test_predictions_written_beside_their_image_match(tmp_path: Path) -> None:
    reference = save(tmp_path / "reference.nii.gz", labels())
    geometry = read_image(reference).geometry
    write_image(tmp_path / "prediction.mha", labels(), geometry)
    assert evaluate(tmp_path / "prediction.mha", reference).mean() == 1.0


def test_a_file_for_the_only_case_of_a_folder_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of another name it may be of another case; two files may be called as one likes."""
    reference = save(tmp_path / "references" / "a.nii.gz", labels())
    for name, said in (("a", False), ("b", True)):
        prediction = save(tmp_path / f"{name}.nii.gz", labels())
        assert evaluate(prediction, reference.parent).cases == evaluate(prediction, reference).cases == [name]
        assert (f"{prediction} is compared with a, the only case of" in capsys.readouterr().err) == said


def test_labels_of_another_edition() -> None:
    """BraTS: enhancing tumor was 4 up to 2021, and is 3 since."""

    def dataset(question: str = "", **labels: int) -> Dataset:
        return Dataset(
            name="b",
            root=Path("r"),
            layout="brats",
            channels=("flair",),
            labels=labels,
            cases=(),
            question=question,
        )

    before, since = {"necrosis": 1, "edema": 2, "enhancing": 4}, {"non_enhancing": 1, "edema": 2, "enhancing": 3}
    for one, other in ((before, since), (since, before)):
        expected = (
            f"r has the labels enhancing {one['enhancing']} and the training data b enhancing {other['enhancing']};"
        )
        with pytest.raises(AutosegError, match=expected):
            refuse_other_values(dataset(**one), dataset(**other))
        refuse_other_values(dataset(**one), dataset(**one))
        refuse_other_values(dataset("Which edition?", **one), dataset(**other))
    refuse_other_values(dataset(**since, cavity=4), dataset(**since))


@pytest.mark.parametrize(
    ("structures", "outputs", "refused"),
    [
        ({"outer": [1], "inner": [2]}, {"outer": 1, "inner": 2}, None),
        ({"inner": [1], "outer": [2]}, {"inner": 1, "outer": 2}, "outer 2, inner 1"),
        ({"outer": [1], "inner": [3]}, {"outer": 1, "inner": 3}, "inner 3"),
        ({"whole": [1, 3], "inner": [3]}, {"whole": 1, "inner": 3}, "inner 3, whole 1+3"),
        ({"whole": [1, 2]}, {"whole": 1}, None),  # painted with one value, whatever it is made of
        ({"whole": [1]}, {"whole": 1}, None),
        ({"lesion": [2]}, {"lesion": 2}, None),  # no structure of the references
    ],
)
def test_predictions_that_say_other_values_are_refused(
    tmp_path: Path, structures: dict[str, list[int]], outputs: dict[str, int], refused: str | None
) -> None:
    """By their ``predictions.json``, of the folder and of one of its files; the user's own word counts more."""
    reference = save(tmp_path / "labels" / "a.nii.gz", labels())
    case = Case(id="a", channels={"x": ChannelFile(path=tmp_path / "x.nii.gz")}, label=reference)
    dataset = Dataset(
        name="d",
        root=tmp_path / "dataset",
        layout="manifest",
        channels=("x",),
        labels={"outer": 1, "inner": 2},
        regions={"whole": (1, 2)},
        cases=(case,),
    )
    folder = tmp_path / "predictions"
    result, drawn = (save(folder / f"{name}.nii.gz", labels()) for name in ("a", "drawn"))
    write_json(folder / "predictions.json", {"structures": structures, "outputs": outputs, "files": [result.name]})
    for given in (folder, result):
        if refused is None:
            assert evaluate(given, dataset).mean() == 1.0
        else:
            expected = rf"says that the predictions have {re.escape(refused)}, and .*dataset has"
            with pytest.raises(AutosegError, match=expected):
                evaluate(given, dataset)
    assert evaluate(folder, dataset, targets=[INNER]).mean() == 1.0
    assert evaluate(drawn, dataset).mean() == 1.0, "no result"


@pytest.mark.parametrize(
    ("outputs", "kind", "expected"),
    [
        ({"whole": ([1, 2, 4], 2), "core": ([1, 4], 1), "active": ([4], 4)}, "regions", "ncr ed whole core active"),
        ({"whole": ([1, 2, 4], 1)}, "regions", "whole"),  # edema and necrosis can't be told apart in the result
        ({"ncr": ([1], 1), "ed": ([2], 2), "et": ([4], 4)}, "labels", "ncr ed et whole core"),
        ({"ed": ([2], 2)}, "labels", "ed"),
    ],
)
def test_a_model_is_measured_by_what_its_label_maps_can_say(
    outputs: dict[str, tuple[list[int], int]], kind: Literal["labels", "regions"], expected: str
) -> None:
    target = Target(kind=kind, outputs=[Output(name=n, values=v, paint=p) for n, (v, p) in outputs.items()])
    dataset = Dataset(
        name="brats",
        root=Path("brats"),
        layout="brats",
        channels=("flair",),
        labels={"ncr": 1, "ed": 2, "et": 4},
        regions={"whole": (1, 2, 4), "core": (1, 4), "active": (4,)},
        cases=(),
    )
    found = plan_structures(make_plan(target=target), dataset)
    assert " ".join(structure.name for structure in found) == expected


@pytest.mark.parametrize("large", [70000, 614454277, 2**32 - 1])
def test_ids_of_an_atlas_are_measured_as_small_ones_are(tmp_path: Path, large: int) -> None:
    """A table of all values up to the largest would take gigabytes."""
    for folder, moved in (("small", 0), ("small_predicted", 1), ("large", 0), ("large_predicted", 1)):
        array = labels(moved).astype(np.uint32)
        if folder.startswith("large"):
            array[array == 2] = large
        save(tmp_path / folder / "a.nii.gz", array)
    small = evaluate(tmp_path / "small_predicted", tmp_path / "small", targets=[OUTER, INNER, WHOLE])
    targets = [OUTER, Structure("inner", (large,)), Structure("whole", (1, large))]
    found = evaluate(tmp_path / "large_predicted", tmp_path / "large", targets=targets)
    assert [row.values for row in found.rows] == [row.values for row in small.rows]
    assert evaluate(tmp_path / "large_predicted", tmp_path / "large").targets == ("label 1", f"label {large}")
    only = evaluate(tmp_path / "large_predicted", tmp_path / "large", targets=[OUTER])
    assert only.rows[0].values == small.rows[0].values, "large values that are not asked for"
