"""A study that ends on a test set: held out cases, or another dataset; and its curves of training."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from autoseg.data.dataset import Dataset
from autoseg.evaluation.masks import dice
from autoseg.inference.predictor import Predictor
from autoseg.inference.results.record import scans_of
from autoseg.networks import build
from autoseg.networks.weights import save_weights
from autoseg.planning.request import Request
from autoseg.runs.run import Run
from autoseg.study import StudyOptions, StudyTable, prepare, sweep, tabulate
from autoseg.study.curves import collect_curves, write_curves
from autoseg.study.running import predict_test_cases
from autoseg.utils.digest import file_digest
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import write_json
from tests.builders import (
    blob,
    make_configuration,
    make_dataset,
    make_plan,
    make_recipe,
    make_run,
    picture_of,
    write,
)
from tests.study.conftest import Trainings

Grid = Callable[[str], Path]

pytestmark = pytest.mark.usefixtures("one_core")

CPU = Request(device="cpu", workers=1)

TEXT = """
seeds = [0, 1]
{more}
[[setting]]
name = "one"
[[setting]]
name = "two"
set = {{ batch_size = 3 }}
[[table]]
of = "test"
columns = ["case"]
"""


def by_hand(table: StudyTable, case: str, label: Path, folder: str) -> list[float]:
    """Dice of the label "outer" of a case with each seed, from the files."""
    found = []
    for seed in (0, 1):
        path = table.study.out / "one" / f"seed_{seed}" / "small" / folder / f"{case}.nii.gz"
        predicted, real = (sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in (path, label))
        found.append(dice(predicted == 1, real == 1))
    return found


def untested(table: StudyTable) -> list[str]:
    """What stands in place of the settings' scores of the test cases."""
    assert table.tested is not None
    return [result.note for result in table.tested.results if result.status == "unfinished"]


def test_held_out_cases(dataset: Dataset, grid: Grid, tmp_path: Path, planned: list[str]) -> None:
    """Real trainings: no setting sees the test case, and each is scored on it by its folds together."""
    text = TEXT.format(more="test_share = 0.25\nfolds = [0, 1]")
    table = sweep(dataset, grid(text), tmp_path / "out", CPU)
    assert table.failed == []
    test = table.study.splits[0]["test"]
    assert len(test) == 1
    assert table.tested is not None
    result = table.tested.results[0]
    assert {case for evaluation in table.results[0].evaluations.values() for case in evaluation.cases}.isdisjoint(test)
    label = dataset.case(test[0]).label
    assert isinstance(label, Path)
    expected = by_hand(table, test[0], label, "test")
    assert result.values()["outer"][test[0]] == pytest.approx(np.mean(expected), abs=1e-9)
    page = (tmp_path / "out" / "table.md").read_text()
    assert "## Test set" in page
    assert "by 2 folds together, without post-processing.\n" in page
    assert f"| {test[0]} | AVG |" in page
    assert (tmp_path / "out" / "test_table.csv").exists()
    assert json.loads(json.dumps(table.to_json()))["test"]["settings"][0]["setting"] == "one"
    # The same command scores nothing again.
    stored = tmp_path / "out" / "one" / "seed_0" / "small" / "test" / f"{test[0]}.nii.gz"
    before = stored.stat().st_mtime_ns
    again = sweep(dataset, grid(text), tmp_path / "out", CPU)
    assert again.tested is not None
    assert str(again.tested.records()) == str(table.tested.records())
    assert stored.stat().st_mtime_ns == before
    # One fold alone is another predictor: what both gave is not its score, and its own not theirs.
    one_fold = StudyOptions(folds=(0,))
    only_table = tabulate(prepare(dataset, grid(text), tmp_path / "out", CPU, one_fold))
    assert untested(only_table) == ["0 of 2 tested"] * 2
    alone = sweep(dataset, grid(text), tmp_path / "out", CPU, one_fold).tested
    assert alone is not None
    expected = by_hand(table, test[0], label, "test")
    assert alone.results[0].values()["outer"][test[0]] == pytest.approx(np.mean(expected), abs=1e-9)
    assert untested(tabulate(prepare(dataset, grid(text), tmp_path / "out", CPU))) == ["0 of 2 tested"] * 2


def test_a_corrected_label_of_the_datasets_own_test_case_is_scored_anew(
    dataset: Dataset, grid: Grid, tmp_path: Path, planned: list[str]
) -> None:
    """And what was preprocessed may be deleted: where nothing has changed, it is not needed."""
    own = make_dataset(tmp_path / "own", 1).cases[0]
    label = tmp_path / "own" / "label.nii.gz"
    write(own.channels["mr"].path, picture_of(blob(shift=1), seed=9))
    write(label, blob())
    own = own.model_copy(update={"id": "own", "label": label})
    text, dataset = TEXT.format(more="folds = [0, 1]"), dataset.model_copy(update={"unlabelled": (own,)})

    def scored(options: StudyOptions = StudyOptions()) -> float:
        table = sweep(dataset, grid(text), tmp_path / "out", CPU, options)
        assert table.failed == []
        assert table.tested is not None
        found = table.tested.results[0].values()["outer"]["own"]
        assert found == pytest.approx(np.mean(by_hand(table, "own", label, "test")), abs=1e-9)
        return found

    before, predicted = scored(), tmp_path / "out" / "one" / "seed_0" / "small" / "test" / "own.nii.gz"
    written = predicted.stat().st_mtime_ns
    shutil.rmtree(tmp_path / "out" / "preprocessed")
    assert scored() == before
    assert predicted.stat().st_mtime_ns == written
    scored(StudyOptions(folds=(1,)))
    assert predicted.stat().st_mtime_ns != written
    write(label, np.ones_like(blob()))
    assert scored() != pytest.approx(before, abs=1e-3)


def clinic(folder: Path, shift: int) -> Dataset:
    """A dataset of one patient, of the same name wherever it lies."""
    other = make_dataset(folder, 1)
    label = blob(shift=shift)
    write(other.cases[0].channels["mr"].path, picture_of(label, 9))
    case = other.cases[0].model_copy(update={"id": "patient", "label": write(folder / "p.nii.gz", label)})
    return other.model_copy(update={"name": "the clinic", "cases": (case,)})


def test_another_dataset(dataset: Dataset, grid: Grid, tmp_path: Path, planned: list[str]) -> None:
    other = clinic(tmp_path / "clinic", 1)
    table = sweep(dataset, grid(TEXT.format(more="folds = [0]")), tmp_path / "out", CPU, StudyOptions(test=other))
    assert table.tested is not None
    expected = by_hand(table, "patient", tmp_path / "clinic" / "p.nii.gz", "test_the_clinic")
    assert table.tested.results[0].values()["outer"]["patient"] == pytest.approx(np.mean(expected), abs=1e-9)


def test_another_dataset_of_that_name_is_predicted_anew(tmp_path: Path) -> None:
    """A prediction itself replaces no result of other scans."""
    run = make_run(tmp_path)
    stage = run.plan.stage()
    save_weights(run.fold(stage, 0).weights, build(stage.network, stage.in_channels, stage.heads).state_dict())
    for number, folder in enumerate(("clinic", "other")):
        other = clinic(tmp_path / folder, number)
        study: Any = SimpleNamespace(test=other, folds=(0,), test_cases=list(other.cases))
        predict_test_cases(study, run, "cpu")
        told = json.loads((run.path / stage.name / "test_the_clinic" / "predictions.json").read_text())
        assert told["cases"]["patient"]["scans"] == scans_of(other.cases[0])


def test_a_run_that_keeps_its_source_is_tested_with_it(tmp_path: Path) -> None:
    """As ``autoseg predict`` predicts: with all folds of the source and its post-processing, not the run's one fold."""
    initialization = {
        "source": "model",
        "file": "s",
        "ensemble": ["a", "b"],
        "keep": "auto",
        "source_outputs": ["background", "outer", "inner"],
        "outputs": {"inner": "inner"},
        "postprocessing": [{"kind": "minimum_total", "output": "inner", "mm3": 1e9}],
    }
    run = make_run(tmp_path, make_plan(make_configuration(recipe=make_recipe(initialization=initialization))))
    stage, other = run.plan.stage(), clinic(tmp_path / "clinic", 1)
    own, sources = run.fold(stage, 0).weights, [run.source_folder(stage) / f"{number}.safetensors" for number in (0, 1)]
    for seed, file in enumerate([own, *sources]):
        torch.manual_seed(seed)
        save_weights(file, build(stage.network, stage.in_channels, stage.heads).state_dict())
    study: Any = SimpleNamespace(test=other, folds=(0,), test_cases=list(other.cases))
    folder = run.path / stage.name / "test_the_clinic"
    for share, files in ((1.0, sources), (0.5, [own]), (1.0, sources)):
        write_json(run.path / stage.name / "source_share.json", {"share": share})
        predict_test_cases(study, run, "cpu")
        assert json.loads((folder / "tested.json").read_text())["weights"] == [file_digest(file) for file in files]
        (made,) = json.loads((folder / "predictions.json").read_text())["runs"]
        assert made["folds"] == list(range(len(files)))
        assert ("source" in made) == (share == 1.0)
        predicted = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "patient.nii.gz")))
        by_predict = Predictor.load(run.path, device="cpu").predict_case(other.cases[0]).label
        assert np.array_equal(predicted, by_predict)
        assert (2 in predicted) == (share != 1.0)


def test_a_corrected_label_is_scored_anew(
    dataset: Dataset, grid: Grid, tmp_path: Path, planned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the same again is not; nor are scores of another dataset of that name taken for its own."""
    text, label = TEXT.format(more="folds = [0]"), tmp_path / "clinic" / "p.nii.gz"
    test = StudyOptions(test=clinic(tmp_path / "clinic", 1))
    first = sweep(dataset, grid(text), tmp_path / "out", CPU, test).tested
    with monkeypatch.context() as patched:
        patched.setattr(Predictor, "predict", lambda *_, **__: pytest.fail("predicted again"))
        sweep(dataset, grid(text), tmp_path / "out", CPU, test)
    other = StudyOptions(test=clinic(tmp_path / "other", 0))
    assert untested(tabulate(prepare(dataset, grid(text), tmp_path / "out", CPU, other))) == ["0 of 2 tested"] * 2
    write(label, np.ones_like(blob()))
    table = sweep(dataset, grid(text), tmp_path / "out", CPU, test)
    assert first is not None
    assert table.tested is not None
    found = [of.results[0].values()["outer"]["patient"] for of in (first, table.tested)]
    assert found[1] == pytest.approx(np.mean(by_hand(table, "patient", label, "test_the_clinic")), abs=1e-9)
    assert found[0] != pytest.approx(found[1], abs=1e-3)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "seed 1: out of memory (CUDA out of memory. Tried)"),
        (AutosegError("t1.nii.gz is gone."), "seed 1: t1.nii.gz is gone."),
    ],
)
def test_a_setting_that_can_not_be_tested_fails_and_stops_no_other(
    dataset: Dataset,
    grid: Grid,
    tmp_path: Path,
    planned: list[str],
    trainings: Trainings,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    reason: str,
) -> None:
    """Its validation stands in the table, and the same command tries again."""
    text, wrong = TEXT.format(more="test_share = 0.25\nfolds = [0]"), {("one", "seed_1"): error}
    scored = []

    def score(run: Run, *_: object) -> None:
        scored.append((run.path.parent.name, run.path.name))
        if scored[-1] in wrong:
            raise wrong[scored[-1]]

    monkeypatch.setattr("autoseg.study.running.score_test_cases", score)
    table = sweep(dataset, grid(text), tmp_path / "out", CPU)
    assert scored == [(name, seed) for name in ("one", "two") for seed in ("seed_0", "seed_1")]
    assert table.failed == ["one"]
    assert table.results[0].status == "done"
    assert table.tested is not None
    assert [(result.status, result.note) for result in table.tested.results] == [
        ("failed", reason),
        ("unfinished", "0 of 2 tested"),  # the stand-in scores nothing
    ]
    assert f"one can't be tested: {reason}" in (tmp_path / "out" / "table.md").read_text()
    assert tabulate(table.study).failed == ["one"]
    assert tabulate(replace(table.study, test=clinic(tmp_path / "clinic", 1))).failed == []
    wrong.clear()
    assert sweep(dataset, grid(text), tmp_path / "out", CPU).failed == []
    assert not list((tmp_path / "out").rglob("*failed*"))


def test_curves_are_means_over_trainings(dataset: Dataset, grid: Grid, tmp_path: Path, planned: list[str]) -> None:
    table = sweep(dataset, grid('folds = [0]\nseeds = [0, 1]\n[[setting]]\nname = "net"\n'), tmp_path / "out", CPU)
    assert (tmp_path / "out" / "curves.png").stat().st_size > 1000
    values = []
    for seed, dices in ((0, (0.2, 0.6)), (1, (0.4, 0.9))):
        path = tmp_path / "out" / "net" / f"seed_{seed}" / "small" / "fold_0" / "history.csv"
        path.write_text("epoch,loss,validation_dice,validation_dice_outer\n")
        with open(path, "a") as file:
            file.writelines(f"{epoch},1,{value},{value / 2}\n" for epoch, value in enumerate(dices, 1))
            file.write("3,1,,\n" if seed else "3,1,0.7,0.3\n")
        values.append(dices)
    curves = {curve.column: curve for curve in collect_curves(table.study)}
    mean = curves["validation_dice"]
    assert mean.epochs.tolist() == [1, 2]  # one of them has no third
    np.testing.assert_allclose(mean.mean, np.mean(values, axis=0))
    np.testing.assert_allclose(mean.std, np.std(values, axis=0, ddof=1))
    assert curves["validation_dice_outer"].structure == "outer"
    write_curves(table.study, tmp_path)
    with open(tmp_path / "curves.csv", newline="") as file:
        first = next(csv.DictReader(file))
    assert (first["setting"], first["structure"], first["trainings"]) == ("net", "mean", "2")
    assert float(first["mean"]) == pytest.approx(0.3)


def test_a_study_is_run_shorter(dataset: Dataset, grid: Grid, tmp_path: Path, planned: list[str]) -> None:
    """Folds, seeds and length of the command line go before those of the file."""
    path = grid('seeds = [0, 1]\nepochs = 9\n[[setting]]\nname = "net"\n')
    table = sweep(dataset, path, tmp_path / "out", CPU, StudyOptions(folds=(1,), seeds=(3,), max_time="1s"))
    assert list(table.results[0].evaluations) == [(3, 1)]
    assert table.study.grid.length == "1s a fold"
    for wrong in (StudyOptions(epochs=2, max_time="1s"), StudyOptions(max_time="0s"), StudyOptions(epochs=0)):
        with pytest.raises(UsageError, match="--epochs and --max-time"):
            sweep(dataset, path, tmp_path / "out", CPU, wrong)
