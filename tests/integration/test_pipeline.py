"""The main job, command by command: plan, train, predict, evaluate, report; killed on the way, and with a bad case."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from autoseg.data.phantom import Cohort, generate
from autoseg.networks.weights import load_weights
from autoseg.plans.files import load_plan
from autoseg.step.training_step import TrainingStep
from autoseg.training import callbacks
from tests.builders import make_configuration, make_plan, make_recipe, make_run
from tests.integration.conftest import Call

pytestmark = pytest.mark.usefixtures("one_core")


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cohort = Cohort(cases=4, unlabelled=2, shape=(20, 22, 18), spacing=(8.0, 8.0, 8.0))
    return generate(tmp_path_factory.mktemp("phantoms"), cohort)


def test_from_scans_to_report(phantoms: Path, tmp_path: Path, call: Call) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    # For a GPU that is not here: what is planned must not depend on how fast this machine is.
    plan = ["plan", phantoms, "--out", run, "--device", "cuda", "--gpu-memory", 4, "--workers", 1]
    plan += ["--regions", "whole_tumor,enhancing_tumor", "--channels", "flair,t1c"]
    assert call(*plan)[0] == 0
    name = load_plan(run / "plan.json").recommended
    stages = len(load_plan(run / "plan.json").configurations[name].network.features)
    narrow = [4] * stages
    settings = {
        "recipe.epochs": 1,
        "recipe.iterations_per_epoch": 3,
        "recipe.validate_cases": 1,
        "recipe.precision": "fp32",
        "batch_size": 2,
        "network.features": narrow,
    }
    assert call(*plan, *(part for key, value in settings.items() for part in ("--set", f"{key}={value}")))[0] == 0
    planned = load_plan(run / "plan.json")
    assert planned.channel_names == ["t1c", "flair"]  # the dataset's order
    assert planned.configurations[name].network.features == narrow
    assert planned.configurations[name].recipe.iterations_per_epoch == 3

    code, _, err = call("train", run, "--fold", "0,1", "--device", "cpu", "--workers", 1)
    assert code == 0, err
    crossval = json.loads((run / name / "crossval" / "summary.json").read_text())
    assert crossval["folds"] == [0, 1]
    assert {"whole_tumor", "enhancing_tumor"} <= set(crossval["targets"])

    # Labelled cases stay out of a prediction where there are others, unless asked for.
    code, printed, err = call("predict", run, phantoms, "--out", out, "--device", "cpu", "--no-tta", "--json")
    assert code == 0, err
    assert set(json.loads(printed)["written"]) == {"phantom_005", "phantom_006"}
    assert call("predict", run, phantoms, "--out", out, "--device", "cpu", "--no-tta", "--all")[0] == 0
    scan = sitk.ReadImage(str(phantoms / "phantom_001" / "flair.nii.gz"))
    result = sitk.ReadImage(str(out / "phantom_001.nii.gz"))
    assert result.GetSize() == scan.GetSize()
    assert result.GetSpacing() == pytest.approx(scan.GetSpacing())
    assert set(np.unique(sitk.GetArrayFromImage(result))) <= {0, 1, 2, 3}

    scores = tmp_path / "scores"
    code, printed, err = call("evaluate", out, phantoms, "--model", run, "--out", scores, "--json", "--workers", 1)
    assert code == 0, err
    measured = json.loads(printed)
    assert measured["cases"] == 4
    assert json.loads((scores / "summary.json").read_text())["mean"] == measured["mean"]
    found = sitk.GetArrayFromImage(result) > 0
    wanted = sitk.GetArrayFromImage(sitk.ReadImage(str(phantoms / "phantom_001" / "seg.nii.gz"))) > 0
    dice = 2 * (found & wanted).sum() / (found.sum() + wanted.sum())
    line = next(
        row for row in (scores / "metrics.csv").read_text().splitlines() if row.startswith("phantom_001,whole_tumor,")
    )
    assert float(line.split(",")[2]) == pytest.approx(float(dice), rel=1e-6)

    code, _, err = call("report", run)
    assert code == 0, err
    page = (run / "report" / "index.html").read_text()
    assert "whole_tumor" in page
    assert "phantom_001" in page

    # One scan cannot be read: the others are done, and the exit code says so.
    scans = tmp_path / "scans"
    for number in (5, 6):
        for index, channel in enumerate(planned.channel_names):
            target = scans / f"p{number}_{index:04d}.nii.gz"
            target.parent.mkdir(exist_ok=True)
            target.write_bytes((phantoms / f"phantom_{number:03d}" / f"{channel}.nii.gz").read_bytes())
    (scans / "p5_0001.nii.gz").write_bytes(b"broken")
    code, printed, err = call(
        "predict", run, scans, "--out", tmp_path / "more", "--device", "cpu", "--no-tta", "--json"
    )
    assert code == 1
    told = json.loads(printed)
    assert set(told["failed"]) == {"p5"}
    assert "p5_0001.nii.gz" in told["failed"]["p5"]
    assert set(told["written"]) == {"p6"}
    assert "Traceback" not in err
    again = sitk.GetArrayFromImage(sitk.ReadImage(told["written"]["p6"]))
    assert np.array_equal(again, sitk.GetArrayFromImage(sitk.ReadImage(str(out / "phantom_006.nii.gz"))))


#: Trains in a process of its own, and once its fourth state is on disk says so and waits to be killed.
_TRAIN_UNTIL_KILLED = """
import sys, time
from autoseg.crossvalidation import jobs as crossvalidation
from autoseg.training import callbacks
from autoseg.training.training import Training
crossvalidation.available_cpus = lambda: 1
callbacks.SAVE_INTERVAL, callbacks.SAVE_SHARE, callbacks.VALIDATION_SHARE = -1.0, float("inf"), float("inf")
save, count = Training.save, 0

def save_and_wait(*arguments):
    global count
    save(*arguments)
    count += 1
    if count == 4:
        print("saved", flush=True)
        time.sleep(600)

Training.save = save_and_wait
sys.argv = ["autoseg", "train", sys.argv[1], "--fold", "0", "--device", "cpu"]
from autoseg.cli.main import run
run()
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_killed_and_given_again(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second command ends with the weights and the history of a training that nobody killed."""
    from autoseg.preprocessing.dataset import preprocess

    monkeypatch.setattr(callbacks, "VALIDATION_SHARE", float("inf"))
    plan = make_plan(make_configuration(recipe=make_recipe(epochs=4)))
    whole, killed = make_run(tmp_path / "whole", plan), make_run(tmp_path / "killed", plan)
    for run in (whole, killed):
        preprocess(run, workers=1)
    assert call("train", whole.path, "--fold", 0, "--device", "cpu")[0] == 0

    process = subprocess.Popen(
        [sys.executable, "-c", _TRAIN_UNTIL_KILLED, str(killed.path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "saved\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    folder = killed.fold("small", 0).folder
    assert torch.load(folder / "training_state.pt", weights_only=True)["state"]["iteration"] == 4
    assert not (folder / "weights.safetensors").exists()

    steps = []
    real = TrainingStep.__call__
    monkeypatch.setattr(TrainingStep, "__call__", lambda *arguments: steps.append(1) or real(*arguments))
    assert call("train", killed.path, "--fold", 0, "--device", "cpu", "--resume")[0] == 0
    assert len(steps) == 8 - 4

    def history(folder: Path) -> list[list[str]]:
        rows = [line.split(",") for line in (folder / "history.csv").read_text().splitlines()]
        seconds = rows[0].index("seconds")
        return [row[:seconds] + row[seconds + 1 :] for row in rows]

    assert history(folder) == history(whole.fold("small", 0).folder)
    for name in ("weights.safetensors", "best.safetensors"):
        ours, theirs = load_weights(folder / name), load_weights(whole.fold("small", 0).folder / name)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
