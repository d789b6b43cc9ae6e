"""``autoseg export nnunet``: a trained run as a model folder of nnU-Net v2."""

from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli.common import CONFIG_HELP, parse_folds
from autoseg.utils.shell import quoted


def command(
    run: Annotated[Path, typer.Argument(help="Trained run folder.", metavar="RUN")],
    out: Annotated[Path, typer.Option(help="Model folder to make.")],
    config: Annotated[str | None, typer.Option(help=CONFIG_HELP)] = None,
    fold: Annotated[str, typer.Option(help="Folds to export: numbers with commas, or all.")] = "all",
) -> None:
    """Write a trained run as a model folder for nnUNetv2_predict_from_modelfolder."""
    from autoseg.interop import export_nnunet
    from autoseg.utils.progress import say

    export_nnunet(run, out, config, parse_folds(fold))
    say(f"Next: nnUNetv2_predict_from_modelfolder -i SCANS -o RESULTS -m {quoted(out)} -f FOLDS")
