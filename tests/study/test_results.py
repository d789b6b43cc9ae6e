"""The numbers of a study's table, against an example worked by hand."""

import csv
import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from autoseg.data.dataset import Dataset
from autoseg.evaluation.protocol import STANDARD_METRICS
from autoseg.evaluation.summary import Evaluation, Row
from autoseg.planning.request import Request
from autoseg.study import StudyTable, prepare, sweep, tabulate
from autoseg.study.present import markdown, plan_table, terminal_tables
from autoseg.study.results import SettingResult, _compared
from autoseg.utils.files import write_json
from tests.builders import blob, make_configuration, make_plan, write
from tests.study.conftest import Trainings

Grid = Callable[[str], Path]

TWO = '[[setting]]\nname = "one"\n[[setting]]\nname = "two"\nset = { batch_size = 2 }\n'


def evaluation(dice: dict[str, tuple[float, float]]) -> Evaluation:
    """Case → Dice of outer and inner; everything else undefined."""
    nothing = dict.fromkeys(STANDARD_METRICS, math.nan)
    rows = [
        Row(case, target, {**nothing, "dice": value})
        for case, values in dice.items()
        for target, value in zip(("outer", "inner"), values, strict=True)
    ]
    return Evaluation(tuple(rows), ("outer", "inner"))


@pytest.fixture
def study(dataset: Dataset, grid: Grid, tmp_path: Path, planned: list[str]):
    return prepare(
        dataset, grid("folds = [0]\nseeds = [0, 1]\n" + TWO), tmp_path / "out", Request(device="cpu", workers=1)
    )


@pytest.fixture
def result(study) -> SettingResult:
    setting = study.settings[0]
    return SettingResult(
        setting=setting,
        plan=study.plans["one"],
        status="done",
        note="",
        iterations=100,
        seconds=25,
        trained=2,
        evaluations={
            (0, 0): evaluation({"a": (0.8, 0.6), "b": (0.5, math.nan)}),
            (1, 0): evaluation({"a": (0.6, 0.2), "b": (0.7, 0.4)}),
        },
    )


def test_seeds_are_averaged_within_a_case(result: SettingResult) -> None:
    values = result.values()
    assert list(values) == ["outer", "inner", "mean"]
    assert values["outer"] == {"a": pytest.approx(0.7), "b": pytest.approx(0.6)}
    assert values["inner"]["a"] == pytest.approx(0.4)
    assert math.isnan(values["inner"]["b"])  # undefined with one of the seeds
    # a: (0.8 + 0.6) / 2 = 0.7 and (0.6 + 0.2) / 2 = 0.4; b: 0.5 and (0.7 + 0.4) / 2 = 0.55
    assert values["mean"] == {"a": pytest.approx(0.55), "b": pytest.approx(0.525)}


def test_settings_of_other_structures_are_not_compared(study, result: SettingResult) -> None:
    """The others are, with all structures that they have in common with the baseline."""
    of = {name: replace(result, setting=replace(result.setting, name=name)) for name in ("one", "two", "inner")}
    rows = tuple(row for row in evaluation({"a": (0.8, 0.6), "b": (0.5, 0.4)}).rows if row.target == "inner")
    of["inner"] = replace(of["inner"], evaluations={(0, 0): Evaluation(rows, ("inner",))})
    table = StudyTable(study, tuple(of.values()), _compared(study, tuple(of.values())))
    assert table.comparison is not None
    assert table.comparison.names == ["one", "two"]
    assert table.comparison.columns == ["outer", "inner", "mean"]
    assert "Not compared with one, as they segment other structures: inner." in table.notes()
    record = table.records()[2]
    assert math.isnan(record["outer mean"])
    assert math.isnan(record["outer between_seeds"])


def test_spread_over_seeds(result: SettingResult) -> None:
    # outer: means 0.65 and 0.65; inner: 0.6 and 0.3; mean: (0.7 + 0.5) / 2 = 0.6 and (0.4 + 0.55) / 2 = 0.475
    assert result.between_seeds("outer") == pytest.approx(0, abs=1e-12)
    assert result.between_seeds("inner") == pytest.approx(0.3 / math.sqrt(2))
    assert result.between_seeds("mean") == pytest.approx(0.125 / math.sqrt(2))
    assert math.isnan(replace(result, evaluations={(0, 0): result.evaluations[0, 0]}).between_seeds("mean"))


def test_seconds_an_iteration(result: SettingResult) -> None:
    assert result.seconds_per_iteration == 0.25


def test_records(study, result: SettingResult) -> None:
    record = StudyTable(study, (result,), None).records()[0]
    assert (record["setting"], record["planner"], record["batch"], record["patch"]) == ("one", "unet", 2, "8×8×8")
    assert record["outer mean"] == pytest.approx(0.65)
    assert record["outer std"] == pytest.approx(0.1 / math.sqrt(2))
    assert (record["outer n"], record["inner n"]) == (2, 1)
    assert record["mean mean"] == pytest.approx(0.5375)


@pytest.fixture
def table(dataset: Dataset, grid: Grid, tmp_path: Path, planned: list[str], trainings: Trainings) -> StudyTable:
    """Setting ``plain`` is right everywhere; ``off`` is one slice off, ``far`` three."""
    text = "[grid]\nbatch_size = [1, 2, 4]\n"
    source = grid("seeds = [0, 1]\nbaseline = 'batch_size=1'\n" + text)
    return sweep(dataset, source, tmp_path / "out", Request(device="cpu", workers=1))


def test_label_maps_are_measured_on_the_studys_structures(table: StudyTable) -> None:
    """Label 2 fills z 3 to 5 (of 10): one slice off, 2 of 3 slices overlap; three off, none."""
    inner = [table.comparison.row(name, "inner") for name in ("batch_size=1", "batch_size=2", "batch_size=4")]
    assert [row.mean for row in inner] == pytest.approx([1, 2 / 3, 0])
    assert [row.difference for row in inner[1:]] == pytest.approx([-1 / 3, -1])
    assert [row.effect for row in inner[1:]] == [-1, -1]
    # Four cases, all worse: exact p = 2 / 2⁴, times six tests (Holm), at most 1.
    assert [row.p for row in inner[1:]] == [0.125, 0.125]
    assert [row.p_holm for row in inner[1:]] == [0.75, 0.75]


def test_files(table: StudyTable, tmp_path: Path) -> None:
    with open(tmp_path / "out" / "cases.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 3 * 2 * 4 * 2  # settings, seeds, cases, structures
    assert {line["fold"] for line in lines} == {"0", "1", "2", "3"}
    off = [line for line in lines if line["setting"] == "batch_size=2" and line["target"] == "inner"]
    assert {round(float(line["dice"]), 6) for line in off} == {0.666667}
    with open(tmp_path / "out" / "table.csv", newline="") as file:
        rows = {line["setting"]: line for line in csv.DictReader(file)}
    assert float(rows["batch_size=2"]["inner difference"]) == pytest.approx(-1 / 3)
    assert rows["batch_size=1"]["inner p"] == ""
    assert rows["batch_size=1"]["status"] == "done"
    # Ten iterations, 5 s with seed 0 and 10 s with seed 1.
    assert float(rows["batch_size=4"]["seconds_per_iteration"]) == 0.75
    page = (tmp_path / "out" / "table.md").read_text()
    assert "| batch_size=1 (baseline) | unet |" in page
    assert "| batch_size=2 | unet |" in page
    assert "0.667 ± 0.000" in page
    assert "| inner | batch_size=4 | −1.0000 | −1.0000 … −1.0000 | 0.125 | 0.750 | −1.00 |" in page
    assert "autoseg sweep data --grid study.toml --out out" in page
    heads = [line for line in page.splitlines() if line.startswith("| setting")]
    assert heads[0].endswith("| outer | inner | mean | seeds |")
    assert all(line.count("|") == heads[0].count("|") for line in page.splitlines() if line.startswith("| batch"))


def test_json_has_no_nan(table: StudyTable) -> None:
    found = json.loads(json.dumps(table.to_json(), allow_nan=False))
    assert found["structures"] == {"outer": [1], "inner": [2]}
    assert found["settings"][2]["inner mean"] == 0
    assert found["comparison"]["baseline"] == "batch_size=1"


def test_terminal_tables(table: StudyTable) -> None:
    def shown(wide: bool, width: int) -> str:
        console = Console(width=width, file=io.StringIO(), record=True)
        for part in terminal_tables(table, wide=wide):
            console.print(part)
        return console.export_text()

    wide = shown(True, 160)
    assert "0.667 ± 0.000" in wide
    assert any(line.split()[:2] == ["batch_size=1", "unet"] for line in wide.splitlines())
    narrow = shown(False, 80)
    assert max(map(len, narrow.splitlines())) <= 80
    assert "0.667 ± 0.000" in narrow
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(plan_table(table.study))
    assert "4 × 8×8×8" in console.export_text()


def test_a_cascade_counts_all_its_stages(
    dataset: Dataset, grid: Grid, tmp_path: Path, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    low = make_configuration(parameters=100, parameters_with_statistics=110)
    last = make_configuration(previous={"configuration": "low"}, parameters=1000, parameters_with_statistics=1100)
    plan = make_plan(configurations={"low": low, "small": last})
    monkeypatch.setattr("autoseg.study.preparation.make_plan", lambda *_: plan)
    source = grid('folds = [1]\n[[setting]]\nname = "two_stages"\n')
    sweep(dataset, source, tmp_path / "out", Request(device="cpu", workers=1))
    # The stand-in for training noted 10 iterations in 5 s for the last stage.
    write_json(tmp_path / "out/two_stages/seed_0/low/fold_1/done.json", {"iterations": 30, "seconds": 3.0})
    table = tabulate(prepare(dataset, source, tmp_path / "out", Request(workers=1)))
    record = table.records()[0]
    assert (record["iterations"], record["seconds"], record["seconds_per_iteration"]) == (40, 8, 0.2)
    assert (record["parameters"], record["parameters_with_statistics"]) == (1100, 1210)
    assert record["stages"] == "low small"
    assert table.notes() == []


def test_only_the_table_of_a_study_under_way(
    dataset: Dataset, grid: Grid, tmp_path: Path, planned: list[str], trainings: Trainings
) -> None:
    source = grid("folds = [0, 1]\n" + TWO)
    trainings.wrong["two", 0, 1] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        sweep(dataset, source, tmp_path / "out", Request(device="cpu", workers=1))
    table = tabulate(prepare(dataset, source, tmp_path / "out", Request(device="auto", workers=1)))
    assert [result.status for result in table.results] == ["done", "unfinished"]
    assert table.notes() == ["two unfinished: 1 of 2 trained", "Nothing is compared: only one is finished."]
    assert "1 of 2 trained" in markdown(table)


def test_an_evaluation_is_kept_until_the_training_or_the_structures_change(
    table: StudyTable, grid: Grid, tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autoseg.study import results

    measured = []
    real = results.evaluate_pairs
    monkeypatch.setattr(results, "evaluate_pairs", lambda *a, **k: measured.append(1) or real(*a, **k))
    tabulate(table.study)
    assert measured == []
    only_inner = tabulate(replace(table.study, structures=table.study.structures[1:]))
    assert len(measured) == 3 * 2 * 4
    assert only_inner.columns == ["inner"]


def test_validations_that_a_later_fold_chose_are_measured_anew(table: StudyTable, tmp_path: Path) -> None:
    """As a tuned source's are: other label maps and metrics, and the fold's own mark of its end as it was."""
    before = table.results[2].values()["inner"]
    assert before == dict.fromkeys(before, pytest.approx(0))
    for seed in (0, 1):
        validation = tmp_path / "out" / "batch_size=4" / f"seed_{seed}" / "small" / "fold_0" / "validation"
        (path,) = validation.glob("*.nii.gz")
        case = path.name.removesuffix(".nii.gz")
        write(path, blob(shift=int(case[-1]) % 2))
        (validation / "metrics.csv").write_text("chosen\n")
    found = tabulate(table.study).results[2].values()["inner"]
    assert found == {**before, case: pytest.approx(1)}
