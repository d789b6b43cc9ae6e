"""``autoseg report``."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[Path | None, typer.Option(help="HTML file to write; RUN/report/index.html by default.")] = None,
) -> None:
    """Write a page about a run: results, pictures of cases, training curves, data and plan."""
    from autoseg.report.html import write_report
    from autoseg.runs.run import Run

    typer.echo(write_report(Run.open(run), out))
