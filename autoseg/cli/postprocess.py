"""``autoseg postprocess``: choose the post-processing of a run by its cross-validated Dice."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli.common import CONFIG_HELP, results_console


def command(
    run: Annotated[Path, typer.Argument(help="Run folder with at least one trained fold.")],
    config: Annotated[str | None, typer.Option(help=CONFIG_HELP)] = None,
    workers: Annotated[int | None, typer.Option(help="Number of cases worked on at a time.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was tried and chosen as JSON.")] = False,
) -> None:
    """Try post-processing on the cross-validated predictions, and keep what improves their Dice.

    Largest component, minimum size of a component, and minimum total of a structure, for each label or region. What is
    kept is written into the run folder, and 'autoseg predict' applies it.
    """
    from autoseg.evaluation.protocol import WORKERS
    from autoseg.postprocessing.choice import postprocess, results_table, verdict
    from autoseg.utils.progress import say, silenced

    with silenced() if as_json else nullcontext():
        found = postprocess(run, config, WORKERS if workers is None else workers)
    if as_json:
        typer.echo(json.dumps(found.model_dump(mode="json"), indent=2))
        return
    results_console().print(results_table(found))
    say(verdict(found))
