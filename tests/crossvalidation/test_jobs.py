"""Cross-validated training of a whole run, on blobs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from autoseg.crossvalidation import fold_ending, fold_training, jobs
from autoseg.crossvalidation.job import Length
from autoseg.crossvalidation.jobs import train
from autoseg.crossvalidation.table import cross_validated
from autoseg.evaluation.summary import Evaluation
from autoseg.inference import chain
from autoseg.inference.predictor import Predictor
from autoseg.networks.weights import load_weights
from autoseg.plans.files import save_plan
from autoseg.plans.overrides import override
from autoseg.plans.preprocessing import Preprocessing
from autoseg.postprocessing.choice import postprocess
from autoseg.preprocessing.dataset import preprocess
from autoseg.report.collect import collect
from autoseg.runs.fold import Fold
from autoseg.runs.run import Run
from autoseg.runs.trained_folds import folds_of_plan
from autoseg.training.training import Training
from autoseg.utils.device import Compute
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import write_json
from autoseg.utils.lock import held
from tests.builders import Perfect, blob, make_configuration, make_plan, make_run, write

pytestmark = pytest.mark.usefixtures("one_core")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = make_run(tmp_path)
    preprocess(run, workers=1)
    return run


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def weights(run: Run, fold: int) -> dict[str, torch.Tensor]:
    return load_weights(run.fold("small", fold).weights)


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_all_folds(run: Run) -> None:
    evaluation = train(run, compute=Compute("cpu"))
    assert sorted(evaluation.cases) == ["case_0", "case_1", "case_2", "case_3"]
    assert evaluation.targets == ("outer", "inner")
    for fold in (0, 1):
        folder = run.fold("small", fold).folder
        assert {"weights.safetensors", "best.safetensors", "training_state.pt", "history.csv", "log.txt"} <= {
            path.name for path in folder.iterdir()
        }
        # Two epochs of two iterations, as the plan says.
        assert [line.split(",")[1] for line in (folder / "history.csv").read_text().splitlines()[1:]] == ["2", "4"]
        assert "2 training and 2 validation cases, 2 epochs of 2 iterations, on cpu" in (folder / "log.txt").read_text()
    # What is told is what lies in the files.
    for row in evaluation.rows:
        fold = 0 if row.case in run.split(0)["validation"] else 1
        predicted = read(run.fold("small", fold).validation / f"{row.case}.nii.gz")
        value = {"outer": 1, "inner": 2}[row.target]
        found, wanted = predicted == value, blob(shift=int(row.case[-1]) % 2) == value
        assert row.values["dice"] == pytest.approx(2 * (found & wanted).sum() / (found.sum() + wanted.sum()))
    summary = json.loads((run.path / "small" / "crossval" / "summary.json").read_text())
    assert summary["folds"] == [0, 1]
    assert summary["cases"] == 4
    assert summary["mean"]["dice"] == pytest.approx(evaluation.mean("dice"))


def test_perfect_networks_are_told_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """With another transposition and spacing than the files': back on their grid there is nothing wrong."""
    plan = make_plan(
        make_configuration(spacing=(0.5, 0.5, 0.5), data="fine"), preprocessing=Preprocessing(transpose=(2, 0, 1))
    )
    save_plan(plan, run.path / "plan.json")
    run = Run.open(run.path)
    preprocess(run, workers=1)
    monkeypatch.setattr(chain, "load_network", lambda *_: Perfect())
    evaluation = train(run, folds=[0], length=Length(epochs=1), compute=Compute("cpu"))
    assert [row.values["dice"] for row in evaluation.rows] == [1.0] * 4


@pytest.mark.parametrize(
    ("planned", "asked", "told"), [("cuda", "auto", True), ("cuda", "cpu", False), ("cpu", "auto", False)]
)
def test_another_device_than_was_planned_for_is_told_before_anything_is_preprocessed(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], planned: str, asked: str, told: bool
) -> None:
    def stop(*_: object) -> None:
        raise InterruptedError

    monkeypatch.setattr(jobs, "select_device", lambda name: torch.device("cpu"))
    monkeypatch.setattr(jobs, "preprocess", stop)
    save_plan(run.plan.model_copy(update={"device": planned}), run.path / "plan.json")
    with pytest.raises(InterruptedError):
        train(run, length=Length(epochs=1), compute=Compute(asked))
    said = capsys.readouterr().err
    assert (f"{run.path} was planned for cuda, and is trained on cpu" in said) == told
    assert (f"--out {run.path} --device cpu' plans it for this device" in said) == told


def test_fold_by_fold(run: Run) -> None:
    first = train(run, folds=[1], length=Length(epochs=1), compute=Compute("cpu"))
    assert sorted(first.cases) == run.split(1)["validation"]
    both = train(run, folds=[0], length=Length(epochs=1), compute=Compute("cpu"))
    assert sorted(both.cases) == ["case_0", "case_1", "case_2", "case_3"]
    assert [row for row in both.rows if row.case in first.cases] == list(first.rows)
    assert cross_validated(run, run.plan.stage("small")).rows == both.rows
    # One fold was measured while the plan had another convention for absent structures.
    fold = run.fold("small", 0)
    Evaluation.read(fold.validation).counting_absent("brats").write(fold.validation)
    again = cross_validated(run, run.plan.stage("small"))
    assert (again.empty, str(again.rows)) == ("skip", str(both.rows))


def test_folds_of_other_splits_are_left_out(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Their held-out cases are others now, which they may have learned from."""
    train(run, length=Length(epochs=1), compute=Compute("cpu"))
    assert [fold.number for fold in folds_of_plan(run, run.plan.stage())] == [0, 1]
    splits = [dict(split) for split in run.splits]
    moved = splits[1]["validation"][0]
    splits[1] = {"train": [*splits[1]["train"], moved], "validation": splits[1]["validation"][1:]}
    write_json(run.path / "splits.json", splits)
    run = Run.open(run.path)
    assert [fold.number for fold in folds_of_plan(run, run.plan.stage())] == [0]
    assert sorted(cross_validated(run, run.plan.stage()).cases) == run.split(0)["validation"]
    assert "Fold 1 of small was trained under another plan or split and is left out" in capsys.readouterr().err
    assert postprocess(run, "small", workers=1).cases == 2
    results = collect(run, "small", 2)
    assert results is not None
    assert results.evaluation is not None
    assert sorted(results.evaluation.cases) == run.split(0)["validation"]
    # Trained again, it is there again.
    both = train(run, folds=[1], length=Length(epochs=1), compute=Compute("cpu"), resume=False)
    assert sorted(both.cases) == sorted([*run.split(0)["validation"], *run.split(1)["validation"]])


def test_a_validation_is_of_the_weights_beside_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between new weights and their validation: the one of the weights before is gone."""
    train(run, folds=[0], length=Length(epochs=1), compute=Compute("cpu"))
    fold = run.fold("small", 0)
    assert (fold.validation / "summary.json").exists()

    def killed(*_: object) -> None:
        raise InterruptedError

    with monkeypatch.context() as patched:
        patched.setattr("autoseg.crossvalidation.fold_ending.validate_fold", killed)
        with pytest.raises(InterruptedError):
            train(run, folds=[0], length=Length(epochs=2), compute=Compute("cpu"))
    assert not (fold.validation / "summary.json").exists()
    with pytest.raises(AutosegError, match="no validated fold"):
        cross_validated(run, run.plan.stage())
    train(run, folds=[0], length=Length(epochs=2), compute=Compute("cpu"))
    assert (fold.validation / "summary.json").exists()


def test_a_validation_that_is_gone_is_made_again(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Deleted to save room, as the state of the training was: nothing is trained again for it."""
    train(run, folds=[0, 1], length=Length(epochs=1), compute=Compute("cpu"))
    fold = run.fold("small", 0)
    before, made = weights(run, 0), {path.name: read(path) for path in fold.validation.glob("*.nii.gz")}
    shutil.rmtree(fold.validation)
    fold.state.unlink()
    assert sorted(cross_validated(run, run.plan.stage()).cases) == run.split(1)["validation"]
    assert "Fold 0 of small is trained, not validated, and left out of the table." in capsys.readouterr().err
    found = train(run, folds=[0], length=Length(epochs=1), compute=Compute("cpu"))
    assert len(found.cases) == 4
    assert equal(weights(run, 0), before)
    again = {path.name: read(path) for path in fold.validation.glob("*.nii.gz")}
    assert again.keys() == made.keys()
    assert all(np.array_equal(again[name], image) for name, image in made.items())


def test_a_case_that_can_not_be_validated_stops_no_other_fold(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = fold_ending.validate_fold

    def failing(fold: Fold, device: torch.device) -> Evaluation:
        if fold.number == 0:
            raise AutosegError("case_0 can't be read")
        return real(fold, device)

    with monkeypatch.context() as patched:
        patched.setattr(fold_ending, "validate_fold", failing)
        with pytest.raises(AutosegError, match="case_0 can't be read"):
            train(run, length=Length(epochs=1), compute=Compute("cpu"))
    assert "fold 0 of small is not validated: case_0 can't be read" in capsys.readouterr().err
    assert run.fold("small", 0).trained
    assert (run.fold("small", 1).validation / "summary.json").exists()
    assert len(train(run, length=Length(epochs=1), compute=Compute("cpu")).cases) == 4


@pytest.mark.parametrize("length", [Length(epochs=1), Length(seconds=1.0)])
def test_an_interrupted_validation_trains_nothing_again(
    run: Run, monkeypatch: pytest.MonkeyPatch, length: Length
) -> None:
    """However much time the way to it took this time."""

    def stopped(*_: object) -> None:
        raise InterruptedError

    with monkeypatch.context() as patched:
        patched.setattr(fold_ending, "validate_fold", stopped)
        with pytest.raises(InterruptedError):
            train(run, folds=[0], length=length, compute=Compute("cpu"))
    before = weights(run, 0)
    monkeypatch.setattr(fold_training, "train_fold", stopped)
    assert sorted(train(run, folds=[0], length=length, compute=Compute("cpu")).cases) == run.split(0)["validation"]
    assert equal(weights(run, 0), before)
    with pytest.raises(InterruptedError):
        train(run, folds=[0], length=Length(epochs=50), compute=Compute("cpu"))


def test_again_changes_nothing(run: Run) -> None:
    train(run, folds=[0], length=Length(epochs=1), compute=Compute("cpu"))
    before, history = weights(run, 0), (run.fold("small", 0).folder / "history.csv").read_bytes()
    train(run, folds=[0], length=Length(epochs=1), compute=Compute("cpu"))
    assert equal(weights(run, 0), before)
    assert (run.fold("small", 0).folder / "history.csv").read_bytes() == history
    train(run, folds=[0], length=Length(epochs=3), compute=Compute("cpu"))  # longer: goes on
    assert len((run.fold("small", 0).folder / "history.csv").read_text().splitlines()) == 1 + 3
    assert not equal(weights(run, 0), before)


def test_restart(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    train(run, folds=[0], length=Length(epochs=2), compute=Compute("cpu"))
    save_plan(override(run.plan, ["recipe.optimizer.learning_rate=0.5"]), run.path / "plan.json")
    run = Run.open(run.path)
    with pytest.raises(AutosegError, match=r"another plan, seed or split.*--restart"):
        train(run, folds=[0], length=Length(epochs=2), compute=Compute("cpu"))

    def stopped(*_: object) -> None:
        raise InterruptedError

    with monkeypatch.context() as patched:
        patched.setattr("autoseg.crossvalidation.fold_training.train_fold", stopped)
        with pytest.raises(InterruptedError):
            train(run, folds=[0], resume=False, length=Length(epochs=1), compute=Compute("cpu"))
    assert not (run.fold("small", 0).validation / "summary.json").exists()  # which scores weights of the old plan
    train(run, folds=[0], resume=False, length=Length(epochs=1), compute=Compute("cpu"))
    assert len((run.fold("small", 0).folder / "history.csv").read_text().splitlines()) == 1 + 1


def test_time(run: Run) -> None:
    evaluation = train(run, folds=[0], length=Length(seconds=1.5), compute=Compute("cpu"))
    assert len(evaluation.cases) == 2
    assert "0.025 minutes" in (run.fold("small", 0).folder / "log.txt").read_text()


def test_without_the_label_files(run: Run) -> None:
    """On a machine that has the run folder only, the preprocessed labels are the reference."""
    with_files = train(run, folds=[0], length=Length(epochs=1), compute=Compute("cpu"))
    for case in run.dataset.cases:
        case.label.unlink()
        case.channels["mr"].path.unlink()
    without = train(run, folds=[0], resume=False, length=Length(epochs=1), compute=Compute("cpu"))
    assert without.rows == with_files.rows
    reference = run.fold("small", 0).validation / "references" / "case_0.nii.gz"
    assert np.array_equal(read(reference), blob())


def test_wrong_usage(run: Run) -> None:
    with pytest.raises(UsageError, match="--epochs and --max-time"):
        train(run, length=Length(epochs=1, seconds=5))
    with pytest.raises(UsageError, match="--epochs 0 is too few"):
        train(run, length=Length(epochs=0))
    with pytest.raises(UsageError, match="--max-time"):
        train(run, length=Length(seconds=0))
    with pytest.raises(UsageError, match="fold 7 does not exist"):
        train(run, folds=[0, 7], compute=Compute("cpu"))
    with pytest.raises(UsageError, match="--config big is not in the plan; it has small"):
        train(run, "big", compute=Compute("cpu"))
    with pytest.raises(UsageError, match=r"--resume: fold 0 of small .* was never begun"):
        train(run, folds=[0], resume=True, compute=Compute("cpu"))
    with pytest.raises(AutosegError, match="no run folder"):
        train(run.path.parent)
    assert not run.fold("small", 0).folder.exists()  # nothing was begun before all was checked


def test_nothing_validated_yet(run: Run) -> None:
    with pytest.raises(AutosegError, match="has no validated fold of small yet"):
        cross_validated(run, run.plan.stage("small"))


def test_trained_on_all_cases(run: Run) -> None:
    """A single fold without validation cases: a model, and nothing that could be taken for a result."""
    everyone = [case.id for case in run.dataset.cases]
    write_json(run.path / "splits.json", [{"train": everyone, "validation": []}])
    run = Run.open(run.path)
    evaluation = train(run, length=Length(epochs=1), compute=Compute("cpu"))
    assert evaluation.cases == []
    assert evaluation.targets == ("outer", "inner")
    assert run.trained_folds("small") == [0]
    assert not (run.fold("small", 0).validation).exists()
    assert not (run.path / "small" / "crossval").exists()
    assert "4 training and 0 validation cases" in (run.fold("small", 0).folder / "log.txt").read_text()
    before = weights(run, 0)
    train(run, length=Length(epochs=1), compute=Compute("cpu"))
    assert equal(weights(run, 0), before)
    assert Predictor.load(run.path, device="cpu").predict_case(run.dataset.cases[0]).label.shape == (10, 12, 14)


def test_a_fold_that_another_process_trains_is_left_alone(run: Run) -> None:
    fold = run.fold("small", 0)
    with (
        held(fold.folder, "it"),
        pytest.raises(AutosegError, match=r"fold 0 of small in .* is being trained by process"),
    ):
        train(run, folds=[0], compute=Compute("cpu"))
    assert not fold.begun


def test_memory_that_lacks_for_the_test_cases_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the folds trained: the same command scores the test cases alone."""

    def score(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(jobs, "score_test_cases", score)
    said = r"cpu ran out of memory while predicting the test cases with .*small; .* it predicts them; the folds are"
    with pytest.raises(AutosegError, match=said):
        train(run, folds=[0], length=Length(epochs=1), compute=Compute("cpu"))
    assert run.fold("small", 0).done.exists()


def test_memory_that_lacks_in_other_words_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch has no error of its own for a CPU's, nor for a card that is full at once; others stay what they are."""
    for error, said in (
        (RuntimeError("CUDA error: out of memory"), r"ran out of memory while training .* --gpu-memory\.$"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
            "ran out of memory",
        ),
        (MemoryError(), "ran out of memory while training .*fold_0"),
    ):

        def lacks(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(jobs, "train_job", lacks)
        with pytest.raises(AutosegError, match=said):
            train(run, folds=[0], compute=Compute("cpu"))

    def fails(*_: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(jobs, "train_job", fails)
    with pytest.raises(RuntimeError, match="shapes differ"):
        train(run, folds=[0], compute=Compute("cpu"))


def test_finished_weights_are_not_replaced_by_a_training_from_nothing(run: Run) -> None:
    """Without the state, which may be deleted to save room, a longer training could only begin again."""
    train(run, folds=[0], length=Length(epochs=1), compute=Compute("cpu"))
    fold, before = run.fold("small", 0), weights(run, 0)
    fold.state.unlink()
    train(run, folds=[0], length=Length(epochs=1), compute=Compute("cpu"))  # done
    with pytest.raises(AutosegError, match=r"fold 0 of small in .* is trained.*training_state.pt.*gone; --restart"):
        train(run, folds=[0], length=Length(epochs=2), compute=Compute("cpu"))
    assert equal(weights(run, 0), before)
    train(run, folds=[0], length=Length(epochs=2), compute=Compute("cpu"), resume=False)
    assert not equal(weights(run, 0), before)


def test_a_longer_training_that_is_stopped_leaves_the_shorter_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights, validation and note of being done stay until others replace them."""
    train(run, folds=[0], length=Length(epochs=1), compute=Compute("cpu"))
    before, scores = weights(run, 0), cross_validated(run, run.plan.stage("small")).rows
    end_epoch = Training.end_epoch

    def stopped(training: Training, rate: float) -> None:
        end_epoch(training, rate)
        training.save()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Training, "end_epoch", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(run, folds=[0], length=Length(epochs=3), compute=Compute("cpu"))
    again = train(run, folds=[0], length=Length(epochs=1), compute=Compute("cpu"))
    assert equal(weights(run, 0), before)
    assert again.rows == scores
    train(run, folds=[0], length=Length(epochs=3), compute=Compute("cpu"))  # goes on
    assert json.loads(run.fold("small", 0).done.read_text())["iterations"] == 6
    assert not equal(weights(run, 0), before)


def test_a_changed_case_is_named(run: Run) -> None:
    train(run, folds=[0], length=Length(epochs=1), compute=Compute("cpu"))
    case = run.dataset.case(run.split(0)["train"][0])
    write(case.label, blob(shift=3))
    with pytest.raises(AutosegError, match=rf"^{case.id} changed since .*training_state.pt was begun; .*--restart"):
        train(run, folds=[0], length=Length(epochs=2), compute=Compute("cpu"))


def test_a_fold_on_all_cases_beside_a_cross_validation(run: Run) -> None:
    everyone = [case.id for case in run.dataset.cases]
    write_json(run.path / "splits.json", [*run.splits, {"train": everyone, "validation": []}])
    run = Run.open(run.path)
    assert train(run, folds=[2], length=Length(epochs=1), compute=Compute("cpu")).cases == []
    assert (
        sorted(train(run, folds=[0], length=Length(epochs=1), compute=Compute("cpu")).cases)
        == run.split(0)["validation"]
    )
