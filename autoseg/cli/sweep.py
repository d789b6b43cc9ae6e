"""``autoseg sweep``."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoseg.cli.common import (
    CHALLENGE_HELP,
    LABEL_HELP,
    LAYOUT_HELP,
    PATIENTS_HELP,
    WIDE_TERMINAL,
    choices_of,
    parse_names_if_given,
    parse_numbers,
    print_comparison,
    results_console,
)
from autoseg.utils.errors import UsageError

if TYPE_CHECKING:
    from autoseg.planning.carried import Carried
    from autoseg.study import StudyTable


def command(
    dataset: Annotated[Path, typer.Argument(help="Dataset to learn from.")],
    grid: Annotated[Path, typer.Option(help="Grid file (TOML): settings, folds, seeds, length of training.")],
    out: Annotated[Path, typer.Option(help="Folder of the study: a run folder for each setting and seed, tables.")],
    device: Annotated[
        str, typer.Option(help="Device that is planned for and trains: auto, cpu, cuda or mps.")
    ] = "auto",
    workers: Annotated[
        int | None, typer.Option(help="Number of processes that read and preprocess, and of threads that load.", min=0)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Plan all settings, show them, and stop.")] = False,
    only_table: Annotated[
        bool, typer.Option("--table", help="Make the tables of what is trained so far, and stop.")
    ] = False,
    max_time: Annotated[str | None, typer.Option(help="Time for each fold, in place of the grid's length.")] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Number of epochs of each fold, in place of the grid's length.")
    ] = None,
    fold: Annotated[str | None, typer.Option(help="Folds to train, in place of the grid's: 0, or 0,1.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Random seeds, in place of the grid's: 0, or 0,1.")] = None,
    test: Annotated[
        Path | None,
        typer.Option(help="Labelled dataset to test on: the folds of each setting predict it together."),
    ] = None,
    test_layout: Annotated[
        str | None, typer.Option(help="How the dataset of --test is laid out; recognised by default.")
    ] = None,
    source: Annotated[Path | None, typer.Option(help="Trained run that every setting starts from.")] = None,
    teacher: Annotated[
        Path | None, typer.Option(help="Trained run that every setting imitates as well (distillation).")
    ] = None,
    raters: Annotated[str, typer.Option(help="Raters whom every setting learns separately, with commas, or all.")] = "",
    layout: Annotated[str | None, typer.Option(help=LAYOUT_HELP)] = None,
    challenge: Annotated[str | None, typer.Option(help=CHALLENGE_HELP)] = None,
    label: Annotated[str | None, typer.Option(help=LABEL_HELP)] = None,
    patients: Annotated[str | None, typer.Option(help=PATIENTS_HELP)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Train settings that differ in a few values, all alike, and compare them: one table with paired statistics.

    Run the command again to continue a study that was stopped.
    """
    from autoseg.data.dataset import Dataset
    from autoseg.planning.request import Request
    from autoseg.study import StudyOptions, prepare, sweep, tabulate
    from autoseg.study.present import plan_table
    from autoseg.transfer.source import Source
    from autoseg.transfer.teacher import Teacher
    from autoseg.utils.progress import silenced

    if dry_run and only_table:
        raise UsageError("--dry-run and --table are two things to stop at; give one.")
    if dry_run and as_json:
        raise UsageError("--json prints results, and --dry-run has none; give one.")
    if test_layout is not None and test is None:
        raise UsageError(f"--test-layout {test_layout} goes with --test, the dataset that is laid out so.")
    if only_table and not (out / "study.json").exists():
        raise UsageError(f"--table: {out} holds no study yet; begin it with the same command without --table.")
    with silenced() if as_json else nullcontext():
        opened = Dataset.open(dataset, layout, choices=choices_of(label=label, challenge=challenge), patients=patients)
        carried: tuple[Carried, ...] = (*([Source(source)] if source else []), *([Teacher(teacher)] if teacher else []))
        names = parse_names_if_given(raters, "--raters")
        request = Request(device=device, workers=workers, annotators=names, carried=carried)
        options = StudyOptions(
            test=None if test is None else Dataset.open(test, test_layout),
            folds=None if fold is None else tuple(parse_numbers(fold, "--fold")),
            seeds=None if seeds is None else tuple(parse_numbers(seeds, "--seeds")),
            epochs=epochs,
            max_time=max_time,
        )
        if dry_run or only_table:
            study = prepare(opened, grid, out, request, options)
        if dry_run:
            results_console().print(plan_table(study))
            return
        table = tabulate(study) if only_table else sweep(opened, grid, out, request, options)
    if as_json:
        typer.echo(json.dumps(table.to_json(), indent=2))
    else:
        _show(table)
    if table.failed:
        raise typer.Exit(1)


def _show(table: "StudyTable") -> None:
    from autoseg.study.present import terminal_tables
    from autoseg.utils.progress import say

    console = results_console()
    for part in terminal_tables(table, wide=console.width >= WIDE_TERMINAL):
        console.print(part)
        console.print()
    if table.comparison is not None:
        console.print()
        print_comparison(console, table.comparison)
    for note in table.notes():
        say(note)
    say(f"Tables: {table.study.out / 'table.md'}, {table.study.out / 'table.csv'}; every case: cases.csv beside them")
