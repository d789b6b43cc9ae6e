"""The main jobs on every device: the CPU in the ordinary suite, CUDA with ``pytest -m gpu`` where there is one.

What is computed on a GPU is held against the CPU, or against an invariant; all runs are blobs and tiny networks.
"""

import math
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from autoseg.crossvalidation.job import Length
from autoseg.crossvalidation.jobs import train as train_anywhere
from autoseg.evaluation.summary import Evaluation
from autoseg.inference.predictor import Predictor
from autoseg.networks.weights import load_weights
from autoseg.planning.making import plan_dataset
from autoseg.planning.request import Request
from autoseg.planning.verification import check_memory
from autoseg.plans.recipe import Augmentation, Optimizer
from autoseg.preprocessing.dataset import preprocess
from autoseg.runs.run import Run
from autoseg.step.training_step import TrainingStep
from autoseg.training import callbacks
from autoseg.training.case_cache import CaseCache, Room
from autoseg.training.training import Budget
from autoseg.transfer.source import Source
from autoseg.transfer.teacher import Teacher
from autoseg.utils.device import Compute
from autoseg.utils.errors import AutosegError
from tests.builders import (
    blob,
    make_configuration,
    make_fingerprint,
    make_network,
    make_plan,
    make_recipe,
    make_run,
    picture_of,
    step_setup,
    store,
    train_in,
    write,
)
from tests.crossvalidation.test_annotators import BOTH, drawn_by
from tests.crossvalidation.test_cascades import cascade
from tests.devices import DEVICES
from tests.inference.test_raters import plan_of as plan_of_raters

pytestmark = pytest.mark.usefixtures("one_core")

#: Overrides of a plan that a planner makes for the blobs.
SMALL = (
    'network={"features": [4, 8], "strides": [[1,1,1],[2,2,2]], "kernel_sizes": [[3,3,3],[3,3,3]], '
    '"encoder_blocks": [1,1], "decoder_convs": [1]}',
    "recipe.iterations_per_epoch=2",
    "recipe.validate_cases=1",
    "batch_size=2",
)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A device, with deterministic kernels: the CPU's are."""
    monkeypatch.setattr(callbacks, "VALIDATION_SHARE", math.inf)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    if request.param == "cuda":
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        torch.use_deterministic_algorithms(True, warn_only=True)
    yield request.param
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before


def train(run: Run, device: str, folds: Sequence[int] = (0,), epochs: int = 1, **more: Any) -> Evaluation:
    """In this process alone: starting others takes longer than these trainings."""
    return train_anywhere(run, None, list(folds), Length(epochs=epochs), Compute(device, 0), **more)


def predict(run: Run, device: str, out: Path, results: Sequence[str] = ("label",)) -> dict[str, np.ndarray]:
    """Predict the first case; the images written, by the name of their file."""
    predictor = Predictor.load(run.path, device=device)
    outcome = predictor.predict(run.dataset.cases[:1], out, results=list(results))
    assert not outcome.failed
    return {path.name: sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in sorted(out.glob("*.nii.gz"))}


def same_on_cpu(run: Run, device: str, tmp_path: Path) -> np.ndarray:
    """Predict on the device and on the CPU; the label maps are the same but for ties."""
    (here,), (there,) = (predict(run, name, tmp_path / name).values() for name in (device, "cpu"))
    assert here.shape == (10, 12, 14)
    assert np.mean(here == there) > 0.99
    return here


def test_trains_and_predicts(device: str, tmp_path: Path) -> None:
    recipe = make_recipe(optimizer=Optimizer(learning_rate=0.05), iterations_per_epoch=40, ema_decay=0.9)
    run = make_run(tmp_path, make_plan(make_configuration(recipe=recipe)))
    evaluation = train(run, device, epochs=2)
    assert sorted(evaluation.cases) == run.split(0)["validation"]
    assert evaluation.mean("dice", "outer") > 0.8
    found = same_on_cpu(run, device, tmp_path)
    real = blob()
    assert 2 * np.sum((found > 0) & (real > 0)) / np.sum((found > 0).astype(int) + (real > 0)) > 0.8


@pytest.fixture
def hears_interrupts() -> Iterator[None]:
    """A shell starts background jobs deaf to Ctrl-C; the test must hear it there, too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("hears_interrupts")
def test_resumed_is_uninterrupted(device: str, tmp_path: Path) -> None:
    """Bit for bit, with every augmentation, an average of the weights and dropout."""
    names = ("rotation", "scaling", "elastic", "noise", "blur", "contrast", "low_resolution", "gamma")
    wild = Augmentation(**{f"{name}_probability": 0.7 for name in names})
    recipe = make_recipe(augmentation=wild, ema_decay=0.9)
    plan = make_plan(make_configuration(recipe=recipe, network=make_network(dropout=0.3)))
    cases = [store(tmp_path / "data", f"c{n}", blob(shift=n % 2)) for n in range(3)]

    def run(name: str, report: Any = None) -> dict[str, torch.Tensor]:
        folder = tmp_path / name
        budget, where = Budget(iterations=7), torch.device(device)
        train_in(folder, plan.stage(), cases[:2], cases[2:], budget, device=where, report=report)
        return load_weights(folder / "weights.safetensors")

    def interrupt(progress: float, _: str) -> None:
        if progress == 3 / 7:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run("parts", interrupt)
    torch.rand(7)  # another process has another global state
    parts, whole = run("parts"), run("whole")
    assert all(torch.equal(parts[name], tensor) for name, tensor in whole.items())


def test_cascade(device: str, tmp_path: Path) -> None:
    run = make_run(tmp_path, cascade())
    assert train(run, device).targets == ("outer", "inner")
    assert [run.trained_folds(name) for name in ("low", "full")] == [[0, 1], [0]]
    same_on_cpu(run, device, tmp_path)


def run_of_four(root: Path) -> Run:
    """A run of blobs whose images differ, as the checks before planning want it."""
    run = make_run(root, make_plan())
    for number, case in enumerate(run.dataset.cases):
        write(case.channels["mr"].path, picture_of(blob(shift=number % 2), seed=number))
    return run


def carrying(run: Run, out: Path, carried: Source | Teacher) -> Run:
    """A run on the same dataset that starts from a model, or learns from one."""
    overrides = SMALL if isinstance(carried, Teacher) else SMALL[1:]
    request = Request(device="cuda", gpu_memory_gb=2, overrides=overrides, folds=2, workers=1, carried=(carried,))
    return plan_dataset(run.dataset, out, request)


def test_fine_tuned(device: str, tmp_path: Path) -> None:
    first = run_of_four(tmp_path)
    train(first, device, epochs=2)
    tuned = carrying(first, tmp_path / "tuned", Source(first.path))
    # Without a step that moves them, the weights are the source's.
    started = load_weights(first.fold("small", 0).weights)
    train(tuned, device)
    now = load_weights(tuned.fold(tuned.plan.recommended, 0).checkpoint("tuned"))  # before the choice
    assert now.keys() == started.keys()
    moved = max(float((now[name] - started[name]).abs().max()) for name in now)
    assert 0 < moved < 0.1
    same_on_cpu(tuned, device, tmp_path)


def test_taught(device: str, tmp_path: Path) -> None:
    teacher = run_of_four(tmp_path)
    train(teacher, device, folds=(0, 1))
    student = carrying(teacher, tmp_path / "student", Teacher(teacher.path))
    train(student, device)
    assert "teacher" in student.fold(student.plan.recommended, 0).log.read_text(encoding="utf-8")
    same_on_cpu(student, device, tmp_path)


def test_raters(device: str, tmp_path: Path) -> None:
    """One case was not drawn by Ben."""
    plan = plan_of_raters(*BOTH)
    blobs = make_run(tmp_path, plan)
    dataset = drawn_by(blobs.dataset, BOTH, BOTH, BOTH, ("ann",))
    run = Run.create(blobs.path, plan, make_fingerprint(dataset), dataset, blobs.splits)
    assert len(train(run, device).cases) == 2
    found = predict(run, device, tmp_path / "out", ("label", "raters"))
    assert sorted(found) == ["case_0.nii.gz", "case_0_rater_ann.nii.gz", "case_0_rater_ben.nii.gz"]


def test_out_of_memory(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence, and the training goes on where it was last saved, as if nothing had been."""
    monkeypatch.setattr(callbacks, "SAVE_INTERVAL", -1.0)
    monkeypatch.setattr(callbacks, "SAVE_SHARE", math.inf)
    plan = make_plan(make_configuration(recipe=make_recipe(epochs=3)))
    run, whole = make_run(tmp_path / "parts", plan), make_run(tmp_path / "whole", plan)
    for each in (run, whole):
        preprocess(each, workers=1)
    steps = []
    real = TrainingStep.__call__

    def step(self: TrainingStep, batch: Any) -> Any:
        steps.append(1)
        if len(steps) == 4 and device == "cuda":
            torch.empty(2**45, device=device)  # 35 TB
        if len(steps) == 4:
            raise torch.OutOfMemoryError("tried to allocate too much")
        return real(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingStep, "__call__", step)
        with pytest.raises(AutosegError, match=r"ran out of memory.* --gpu-memory") as told:
            train(run, device, epochs=3)
    assert str(run.fold("small", 0).folder) in str(told.value)
    assert len(steps) == 4
    train(run, device, epochs=3)
    train(whole, device, epochs=3)
    parts, wanted = (load_weights(each.fold("small", 0).weights) for each in (run, whole))
    # Not all of CUDA's kernels sum in a fixed order.
    tolerance = 0.0 if device == "cpu" else 1e-3
    for name, tensor in wanted.items():
        torch.testing.assert_close(parts[name], tensor, rtol=tolerance, atol=tolerance)


def test_a_cache_too_small(device: str, tmp_path: Path) -> None:
    """Wherever the cases lie, on the device, in memory or in their files, the numbers are the same."""
    augmentation = Augmentation(rotation_probability=1.0, elastic_probability=1.0, noise_probability=1.0)
    plan = make_plan(make_configuration(recipe=make_recipe(augmentation=augmentation)))
    cases = [store(tmp_path / "data", f"c{n}", blob(shift=n % 2), picture_of(blob(), n)) for n in range(4)]
    everything = CaseCache(cases[:3], plan.stage(), torch.device(device), Room(2**40, 2**40))
    kept = "host" if device == "cpu" else "device"
    assert everything.places == [kept] * 3
    size = 10 * 12 * 14 * (2 + 1)  # an image of 16 bits, labels of 8
    found = {}
    for name, room in {"all": Room(2**40, 2**40), "one": Room(size, size), "none": Room(0, 0)}.items():
        where = torch.device(device)
        train_in(tmp_path / name, plan.stage(), cases[:3], cases[3:], Budget(iterations=5), device=where, room=room)
        found[name] = load_weights(tmp_path / name / "weights.safetensors")
    places = CaseCache(
        cases[:3], plan.stage(), torch.device(device), Room(size, 0 if device == "cuda" else size)
    ).places
    assert places == [kept, "files", "files"]
    for name in ("one", "none"):
        assert all(torch.equal(found[name][key], tensor) for key, tensor in found["all"].items())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_memory_of_a_step(device: str, precision: str) -> None:
    """Computed against measured: the peak on a GPU, what is saved for the backward pass on a CPU."""
    sizes = ((32, 64, 128), 96) if device == "cuda" else ((4, 8, 16), 24)
    features, side = sizes
    other = torch.ones(2**28 if device == "cuda" else 1, device=device)  # not the step's
    strides = [[1, 1, 1], [2, 2, 2], [2, 2, 2]]
    network = make_network(
        stages=3, features=list(features), strides=strides, encoder_blocks=[2] * 3, decoder_convs=[2] * 2
    )
    found = check_memory(step_setup(network, (1, 3, [side] * 3, 2), "sgd"), precision, torch.device(device))
    assert abs(found.difference) < (0.1 if device == "cuda" else 0.01)
    assert other[0] == 1
    assert not torch.backends.cudnn.benchmark  # as in a training
