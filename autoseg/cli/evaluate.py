"""``autoseg evaluate``."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console

from autoseg.errors import UsageError
from autoseg.evaluation import Structure, evaluate, plan_structures
from autoseg.evaluation.cases import WORKERS
from autoseg.evaluation.folders import parse_structures
from autoseg.evaluation.metrics import TOLERANCE_MM, Empty
from autoseg.evaluation.summary import LONG, SHORT
from autoseg.progress import say, silenced
from autoseg.run import Run

#: Columns of a terminal from which the long table fits.
WIDE = 130


def command(
    predictions: Annotated[Path, typer.Argument(help="Folder of label maps named CASE.nii.gz, or one label map.")],
    references: Annotated[
        Path, typer.Argument(help="Folder of label maps named likewise, a dataset, or one label map.")
    ],
    model: Annotated[
        Path | None, typer.Option(help="Run folder: evaluate the labels and regions that it segments.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="What to evaluate: 'edema=2,core=1+4' (a sum of values is a region).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for metrics.csv, summary.csv and summary.json.")] = None,
    tolerance: Annotated[float, typer.Option(help="Of the normalised surface Dice (NSD), in mm.")] = TOLERANCE_MM,
    empty: Annotated[
        str,
        typer.Option(help="Absent structures: 'skip' what is undefined, or count it as 'brats' does."),
    ] = "skip",
    ignore: Annotated[int | None, typer.Option(help="Reference voxels of this value do not count.")] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Evaluate the predictions that are there.")] = False,
    workers: Annotated[int, typer.Option(help="Cases at a time.")] = WORKERS,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Compare predicted label maps with references: Dice, surface distances, volumes of each case."""
    targets: list[Structure] | None = None
    if model is not None and labels is not None:
        raise UsageError("--model and --labels both say what to evaluate; give one of them.")
    if labels is not None:
        targets = parse_structures(labels)
    if model is not None:
        run = Run.open(model)
        plan = run.plan
        targets = plan_structures(plan, run.dataset)
        ignore = plan.target.ignore if ignore is None else ignore
    with silenced() if as_json else nullcontext():
        evaluation = evaluate(
            predictions,
            references,
            out=out,
            targets=targets,
            tolerance=tolerance,
            empty=cast(Empty, empty),
            ignore=ignore,
            partial=partial,
            workers=workers,
        )
    if as_json:
        typer.echo(json.dumps(evaluation.to_json(), indent=2))
        return
    console = Console()
    console.print(evaluation.table(metrics=LONG if console.width >= WIDE else SHORT))
    if out is not None:
        say(f"Every case: {out / 'metrics.csv'}; summary: {out / 'summary.csv'}, {out / 'summary.json'}")
