"""Sections of ``against_nnunet.py``: each measures both tools in alternating rounds and returns rows of the table."""

import json
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import SimpleITK as sitk
from metering import Metered, Usage
from ratio_table import Row, rows_of
from two_tools import (
    CONFIGURATION,
    Bench,
    TrainingLength,
    counted,
    read_events,
    side,
    train_ours,
    train_theirs,
)

from autoseg.runs.run import Run
from autoseg.utils.files import write_json
from autoseg.utils.parallel import available_cpus

_Result = TypeVar("_Result")


def in_turn(
    rounds: int, theirs: Callable[[], _Result], ours: Callable[[], _Result]
) -> tuple[list[_Result], list[_Result]]:
    """Run both so many times; who goes first changes from round to round."""
    found: tuple[list[_Result], list[_Result]] = ([], [])
    for number in range(rounds):
        for who in (0, 1) if number % 2 == 0 else (1, 0):
            found[who].append((theirs, ours)[who]())
    return found


def each_number_of_cores(wanted: list[int]) -> Iterator[int]:
    """The cores to use, each number once; what the machine lacks is left out."""
    there = available_cpus()
    yield from dict.fromkeys(cores or there for cores in wanted if cores <= there)


def step(bench: Bench, length: TrainingLength, options: Namespace) -> list[Row]:
    """autoseg's step alone, in its fastest variant."""
    run = bench.plan_ours(length.iterations)
    program = Path(__file__).with_name("step_variants.py")
    command = [sys.executable, str(program), "--run", str(run.path), "--device", bench.device, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    for name, seconds in found.items():
        print(f"{name}: {1000 * seconds:.1f} ms", flush=True)
    fastest = min(found, key=found.__getitem__)
    work = f"training step alone, {bench.describe()}"
    return [
        Row(work, available_cpus(), "time, ms", [], [1000 * found[fastest]]),
        *(
            Row(f"{work}, {name}", available_cpus(), "time, ms", [], [1000 * seconds])
            for name, seconds in found.items()
        ),
    ]


def prepare(bench: Bench, length: TrainingLength, options: Namespace) -> list[Row]:
    """Fingerprint, plan and preprocessing."""

    def theirs() -> Usage:
        folder = bench.scratch / "prepared_theirs"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return bench.prepare_theirs(folder=folder).usage()

    def ours() -> Usage:
        run = bench.scratch / "prepared_ours"
        shutil.rmtree(run, ignore_errors=True)
        return bench.prepare_ours(run).usage()

    cases = len(list((bench.raw / "labelsTr").iterdir()))
    work = f"fingerprint, plan and preprocessing, {cases} cases of {bench.title}"
    return rows_of(work, available_cpus(), *in_turn(options.rounds, theirs, ours))


def train(bench: Bench, length: TrainingLength, options: Namespace) -> list[Row]:
    """An iteration in each tool's own loop."""
    run = bench.plan_ours(length.iterations)
    ours_has = run.plan.configurations[CONFIGURATION].parameters
    rows = []
    for cores in each_number_of_cores(options.cores):

        def theirs(cores: int = cores) -> tuple[Usage, int]:
            usage, iterations, parameters = train_theirs(bench, length, cores)
            if parameters != ours_has:
                raise SystemExit(f"nnU-Net's network has {parameters} parameters, autoseg's {ours_has}: not the same.")
            return usage, iterations

        def ours(cores: int = cores) -> tuple[Usage, int]:
            return train_ours(bench, run, length, cores)

        rows += _iteration_rows(
            f"training, an iteration, {bench.describe()}", cores, *in_turn(options.rounds, theirs, ours)
        )
    return rows


def _iteration_rows(work: str, cores: int, theirs: list[tuple[Usage, int]], ours: list[tuple[Usage, int]]) -> list[Row]:
    both = (theirs, ours)
    usages = [[usage for usage, _ in found] for found in both]
    return rows_of(work, cores, usages[0], usages[1], iterations=[[n for _, n in found] for found in both])


def monai(bench: Bench, length: TrainingLength, options: Namespace) -> list[Row]:
    """An iteration of MONAI's SegResNetDS in a loop as Auto3DSeg's, beside autoseg's with its own network."""
    plan = bench.same_plan()
    description = json.loads((bench.raw / "dataset.json").read_text(encoding="utf-8"))
    numbers = range(len(description["channel_names"]))
    labels = sorted((bench.raw / "labelsTr").iterdir())
    names = [path.name.removesuffix(".nii.gz") for path in labels]
    cases = [
        {"image": [str(bench.raw / "imagesTr" / f"{name}_{n:04d}.nii.gz") for n in numbers], "label": str(label)}
        for name, label in zip(names, labels, strict=True)
    ]
    values = {v for entry in description["labels"].values() for v in (entry if isinstance(entry, list) else [entry])}
    events, request = bench.scratch / "monai_events.jsonl", bench.scratch / "monai_request.json"
    run = bench.plan_ours(length.iterations)
    rows = []
    for cores in each_number_of_cores(options.cores):
        asked = {
            "cases": cases,
            "classes": max(values) + 1,
            "patch": plan["patch_size"][::-1],
            "spacing": plan["spacing"][::-1],
            "batch": plan["batch_size"],
            "device": bench.device,
            "epochs": length.epochs,
            "iterations": length.iterations,
            "workers": 0 if bench.device == "cpu" else min(cores, 8),
            "events": str(events),
        }

        def theirs(cores: int = cores, asked: dict[str, object] = asked) -> tuple[Usage, int]:
            events.unlink(missing_ok=True)
            write_json(request, asked)
            program = str(Path(__file__).with_name("monai_side.py"))
            command = [str(options.monai.python), program, str(request)]
            log = bench.scratch / "logs" / "monai.log"
            return counted(Metered(command, log, cores, options.monai.variables), read_events(events))

        def ours(cores: int = cores) -> tuple[Usage, int]:
            return train_ours(bench, run, length, cores)

        work = f"MONAI's SegResNetDS loop, an iteration, {bench.describe()}"
        rows += _iteration_rows(work, cores, *in_turn(options.rounds, theirs, ours))
    return rows


def predict(bench: Bench, length: TrainingLength, options: Namespace) -> list[Row]:
    """The held-back cases with nnU-Net's weights, with test-time augmentation, both with their start."""
    model = options.model or bench.model
    if not any(model.glob("fold_*/checkpoint_final.pth")):
        if options.model:
            raise SystemExit(f"--model {model} has no fold_*/checkpoint_final.pth.")
        print("nnU-Net trains a model to predict with …", flush=True)
        bench.plan_theirs()
        train_theirs(bench, length)
    folds = sorted(path.parent.name.removeprefix("fold_") for path in model.glob("fold_*/checkpoint_final.pth"))
    imported = bench.scratch / "imported"
    shutil.rmtree(imported, ignore_errors=True)
    bench.ours(["import", "nnunet", model, "--out", imported], "import")
    found = {who: bench.scratch / f"predicted_{who}" for who in ("theirs", "ours")}

    def theirs() -> Usage:
        shutil.rmtree(found["theirs"], ignore_errors=True)
        paths = ["-i", bench.test_images, "-o", found["theirs"], "-m", model]
        command = bench.nnunet.command("nnUNetv2_predict_from_modelfolder", *paths, "-f", *folds)
        return bench.theirs([*command, "-device", bench.device], "predict").usage()

    def ours() -> Usage:
        shutil.rmtree(found["ours"], ignore_errors=True)
        arguments = ["predict", imported, bench.test_images, "--out", found["ours"], "--device", bench.device]
        return bench.ours(arguments, "predict").usage()

    measured = in_turn(options.rounds, theirs, ours)
    cases = len(list(bench.test_labels.iterdir()))
    work = f"prediction of {cases} cases of {bench.title}, {len(folds)} fold(s), imported weights, TTA"
    rows = rows_of(work, available_cpus(), *measured)
    scores = [mean_dice(folder, bench.test_labels) for folder in found.values()]
    rows.append(Row(work, available_cpus(), "mean Dice", [scores[0]], [scores[1]]))
    rows.append(
        Row(work, available_cpus(), "voxels equal in the worst case, %", [], [100 * least_equal(*found.values())])
    )
    return rows


def dice(bench: Bench, length: TrainingLength, options: Namespace) -> list[Row]:
    """Minutes, from the raw data on, until the validation cases of fold 0 reach each Dice, and nnU-Net's last one."""
    labels = bench.raw / "labelsTr"
    ours: list[tuple[float, float]] = []
    for budget in options.budgets:
        run = bench.scratch / f"run_{budget}"
        shutil.rmtree(run, ignore_errors=True)
        planned = bench.ours(["plan", bench.raw, "--out", run, "--device", bench.device], f"plan_{budget}")
        arguments = ["train", run, "--fold", 0, "--max-time", budget, "--device", bench.device]
        trained = bench.ours(arguments, f"train_{budget}")
        opened = Run.open(run)
        fold = opened.fold(opened.plan.recommended, 0)
        score = mean_dice(fold.validation, labels)
        minutes = (planned.usage().seconds + trained.usage().seconds) / 60
        print(
            f"autoseg, --max-time {budget}: Dice {score:.4f}, {minutes:.1f} minutes with plan and validation",
            flush=True,
        )
        ours.append((score, minutes))
    theirs = _their_dice(bench, opened, options)
    rows = []
    for goal in (*options.goals, theirs.score):
        reached = [minutes for score, minutes in ours if score >= goal][:1]
        work = f"held-back fold of {bench.title} at Dice {round(goal, 4)}"
        if goal == theirs.score:
            work += f", nnU-Net's after {options.nnunet_minutes:g} minutes"
        elif goal > theirs.score and goal not in theirs.reached:
            work += f"; nnU-Net not reached in {options.nnunet_minutes:g} minutes, a lower bound"
        elif goal not in theirs.reached:
            work += "; nnU-Net after its last estimate and before its end, an upper bound"
        rows.append(Row(work, available_cpus(), "time, minutes", [theirs.reached.get(goal, theirs.ended)], reached))
    return rows


@dataclass(frozen=True)
class _Theirs:
    """What a training of nnU-Net reached.

    Attributes:
        reached: goal → minutes after which its own estimate, made after each epoch, was there.
        ended: minutes until its last validation.
        score: mean Dice of that, as ours is counted.
    """

    reached: dict[float, float]
    ended: float
    score: float


def _their_dice(bench: Bench, run: Run, options: Namespace) -> _Theirs:
    """nnU-Net with its defaults."""
    shutil.rmtree(bench.preprocessed, ignore_errors=True)
    prepared = bench.prepare_theirs().usage().seconds
    splits = [{"train": split["train"], "val": split["validation"]} for split in run.splits]
    write_json(bench.preprocessed / "splits_final.json", splits)
    events = bench.scratch / "dice_events.jsonl"
    asked = {"epochs": None, "iterations": None, "validation_iterations": None, "fold": 0, "validate": True}
    done = side(bench, {**asked, "minutes": options.nnunet_minutes}, events, "dice")
    rows = read_events(events)
    score = mean_dice(bench.model / "fold_0" / "validation", bench.raw / "labelsTr")
    print(f"nnU-Net after {options.nnunet_minutes:g} minutes: Dice {score:.4f}", flush=True)
    minutes = {row["end"]: (prepared + row["end"] - done.started) / 60 for row in rows}
    reached = {}
    for goal in options.goals:
        seen = [row["end"] for row in rows if row.get("dice", 0.0) >= goal]
        if seen:
            reached[goal] = minutes[seen[0]]
    return _Theirs(reached, minutes[rows[-1]["end"]], score)


def mean_dice(predictions: Path, references: Path) -> float:
    """Mean Dice over cases and labels, counted here and by neither tool; of two empty masks 1, of a missing file 0.

    Cases are those of the predictions' folder, or all references where that has fewer.
    """
    names = [path.name for path in sorted(predictions.glob("*.nii.gz"))]
    if not names:
        raise SystemExit(f"{predictions} has no predictions.")
    scores = []
    for name in names:
        found, wanted = (sitk.GetArrayFromImage(sitk.ReadImage(str(f / name))) for f in (predictions, references))
        if found.shape != wanted.shape:
            raise SystemExit(f"{predictions / name} has shape {found.shape}, its reference {wanted.shape}.")
        for value in sorted(set(np.unique(wanted)) - {0}):
            a, b = found == value, wanted == value
            scores.append(2 * float((a & b).sum()) / float(a.sum() + b.sum()))
    return float(np.mean(scores))


def least_equal(first: Path, second: Path) -> float:
    """The smallest share of voxels with the same label, over the cases of two folders."""
    shares = []
    for path in sorted(first.glob("*.nii.gz")):
        a, b = (sitk.GetArrayFromImage(sitk.ReadImage(str(folder / path.name))) for folder in (first, second))
        shares.append(float((a == b).mean()))
    return min(shares)
