"""``autoseg import nnunet`` and ``autoseg export nnunet``: what is written, exit codes, sentences."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from autoseg.cli.main import run
from autoseg.networks import build
from autoseg.runs.run import Run
from autoseg.transfer.tensors import start_from_model
from tests.interop.model import NAME, dataset, scan, write_model


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["autoseg", *(str(a) for a in arguments)])
    with pytest.raises(SystemExit) as stopped:
        run()
    return int(stopped.value.code or 0)


def test_in_predict_and_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(tmp_path / NAME)
    scan(tmp_path / "in" / "a_0000.nii.gz")
    assert call(monkeypatch, "import", "nnunet", tmp_path / NAME, "--out", tmp_path / "run") == 0
    told = capsys.readouterr().err
    assert "3d_fullres of Dataset007_Blobs, MRI → outer, inner; fold 0." in told
    assert "Next: autoseg predict" in told
    assert call(monkeypatch, "predict", tmp_path / "run", tmp_path / "in", "--out", tmp_path / "out", "--no-tta") == 0
    assert (tmp_path / "out" / "a.nii.gz").exists()
    assert call(monkeypatch, "plan", tmp_path / "run") == 0
    assert "planned by nnunet" in capsys.readouterr().out
    assert call(monkeypatch, "export", "nnunet", tmp_path / "run", "--out", tmp_path / "model", "--folds", "0") == 0
    assert (tmp_path / "model" / "fold_0" / "checkpoint_final.pth").exists()
    assert "nnUNetv2_predict_from_modelfolder" in capsys.readouterr().err


def test_exit_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "import", "nnunet", tmp_path / "none", "--out", tmp_path / "run") == 1
    assert "Error: " in capsys.readouterr().err
    assert call(monkeypatch, "import", "nnunet", tmp_path / "none") == 2
    assert call(monkeypatch, "import", "monai", "x", "--out", "y") == 2
    assert call(monkeypatch, "export", "nnunet", tmp_path, "--out", tmp_path / "m", "--folds", "x") == 2
    assert call(monkeypatch, "export", "nnunet", tmp_path, "--out", tmp_path / "m") == 1
    assert "is no run folder" in capsys.readouterr().err


def test_an_imported_run_has_nothing_to_train_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(tmp_path / NAME)
    assert call(monkeypatch, "import", "nnunet", tmp_path / NAME, "--out", tmp_path / "run") == 0
    capsys.readouterr()
    assert call(monkeypatch, "train", tmp_path / "run", "--device", "cpu") == 1
    assert "has no cases" in capsys.readouterr().err


def test_fine_tuning_starts_from_the_imported_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [net] = write_model(tmp_path / NAME)
    raw = tmp_path / "Dataset009_Own"
    raw.mkdir()
    (raw / "dataset.json").write_text(json.dumps(dataset(numTraining=2)))
    for seed, name in enumerate("ab"):
        image = scan(raw / "imagesTr" / f"{name}_0000.nii.gz", seed=seed)
        label = (image > 110).astype(np.uint8) + (image > 150)
        (raw / "labelsTr").mkdir(exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(label), str(raw / "labelsTr" / f"{name}.nii.gz"))
    assert call(monkeypatch, "import", "nnunet", tmp_path / NAME, "--out", tmp_path / "source") == 0
    options = ("--source", tmp_path / "source", "--out", tmp_path / "run", "--device", "cuda", "--workers", 1)
    assert call(monkeypatch, "plan", raw, *options) == 0
    run = Run.open(tmp_path / "run")
    plan, configuration = run.plan, run.plan.configurations["3d_fullres"]
    assert plan.preprocessing.orientation == "stored"
    assert (configuration.inference.manner, configuration.recipe.precision) == ("nnunet", "auto")
    module = build(configuration.network, 1, 3)
    start_from_model(module, plan.stage("3d_fullres"), run.path)
    expected = net.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in module.state_dict().items())
