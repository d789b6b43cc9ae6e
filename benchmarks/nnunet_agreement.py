"""Whether nnU-Net v2 and autoseg segment alike: models imported from nnU-Net, or runs exported to it.

    python benchmarks/nnunet_agreement.py MODEL [MODEL …] --images IMAGES --nnunet NNUNET_BIN [--device cpu] [--out DIR]

A MODEL is a model folder of nnU-Net (plans.json), which is imported as by ``autoseg import nnunet``; or a run folder
(plan.json), which is exported as by ``autoseg export nnunet``. IMAGES is a folder named as nnU-Net wants it
(``CASE_0000.nii.gz``), NNUNET_BIN the ``bin`` folder of an environment with nnunetv2, whose own predictor is used. Both
predict every image, with and without test-time augmentation; printed is the share of voxels with the same label, and
the Dice of everything that is no background.
"""

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from machine import describe

from autoseg.inference.inputs import cases_to_predict
from autoseg.inference.predictor import Predictor
from autoseg.interop import export_nnunet, import_nnunet
from autoseg.runs.run import Run
from autoseg.utils.progress import silenced

#: Run in the other environment; what nnUNetv2_predict_from_modelfolder calls, for all models in one process.
THEIRS = """
import json, os, sys
from importlib.metadata import version
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

if __name__ == "__main__":
    jobs = json.load(open(sys.argv[1]))
    for job in jobs["predict"]:
        predictor = nnUNetPredictor(use_mirroring=job["tta"], device=torch.device(jobs["device"]), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(job["model"], job["folds"], "checkpoint_final.pth")
        os.makedirs(job["out"])
        predictor.predict_from_files_sequential(jobs["images"], job["out"], save_probabilities=False, overwrite=True)
    print("nnunetv2", version("nnunetv2") + ",", "torch", torch.__version__)
"""


def predict_theirs(python: Path, jobs: dict[str, object], folder: Path) -> str:
    """Predict with nnU-Net; its versions."""
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    (folder / "theirs.py").write_text(THEIRS, encoding="utf-8")
    unused = {"nnUNet_raw": ".", "nnUNet_preprocessed": ".", "nnUNet_results": ".", "nnUNet_compile": "f"}
    command = [str(python), str(folder / "theirs.py"), str(folder / "jobs.json")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **unused, "PYTHONPATH": ""})
    if done.returncode:
        raise SystemExit(f"nnU-Net failed:\n{done.stderr[-3000:]}")
    return done.stdout.strip().splitlines()[-1]


def predict_ours(run: Path, images: Path, out: Path, device: str, tta: bool) -> None:
    predictor = Predictor.load(run, device=device, mirror=tta, postprocessing=False)
    with silenced():
        outcome = predictor.predict(cases_to_predict(images, Run.open(run).plan), out)
    if outcome.failed:
        raise SystemExit(f"autoseg failed: {outcome.failed}")


def compare(theirs: Path, ours: Path) -> tuple[int, int, float]:
    """Voxels, voxels that differ, and the Dice of what is no background."""
    first, second = (sitk.ReadImage(str(path)) for path in (theirs, ours))
    for read in (sitk.Image.GetSize, sitk.Image.GetSpacing, sitk.Image.GetOrigin, sitk.Image.GetDirection):
        assert np.allclose(read(first), read(second), atol=1e-4), f"{theirs} and {ours} lie elsewhere"
    a, b = sitk.GetArrayFromImage(first), sitk.GetArrayFromImage(second)
    total = int((a > 0).sum() + (b > 0).sum())
    return a.size, int((a != b).sum()), 2 * int(((a > 0) & (a == b)).sum()) / total if total else float("nan")


def prepare(given: Path, folder: Path) -> tuple[str, Path, Path]:
    """What is done with a model, nnU-Net's folder of it and the run folder."""
    if (given / "plans.json").is_file():
        with silenced():
            return "imported", given, import_nnunet(given, folder / "run").path
    return "exported", export_nnunet(given, folder / "model"), given


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--nnunet", type=Path, required=True, metavar="NNUNET_BIN")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp(prefix="autoseg-nnunet-"))
    jobs = []
    lines = []
    for number, given in enumerate(options.models):
        folder = out / str(number)
        folder.mkdir(parents=True)
        what, model, run = prepare(given, folder)
        found = sorted(path.name.removeprefix("fold_") for path in model.glob("fold_*"))
        folds = [int(fold) for fold in found if fold.isdecimal()] or found
        for tta in (True, False):
            ours, theirs = (folder / f"{who}_{'tta' if tta else 'plain'}" for who in ("autoseg", "nnunet"))
            predict_ours(run, options.images, ours, options.device, tta)
            jobs.append({"model": str(model.absolute()), "folds": folds, "tta": tta, "out": str(theirs.absolute())})
            lines.append((f"{given.name}, fold {' '.join(map(str, folds))}, {what}", tta, theirs, ours))
    asked = {"predict": jobs, "device": options.device, "images": str(options.images.absolute())}
    versions = predict_theirs(options.nnunet / "python", asked, out)
    print(f"{describe()}; other environment: {versions}; device {options.device}")
    print("\n| model | test-time augmentation | case | voxels | differing | the same | Dice of the foreground |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: |")
    worst = 1.0
    for name, tta, theirs, ours in lines:
        results = sorted(path for path in theirs.iterdir() if path.suffix != ".json")
        if not results:
            raise SystemExit(f"nnU-Net predicted nothing of {options.images}")
        for path in results:
            voxels, differing, dice = compare(path, ours / path.name)
            same = 1 - differing / voxels
            worst = min(worst, same)
            row = [name, "yes" if tta else "no", path.name, voxels, differing, f"{100 * same:.4f} %", f"{dice:.5f}"]
            print(f"| {' | '.join(map(str, row))} |")
    print(f"\nThe least: {100 * worst:.4f} %")


if __name__ == "__main__":
    main()
