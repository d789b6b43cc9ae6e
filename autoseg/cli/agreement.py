"""``autoseg agreement``."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from autoseg.cli.common import (
    EMPTY_HELP,
    STRUCTURES_HELP,
    TOLERANCE_HELP,
    WORKERS_HELP,
    parse_names,
    print_comparison,
    print_verdicts,
    results_console,
)
from autoseg.evaluation.protocol import AGREEMENT_WORKERS, TOLERANCE_MM, Empty, EvaluationProtocol

if TYPE_CHECKING:
    from autoseg.evaluation.consensus import Consensus


def command(
    raters: Annotated[
        list[str],
        typer.Argument(
            help="Two or more folders of label maps named CASE.nii.gz, one for each rater (or single label maps); "
            "or one dataset that names the raters of its cases.",
            metavar="[NAME=]PATH…",
        ),
    ],
    model: Annotated[
        list[str] | None, typer.Option(help="Folder of predictions to compare with the raters. Repeatable.")
    ] = None,
    labels: Annotated[str | None, typer.Option(help=STRUCTURES_HELP)] = None,
    metrics: Annotated[
        str, typer.Option(help="Metrics, with commas: dice, jaccard, nsd, hd95, hd, assd; the first one is tested.")
    ] = "dice",
    consensus: Annotated[
        str | None, typer.Option(help="Unite the raters by 'majority' vote or 'staple'; --out gets the label maps.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for agreement.csv, agreement.json and consensus/.")] = None,
    tolerance: Annotated[float, typer.Option(help=TOLERANCE_HELP)] = TOLERANCE_MM,
    empty: Annotated[str, typer.Option(help=EMPTY_HELP)] = "skip",
    workers: Annotated[int, typer.Option(help=WORKERS_HELP)] = AGREEMENT_WORKERS,
    as_json: Annotated[bool, typer.Option("--json", help="Print means and test as JSON.")] = False,
) -> None:
    """How far do raters agree, and does a model agree with them as they do with each other?"""
    from autoseg.evaluation.agreement_folders import agreement
    from autoseg.evaluation.folders import parse_structures
    from autoseg.utils.progress import say, silenced

    with silenced() if as_json else nullcontext():
        found = agreement(
            raters,
            models=model or [],
            targets=parse_structures(labels) if labels is not None else None,
            protocol=EvaluationProtocol(
                tolerance, cast(Empty, empty), metrics=tuple(parse_names(metrics, "--metrics"))
            ),
            consensus=cast("Consensus | None", consensus),
            out=out,
            workers=workers,
        )
    compared = found.comparison(found.metrics[0]) if found.models else None
    if as_json:
        typer.echo(json.dumps(found.to_json(compared), indent=2))
        return
    console = results_console()
    for metric in found.metrics:
        console.print(found.table(metric))
    if compared is not None:
        for note in compared.notes():
            say(note)
        if len(compared.cases) > 1:
            print_comparison(console, compared)
        else:
            print_verdicts(console, compared)
    if out is not None:
        united = f"; consensus: {out / 'consensus'}" if found.consensus else ""
        say(f"Every case and pair: {out / 'agreement.csv'}; means: {out / 'agreement.json'}{united}")
