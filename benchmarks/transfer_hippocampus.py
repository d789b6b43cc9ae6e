"""What a source model is worth to a small cohort: as it is, from scratch and fine-tuned, on the hippocampus by site.

    python benchmarks/transfer_hippocampus.py HIPPOCAMPUS OUT [--source-time 10m] [--max-time 5m] [--clinical 10]
                                              [--tuning WAY ...] [--reverse] [--device auto]

Of the hippocampus of the Medical Segmentation Decathlon some scans are stored as 32-bit floats and some as 8-bit
integers, and these look different: two sites. The first are the public data set, ``--clinical`` of the second the
clinical cohort, and the others of the second judge. ``--reverse`` swaps the sites (and judges by 40 cases at most): to
choose between ways of tuning without looking at the cases that judge in the end. Every command is printed before it
is run; what is in OUT already is not made again.
"""

import argparse
import csv
from pathlib import Path

import SimpleITK as sitk
from commands import autoseg
from machine import describe

from autoseg.data.dataset import Case, Dataset

#: Cases that judge at most with ``--reverse``.
MOST = 40


def is_float(path: Path) -> bool:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader.GetPixelID() == sitk.sitkFloat32


def write_dataset(folder: Path, cases: list[Case], like: Dataset) -> Path:
    """A data set of some cases of another one, described by a table."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "scans.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *like.channels, "label"])
        for case in cases:
            writer.writerow([case.id, *(case.channels[name].path for name in like.channels), case.label])
    values = ", ".join(f'"{name}" = {value}' for name, value in like.labels.items())
    channels = "\n".join(f'"{name}" = "{name}"' for name in like.channels)
    text = f'csv = "scans.csv"\n\n[channels]\n{channels}\n\n[label]\nfile = "label"\nvalues = {{ {values} }}\n'
    (folder / "autoseg.toml").write_text(text, encoding="utf-8")
    return folder


def judge(run: Path, test: Path, out: Path, device: str) -> Path:
    """Predict and evaluate the test cases; the folder with the figures."""
    evaluation = out / "evaluation"
    if not (evaluation / "metrics.csv").exists():
        autoseg("predict", run, test, "--out", out / "predictions", "--device", device)
        autoseg("evaluate", out / "predictions", test, "--out", evaluation)
    return evaluation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--source-time", default="10m")
    parser.add_argument("--max-time", default="5m")
    parser.add_argument("--clinical", type=int, default=10)
    parser.add_argument("--tuning", nargs="+", default=[""], help="ways to fine-tune; the default one if not given")
    parser.add_argument("--set", action="append", default=[], help="override a value of the fine-tune plans")
    parser.add_argument("--reverse", action="store_true")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    print(describe(), flush=True)
    dataset = Dataset.open(options.dataset)
    public = [case for case in dataset.cases if is_float(next(iter(case.channels.values())).path)]
    other = [case for case in dataset.cases if case not in public]
    if options.reverse:
        public, other = other, public[: options.clinical + MOST]
    clinical, judging = other[: options.clinical], other[options.clinical :]
    print(f"{len(public)} public cases, {len(clinical)} clinical ones, {len(judging)} that judge", flush=True)
    out = options.out
    source_data = write_dataset(out / "public", public, dataset)
    cohort = write_dataset(out / "clinical", clinical, dataset)
    test = write_dataset(out / "test", judging, dataset)

    device = ("--device", options.device)
    source = out / "source"
    if not (source / "plan.json").exists():
        autoseg("plan", source_data, "--out", source, "--folds", 1, *device)
    autoseg("train", source, "--max-time", options.source_time, *device)
    compared = {"as_is": judge(source, test, out / "as_is", options.device)}
    for way in ["scratch", *options.tuning]:
        name = way or "fine_tuned"
        run = out / name
        if not (run / "plan.json").exists():
            start = [] if way == "scratch" else ["--source", source, *(["--tuning", way] if way else [])]
            changes = [word for change in options.set for word in ("--set", change)] if way != "scratch" else []
            autoseg("plan", cohort, "--out", run, "--folds", 1, *device, *start, *changes)
        autoseg("train", run, "--max-time", options.max_time, *device)
        compared[name] = judge(run, test, out / f"{name}_judged", options.device)
    last = list(compared)[-1]
    autoseg("compare", *(f"{name}={path}" for name, path in compared.items()), "--baseline", last)


if __name__ == "__main__":
    main()
