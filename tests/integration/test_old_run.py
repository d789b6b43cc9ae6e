"""A run folder that an earlier version trained predicts, goes on training and is fine-tuned from as it did then.

``old_run`` holds that run (its paths replaced by ``DATASET``, what can be rebuilt left out), its dataset, what that
version predicted of the dataset's unlabelled case, and the history of that version's going on until epoch 6. It was
made by ``old_run/make.py`` and must not be made anew to make a test pass.
"""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import Result
from safetensors.numpy import load_file
from typer.testing import CliRunner

from autoseg.cli.main import app

pytestmark = pytest.mark.usefixtures("one_core")

MADE = Path(__file__).with_name("old_run")
FOLD = Path("3d_fullres") / "fold_0"
DEVICE = ("--device", "cpu", "--workers", 1)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The run folder, where its dataset lies beside it."""
    for name in ("dataset", "run"):
        shutil.copytree(MADE / name, tmp_path / name)
    described = tmp_path / "run" / "dataset.json"
    text = described.read_text(encoding="utf-8")
    described.write_text(text.replace('"DATASET', f'"{(tmp_path / "dataset").as_posix()}'), encoding="utf-8")
    return tmp_path / "run"


def invoke(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def history(path: Path) -> list[dict[str, float]]:
    with open(path, newline="", encoding="utf-8") as file:
        # Columns that the older version did not have are empty in its rows.
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def test_predicts_the_same(run: Path, tmp_path: Path) -> None:
    invoke("predict", run, tmp_path / "dataset", "--out", tmp_path / "out", "--device", "cpu")
    folders = (tmp_path / "out", MADE / "predicted")
    ours, theirs = (sitk.ReadImage(str(folder / "phantom_004.nii.gz")) for folder in folders)
    for read in (sitk.Image.GetSize, sitk.Image.GetSpacing, sitk.Image.GetOrigin, sitk.Image.GetDirection):
        assert read(ours) == read(theirs)
    found, expected = sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(theirs)
    assert len(np.unique(expected)) > 1
    # Another processor adds in another order, which may turn a voxel on the border; on the same one all are the same.
    assert (found != expected).sum() <= 3


def test_training_goes_on(run: Path) -> None:
    before = history(run / FOLD / "history.csv")
    assert len(before) == 4
    invoke("train", run, "--fold", 0, "--epochs", 6, "--resume", *DEVICE)
    after, expected = history(run / FOLD / "history.csv"), history(MADE / "longer.csv")
    assert after[:4] == before  # the very rows, seconds and all
    assert [row["iteration"] for row in after] == [30, 60, 90, 120, 150, 180]
    for ours, theirs in zip(after[4:], expected[4:], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
        assert ours["learning_rate"] == pytest.approx(theirs["learning_rate"])
        assert ours["validation_dice"] == pytest.approx(theirs["validation_dice"], abs=0.01)
    old = load_file(MADE / "run" / FOLD / "weights.safetensors")
    new = load_file(run / FOLD / "weights.safetensors")
    assert {name: array.shape for name, array in new.items()} == {name: array.shape for name, array in old.items()}
    assert any(not np.array_equal(new[name], old[name]) for name in old)


def test_trained_already(run: Path) -> None:
    """The same request again finds its fold done: what decides about that is understood."""
    before = (run / FOLD / "weights.safetensors").read_bytes()
    result = invoke("train", run, "--fold", 0, *DEVICE)
    assert "is trained already" in result.output
    assert (run / FOLD / "weights.safetensors").read_bytes() == before


def test_fine_tuned_from(run: Path, tmp_path: Path) -> None:
    tuned = tmp_path / "tuned"
    words = ("--regions", "whole_tumor,tumor_core", "--set", "recipe.iterations_per_epoch=2")
    words += ("--set", "recipe.precision=fp32")
    result = invoke("plan", tmp_path / "dataset", "--source", run, *words, *DEVICE, "--out", tuned)
    planned = json.loads((tuned / "plan.json").read_text(encoding="utf-8"))
    assert planned["planner"] == "finetune"
    assert planned["configurations"]["3d_fullres"]["network"]["features"] == [4, 8]
    carried = load_file(next(tuned.glob("source_3d_fullres_*.safetensors")))
    old = load_file(run / FOLD / "weights.safetensors")
    assert carried
    assert all(np.array_equal(carried[name], old[name]) for name in carried)
    assert "0 adapted and 0 new" in result.output
    invoke("train", tuned, "--fold", 0, "--epochs", 1, *DEVICE)
    assert [row["iteration"] for row in history(tuned / FOLD / "history.csv")] == [2]
    new = load_file(tuned / FOLD / "weights.safetensors")
    assert max(float(np.abs(new[name] - carried[name]).max()) for name in carried) < 0.05  # two steps do not go far
