"""``autoseg postprocess``, and what ``autoseg predict`` makes of it: output, exit codes, one sentence an error."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from autoseg.cli.main import run as main
from autoseg.networks import build
from autoseg.networks.weights import save_weights
from autoseg.postprocessing.steps import Postprocessing, Step
from autoseg.runs.run import Run
from tests.builders import blob, make_run, picture_of, write
from tests.postprocessing.test_choice import speck, validated

pytestmark = pytest.mark.usefixtures("one_core")


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    def call(*arguments: object) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        monkeypatch.setattr(sys, "argv", ["autoseg", *(str(a) for a in arguments)])
        capsys.readouterr()  # what the making of the run said
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return int(stopped.value.code or 0), printed.out, printed.err

    return call


def test_table(tmp_path: Path, call) -> None:
    run = validated(tmp_path, speck)
    code, out, err = call("postprocess", run.path)
    assert code == 0
    for word in ("Post-processing of small", "4 validation cases (folds 0, 1 of 2)", "components ≥ 21 mm³", "yes"):
        assert word in out
    assert "Chosen: outer: components ≥ 21 mm³. Mean Dice 0.9729 → 1.0000; 4 of 4 cases better, 0 worse." in err


def test_json(tmp_path: Path, call) -> None:
    run = validated(tmp_path, speck)
    code, out, err = call("postprocess", run.path, "--config", "small", "--json", "--workers", 1)
    assert (code, err) == (0, "")
    path = run.path / "small" / "postprocessing.json"
    assert json.loads(out) == json.loads(path.read_text())
    assert json.loads(out)["steps"] == [{"kind": "minimum_size", "output": "outer", "mm3": 21.0}]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "has no trained and validated fold of small; train it with 'autoseg train"),
        (["--config", "huge"], "--config huge is not in the plan"),
        (["--workers", "0"], "--workers 0"),
    ],
)
def test_wrong_usage(tmp_path: Path, call, options: list[str], sentence: str) -> None:
    code, out, err = call("postprocess", make_run(tmp_path).path, *options)
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert sentence in err
    assert err.count("\n") == 1


def trained(tmp_path: Path) -> Run:
    """A run with one fold that has a network."""
    run = validated(tmp_path, speck, folds=(0,))
    torch.manual_seed(0)
    network = build(run.plan.configurations["small"].network, 1, 3)
    save_weights(run.fold("small", 0).weights, network.state_dict())
    return run


def test_predict_applies_it(tmp_path: Path, call) -> None:
    run = trained(tmp_path)
    write(tmp_path / "scans" / "a.nii.gz", picture_of(blob()))
    call("postprocess", run.path)
    # What a network of random weights finds is sure to change if all of both labels is too little.
    path = run.path / "small" / "postprocessing.json"
    steps = [Step(kind="minimum_total", output=name, mm3=1e6) for name in ("inner", "outer")]
    Postprocessing.read(path).model_copy(update={"steps": steps}).write(path)
    results = {}
    for option in ("--postprocessing", "--no-postprocessing"):
        out = tmp_path / option.strip("-")
        code, _, err = call("predict", run.path, tmp_path / "scans", "--out", out, "--device", "cpu", option)
        assert code == 0
        assert ("Post-processing: inner: total ≥ 1e+06 mm³; outer" in err) == (option == "--postprocessing")
        label = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "a.nii.gz")))
        results[option] = set(np.unique(label)), json.loads((out / "predictions.json").read_text())["postprocessing"]
    assert results["--postprocessing"] == ({0}, [step.model_dump() for step in steps])
    assert results["--no-postprocessing"][0] & {1, 2}
    assert results["--no-postprocessing"][1] == []
