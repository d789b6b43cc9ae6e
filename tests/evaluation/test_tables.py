"""Reading per-case tables of ours and of other tools, and comparing them."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.table import Table

import autoseg
from autoseg.evaluation.comparison import compare_samples
from autoseg.evaluation.protocol import STANDARD_METRICS, Empty
from autoseg.evaluation.summary import Evaluation, Row
from autoseg.evaluation.tables import compare, direction_of, find_table, read_values, summaries
from autoseg.networks.weights import identity_of, save_weights
from autoseg.plans.files import save_plan
from autoseg.plans.overrides import override
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import read_json, write_json
from tests.builders import REGIONS, make_configuration, make_plan, make_run

#: As the BraTS server returns them: summaries last, an empty cell where a distance is undefined.
SERVER = """\
Label,Dice_ET,Hausdorff95_ET
Brats18_A_1,0.9,2.5
Brats18_B_1,0.0,
Brats18_C_1,0.6,3.5
Mean,0.5,3.0
StdDev,0.45826,0.70711
Median,0.6,3.0
25quantile,0.3,2.75
75quantile,0.75,3.25
"""


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def wide(path: Path, values: dict[str, Sequence[object]], columns: str = "Label,Dice,HD95") -> Path:
    lines = [",".join([case, *map(str, numbers)]) for case, numbers in values.items()]
    return put(path, "\n".join([columns, *lines]) + "\n")


def evaluated(folder: Path, dice: dict[str, float], shift: float = 0.0) -> Path:
    """An evaluation of two targets, written by its own writer; the second target's Dice is half the first's."""
    rows = [
        Row(
            case,
            target,
            {**dict.fromkeys(STANDARD_METRICS, math.nan), "dice": share * value + shift, "hd95": 10 - value},
        )
        for case, value in dice.items()
        for target, share in (("whole", 1.0), ("core", 0.5))
    ]
    Evaluation(tuple(rows), ("whole", "core")).write(folder)
    return folder


def test_the_server_s_summary_rows_are_no_cases(tmp_path: Path) -> None:
    found = read_values(put(tmp_path / "a.csv", SERVER), ["Dice_ET", "Hausdorff95_ET"], "Label")
    assert found.left_out == ("Mean", "StdDev", "Median", "25quantile", "75quantile")
    assert found.columns["Dice_ET"] == {"Brats18_A_1": 0.9, "Brats18_B_1": 0.0, "Brats18_C_1": 0.6}
    assert math.isnan(found.columns["Hausdorff95_ET"]["Brats18_B_1"])
    assert found.directions == {"Dice_ET": "more", "Hausdorff95_ET": "less"}


def test_the_server_s_own_summary_is_reproduced(tmp_path: Path) -> None:
    """Its Mean, StdDev and quantiles (n − 1, linear, undefined cells left out) are those of :func:`compare`."""
    first = put(tmp_path / "a.csv", SERVER)
    second = put(tmp_path / "b.csv", SERVER)
    with open(first, newline="", encoding="utf-8") as file:
        summaries = {line["Label"]: line for line in list(csv.DictReader(file))[3:]}
    found = compare({"a": first, "b": second}, case="Label", metrics=["Dice_ET", "Hausdorff95_ET"])
    for column in ("Dice_ET", "Hausdorff95_ET"):
        row = found.row("a", column)
        seen = {"Mean": row.mean, "StdDev": row.std, "Median": row.median, "25quantile": row.q25, "75quantile": row.q75}
        assert seen == pytest.approx({name: float(line[column]) for name, line in summaries.items()}, abs=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        *("Mean", "MEAN", "mean ", "overall_mean", "Mean (all)", "Average", "StdDev", "std. dev.", "Median"),
        *("25quantile", "75 quantile", "quantile 75", "95th percentile"),
    ],
)
def test_names_of_summaries(name: str) -> None:
    assert summaries([name, "case"]) == {name}


@pytest.mark.parametrize("name", ["Brats18_Mean_1", "meanwhile", "case_25", "25", "Q", "max", "N", "patient mean 7"])
def test_names_of_cases(name: str) -> None:
    assert not summaries([name])


def test_a_patient_called_max_is_one_unless_the_file_has_summaries(tmp_path: Path) -> None:
    file = wide(tmp_path / "a.csv", {"Max": [0.5, 1], "Moritz": [0.6, 1]})
    assert set(read_values(file, ["Dice"], "Label").columns["Dice"]) == {"Max", "Moritz"}
    file = wide(tmp_path / "b.csv", {"Max": [0.5, 1], "Moritz": [0.6, 1], "mean": [0.55, 1]})
    assert set(read_values(file, ["Dice"], "Label").columns["Dice"]) == {"Moritz"}


@pytest.mark.parametrize(
    ("cases", "summaries_"),
    [
        (["P01", "P02", "P10"], ["Mean", "StdDev"]),
        (["P1", "P2", "P5"], ["Mean"]),
        (["P1", "P5", "P17"], ["Mean", "Q1", "Q3"]),
        (["Q4", "Q25"], ["Mean", "P95"]),
        (["a", "b"], ["Mean", "p5", "p 95", "Q1", "q3", "Max"]),
    ],
)
def test_patients_are_numbered_as_quantiles_are(tmp_path: Path, cases: list[str], summaries_: list[str]) -> None:
    """And what was left out is told with the results."""
    files = [
        wide(tmp_path / f"{name}.csv", {row: [shift + n / 10, 1] for n, row in enumerate([*cases, *summaries_])})
        for name, shift in (("x", 0.0), ("y", 0.1))
    ]
    found = compare(files, case="Label", metrics=["Dice"])
    assert list(found.cases) == cases
    told = f"x.csv and 1 more: left out the rows {', '.join(summaries_)}, which are no cases."
    assert found.to_json()["notes"] == [f"{tmp_path}/{told}"]


def test_more_rows_can_be_excluded(tmp_path: Path) -> None:
    file = wide(tmp_path / "a.csv", {"one": [0.5, 1], "two": [0.6, 1], "Ensemble": ["see above", 1]})
    with pytest.raises(AutosegError, match="line 4: 'see above' in column Dice is no number; correct it, or leave"):
        read_values(file, ["Dice"], "Label")
    found = read_values(file, ["Dice"], "Label", exclude=["ensemble"])
    assert set(found.columns["Dice"]) == {"one", "two"}
    assert found.left_out == ("Ensemble",)


def test_exclusion_of_what_is_not_there(tmp_path: Path) -> None:
    a, b = (evaluated(tmp_path / name, {"one": 0.5, "Two": 0.75, "three": 0.7}) for name in "ab")
    assert compare([a, b], exclude=["two"]).cases == ("one", "three")
    with pytest.raises(UsageError, match="--exclude four is no row of any input"):
        compare([a, b], exclude=["two", "four"])


def test_semicolons_decimal_commas_and_a_byte_order_mark(tmp_path: Path) -> None:
    file = put(tmp_path / "a.csv", '\ufeffLabel;Dice\r\n"a;1";0,75\r\nb;NaN\r\n\r\nc;1\r\n')
    columns = read_values(file, ["Dice"], "Label").columns
    assert columns["Dice"] == pytest.approx({"a;1": 0.75, "b": math.nan, "c": 1.0}, nan_ok=True)


def test_what_has_no_value_is_undefined(tmp_path: Path) -> None:
    given = ["", "NaN", "-nan", "n/a", "inf", "+Inf", "-Infinity", "1e999"]
    file = wide(tmp_path / "a.csv", {f"case {number}": [text, 1] for number, text in enumerate(given)})
    values = read_values(file, ["Dice"], "Label").columns["Dice"]
    assert len(values) == len(given)
    assert all(math.isnan(value) for value in values.values())


def test_a_foreign_table_without_options_says_its_columns(tmp_path: Path) -> None:
    file = wide(tmp_path / "a.csv", {"one": [0.5, 1]})
    for options in ({}, {"case": "Label"}, {"metrics": ["Dice"]}):
        with pytest.raises(UsageError, match=r"--case COLUMN --metrics .*; its columns are Label, Dice, HD95"):
            read_values(file, **options)
    with pytest.raises(UsageError, match=r"--metrics dice is no column of .*; its columns are Label, Dice, HD95"):
        read_values(file, ["dice"], "Label")
    with pytest.raises(UsageError, match="--case Name is no column"):
        read_values(file, ["Dice"], "Name")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("Label,Dice\n", "has no cases: it has a header only"),
        ("Label,Dice\nMean,1\n", "has no cases: Mean"),
        ("Label,Dice\na,1\na,2\n", "line 3: the case a is there twice"),
    ],
)
def test_damaged_tables(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(AutosegError, match=message):
        read_values(put(tmp_path / "a.csv", text), ["Dice"], "Label")


def test_an_evaluation_of_ours(tmp_path: Path) -> None:
    folder = evaluated(tmp_path / "a", {"one": 0.5, "two": 0.75})
    found = read_values(folder)
    assert found.columns == {"whole": {"one": 0.5, "two": 0.75}, "core": {"one": 0.25, "two": 0.375}}
    found = read_values(folder / "metrics.csv", ["dice", "hd95"])
    assert list(found.columns) == ["dice whole", "dice core", "hd95 whole", "hd95 core"]
    assert found.columns["hd95 core"] == {"one": 9.5, "two": 9.25}
    assert found.directions["hd95 core"] == "less"
    with pytest.raises(UsageError, match=r"--metrics Dice is unknown in .*; choose of dice, jaccard"):
        read_values(folder, ["Dice"])


def by_protocol(folder: Path, empty: Empty, tolerance_mm: float = 2.0) -> Path:
    """A case with a Dice of 0.8, and one whose structure is absent from both, which BraTS counts as 1."""
    found = {"dice": 0.8, "nsd": 0.9, "hd95": 3.0, "prediction_ml": 1.0, "reference_ml": 1.0}
    overlap, distance = (1.0, 0.0) if empty == "brats" else (math.nan, math.nan)
    absent = {"dice": overlap, "nsd": overlap, "hd95": distance, "prediction_ml": 0.0, "reference_ml": 0.0}
    Evaluation((Row("one", "core", found), Row("two", "core", absent)), ("core",), tolerance_mm, empty).write(folder)
    return folder


def test_absent_structures_count_alike(tmp_path: Path) -> None:
    """The same label maps, evaluated by two conventions: no difference."""
    skip, brats = by_protocol(tmp_path / "a", "skip"), by_protocol(tmp_path / "b", "brats")
    for inputs in ([skip, brats], [brats, skip]):
        found = compare(inputs, metrics=["dice", "hd95"])
        for column, mean in (("dice core", 0.9), ("hd95 core", 1.5)):
            assert [found.row(name, column).mean for name in "ab"] == [pytest.approx(mean)] * 2
            assert [found.row(name, column).n for name in "ab"] == [2, 2]
        assert any(f"by --empty brats in all inputs, also in {skip / 'metrics.csv'}." in note for note in found.notes())
    # Alone, or with what does not say how it was measured, they stay as they are.
    found = compare([skip, put(tmp_path / "c.csv", (skip / "metrics.csv").read_text())])
    assert found.row("a", "core").n == 1
    assert found.remarks == ()


def test_evaluations_that_measure_different_things(tmp_path: Path) -> None:
    one, three = by_protocol(tmp_path / "a", "skip", 1.0), by_protocol(tmp_path / "b", "skip", 3.0)
    with pytest.raises(UsageError, match=r"a/metrics.csv has surfaces within 1 mm and .*b/metrics.csv within 3 mm"):
        compare([one, three], metrics=["dice", "nsd"])
    assert compare([one, three]).row("b", "core").difference == 0
    later = by_protocol(tmp_path / "c", "brats2026", 1.0)
    with pytest.raises(UsageError, match=r"a/metrics.csv counts .* as --empty skip does and .*c/metrics.csv as brats2"):
        compare([one, later])
    assert compare([one, later], metrics=["reference_ml"]).row("c", "core").n == 2


def test_a_run_folder_is_its_cross_validation(tmp_path: Path) -> None:
    plan = make_plan(configurations={"small": make_configuration(), "other": make_configuration()})
    run = make_run(tmp_path, plan)
    with pytest.raises(AutosegError, match="has no cross-validation yet; train it"):
        find_table(run.path)
    other = evaluated(run.path / "other" / "crossval", {"one": 0.5})
    assert find_table(run.path) == other / "metrics.csv"
    small = evaluated(run.path / "small" / "crossval", {"one": 0.5})
    assert find_table(run.path) == small / "metrics.csv"  # the recommended one
    assert find_table(run.path / "other") == other / "metrics.csv"
    fold = evaluated(run.path / "small" / "fold_0" / "validation", {"one": 0.5})
    assert find_table(run.path / "small" / "fold_0") == find_table(fold) == fold / "metrics.csv"


def test_a_cross_validation_of_folds_that_are_gone(tmp_path: Path) -> None:
    """Planned anew, or in training again: the table in the run folder is of other networks than its folds."""
    run = make_run(tmp_path, folds=3)
    table = evaluated(run.path / "small" / "crossval", {"one": 0.5, "two": 0.25}) / "metrics.csv"
    summary = table.with_name("summary.json")
    write_json(summary, {**read_json(summary), "folds": [0, 1]})
    for number, case in enumerate(("one", "two")):
        fold = run.fold("small", number)
        evaluated(fold.validation, {case: 0.5})
        save_weights(fold.weights, {"x": torch.zeros(1)}, identity_of(fold.stage))
    inputs = (run.path, run.path / "small")
    assert [find_table(path) for path in inputs] == [table, table]
    evaluated(run.fold("small", 2).validation, {"three": 0.5})
    save_weights(run.fold("small", 2).weights, {"x": torch.zeros(1)}, identity_of(run.fold("small", 2).stage))
    assert [find_table(path) for path in inputs] == [table, table]  # whose folds are all there, while others train
    (run.fold("small", 1).validation / "summary.json").unlink()
    told = "of the folds 0, 1, but trained and validated under the present plan are {}; train it with 'autoseg train"
    for path in inputs:
        with pytest.raises(AutosegError, match=told.format("0, 2")):
            find_table(path)
    save_plan(override(run.plan, ["channels.mr.normalization.scheme=zscore"]), run.path / "plan.json")
    for path in inputs:
        with pytest.raises(AutosegError, match=told.format("none")):
            find_table(path)
    assert find_table(table.parent) == table


def test_an_earlier_stage_of_other_regions_is_not_the_runs_cross_validation(tmp_path: Path) -> None:
    whole, inner = (REGIONS.model_copy(update={"outputs": [output]}) for output in REGIONS.outputs)
    last = make_configuration(target=inner, previous={"configuration": "first", "use": "box", "output": "whole"})
    stages = {"first": make_configuration(target=whole), "small": last}
    run = make_run(tmp_path, make_plan(target=REGIONS, configurations=stages))
    first = evaluated(run.path / "first" / "crossval", {"one": 0.5})
    with pytest.raises(AutosegError, match="has no cross-validation yet"):
        find_table(run.path)
    assert find_table(run.path / "first") == first / "metrics.csv"
    both = evaluated(run.path / "small" / "crossval", {"one": 0.5})
    assert find_table(run.path) == both / "metrics.csv"


def test_a_run_folder_with_several_cross_validations_and_none_recommended(tmp_path: Path) -> None:
    names = ("small", "left", "right")
    run = make_run(tmp_path, make_plan(configurations={name: make_configuration() for name in names}))
    for name in names[1:]:
        evaluated(run.path / name / "crossval", {"one": 0.5})
    with pytest.raises(UsageError, match=r"several cross-validations; name one: .*left, .*right"):
        find_table(run.path)


def test_folders_without_an_evaluation(tmp_path: Path) -> None:
    with pytest.raises(AutosegError, match=r"has no metrics.csv; give a folder that"):
        find_table(tmp_path)
    with pytest.raises(AutosegError, match="nowhere does not exist"):
        find_table(tmp_path / "nowhere")


def test_inputs_are_named_in_several_ways(tmp_path: Path) -> None:
    a, b = (evaluated(tmp_path / name, {"one": 0.5, "two": 0.25}) for name in "ab")
    odd = evaluated(tmp_path / "lr=0.1,wide", {"one": 0.5, "two": 0.25})
    assert compare([a, f"second={b}", odd]).names == ["a", "second", "lr=0.1,wide"]
    assert compare({"x": a, "y": [b, odd]}, baseline="y").baseline == "y"
    assert autoseg.compare([str(a), str(b)]).names == ["a", "b"]
    with pytest.raises(UsageError, match="x is given twice"):
        compare([f"x={a}", f"x={b}"])
    with pytest.raises(UsageError, match="x= is not of the form NAME=PATH"):
        compare(["x=", a])
    for alone in ([a], a, str(a)):
        with pytest.raises(UsageError, match="give two or more"):
            compare(alone)  # type: ignore[arg-type]


def test_the_table_is_written(tmp_path: Path) -> None:
    inputs = [evaluated(tmp_path / name, {"one": 0.5, "two": 0.25 + n / 8}) for n, name in enumerate("ab")]
    compare(inputs, out=tmp_path / "out" / "table.csv").write_csv(tmp_path / "again.csv")
    assert (tmp_path / "out" / "table.csv").read_bytes() == (tmp_path / "again.csv").read_bytes()


def test_several_files_of_one_input_are_averaged_by_case(tmp_path: Path) -> None:
    first = wide(tmp_path / "1.csv", {"a": [0.5, 2], "b": [0.7, ""], "c": [0.1, 1], "x": [0.9, 1]})
    second = wide(tmp_path / "2.csv", {"b": [0.8, 4], "a": [0.6, 4], "c": [0.2, 1]})
    other = wide(tmp_path / "3.csv", {"a": [0.5, 1], "b": [0.5, 1], "c": [0.5, 1]})
    found = compare([f"two={first},{second}", f"one={other}"], case="Label", metrics=["Dice", "HD95"])
    assert found.cases == ("a", "b", "c")
    assert found.row("two", "Dice").median == pytest.approx((0.5 + 0.6) / 2)
    assert found.row("two", "Dice").mean == pytest.approx((0.55 + 0.75 + 0.15) / 3)
    assert (found.row("two", "HD95").n, found.row("two", "HD95").mean) == (2, pytest.approx((3 + 1) / 2))
    assert "two: left out 1 of 4 cases, not in all of its 2 files." in found.notes()


def test_less_is_better_for_distances(tmp_path: Path) -> None:
    near, far = (
        evaluated(tmp_path / name, {f"case {i}": 0.5 + i / 100 + shift for i in range(10)})
        for name, shift in (("near", 0.1), ("far", 0.0))
    )
    found = compare([far, near], metrics=["hd95"])
    assert found.row("near", "whole").difference == pytest.approx(-0.1)
    assert found.verdicts()[0].startswith("near is significantly better than far in 2 of 2 comparisons")
    assert "worse" not in found.verdicts()[0]


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        *[("dice", "more"), ("hd95", "less"), ("assd", "less"), ("specificity", "more"), ("difference_ml", "neither")],
        *[("Dice_WT", "more"), ("Hausdorff95_ET", "less"), ("HD95 (mm)", "less"), ("LesionWise_HD95_TC", "less")],
        *[("Sensitivity_ET", "more"), ("meanSurfaceDistance", "less"), ("third", "more"), ("FPR", "less")],
        *[("Volume_WT", "neither"), ("numVoxels", "neither"), ("volume_error", "less"), ("VolumeSimilarity", "more")],
        *[("Num_FP", "less"), ("Num_FN_ET", "less"), ("FP", "less"), ("numFNs", "less"), ("FDR", "less")],
        *[("AVD", "less"), ("RAVD_liver", "less"), ("Num_TP", "neither"), ("TN", "neither"), ("VD", "neither")],
    ],
)
def test_what_is_good_about_a_metric(metric: str, direction: str) -> None:
    assert direction_of(metric) == direction


#: Table I of Wacker et al. 2019 (arXiv 1912.12452), AlbuNet2D: mean and median Dice.
TABLE_I = {
    "pretrained": {"Dice_WT": (0.8888, 0.9106), "Dice_TC": (0.7969, 0.8934), "Dice_ET": (0.7449, 0.8374)},
    "not_pretrained": {"Dice_WT": (0.8774, 0.8992), "Dice_TC": (0.7776, 0.8762), "Dice_ET": (0.7437, 0.8331)},
}


@pytest.mark.data
def test_table_i_of_wacker(real_data: Callable[[str], Path]) -> None:
    from scipy import stats

    folder = real_data("wacker_tables")
    inputs = {"pretrained": folder / "Pretraining_1.csv", "not_pretrained": folder / "No-Pretraining_1.csv"}
    found = compare(inputs, case="Label", metrics=list(TABLE_I["pretrained"]), baseline="not_pretrained")
    assert len(found.cases) == 66
    for name, columns in TABLE_I.items():
        for column, (mean, median) in columns.items():
            row = found.row(name, column)
            assert (row.mean, row.median) == pytest.approx((mean, median), abs=1e-4)
    # The test itself against a plain call of SciPy's on the numbers as they stand in the files.
    for column in TABLE_I["pretrained"]:
        plain, pretrained = (
            np.loadtxt(inputs[name], delimiter=",", skiprows=1, usecols=index, max_rows=66)
            for name in ("not_pretrained", "pretrained")
            for index in [["", "Dice_ET", "Dice_WT", "Dice_TC"].index(column)]
        )
        assert found.row("pretrained", column).p == pytest.approx(stats.wilcoxon(pretrained, plain).pvalue, rel=0.05)
    verdict = found.verdicts()[0]
    assert verdict.startswith("pretrained is significantly better than not_pretrained in 2 of 3 comparisons: Dice_WT")
    assert "Dice_TC" in verdict


@pytest.mark.data
def test_five_runs_of_wacker(real_data: Callable[[str], Path]) -> None:
    folder = real_data("wacker_tables")
    inputs = {
        "plain": [folder / f"No-Pretraining_{run}.csv" for run in range(1, 6)],
        "pretrained": [folder / f"Pretraining_{run}.csv" for run in range(1, 6)],
    }
    row = compare(inputs, case="Label", metrics=["Dice_WT"]).row("pretrained", "Dice_WT")
    means = {
        name: [np.loadtxt(f, delimiter=",", skiprows=1, usecols=2, max_rows=66).mean() for f in files]
        for name, files in inputs.items()
    }
    assert row.mean == pytest.approx(np.mean(means["pretrained"]))
    assert row.difference == pytest.approx(np.mean(means["pretrained"]) - np.mean(means["plain"]))
    assert 0 < row.low < row.difference < row.high


NAMES = ("mass [/x]", "kidney [left]", "kidney [right]", "[bold]", "a\\", "[1, 2]")


def shown(*tables: Table) -> str:
    console = Console(width=400, record=True, file=io.StringIO())
    for table in tables:
        console.print(table)
    return console.export_text()


@pytest.mark.parametrize("name", NAMES)
def test_names_in_tables_are_printed_as_they_are(name: str) -> None:
    """rich takes brackets for markup: it would drop the words in them, or fail."""
    values = dict.fromkeys(STANDARD_METRICS, 0.5)
    missed = {**values, "prediction_ml": 0.0, "reference_ml": 1.0}
    rows = tuple(Row(case, name, missed) for case in ("p", "q"))
    evaluation = Evaluation(rows, (name,))
    samples = {method: {name: {"p": 0.1, "q": 0.2, "r": 0.4}} for method in (name, "other")}
    compared = compare_samples(samples, name, directions={name: "more"})
    for table in (evaluation.table(), compared.table()):
        assert name in shown(table)
    assert f"{name}: 2 missed" in shown(evaluation.table())
