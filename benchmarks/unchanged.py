"""Whether a change of the code left the numbers as they were: plans, trainings and predictions of two versions.

    python benchmarks/unchanged.py BEFORE AFTER [--data DATA] [--work DIR] [--only PART …] [--keep-before]

BEFORE and AFTER are Python executables of the environments that the two versions are installed in; of both only the
command line is used, on one core and in one process a part, both versions side by side. DATA is a folder with
``hippocampus`` (Medical Segmentation Decathlon) and ``brats13`` (case folders with an autoseg.toml); without it only
generated phantoms are planned. The parts:

plans      every planner on every dataset, for GPUs of 8 and 24 GB and for a CPU, on which a training step takes, in
           both versions, what a formula says; all values of plan, fingerprint and splits, or that it is refused
training   on the CPU, of plans that BEFORE made: a U-Net, a cascade, a model of two raters; then, planned by each
           version, fine-tuning and distillation; all weights, histories and measures, and predictions of new scans
nnunet     models in the format of nnU-Net, imported, and their predictions
old_run    a run that BEFORE trained: its predictions, its training continued, and fine-tuning from it

Not compared are reasons, versions, paths and seconds. The exit code is 1 where anything differs. With
``--keep-before``, what BEFORE made in DIR earlier is taken where it was asked for the same; DIR can be deleted.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from unchanged_files import Row, compare_folders

PLANNERS = (
    "unet",
    "resenc",
    "deepmedic",
    "fullimage_unet",
    "region_unet",
    "albunet2d",
    "albunet3d",
    "inflated",
    "vnet",
    "cropped_unet",
    "cascade",
    "region_cascade",
    "finetune",
)
BUDGETS = {
    "8gb": ("--device", "cuda", "--gpu-memory", "8"),
    "24gb": ("--device", "cuda", "--gpu-memory", "24"),
    "cpu": ("--device", "cpu"),
}

#: Of the hippocampus, so many cases are planned.
CASES = 30

#: What a fine-tuned model of the hippocampus takes from one of phantoms, in which nothing has the same name.
MAPPED = ("--map-channel", "MRI=t1", "--map-label", "Anterior=tumor_core")

#: Runs commands in the environment of a version.
PROGRAM = Path(__file__).with_name("unchanged_side.py")

#: Writes models as nnU-Net does, and scans, with the builder that the tests have.
MODELS = """
import runpy, sys
from pathlib import Path
made, out = runpy.run_path(sys.argv[1]), Path(sys.argv[2])
regions = {"background": 0, "whole": [1, 2], "inner": 2}
described = made["dataset"](("T1", "T2"), labels=regions, regions_class_order=[1, 2])
made["write_model"](out / "unet", folds=(0, 1))
made["write_model"](out / "resenc", made["plans"](family="resenc", channels=2), described, heads=2)
for number, direction in enumerate([(1, 0, 0, 0, 1, 0, 0, 0, 1), (0, 0, 1, 1, 0, 0, 0, -1, 0)]):
    for folder, channels in (("unet", 1), ("resenc", 2)):
        for channel in range(channels):
            path = out / f"{folder}_scans" / f"scan{number}_{channel:04d}.nii.gz"
            made["scan"](path, (12, 20, 18), number + 5 * channel, direction=direction)
"""

Command = list[str]


def command(*words: object) -> Command:
    return [str(word) for word in words]


def settings(values: dict[str, object]) -> Command:
    """As ``--set`` says them."""
    return [word for key, value in values.items() for word in ("--set", f"{key}={json.dumps(value)}")]


def small(stages: Mapping[str, int] | None = None) -> Command:
    """A training of seconds: few steps an epoch, the same precision everywhere; configurations of so many stages."""
    values: dict[str, object] = {"recipe.iterations_per_epoch": 20, "recipe.precision": "fp32"}
    values |= {"inference.mirror_axes": [0], "inference.overlap": 0.25}
    for name, count in (stages or {}).items():
        own = f"configurations.3d_{name}"
        values |= {f"{own}.patch_size": [16, 16, 16], f"{own}.network.features": [8 * 2**n for n in range(count)]}
    return settings(values)


def predict(out: Path, run: str, scans: Path, *more: str) -> Command:
    """Predict with a run in ``out``, beside it."""
    return command("predict", out / run, scans, "--out", out / f"predicted by {run}", "--device", "cpu", *more)


@dataclass(frozen=True)
class Side:
    """One of the two versions.

    Attributes:
        name: of its folder.
        python: executable.
        work: folder of the whole comparison.
        keep: take what is there of an earlier time.
    """

    name: str
    python: str
    work: Path
    keep: bool = False

    def folder(self, part: str) -> Path:
        return self.work / self.name / part

    def run(self, part: str, commands: list[Command], prepare: Callable[[Path], None] | None = None) -> list[int]:
        """Exit codes of a part's commands; ``prepare`` is given the part's folder, which is empty at first."""
        folder = self.folder(part)
        done, program = folder.with_suffix(".json"), PROGRAM.read_text(encoding="utf-8")
        asked = {"python": self.python, "commands": commands, "program": program}
        if self.keep and done.exists():
            before = json.loads(done.read_text(encoding="utf-8"))
            if before["asked"] == asked:
                return list(before["codes"])
        started = time.monotonic()
        done.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if prepare is not None:
            prepare(folder)
        (folder / "commands.json").write_text(json.dumps(commands), encoding="utf-8")
        codes = folder / "codes.json"
        with open(folder.with_suffix(".log"), "w", encoding="utf-8") as log:
            self.call(PROGRAM, folder / "commands.json", codes, log=log)
        found: list[int] = json.loads(codes.read_text(encoding="utf-8"))
        done.write_text(json.dumps({"asked": asked, "codes": found}), encoding="utf-8")
        print(f"{self.name}, {part}: {len(commands)} commands, {time.monotonic() - started:.0f} s", flush=True)
        return found

    def call(self, *words: object, log: Any = None) -> None:
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
        called = [self.python, *map(str, words)]
        done = subprocess.run(called, stdout=log, stderr=subprocess.STDOUT, env=one_thread)
        if done.returncode:
            raise SystemExit(f"{self.name} failed{'' if log is None else f', see {log.name}'}")


def compare_codes(what: str, commands: list[Command], before: list[int], after: list[int], refusing: bool) -> Row:
    """Exit codes; 70 stands for an exception that nobody caught. ``refusing``: some commands may be refused."""
    row = Row(what, "exit codes", len(commands))
    for words, one, other in zip(commands, before, after, strict=True):
        if one != other or one == 70 or (one and not refusing):
            row.differences.append(f"exit codes {one}, then {other} of: autoseg {' '.join(words)}")
    return row


def make_base(side: Side) -> Path:
    """What both versions are given: phantoms, planned runs and a trained one."""
    out = side.folder("base")
    device = ("--device", "cpu", "--workers", 1)
    phantoms, raters = out / "phantoms", out / "raters"
    unet = command("plan", phantoms / "dataset", *device, *small({"fullres": 4}))
    cascade = ("--planner", "cascade", "--folds", 2, *small({"lowres": 3, "cascade_fullres": 4}))
    commands = [
        command("demo", "--data-only", "--cases", 6, "--unlabelled", 2, "--out", phantoms),
        command("demo", "--data-only", "--cases", 4, "--unlabelled", 1, "--raters", 2, "--out", raters, "--seed", 3),
        command(*unet, "--out", out / "unet"),
        command(*unet, "--out", out / "source"),
        command("plan", phantoms / "dataset", *device, *cascade, "--out", out / "cascade"),
        command("plan", raters / "dataset", *device, "--raters", "all", *small({"fullres": 4}), "--out", out / "two"),
        command("train", out / "source", *device, "--fold", 0, "--epochs", 1),
    ]
    codes = side.run("base", commands)
    if any(codes):
        raise SystemExit(f"{side.name} could not make what is compared: exit codes {codes}; see {out}.log")
    return out


def fewer_cases(dataset: Path, out: Path) -> Path:
    """The first cases of a dataset of the Decathlon."""
    out.mkdir(parents=True, exist_ok=True)
    described = json.loads((dataset / "dataset.json").read_text(encoding="utf-8"))
    described["training"] = described["training"][:CASES]
    (out / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    for folder in ("imagesTr", "labelsTr"):
        if not (out / folder).exists():
            (out / folder).symlink_to((dataset / folder).absolute())
    return out


def run_both(
    sides: list[Side],
    part: str,
    ask: Callable[[Path], list[Command]],
    prepare: Callable[[Path], None] | None = None,
) -> list[list[int]]:
    """Exit codes of both sides, of the commands that ``ask`` has for a part's folder."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda side: side.run(part, ask(side.folder(part)), prepare), sides))


def plans(sides: list[Side], base: Path, data: Path | None) -> list[Row]:
    datasets = {"phantoms": base / "phantoms" / "dataset"}
    rows = []
    for name in ("hippocampus", "brats13"):
        if data is None or not (data / name).is_dir():
            rows.append(Row(f"plans, {name}", "left out: no such data"))
        else:
            cut = name == "hippocampus"
            datasets[name] = fewer_cases(data / name, sides[0].work / name) if cut else (data / name).absolute()

    def ask(out: Path) -> list[Command]:
        commands = []
        for (name, dataset), planner in product(datasets.items(), PLANNERS):
            more: tuple[object, ...] = ("--source", base / "source") if planner == "finetune" else ()
            more += MAPPED if planner == "finetune" and name == "hippocampus" else ()
            for budget, options in BUDGETS.items():
                words = ("plan", dataset, "--planner", planner, *options, *more, "--workers", 1)
                commands.append(command(*words, "--out", out / name / planner / budget))
        return commands

    codes = run_both(sides, "plans", ask)
    rows.append(compare_codes("plans", ask(Path()), codes[0], codes[1], refusing=True))
    rows[-1].kind = f"exit codes ({sum(map(bool, codes[0]))} refused)"
    for name in datasets:
        for planner in PLANNERS:
            found = compare_folders(f"plans, {name}, {planner}", *(s.folder("plans") / name / planner for s in sides))
            rows += found or [Row(f"plans, {name}, {planner}", "refused")]
    return rows


def compare_part(
    sides: list[Side], part: str, ask: Callable[[Path], list[Command]], copied: dict[str, Path]
) -> list[Row]:
    """Run a part's commands (given its folder) on both sides, with copies of folders; compare what they left."""

    def prepare(folder: Path) -> None:
        for name, original in copied.items():
            shutil.copytree(original, folder / name)

    codes = run_both(sides, part, ask, prepare)
    rows = [compare_codes(part, ask(Path()), codes[0], codes[1], refusing=False)]
    folders = [side.folder(part) for side in sides]
    for name in sorted({path.name for folder in folders for path in folder.iterdir() if path.is_dir()}):
        rows += compare_folders(f"{part}, {name}", folders[0] / name, folders[1] / name)
    return rows


def training(sides: list[Side], base: Path) -> list[Row]:
    phantoms, raters = base / "phantoms" / "dataset", base / "raters" / "dataset"

    def ask(out: Path) -> list[Command]:
        device = ("--device", "cpu", "--workers", 1)
        train = ("train", *device, "--epochs", 3, "--fold", 0)
        new = ("plan", phantoms, *device, "--channels", "flair,t1c")
        runs = {"unet": ("--probabilities",), "cascade": (), "two": ("--raters",), "tuned": (), "student": ()}
        scans = {name: raters if name == "two" else phantoms for name in runs}
        return [
            *(command(*train, out / name) for name in ("unet", "cascade", "two")),
            command(*new, *small(), "--source", out / "unet", "--out", out / "tuned"),
            command(*new, *small({"fullres": 4}), "--teacher", out / "unet", "--out", out / "student"),
            *(command(*train, out / name) for name in ("tuned", "student")),
            *(predict(out, name, scans[name], *more) for name, more in runs.items()),
        ]

    return compare_part(sides, "training", ask, {name: base / name for name in ("unet", "cascade", "two")})


def nnunet(sides: list[Side], builder: Path) -> list[Row]:
    if not builder.is_file():
        return [Row("nnunet", f"left out: {builder} is not there")]
    models = sides[0].work / "nnunet"
    if not (models.exists() and sides[0].keep):
        shutil.rmtree(models, ignore_errors=True)
        models.mkdir(parents=True)
        sides[0].call("-c", MODELS, builder, models)

    def ask(out: Path) -> list[Command]:
        return [
            words
            for name in ("unet", "resenc")
            for words in (
                command("import", "nnunet", models / name, "--out", out / name),
                predict(out, name, models / f"{name}_scans"),
            )
        ]

    return compare_part(sides, "nnunet", ask, {})


def old_run(sides: list[Side], base: Path) -> list[Row]:
    phantoms = base / "phantoms" / "dataset"

    def ask(out: Path) -> list[Command]:
        device = ("--device", "cpu", "--workers", 1)
        return [
            command("predict", out / "resumed", phantoms, "--out", out / "predicted as it is", "--device", "cpu"),
            command("train", out / "resumed", *device, "--fold", 0, "--epochs", 3, "--resume"),
            predict(out, "resumed", phantoms),
            command("plan", phantoms, *device, *small(), "--source", base / "source", "--out", out / "tuned"),
            command("train", out / "tuned", *device, "--fold", 0, "--epochs", 1),
        ]

    return compare_part(sides, "old_run", ask, {"resumed": base / "source"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", metavar="BEFORE")
    parser.add_argument("after", metavar="AFTER")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--only", nargs="+", choices=("plans", "training", "nnunet", "old_run"))
    parser.add_argument("--keep-before", action="store_true")
    usual = Path(__file__).resolve().parents[1] / "tests"
    parser.add_argument("--tests", type=Path, default=usual, help="folder of the tests, which build nnU-Net's models")
    options = parser.parse_args()
    work = (options.work or Path(tempfile.mkdtemp(prefix="autoseg-unchanged-"))).absolute()
    print(f"Everything is made in {work}.", flush=True)
    sides = [Side("before", options.before, work, options.keep_before), Side("after", options.after, work)]
    base = make_base(sides[0])
    parts: dict[str, Callable[[], list[Row]]] = {
        "plans": partial(plans, sides, base, options.data),
        "training": partial(training, sides, base),
        "nnunet": partial(nnunet, sides, options.tests.absolute() / "interop" / "model.py"),
        "old_run": partial(old_run, sides, base),
    }
    rows = [row for name, part in parts.items() if not options.only or name in options.only for row in part()]
    print("\n| what | compared | number | result |\n| --- | --- | ---: | --- |")
    for row in rows:
        more = f" (and {len(row.differences) - 1} more)" if len(row.differences) > 1 else ""
        result = f"**{row.differences[0]}**{more}" if row.differences else "same" if row.compared else ""
        print(f"| {row.what} | {row.kind} | {row.compared or ''} | {result} |")
    different = sum(bool(row.differences) for row in rows)
    print(f"\n{different} of {len(rows)} lines differ." if different else "\nEverything compared is the same.")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
