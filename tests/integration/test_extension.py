"""A package of somebody else's: one file registers one of each kind, and is installed beside autoseg."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.builders import blob, picture_of

EXTENSION = Path(__file__).parent / "extension" / "sketch.py"

TOML = """
name = "sketches"
folders = "*"
[channels]
mr = "mr.vox"
[label]
file = "seg.vox"
[label.values]
outer = 1
inner = 2
"""

#: The commands one after the other in one process, where a user would start one for each.
SCRIPT = """
import sys
from autoseg.cli.main import app
data, run, out = sys.argv[1:]
for arguments in (
    ["plan", data, "--planner", "sketch", "--device", "cpu", "--folds", "2", "--out", run, "--workers", "2"],
    ["train", run, "--device", "cpu", "--fold", "0", "--workers", "0"],
    ["predict", run, data, "--out", out, "--device", "cpu", "--results", "nothing"],
    ["evaluate", out, data, "--metrics", "dice,excess", "--out", out + "/measured", "--workers", "1"],
):
    app(arguments, standalone_mode=False)
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder for the path, as ``pip install`` leaves one: the module, and what says where its parts are."""
    site = tmp_path / "site"
    (site / "sketch-1.0.dist-info").mkdir(parents=True)
    shutil.copyfile(EXTENSION, site / "sketch.py")
    (site / "sketch-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: sketch\nVersion: 1.0\n")
    (site / "sketch-1.0.dist-info" / "entry_points.txt").write_text(
        "[autoseg.extensions]\nsketch = sketch\n\n[autoseg.planners]\nsketch = sketch:plan\n"
    )
    return site


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        np.savez(file, voxels=array[None], spacing=(1.0, 1.0, 1.0))


def test_one_of_each_kind_from_one_file(tmp_path: Path, installed: Path) -> None:
    """Planned with by a planner outside the tree, trained three steps, predicted and evaluated."""
    data, run, out = tmp_path / "data", tmp_path / "run", tmp_path / "out"
    data.mkdir()
    (data / "autoseg.toml").write_text(TOML)
    for number in range(4):
        label = blob(shift=number % 2)
        write(data / f"case_{number}" / "mr.vox", picture_of(label, number).astype(np.float32))
        write(data / f"case_{number}" / "seg.vox", label)
    path = os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(data), str(run), str(out)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    plan = json.loads((run / "plan.json").read_text())
    configuration = plan["configurations"]["sketch"]
    assert plan["channels"][0]["normalization"]["offset"] == 1.0
    assert configuration["network"]["width"] == 4
    assert configuration["recipe"]["loss"]["terms"]["brier"]["power"] == 2.0
    assert configuration["recipe"]["schedule"]["steps"] == 3
    assert configuration["recipe"]["augmentation"]["transforms"]["inverted"]["around"] == 0.0
    history = (run / "sketch" / "fold_0" / "history.csv").read_text().splitlines()
    rates = dict(zip(history[0].split(","), history[1].split(","), strict=True))
    # The third of three steps: two stairs down.
    assert float(rates["learning_rate"]) == pytest.approx(1e-3 / 3)
    with np.load(out / "case_0.vox") as label, np.load(out / "case_0_nothing.vox") as nothing:
        assert np.array_equal(nothing["voxels"], label["voxels"] == 0)
    assert "excess" in (out / "measured" / "metrics.csv").read_text().splitlines()[0].split(",")
