"""Raters' agreement against hand-worked numbers, SimpleITK, and a published fusion of five segmentations."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import autoseg
from autoseg.data.dataset import Case, ChannelFile, Dataset
from autoseg.data.phantom import Cohort, generate
from autoseg.evaluation.agreement_folders import agreement
from autoseg.evaluation.cases import Structure
from autoseg.evaluation.paired import Bootstrap
from autoseg.evaluation.protocol import EvaluationProtocol
from autoseg.utils.errors import AutosegError, UsageError
from tests.builders import write

WHOLE = [Structure("whole", (1, 2)), Structure("core", (2,))]


def box(length: int, core: int = 2) -> np.ndarray:
    """Label 1 of 10 × ``length`` voxels, ``core`` of the first rows label 2."""
    labels = np.zeros((1, 12, 30), np.uint8)
    labels[0, 1:11, 1 : 1 + length] = 1
    labels[0, 1:11, 1 : 1 + core] = 2
    return labels


def rater(root: Path, name: str, lengths: dict[str, int]) -> Path:
    for case, length in lengths.items():
        write(root / name / f"{case}.nii.gz", box(length))
    return root / name


def overlap(a: int, b: int) -> float:
    """Dice of two boxes that start together."""
    return 2 * min(a, b) / (a + b)


def test_pairs_by_hand(tmp_path: Path) -> None:
    lengths = {"anna": (10, 8), "ben": (12, 8), "cem": (15, 6)}
    folders = [rater(tmp_path, name, {"x": x, "y": y}) for name, (x, y) in lengths.items()]
    found = agreement(folders, targets=WHOLE)
    assert found.pairs == [("anna", "ben"), ("anna", "cem"), ("ben", "cem")]
    assert found.values("ben", "anna", "whole") == pytest.approx({"x": overlap(12, 10), "y": 1.0})
    assert found.values("ben", "cem", "core") == {"x": 1.0, "y": 1.0}
    pairs = {"x": [(10, 12), (10, 15), (12, 15)], "y": [(8, 8), (8, 6), (8, 6)]}
    expected = {case: np.mean([overlap(*p) for p in found]) for case, found in pairs.items()}
    assert found.between_raters("whole") == pytest.approx(expected)
    assert found.with_others("cem", "whole")["x"] == pytest.approx((overlap(15, 10) + overlap(15, 12)) / 2)


def test_any_metric_that_needs_no_reference(tmp_path: Path) -> None:
    folders = [rater(tmp_path, "a", {"x": 10}), rater(tmp_path, "b", {"x": 13})]
    found = agreement(folders, targets=WHOLE, protocol=EvaluationProtocol(metrics=("dice", "hd95", "hd")))
    assert found.values("a", "b", "whole", "hd") == pytest.approx({"x": 3.0})
    assert found.values("a", "b", "whole", "dice") == pytest.approx({"x": overlap(10, 13)})
    with pytest.raises(UsageError, match="--metrics sensitivity asks which of two raters is right; choose of"):
        agreement(folders, protocol=EvaluationProtocol(metrics=("sensitivity",)))


def test_dice_is_simpleitk_s(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    maps = [random.choice([0, 1, 2], (4, 9, 8), p=[0.6, 0.3, 0.1]).astype(np.uint8) for _ in range(2)]
    files = [write(tmp_path / f"{name}.nii.gz", labels) for name, labels in zip("ab", maps, strict=True)]
    found = agreement(files)
    measure = sitk.LabelOverlapMeasuresImageFilter()
    measure.Execute(*(sitk.GetImageFromArray(labels) for labels in maps))
    for value in (1, 2):
        assert found.values("a", "b", f"label {value}")["case"] == pytest.approx(measure.GetDiceCoefficient(value))


def test_absent_structures_follow_the_convention(tmp_path: Path) -> None:
    for name, labels in (("a", box(5, core=0)), ("b", box(5, core=0)), ("c", box(5, core=3))):
        write(tmp_path / name / "x.nii.gz", labels)
    folders = [tmp_path / name for name in "abc"]
    found = agreement(folders, targets=WHOLE)
    assert math.isnan(found.values("a", "b", "core")["x"])
    assert found.between_raters("core") == {"x": 0.0}  # of the two pairs for which it is defined
    assert agreement(folders, targets=WHOLE, protocol=EvaluationProtocol(empty="brats")).values("a", "b", "core") == {
        "x": 1.0
    }


def test_single_files_are_one_case(tmp_path: Path) -> None:
    files = [write(tmp_path / name, box(length)) for name, length in (("r-1.0.nii.gz", 10), ("r-2.0.mha", 12))]
    found = agreement(files, models={"net": write(tmp_path / "other" / "net.nii.gz", box(11))})
    assert (found.raters, found.cases) == (("r-1.0", "r-2.0"), ["case"])
    assert found.values("net", "r-2.0", "label 2") == {"case": 1.0}
    assert found.targets == ("label 1", "label 2")


def test_folders_and_datasets_of_one_case_each_are_paired_by_name(tmp_path: Path) -> None:
    """Two patients are not one case, as two files would be."""
    anna, ben = rater(tmp_path, "anna", {"patient_01": 10}), rater(tmp_path, "ben", {"patient_02": 10})
    for raters in ([anna, ben], [anna / "patient_01.nii.gz", ben]):
        with pytest.raises(AutosegError, match="no case has two raters"):
            agreement(raters)
    files = {name: next(folder.iterdir()) for name, folder in (("anna", anna), ("ben", ben))}
    cases = tuple(
        Case(id=name, channels={"mr": ChannelFile(path=file)}, raters={name: file}) for name, file in files.items()
    )
    dataset = Dataset(
        name="two", root=tmp_path, layout="manifest", channels=("mr",), labels={"whole": 1, "core": 2}, cases=cases
    )
    with pytest.raises(AutosegError, match="no case has two raters"):
        agreement(dataset)
    net = rater(tmp_path, "net", {"patient_02": 10})
    with pytest.raises(AutosegError, match="net has no label map of any of the raters' cases"):
        agreement([anna, rater(tmp_path, "cem", {"patient_01": 10})], models=[net])


def test_cases_need_two_raters(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folders = [
        rater(tmp_path, "a", {"x": 10, "y": 10, "alone": 4}),
        rater(tmp_path, "b", {"x": 10, "z": 10}),
        rater(tmp_path, "c", {"y": 5, "z": 8}),
    ]
    found = agreement(folders, models=[rater(tmp_path, "net", {"x": 9, "y": 9})], targets=WHOLE)
    assert set(found.cases) == {"x", "y", "z"}
    assert set(found.values("a", "b", "whole")) == {"x"}
    said = capsys.readouterr().err
    assert "1 of 4 cases have one rater only, left out." in said
    assert "net has no label map of 1 of 3 cases" in said
    with pytest.raises(AutosegError, match="no case has two raters"):
        agreement([rater(tmp_path, "d", {"x": 1, "u": 1}), rater(tmp_path, "e", {"y": 1, "v": 1})])
    with pytest.raises(AutosegError, match="far has no label map of any of the raters' cases"):
        agreement(folders, models=[rater(tmp_path, "far", {"u": 1, "v": 1})])


def test_a_model_is_held_to_what_raters_agree_on(tmp_path: Path) -> None:
    """Raters differ by 1 of 20 columns; one model lies between them, another misses half of it."""
    cases = [f"case_{number}" for number in range(10)]
    raters = {
        "anna": rater(tmp_path, "anna", {case: 16 + n // 3 for n, case in enumerate(cases)}),
        "ben": rater(tmp_path, "ben", {case: 17 + n // 3 for n, case in enumerate(cases)}),
    }
    models = {
        "good": rater(tmp_path, "good", {case: 16 + n // 3 + n % 2 for n, case in enumerate(cases)}),
        "bad": rater(tmp_path, "bad", dict.fromkeys(cases, 8)),
    }
    found = agreement(raters, models=models, targets=WHOLE[:1])
    compared = found.comparison(bootstrap=Bootstrap(resamples=500))
    assert compared.baseline == "the other raters"
    assert compared.columns == ["whole, anna", "whole, ben"]
    assert compared.row("the other raters", "whole, anna").mean == compared.row("the other raters", "whole, ben").mean
    assert compared.row("bad", "whole, anna").effect == -1.0
    good, bad = compared.verdicts()
    assert bad.startswith("bad is significantly worse than the other raters in 2 of 2 comparisons: whole, anna (mean −")
    assert good.startswith("good is not significantly better than the other raters in any of 2 comparisons")
    with pytest.raises(AutosegError, match="no model to compare with the raters"):
        agreement(raters).comparison()


def test_a_rater_may_be_called_consensus(tmp_path: Path) -> None:
    folders = [rater(tmp_path, name, {"x": length}) for name, length in (("consensus", 10), ("anna", 8))]
    found = agreement(folders, targets=WHOLE, models=[rater(tmp_path, "unet", {"x": 10})])
    lines = [line["pair"] for line in found.to_json()["agreement"] if line["target"] == "whole"]
    assert lines == ["consensus – anna", "unet – consensus", "unet – anna", "unet, mean of raters"]
    with pytest.raises(UsageError, match="a rater is called consensus"):
        agreement(folders, targets=WHOLE, consensus="majority")


def test_less_distance_is_better(tmp_path: Path) -> None:
    cases = {f"case_{number}": 15 + number // 4 for number in range(8)}
    raters = {"a": rater(tmp_path, "a", cases), "b": rater(tmp_path, "b", {c: n + 2 for c, n in cases.items()})}
    model = {"net": rater(tmp_path, "net", {c: n + 1 for c, n in cases.items()})}
    compared = agreement(
        raters, models=model, targets=WHOLE[:1], protocol=EvaluationProtocol(metrics=("hd",))
    ).comparison("hd", Bootstrap(resamples=200))
    assert compared.row("net", "whole, a").difference == pytest.approx(-1.0)
    assert "net is significantly better than the other raters in 2 of 2" in compared.verdicts()[0]


def test_consensus_is_written_on_the_raters_grid(tmp_path: Path) -> None:
    geometry = {
        "spacing": (0.9, 0.8, 5.0),
        "origin": (-3.0, 7.0, 11.0),
        "direction": (0, 1, 0, -1, 0, 0, 0, 0, 1),
    }
    for name, length in (("a", 10), ("b", 12), ("c", 15)):
        write(tmp_path / name / "x.nii.gz", np.repeat(box(length), 3, axis=0), **geometry)
        write(tmp_path / name / "y.nii.gz", np.repeat(box(length), 3, axis=0), **geometry)
    out = tmp_path / "out"
    found = agreement(
        [tmp_path / name for name in "abc"],
        targets=WHOLE,
        consensus="majority",
        out=out,
        models={"net": tmp_path / "a"},
    )
    found.write(out)
    united = sitk.ReadImage(str(out / "consensus" / "x.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(united), np.repeat(box(12), 3, axis=0))  # the middle one of three
    assert united.GetSpacing() == pytest.approx(geometry["spacing"])
    assert united.GetOrigin() == pytest.approx(geometry["origin"])
    assert united.GetDirection() == pytest.approx(geometry["direction"])
    assert found.values("net", "consensus", "whole")["x"] == pytest.approx(overlap(10, 12))
    with open(out / "agreement.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    # 3 pairs of raters, 3 with the consensus, the model with 4; 2 targets, 2 cases
    assert len(lines) == (3 + 3 + 4) * 2 * 2
    data = json.loads((out / "agreement.json").read_text())
    assert data["consensus"] == "majority"
    evaluation = autoseg.evaluate(tmp_path / "b", out / "consensus", targets=WHOLE)
    assert evaluation.mean("dice", "whole") == 1.0


def test_a_consensus_takes_no_place_of_a_label_map_that_is_none(tmp_path: Path) -> None:
    """Of experts, for example. Its own are made again, also where an earlier version made them."""
    folders = [rater(tmp_path, name, {"x": length, "y": length}) for name, length in (("a", 10), ("b", 12))]
    out = tmp_path / "out"
    (out / "consensus").mkdir(parents=True)
    drawn = out / "consensus" / "y.nii.gz"
    drawn.write_bytes(b"drawn by experts")
    with pytest.raises(UsageError, match=r"--out .*out: consensus.y\.nii\.gz lies there already and is no result"):
        agreement(folders, targets=WHOLE, consensus="majority", out=out)
    assert {path.name: path.read_bytes() for path in out.rglob("*.*")} == {"y.nii.gz": b"drawn by experts"}
    agreement(folders, targets=WHOLE, out=out)
    drawn.unlink()
    for _ in range(2):
        agreement(folders, targets=WHOLE, consensus="majority", out=out)
        (out / "agreement.json").unlink()
    found = agreement(folders, targets=WHOLE, consensus="majority", out=out)
    (out / "consensus" / "consensus.json").unlink()
    assert agreement(folders, targets=WHOLE, consensus="majority", out=out).rows == found.rows


def test_a_dataset_names_its_raters(tmp_path: Path) -> None:
    folder = generate(tmp_path / "phantoms", Cohort(cases=2, shape=(20, 24, 20), raters=3))
    dataset = Dataset.open(folder)
    found = agreement([folder])
    assert found.rows == agreement(folder).rows == agreement(str(folder)).rows
    assert found.raters == ("rater1", "rater2", "rater3")
    assert set(dataset.regions) <= set(found.targets) <= set(dataset.regions) | set(dataset.labels)
    assert len(found.cases) == 2
    first = dataset.cases[0]
    a, b = (sitk.GetArrayFromImage(sitk.ReadImage(str(first.raters[name]))) > 0 for name in ("rater1", "rater2"))
    structure = Structure("any", tuple(dataset.labels.values()))
    again = agreement(dataset, targets=[structure])
    expected = 2 * np.sum(a & b) / (a.sum() + b.sum())
    assert again.values("rater1", "rater2", "any")[first.id] == pytest.approx(expected)


def test_ignored_voxels_do_not_count(tmp_path: Path) -> None:
    folder = generate(tmp_path / "phantoms", Cohort(cases=1, shape=(20, 24, 20), raters=2))
    dataset = Dataset.open(folder).model_copy(update={"ignore_label": 9})
    case = dataset.cases[0]
    maps = {name: sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for name, path in case.raters.items()}
    middle = int(np.median(np.nonzero(maps["rater1"])[2]))
    half = maps["rater1"].copy()
    half[:, :, :middle] = 9
    image = sitk.GetImageFromArray(half)
    image.CopyInformation(sitk.ReadImage(str(case.raters["rater1"])))
    sitk.WriteImage(image, str(case.raters["rater1"]))
    found = agreement(dataset, targets=[Structure("any", (1, 2, 4))], consensus="majority", out=tmp_path / "out")
    a, b = (np.isin(labels[:, :, middle:], (1, 2, 4)) for labels in maps.values())
    assert a.any()
    assert found.values("rater1", "rater2", "any")[case.id] == pytest.approx(2 * np.sum(a & b) / (a.sum() + b.sum()))
    united = sitk.GetArrayFromImage(sitk.ReadImage(str(next((tmp_path / "out" / "consensus").glob("*.nii.gz")))))
    assert (united[:, :, :middle] == 9).all()
    assert (united[:, :, middle:] != 9).all()


def test_ignored_voxels_are_no_agreement_on_the_background(tmp_path: Path) -> None:
    """By hand: 15 of 30 columns count, 12 · 15 voxels, of which 10 · 2 differ; likewise for others."""
    first = box(10)
    first[:, :, 15:] = 9
    files = {name: write(tmp_path / f"{name}.nii.gz", labels) for name, labels in (("a", first), ("b", box(12)))}
    model = {"net": write(tmp_path / "net.nii.gz", box(11))}
    protocol = EvaluationProtocol(ignore=9, metrics=("accuracy", "dice"))
    found = agreement(files, models=model, targets=WHOLE[:1], protocol=protocol, consensus="majority")
    expected = {("a", "b"): 20, ("net", "a"): 10, ("net", "b"): 10, ("net", "consensus"): 10, ("b", "consensus"): 20}
    for pair, differ in expected.items():
        assert found.values(*pair, "whole", "accuracy") == {"case": pytest.approx(1 - differ / 180)}
    assert found.values("a", "b", "whole", "dice") == {"case": pytest.approx(overlap(10, 12))}


def test_the_function_writes_what_the_command_writes(tmp_path: Path) -> None:
    folders = [rater(tmp_path, name, {"x": 10 + n, "y": 12}) for n, name in enumerate(("anna", "ben", "net"))]
    found = agreement(folders[:2], models=folders[2:], targets=WHOLE, out=tmp_path / "out")
    found.write(tmp_path / "again", found.comparison("dice"))
    for name in ("agreement.csv", "agreement.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert json.loads((tmp_path / "out" / "agreement.json").read_text())["comparison"]["baseline"] == "the other raters"
    agreement(folders[:2], targets=WHOLE, out=tmp_path / "raters")
    assert json.loads((tmp_path / "raters" / "agreement.json").read_text())["comparison"] is None


def test_wrong_usage(tmp_path: Path) -> None:
    a, b = rater(tmp_path, "a", {"x": 10}), rater(tmp_path, "b", {"x": 10})
    with pytest.raises(UsageError, match="is one rater, and no dataset with several; give two or more"):
        agreement([a])
    with pytest.raises(UsageError, match="give two or more raters"):
        agreement({"a": a})
    with pytest.raises(UsageError, match="a is the name of a rater, too; give the model another"):
        agreement([a, b], models={"a": b})
    with pytest.raises(UsageError, match="--consensus best is unknown"):
        agreement([a, b], consensus="best")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a rater is called consensus"):
        agreement({"consensus": a, "b": b}, consensus="staple")
    with pytest.raises(UsageError, match="a has 2 paths"):
        agreement({"a": [a, b], "b": b})
    write(tmp_path / "c" / "x.nii.gz", box(3)[:, :, :20])
    with pytest.raises(AutosegError, match=r"case x: .*c.x.nii.gz does not lie on the grid of .*a.x.nii.gz \(size"):
        agreement([a, tmp_path / "c"])
    folder = generate(tmp_path / "phantoms", Cohort(cases=1, shape=(20, 24, 20)))
    with pytest.raises(AutosegError, match="names no raters of its cases"):
        agreement([folder])


@pytest.mark.data
@pytest.mark.parametrize("method", ["majority", "staple"])
def test_fusion_of_five_segmentations(real_data: Callable[[str], Path], method: str) -> None:
    """The BraTS Toolkit's fused label map of five networks' segmentations is their majority vote, ties background.

    STAPLE, which trusts some raters more than others, comes near it only.
    """
    folder = real_data("clinical/TCGA-FG-6692/brats_toolkit")
    tumor = [Structure("whole", (1, 2, 4)), Structure("core", (1, 4)), Structure("enhancing", (4,))]
    found = agreement(
        sorted((folder / "raters").iterdir()),
        models={"fused": folder / "seg_fused.nii.gz"},
        targets=tumor,
        consensus=method,  # type: ignore[arg-type]
    )
    assert len(found.raters) == 5
    dice = {target: found.values("fused", "consensus", target)["case"] for target in found.targets}
    if method == "majority":
        assert set(dice.values()) == {1.0}
    else:
        assert min(dice.values()) > 0.93
    for target in found.targets:
        inter = found.between_raters(target)["case"]
        assert 0.8 < inter < found.with_others("fused", target)["case"]  # a vote agrees with the voters
