"""``autoseg train``: cross-validated training."""

import json
from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli.common import CONFIG_HELP, DEVICE_HELP, parse_duration, parse_folds, results_console
from autoseg.utils.shell import quoted


def command(
    run: Annotated[Path, typer.Argument(help="Run folder made by 'autoseg plan'.")],
    config: Annotated[str | None, typer.Option(help=CONFIG_HELP)] = None,
    fold: Annotated[str, typer.Option(help="Folds to train: numbers with commas, or all.")] = "all",
    epochs: Annotated[int | None, typer.Option(help="Number of epochs of each fold; the plan's by default.")] = None,
    max_time: Annotated[
        str | None, typer.Option(help="Time for each fold, such as 30m or 1h30m, in place of a number of epochs.")
    ] = None,
    resume: Annotated[
        bool | None,
        typer.Option(
            "--resume/--restart",
            help="Continue a training, which must have begun; or start over. By default, continue one that has begun.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = "auto",
    seed: Annotated[int, typer.Option(help="Random seed of initial weights, patches and augmentation.", min=0)] = 0,
    workers: Annotated[
        int | None, typer.Option(help="Number of processes that preprocess, and of threads that read patches.", min=0)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Train a planned run, fold by fold, and print the cross-validated table, and that of a hold-out test set.

    Run the command again to continue a training that was stopped.
    """
    from autoseg.crossvalidation.annotators import read_agreement
    from autoseg.crossvalidation.holdout import read_test
    from autoseg.crossvalidation.job import Length
    from autoseg.crossvalidation.jobs import train
    from autoseg.crossvalidation.source_table import SourceTable
    from autoseg.runs.run import Run
    from autoseg.utils.device import Compute
    from autoseg.utils.progress import say

    length = Length(epochs, None if max_time is None else parse_duration(max_time))
    planned = Run.open(run)
    evaluation = train(planned, config, parse_folds(fold), length, Compute(device, workers), seed, resume)
    agreed = read_agreement(planned, planned.plan.stage(config))
    tested = read_test(planned, planned.plan.stage(config))
    if as_json:
        found = evaluation.to_json() | ({} if tested is None else {"test": tested.to_json()})
        typer.echo(json.dumps(found, indent=2))
    else:
        console = results_console()
        if evaluation.cases:
            console.print(evaluation.table("Cross-validation"))
        else:
            say("Trained on all cases; evaluate the model on others: autoseg predict, then autoseg evaluate.")
        if tested is not None:
            console.print(tested.table(f"Test: {len(tested.cases)} cases that no fold has seen"))
        elif planned.test_cases:
            say(f"{len(planned.test_cases)} test cases are held out; they are scored when all folds are trained.")
        if (tuned := SourceTable.read(planned.path / planned.plan.stage(config).name / "crossval")) is not None:
            console.print(tuned.table())
        if agreed is not None:
            console.print(agreed.table())
        say(f"Next: autoseg report {quoted(run)}, or autoseg predict {quoted(run)} SCANS --out DIR")
