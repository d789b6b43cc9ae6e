"""``autoseg volumes``: volumes of structures, exam by exam, and their course."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli.common import STRUCTURES_HELP, results_console
from autoseg.utils.errors import UsageError


def command(
    predictions: Annotated[
        Path, typer.Argument(help="Folder of label maps or DICOM-SEG files named after their cases, or one file.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for volumes.csv and the plots, volumes.html.")] = None,
    days: Annotated[
        Path | None,
        typer.Option(
            help="Dates of the exams: a CSV with the columns case, date (or day) and patient, or a dataset made by "
            "'autoseg prepare'."
        ),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Run folder: measure the labels and regions that it segments.")
    ] = None,
    labels: Annotated[str | None, typer.Option(help=STRUCTURES_HELP)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the volumes as JSON.")] = False,
) -> None:
    """Measure structures in ml, exam by exam, and plot them over the days since each patient's first exam.

    Dates are turned into days and written nowhere.
    """
    from autoseg.clinical.volumes import volumes
    from autoseg.evaluation.folders import parse_structures
    from autoseg.runs.run import Run
    from autoseg.utils.progress import say, silenced

    if model is not None and labels is not None:
        raise UsageError("--model and --labels both say what to measure; give one of them.")
    targets = None if labels is None else parse_structures(labels)
    with silenced() if as_json else nullcontext():
        found = volumes(
            predictions,
            targets=Run.open(model).plan.target.outputs if model is not None else targets,
            days=days,
            out=out,
        )
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
        return
    results_console().print(found.table())
    if out is not None:
        say(f"The table: {out / 'volumes.csv'}" + (f"; the plots: {out / 'volumes.html'}" if found.courses else "."))
    if out is not None and not found.courses:
        say("No plot: no patient has two exams on known days (--days names them).")
