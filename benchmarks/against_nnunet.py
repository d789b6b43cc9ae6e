"""nnU-Net 2.8.1 and autoseg in turn on one machine: the same data, network, patch and batch; one table of ratios.

    python benchmarks/against_nnunet.py DATASET [--sections step,prepare,train,predict] [--device auto] [--rounds 3]
        [--cores 0 2] [--nnunet VENV] [--monai VENV] [--patch 40 56 40] [--batch 7] [--width 32] …

DATASET is any folder that autoseg reads; every fifth case is held back for predictions. Sections, in any selection:

- ``step``: autoseg's training step alone in each variant (``step_variants.py``); the fastest enters the table;
- ``prepare``: fingerprint, plan and preprocessing;
- ``train``: an iteration in each tool's own loop, data loading and augmentation included, with so many cores each
  (``--cores``, 0 for all), after the first epoch;
- ``predict``: the held-back cases with the same weights (nnU-Net's, imported) and test-time augmentation;
- ``monai``: as ``train``, but for MONAI's SegResNetDS with CacheDataset, in the manner of Auto3DSeg, beside autoseg;
- ``dice``: minutes until the validation cases of fold 0 reach a Dice, over ``--budgets`` for autoseg, each a training
  of its own, and nnU-Net with its defaults once for ``--nnunet-minutes``. Long.

nnU-Net gets an environment of its own, made with pip in ~/.cache/autoseg-benchmarks, or is taken from ``--nnunet``: a
virtual environment, or a folder of packages as ``pack.sh`` makes it for a machine without a package index. The last
table of each kind of machine is kept in benchmarks/results/. Linux only.
"""

import argparse
import shlex
import sys
import tempfile
from pathlib import Path

import against_sections
from environments import MONAI, NNUNET, environment
from machine import describe
from ratio_table import Row, keep, table
from two_tools import Bench, Shape, TrainingLength

from autoseg.utils.device import select_device

SECTIONS = {
    "step": against_sections.step,
    "prepare": against_sections.prepare,
    "train": against_sections.train,
    "predict": against_sections.predict,
    "monai": against_sections.monai,
    "dice": against_sections.dice,
}


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("dataset", type=Path)
    found.add_argument("--sections", default="step,prepare,train,predict", help="of " + ", ".join(SECTIONS))
    found.add_argument("--device", default="auto")
    found.add_argument("--rounds", type=int, default=3)
    found.add_argument("--cores", type=int, nargs="+", default=[0, 2], help="of training; 0 for all")
    found.add_argument("--epochs", type=int, default=3, help="of training, the first of which is not counted")
    found.add_argument("--iterations", type=int, default=50, help="in an epoch")
    found.add_argument("--patch", type=int, nargs="+", help="in place of nnU-Net's")
    found.add_argument("--batch", type=int, help="in place of nnU-Net's")
    found.add_argument("--width", type=int, help="of the first stage, in place of nnU-Net's 32")
    found.add_argument("--model", type=Path, help="a trained model folder of nnU-Net to predict with")
    found.add_argument("--budgets", nargs="+", default=["1m", "2m", "4m", "8m"], help="of autoseg in the section dice")
    found.add_argument("--nnunet-minutes", type=float, default=60.0, help="of nnU-Net in the section dice")
    found.add_argument("--goals", type=float, nargs="+", default=[0.80, 0.85, 0.88], help="Dice to reach")
    found.add_argument("--nnunet", type=Path, help="environment with nnU-Net")
    found.add_argument("--monai", type=Path, help="environment with MONAI")
    found.add_argument("--scratch", type=Path, help="folder to work in; one used again keeps data and nnU-Net's plan")
    found.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    return found


def main() -> None:
    options = parser().parse_args()
    names = [name for name in options.sections.split(",") if name]
    unknown = sorted(set(names) - set(SECTIONS))
    if unknown or not names:
        sys.exit(f"--sections {options.sections}: choose from {', '.join(SECTIONS)}.")
    if options.epochs < 2:
        sys.exit(f"--epochs {options.epochs}: at least 2 are needed, as the first is not counted.")
    nnunet = environment(NNUNET, options.nnunet)
    versions = "other environment: " + nnunet.versions("nnunetv2", "torch")
    if "monai" in names:
        options.monai = environment(MONAI, options.monai)
        versions += "; " + options.monai.versions("monai", "torch")
    scratch = (options.scratch or Path(tempfile.mkdtemp(prefix="autoseg-benchmark-"))).absolute()
    device = select_device(options.device).type
    shape = Shape(options.patch, options.batch, options.width)
    print(f"{describe()}; {versions}; device {device}; in {scratch}", flush=True)
    bench = Bench.of(options.dataset, scratch, nnunet, device, shape)
    length = TrainingLength(options.epochs, options.iterations)
    rows: list[Row] = []
    for name in names:
        print(f"## {name}", flush=True)
        found = SECTIONS[name](bench, length, options)
        print(table(found), flush=True)
        rows += found
        command = shlex.join(["python", "benchmarks/against_nnunet.py", *sys.argv[1:]])
        kept = keep(found, command, versions, options.results)
    print(f"\n{table(rows)}\n\nKept in {kept}")


if __name__ == "__main__":
    main()
