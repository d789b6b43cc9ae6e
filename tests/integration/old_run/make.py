"""Makes the files beside it, with the version that is installed: python make.py, in an empty folder."""

import json
import shutil
from pathlib import Path

from autoseg.layouts.phantom import Cohort, generate
from typer.testing import CliRunner

from autoseg.cli.main import app

NETWORK = {
    "features": [4, 8],
    "strides": [[1, 1, 1], [2, 2, 2]],
    "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
    "encoder_blocks": [1, 1],
    "decoder_convs": [1],
}
SETTINGS = {
    "network": NETWORK,
    "configurations.3d_fullres.patch_size": [12, 16, 16],
    "recipe.iterations_per_epoch": 30,
    "recipe.epochs": 4,
    "recipe.precision": "fp32",
    "recipe.optimizer.learning_rate": 0.003,
    "recipe.ema_decay": 0.9,
    "recipe.validate_every": 1,
}


def autoseg(*words: object) -> None:
    result = CliRunner().invoke(app, [*map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def main() -> None:
    here = Path.cwd()
    data, run, device = here / "dataset", here / "run", ("--device", "cpu", "--workers", 1)
    generate(data, Cohort(cases=3, unlabelled=1, shape=(16, 20, 20), spacing=(8.0, 8.0, 8.0)))
    settings = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    for unused in ("t1", "t2"):
        for image in data.glob(f"*/{unused}.nii.gz"):
            image.unlink()
    table = data / "autoseg.toml"
    lines = table.read_text(encoding="utf-8").splitlines(keepends=True)
    table.write_text("".join(line for line in lines if not line.startswith(("t1 ", "t2 "))), encoding="utf-8")
    autoseg("plan", data, "--regions", "whole_tumor,tumor_core", *settings, *device, "--out", run)
    autoseg("train", run, "--fold", 0, *device)
    autoseg("predict", run, data, "--out", here / "predicted", "--device", "cpu")
    autoseg("train", shutil.copytree(run, here / "longer"), "--fold", 0, "--epochs", 6, "--resume", *device)
    (here / "longer" / "3d_fullres" / "fold_0" / "history.csv").rename(here / "longer.csv")
    for folder in (here / "longer", run / "preprocessed"):
        shutil.rmtree(folder)
    (here / "predicted" / "predictions.json").unlink()
    described = run / "dataset.json"
    described.write_text(described.read_text().replace(str(data), "DATASET"))


if __name__ == "__main__":
    main()
