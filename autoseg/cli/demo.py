"""``autoseg demo``: the whole way from nothing, on generated head phantoms."""

from pathlib import Path

import typer

from autoseg.errors import AutosegError, UsageError
from autoseg.layouts.phantom import Cohort, generate
from autoseg.progress import say


def command(
    out: Path = typer.Option(Path("autoseg-demo"), help="Folder for everything the demo makes."),
    data_only: bool = typer.Option(False, "--data-only", help="Generate the phantoms into OUT/dataset, and stop."),
    cases: int = typer.Option(12, help="Labelled phantoms."),
    unlabelled: int = typer.Option(0, help="Further phantoms without a label, to predict."),
    sites: int = typer.Option(1, help="Scanners that they come from, each with its own look of images."),
    missing: float = typer.Option(0.0, help="Share of the sequences that are left out at random, from 0 to below 1."),
    raters: int = typer.Option(1, help="With 2 or more: label maps by so many raters for each case, beside the truth."),
    seed: int = typer.Option(0, help="Of everything random; the same seed makes the same phantoms."),
) -> None:
    """Generate head phantoms with tumours as a dataset."""
    if not data_only:
        raise UsageError("autoseg demo makes only the data so far; call it with --data-only.")
    folder = make_dataset(
        out, Cohort(cases=cases, unlabelled=unlabelled, sites=sites, missing=missing, raters=raters, seed=seed)
    )
    say(f"{cases + unlabelled} phantoms are in {folder}.")


def make_dataset(out: Path, cohort: Cohort) -> Path:
    """Generate phantoms into ``out/dataset``.

    Raises:
        AutosegError: the folder has something in it, which would get mixed up with the phantoms.
    """
    folder = out / "dataset"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AutosegError(f"{folder} exists already; remove it or choose another folder with --out.")
    return generate(folder, cohort)
