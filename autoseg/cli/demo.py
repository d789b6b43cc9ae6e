"""``autoseg demo``: the whole pipeline on generated head phantoms."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from autoseg.cli.common import parse_duration
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.progress import say
from autoseg.utils.shell import quoted

if TYPE_CHECKING:
    from autoseg.data.phantom import Cohort, Look

#: Default number of phantoms without a label, for the demo to predict.
NEW_SCANS = 2


def command(
    out: Path = typer.Option(Path("autoseg-demo"), help="Folder for everything the demo makes."),
    data_only: bool = typer.Option(False, "--data-only", help="Generate the phantoms into OUT/dataset, and stop."),
    cases: int = typer.Option(12, help="Labelled phantoms."),
    unlabelled: int | None = typer.Option(
        None, help="Further phantoms without a label, to predict; none with --data-only, else 2."
    ),
    sites: int = typer.Option(1, help="Scanners that they come from, each with its own look of images."),
    missing: float = typer.Option(0.0, help="Share of the sequences that are left out at random, from 0 to below 1."),
    look: list[str] | None = typer.Option(
        None,
        help="A difference to other phantoms, repeatable: contrast=1.5, thickness=3 (slices), bias=0.4, noise=0.08, "
        "lacks=t1, habit=0.1 (labels drawn so far outside, of the radius).",
    ),
    raters: int = typer.Option(1, help="Raters; from 2 on, each has a label map of every case, beside the truth."),
    max_time: str = typer.Option("150s", help="Time to train."),
    device: str = typer.Option("auto", help="auto, cpu, cuda or mps."),
    seed: int = typer.Option(0, min=0, help="Of everything random; the same seed makes the same phantoms."),
) -> None:
    """Generate head phantoms with tumours, then plan, train, predict, evaluate and report on them."""
    from autoseg.data.phantom import Cohort

    seconds = parse_duration(max_time)
    if unlabelled is None:
        unlabelled = 0 if data_only else NEW_SCANS
    seen = _look(look or [])
    if not data_only:
        from autoseg.utils.device import select_device

        select_device(device)  # before any file is made
    folder = make_dataset(
        out,
        Cohort(cases=cases, unlabelled=unlabelled, sites=sites, missing=missing, raters=raters, look=seen, seed=seed),
    )
    say(f"{cases + unlabelled} phantoms are in {folder}.")
    if not data_only:
        run_demo(folder, out, seconds, device, seed)


def _look(given: list[str]) -> "Look":
    """The differences that ``--look NAME=VALUE`` asks for."""
    from dataclasses import replace

    from autoseg.data.phantom import Look

    kinds = {"contrast": float, "thickness": int, "bias": float, "noise": float, "lacks": str, "habit": float}
    found = Look()
    for text in given:
        name, _, value = text.partition("=")
        if name not in kinds:
            raise UsageError(f"--look {text}: give NAME=VALUE, NAME being one of {', '.join(kinds)}.")
        try:
            found = replace(found, **{name: kinds[name](value)})
        except ValueError:
            raise UsageError(f"--look {text}: {value!r} is no number.") from None
    return found


def run_demo(dataset: Path, out: Path, seconds: float, device: str, seed: int) -> None:
    """Plan, train one fold, predict the new scans, and report; prints the command of each step."""
    import autoseg
    from autoseg.inference.inputs import cases_to_predict
    from autoseg.report.pictures import prediction_picture

    run_folder, results = out / "run", out / "predictions"
    say(f"\n$ autoseg plan {quoted(dataset)} --out {quoted(run_folder)}")
    run = autoseg.plan(autoseg.Dataset.open(dataset), run_folder, autoseg.Request(device=device, seed=seed))
    name = run.plan.recommended
    chosen = run.plan.configurations[name]
    say(
        f"{name}: patch {'×'.join(map(str, chosen.patch_size))}, batch {chosen.batch_size}, "
        f"{chosen.parameters / 1e6:.2f} million parameters"
    )
    say(f"\n$ autoseg train {quoted(run_folder)} --fold 0 --max-time {seconds:g}s")
    evaluation = autoseg.train(run, None, [0], autoseg.Length(seconds=seconds), autoseg.Compute(device), seed)
    typer.echo("")
    from rich.console import Console

    Console(highlight=False).print(evaluation.table("Validation cases of fold 0"))
    say(f"\n$ autoseg predict {quoted(run_folder)} {quoted(dataset)} --out {quoted(results)} --pictures")
    new = cases_to_predict(dataset, run.plan)
    predictor = autoseg.Predictor.load(run_folder, device=device)
    outcome = predictor.predict(new, results)
    for case in new:
        if case.id in outcome.written:
            picture = results / "pictures" / f"{case.id}.png"
            prediction_picture(case, outcome.written[case.id], run.plan, predictor.target, picture)
    if outcome.failed:
        raise AutosegError(f"the demo's own scans could not be predicted: {outcome.failed}.")
    say(f"\n$ autoseg report {quoted(run_folder)}")
    page = autoseg.write_report(run)
    say(f"\nSegmented scans with pictures are in {results}.\nOpen {page} in a browser.")


def make_dataset(out: Path, cohort: "Cohort") -> Path:
    """Generate phantoms into ``out/dataset``.

    Raises:
        AutosegError: the folder is not empty; its files would be mixed with the phantoms.
        UsageError: no file can be made there.
    """
    from autoseg.data.phantom import generate
    from autoseg.utils.files import refuse_unwritable_folder

    folder = out / "dataset"
    refuse_unwritable_folder(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AutosegError(f"{folder} exists already; remove it or choose another folder with --out.")
    return generate(folder, cohort)
