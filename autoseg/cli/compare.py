"""``autoseg compare``."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli.common import parse_names, print_comparison, results_console
from autoseg.evaluation.protocol import RESAMPLES


def command(
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Evaluations: a folder with metrics.csv, a run folder, or a CSV; NAME=PATH names it, and "
            "PATH,PATH averages each case over several.",
            metavar="[NAME=]PATH…",
        ),
    ],
    baseline: Annotated[
        str | None, typer.Option(help="Name of the input that the others are compared with; the first by default.")
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Metrics to compare, with commas: dice (the default), hd95, …; or columns of another tool's CSV."
        ),
    ] = None,
    case: Annotated[str | None, typer.Option(help="Column of another tool's CSV that names the case.")] = None,
    exclude: Annotated[str | None, typer.Option(help="Names of rows that are no cases, with commas.")] = None,
    confidence: Annotated[
        float, typer.Option(help="Confidence level of the intervals; significant is p < 1 − confidence.")
    ] = 0.95,
    resamples: Annotated[int, typer.Option(help="Number of bootstrap resamples.")] = RESAMPLES,
    seed: Annotated[int, typer.Option(help="Random seed of the bootstrap.")] = 0,
    out: Annotated[Path | None, typer.Option(help="CSV file for the whole table.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Is one evaluation better than another? Paired test, confidence interval and effect size over the same cases."""
    from autoseg.evaluation.paired import Bootstrap
    from autoseg.evaluation.tables import compare
    from autoseg.utils.progress import say, silenced

    with silenced() if as_json else nullcontext():
        found = compare(
            inputs,
            baseline=baseline,
            metrics=parse_names(metrics, "--metrics") if metrics is not None else None,
            case=case,
            exclude=parse_names(exclude, "--exclude") if exclude is not None else (),
            bootstrap=Bootstrap(confidence, resamples, seed),
            out=out,
        )
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
        return
    for note in found.notes():
        say(note)
    print_comparison(results_console(), found)
    if out is not None:
        say(f"The whole table: {out}")
