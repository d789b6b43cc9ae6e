"""Time and processor time of checking, planning and preprocessing a dataset, start-up included, beside nnU-Net's.

    python benchmarks/preparation.py DATASET [--rounds 3] [--curve 25,50,100,200] [--nnunet ENVIRONMENT] [--work DIR]

Each command runs in a process of its own, autoseg's as ``python -m autoseg inspect``, ``python -m autoseg plan``
(checks, fingerprint and plan, for a GPU of 8 GB, as nnU-Net's planner has it) and ``autoseg.preprocess``. The sum of
the last two is held against nnU-Net, as ``plan`` checks what ``inspect`` does; ENVIRONMENT is a virtual environment
with nnunetv2, whose ``nnUNetv2_plan_and_preprocess --verify_dataset_integrity -c 3d_fullres`` gets the same files and
as many processes as there are cores. Rounds alternate. Processor time is that of all processes a command starts, looked
at every 20 ms. ``--curve`` prints autoseg's seconds over the number of cases, with the slope of their logarithms.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from commands import AUTOSEG
from machine import describe
from metering import slope

import autoseg.data.formats.nifti as nifti
from autoseg.data.checks import examine
from autoseg.data.dataset import Dataset, load_case
from autoseg.data.nifti import StoredVoxels
from autoseg.utils.parallel import available_cpus

PREPROCESS = """
import sys, autoseg
if __name__ == "__main__":
    autoseg.preprocess(autoseg.Run.open(sys.argv[1]))
"""

GPU = ("--device", "cuda", "--gpu-memory", "8")


def timed(words: Sequence[object], log: Path, environment: Mapping[str, str] | None = None) -> tuple[float, float]:
    """Seconds and processor seconds of a command and of all that it starts."""
    with open(log, "a", encoding="utf-8") as output:
        started = time.monotonic()
        process = subprocess.Popen(
            [str(word) for word in words],
            env={**os.environ, **(environment or {})},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        used: dict[int, float] = {}
        while process.poll() is None:
            used |= processor_seconds(process.pid)
            time.sleep(0.02)
        seconds = time.monotonic() - started
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, words))} failed; see {log}")
    return seconds, sum(used.values())


def processor_seconds(session: int) -> dict[int, float]:
    """Process → its seconds on a processor, for all of a session."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[3]) == session:
            found[int(folder.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def fewer(dataset: Path, cases: int, out: Path) -> Path:
    """The first cases of a dataset of the Medical Segmentation Decathlon."""
    out.mkdir(parents=True, exist_ok=True)
    described = json.loads((dataset / "dataset.json").read_text(encoding="utf-8"))
    described["training"] = described["training"][:cases]
    (out / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    for folder in ("imagesTr", "labelsTr"):
        if not (out / folder).exists():
            (out / folder).symlink_to((dataset / folder).absolute())
    return out


def inspect(dataset: Path, work: Path) -> tuple[float, float]:
    """Seconds and processor seconds of checking alone."""
    return timed([*AUTOSEG, "inspect", dataset], work / "autoseg.log")


def prepare(dataset: Path, work: Path) -> dict[str, tuple[float, float]]:
    """Seconds and processor seconds of autoseg's commands before a training."""
    run, script, log = work / "run", work / "preprocess.py", work / "autoseg.log"
    shutil.rmtree(run, ignore_errors=True)
    script.write_text(PREPROCESS, encoding="utf-8")
    return {
        "plan": timed([*AUTOSEG, "plan", dataset, "--out", run, *GPU], log),
        "preprocess": timed([sys.executable, script, run], log),
    }


def raw_folder(dataset: Dataset, out: Path) -> Path:
    """The dataset as nnU-Net wants it; labels are numbered anew where they are not consecutive."""
    shutil.rmtree(out, ignore_errors=True)
    (out / "imagesTr").mkdir(parents=True)
    (out / "labelsTr").mkdir()
    values = {value: number for number, value in enumerate(sorted(dataset.labels.values()), 1)}
    for case in dataset.cases:
        for number, name in enumerate(dataset.channels):
            (out / "imagesTr" / f"{case.id}_{number:04d}.nii.gz").symlink_to(case.channels[name].path.absolute())
        label = case.label
        if not isinstance(label, Path):
            raise SystemExit(f"{case.id} has no label map in one file, as nnU-Net's raw folder needs it.")
        target = out / "labelsTr" / f"{case.id}.nii.gz"
        if all(value == number for value, number in values.items()):
            target.symlink_to(label.absolute())
            continue
        import SimpleITK as sitk

        image = sitk.ReadImage(str(label))
        sitk.WriteImage(sitk.ChangeLabel(sitk.Cast(image, sitk.sitkUInt8), values), str(target), useCompression=True)
    labels = {"background": 0, **{name: values[value] for name, value in dataset.labels.items()}}
    channels = {str(number): name for number, name in enumerate(dataset.channels)}
    described = {
        "channel_names": channels,
        "labels": labels,
        "numTraining": len(dataset.cases),
        "file_ending": ".nii.gz",
    }
    (out / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    return out


def nnunet(environment: Path, work: Path) -> tuple[float, float]:
    folders = {f"nnUNet_{name}": str(work / "nnunet" / name) for name in ("raw", "preprocessed", "results")}
    shutil.rmtree(folders["nnUNet_preprocessed"], ignore_errors=True)
    cores = available_cpus()
    words = [environment / "bin" / "nnUNetv2_plan_and_preprocess", "-d", 1, "--verify_dataset_integrity"]
    return timed([*words, "-c", "3d_fullres", "-npfp", cores, "-np", cores], work / "nnunet.log", folders)


def decodings(dataset: Dataset) -> str:
    """How often a file is decoded by checks and fingerprint, and by preprocessing."""
    counts: Counter[str] = Counter()
    plain = nifti.stored_voxels

    def counted(path: Path) -> StoredVoxels:
        counts[str(path)] += 1
        return plain(path)

    nifti.stored_voxels = counted
    one = dataset.model_copy(update={"cases": dataset.cases[:1], "unlabelled": ()})
    examine(one, workers=1)
    checks = max(counts.values(), default=0)
    load_case(one.cases[0], one.channels)
    nifti.stored_voxels = plain
    return f"{checks} by checks and fingerprint, {max(counts.values(), default=0) - checks} by preprocessing"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, metavar="DATASET")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--curve", default="", help="numbers of cases, with commas; a dataset of the Decathlon")
    parser.add_argument("--nnunet", type=Path, metavar="ENVIRONMENT")
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    work = (options.work or Path(tempfile.mkdtemp(prefix="autoseg-preparation-"))).absolute()
    work.mkdir(parents=True, exist_ok=True)
    dataset = Dataset.open(options.dataset)
    print(f"{describe()}\n")
    size = f"{len(dataset.cases)} cases, {len(dataset.channels)} channels"
    print(f"{options.dataset.name}: {size}; decodings a file: {decodings(dataset)}\n")
    if options.nnunet is not None:
        raw_folder(dataset, work / "nnunet" / "raw" / "Dataset001_Prepared")
    rows: dict[str, list[tuple[float, float]]] = {}
    for _ in range(options.rounds):
        found = prepare(options.dataset.absolute(), work)
        found["autoseg, both"] = (sum(s for s, _ in found.values()), sum(c for _, c in found.values()))
        found = {"inspect": inspect(options.dataset.absolute(), work), **found}
        if options.nnunet is not None:
            found["nnU-Net"] = nnunet(options.nnunet.absolute(), work)
        for name, value in found.items():
            rows.setdefault(name, []).append(value)
    print("| command | seconds: median | each round | processor seconds: median |\n| --- | ---: | --- | ---: |")
    for name, values in rows.items():
        each = ", ".join(f"{seconds:.1f}" for seconds, _ in values)
        middle = [statistics.median(column) for column in zip(*values, strict=True)]
        print(f"| {name} | {middle[0]:.1f} | {each} | {middle[1]:.1f} |")
    if options.nnunet is not None:
        for place, what in enumerate(("time", "processor time")):
            ratios = [n[place] / a[place] for n, a in zip(rows["nnU-Net"], rows["autoseg, both"], strict=True)]
            print(f"\nnnU-Net's {what} / autoseg's: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    if options.curve:
        counts, seconds = [int(part) for part in options.curve.split(",")], []
        print(
            "\n| cases | seconds to plan | to preprocess | processor seconds of both |\n| ---: | ---: | ---: | ---: |"
        )
        for count in counts:
            found = prepare(fewer(options.dataset, count, work / f"cases{count}"), work)
            seconds.append(found["preprocess"][0])
            processor = found["plan"][1] + found["preprocess"][1]
            print(f"| {count} | {found['plan'][0]:.1f} | {seconds[-1]:.1f} | {processor:.1f} |", flush=True)
        print(f"\nSlope of log seconds to preprocess over log cases: {slope(counts, seconds):.2f}")


if __name__ == "__main__":
    main()
