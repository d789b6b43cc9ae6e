"""``autoseg demo``: the whole pipeline on generated head phantoms."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoseg.cli.common import parse_duration, results_console
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.progress import say
from autoseg.utils.shell import quoted

if TYPE_CHECKING:
    from autoseg.data.phantom import Cohort, Look

#: Default number of phantoms without a label, for the demo to predict.
NEW_SCANS = 2

#: Default time to train.
TRAINING_TIME = "150s"


def command(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("autoseg-demo"),
    data_only: Annotated[
        bool, typer.Option("--data-only", help="Generate the phantoms into OUT/dataset, and stop.")
    ] = False,
    cases: Annotated[int, typer.Option(help="Number of labelled phantoms.")] = 12,
    unlabelled: Annotated[
        int | None,
        typer.Option(help="Number of further phantoms without a label, to predict; 2 by default, 0 with --data-only."),
    ] = None,
    sites: Annotated[
        int, typer.Option(help="Number of scanners that the phantoms come from, each with its own look of images.")
    ] = 1,
    missing: Annotated[
        float, typer.Option(help="Share of the sequences that are left out at random, from 0 to below 1.")
    ] = 0.0,
    look: Annotated[
        list[str] | None,
        typer.Option(
            help="Difference from other phantoms: contrast=1.5, thickness=3 (slices), bias=0.4, noise=0.08, lacks=t1, "
            "habit=0.1 (labels drawn 10 % of the radius too large). Repeatable."
        ),
    ] = None,
    raters: Annotated[
        int, typer.Option(help="Number of raters; from 2 on, each draws a label map of every case, beside the truth.")
    ] = 1,
    max_time: Annotated[str | None, typer.Option(help=f"Time to train; {TRAINING_TIME} by default.")] = None,
    device: Annotated[
        str | None, typer.Option(help="Device that trains and predicts: auto (the default), cpu, cuda or mps.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Random seed of everything; the same seed makes the same phantoms.")
    ] = 0,
) -> None:
    """Generate head phantoms with tumours, then plan, train, predict, evaluate and report on them."""
    from autoseg.data.phantom import Cohort

    if data_only and (max_time is not None or device is not None):
        given = "--device" if max_time is None else "--max-time"
        raise UsageError(f"{given} is about the training, and --data-only stops before it; leave one of them out.")
    seconds = parse_duration(max_time or TRAINING_TIME)
    device = device or "auto"
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
    results_console().print(evaluation.table("Validation cases of fold 0"))
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
