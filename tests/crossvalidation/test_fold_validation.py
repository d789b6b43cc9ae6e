"""Validation of a fold: how long it will take, and how reading, networks and writing overlap in it."""

import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from autoseg.crossvalidation import fold_validation as module
from autoseg.crossvalidation.fold_validation import (
    RESERVE_MARGIN,
    PreprocessedCases,
    prediction_seconds,
    validate_fold,
    validate_with,
)
from autoseg.inference.chain import TrainedStage
from autoseg.inference.predictor import Predictor
from autoseg.inference.sliding_window import SlidingWindow
from autoseg.networks import build
from autoseg.networks.weights import identity_of, load_weights, save_weights
from autoseg.plans.files import save_plan
from autoseg.plans.overrides import override
from autoseg.preprocessing.dataset import preprocess
from autoseg.runs.fold import Fold
from autoseg.runs.run import Run
from autoseg.runs.weight_files import read_metadata
from tests.builders import blob, make_configuration, make_plan, make_run, picture_of, store, write
from tests.devices import DEVICES

pytestmark = pytest.mark.usefixtures("one_core")


@pytest.mark.parametrize("name", DEVICES)
def test_the_estimate_is_of_passes_that_are_done(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on while the device is waited for, and then alone: two seconds a pass."""
    device, clock, done, wait_for = torch.device(name), [0.0], [], module.wait_for

    def wait(of: torch.device) -> None:
        wait_for(of)
        clock[0] += 2.0

    def monotonic() -> float:
        if device.type == "cuda":
            done.append(torch.cuda.current_stream(device).query())
        return clock[0]

    monkeypatch.setattr(module, "wait_for", wait)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=monotonic))
    patch = (96, 96, 96) if device.type == "cuda" else (8, 8, 8)
    stage = make_plan(make_configuration(patch)).stage()
    case = store(tmp_path, "c", blob())
    window = SlidingWindow.of(stage, device)
    passes = window.count(case.shape) * len(window.mirrorings)
    measured = len(window.mirrorings[:2])
    assert prediction_seconds([case], stage, device) == pytest.approx(RESERVE_MARGIN * 2.0 * passes / measured)
    assert all(done[1::2])


def with_weights(run: Run) -> Run:
    """A preprocessed run whose fold 0 has random weights."""
    stage = run.plan.stage()
    torch.manual_seed(0)
    network = build(stage.network, stage.in_channels, stage.heads)
    save_weights(run.fold(stage, 0).weights, network.state_dict(), identity_of(stage))
    preprocess(run, stage.name, 1)
    return run


@pytest.mark.parametrize("name", DEVICES)
def test_a_case_is_read_and_one_is_finished_beside_the_network(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The label maps are those of a prediction."""
    run = with_weights(make_run(tmp_path, cases=6))
    fold = run.fold(run.plan.stage(), 0)
    cases = fold.validation_cases
    assert len(cases) == 3
    read = {case: threading.Event() for case in cases}
    scored: list[str] = []
    finishing: set[str] = set()
    prepared, score, decode = PreprocessedCases.prepared, Predictor._score, Predictor._decode

    def prepare(self: PreprocessedCases, case: str, predictor: Predictor) -> Any:
        read[case].set()
        return prepared(self, case, predictor)

    def segment(self: Predictor, *given: Any) -> Any:
        scored.append(cases[len(scored)])
        assert all(read[case].wait(60) for case in cases[: len(scored) + 1])
        return score(self, *given)

    def finish(self: Predictor, *given: Any) -> Any:
        finishing.add(threading.current_thread().name)
        return decode(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(PreprocessedCases, "prepared", prepare)
        patched.setattr(Predictor, "_score", segment)
        patched.setattr(Predictor, "_decode", finish)
        assert sorted(validate_fold(fold, torch.device(name)).cases) == sorted(cases)
    assert scored == list(cases)
    assert finishing == {"writer_0"}
    predictor = Predictor.load(run.path, folds=[0], device=name)
    again = PreprocessedCases(run, fold.stage, cases, "")
    for case in cases:
        found = sitk.GetArrayFromImage(sitk.ReadImage(str(fold.validation / f"{case}.nii.gz")))
        same = np.mean(found == predictor.predict_prepared(again.prepared(case, predictor))().label)
        assert same == 1 if name == "cpu" else same > 0.99


def test_memory_of_a_training_is_given_back_before_the_networks_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = with_weights(make_run(tmp_path))
    happened: list[str] = []
    load = TrainedStage.load
    monkeypatch.setattr(module, "free_device_memory", lambda: happened.append("freed"))
    monkeypatch.setattr(TrainedStage, "load", lambda *given: happened.append("loaded") or load(*given))
    validate_fold(run.fold(run.plan.stage(), 0), torch.device("cpu"))
    assert happened == ["freed", "loaded"]


CPU = torch.device("cpu")


def segmented(fold: Fold, monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> int:
    """Validate a fold, up to a case where the process dies; how many cases the networks segmented."""
    count, score = 0, Predictor._score

    def counting(self: Predictor, *given: Any) -> Any:
        nonlocal count
        if count == stop_at:
            raise KeyboardInterrupt
        count += 1
        return score(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(Predictor, "_score", counting)
        with nullcontext() if stop_at is None else pytest.raises(KeyboardInterrupt):
            validate_fold(fold, CPU)
    return count


def label_maps(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in sorted(folder.glob("*.nii.gz"))}


def test_an_interrupted_validation_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """From the label maps that are there, with the figures of one that was left alone; a finished one is made anew."""
    fold = with_weights(make_run(tmp_path, cases=6)).fold("small", 0)
    validate_with(fold, [[fold.weights]], tmp_path / "alone", CPU)
    assert segmented(fold, monkeypatch, stop_at=2) == 2
    with open(fold.validation / module._UNFINISHED, "a", encoding="utf-8") as noted:
        noted.write("0123456")  # cut off by the kill
    assert segmented(fold, monkeypatch, stop_at=0) == 0
    assert segmented(fold, monkeypatch) == 1
    assert "Validating fold 0: 2 of 3 label maps are there" in capsys.readouterr().err
    assert (fold.validation / "metrics.csv").read_text() == (tmp_path / "alone" / "metrics.csv").read_text()
    found, expected = label_maps(fold.validation), label_maps(tmp_path / "alone")
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert not (fold.validation / module._UNFINISHED).exists()
    assert segmented(fold, monkeypatch) == 3


@pytest.mark.parametrize("changed", ["weights", "inference", "case", "label map", "version"])
def test_label_maps_of_something_else_are_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    """Of the weights of a restart or a longer training, of another plan or scan; or drawn over since."""
    run = with_weights(make_run(tmp_path, cases=6))
    fold = run.fold("small", 0)
    assert segmented(fold, monkeypatch, stop_at=2) == 2
    first, *_ = fold.validation_cases
    anew = 3
    if changed == "weights":
        weights = {name: tensor + 0.1 for name, tensor in load_weights(fold.weights).items()}
        save_weights(fold.weights, weights, read_metadata(fold.weights))
    elif changed == "inference":
        save_plan(override(run.plan, ["inference.overlap=0.5"]), run.path / "plan.json")
    elif changed == "case":
        write(run.dataset.case(first).channels["mr"].path, picture_of(blob(), seed=9))
        preprocess(run, "small", 1)
    elif changed == "label map":
        write(fold.validation / f"{first}.nii.gz", blob())
        anew = 2
    else:
        monkeypatch.setattr(module, "__version__", "later")
    fold = Run.open(run.path).fold("small", 0)
    assert segmented(fold, monkeypatch) == anew
    validate_with(fold, [[fold.weights]], tmp_path / "alone", CPU)
    assert (fold.validation / "metrics.csv").read_text() == (tmp_path / "alone" / "metrics.csv").read_text()
    found, expected = label_maps(fold.validation), label_maps(tmp_path / "alone")
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
