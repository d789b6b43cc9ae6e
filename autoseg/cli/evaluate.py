"""``autoseg evaluate``."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, cast

import typer

from autoseg.cli.common import (
    CHALLENGE_HELP,
    CONFIG_HELP,
    EMPTY_HELP,
    LABEL_HELP,
    STRUCTURES_HELP,
    TOLERANCE_HELP,
    WIDE_TERMINAL,
    WORKERS_HELP,
    choices_of,
    parse_folds,
    parse_names,
    results_console,
)
from autoseg.evaluation.protocol import TOLERANCE_MM, WORKERS, Empty, EvaluationProtocol
from autoseg.utils.errors import UsageError

#: Heading of the options that --channel-subsets takes.
_SUBSETS = "With --channel-subsets"


def command(
    predictions: Annotated[
        Path,
        typer.Argument(
            help="Folder of label maps named CASE.nii.gz, or one label map; with --channel-subsets a run folder."
        ),
    ],
    references: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of label maps of the same names, a dataset, or one label map; with --channel-subsets a "
            "dataset, or nothing for the run's own validation cases."
        ),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Run folder: evaluate the labels and regions that it segments.")
    ] = None,
    labels: Annotated[str | None, typer.Option(help=STRUCTURES_HELP)] = None,
    metrics: Annotated[
        str | None, typer.Option(help="Metrics, with commas: dice, hd95, …; the standard ones by default.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for metrics.csv, summary.csv and summary.json.")] = None,
    tolerance: Annotated[float, typer.Option(help=TOLERANCE_HELP)] = TOLERANCE_MM,
    challenge: Annotated[str | None, typer.Option(help=CHALLENGE_HELP)] = None,
    layout: Annotated[
        str | None, typer.Option(help="How the dataset of the references is laid out; recognised by default.")
    ] = None,
    label: Annotated[str | None, typer.Option(help=LABEL_HELP)] = None,
    empty: Annotated[str, typer.Option(help=EMPTY_HELP)] = "skip",
    brats: Annotated[
        str | None,
        typer.Option(
            help="Regions, metrics and rules of this BraTS challenge, lesion by lesion from 2023 on: gli2021, gli2023, "
            "met2023, gli2026, …"
        ),
    ] = None,
    ignore: Annotated[int | None, typer.Option(help="Label value whose reference voxels do not count.")] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Evaluate the predictions that are there, though others are missing.")
    ] = False,
    workers: Annotated[int, typer.Option(help=WORKERS_HELP)] = WORKERS,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    channel_subsets: Annotated[
        bool,
        typer.Option(
            "--channel-subsets", help="Predict the cases with every subset of the run's channels, and evaluate each."
        ),
    ] = False,
    subsets: Annotated[
        str | None,
        typer.Option(help="Subsets to evaluate: 'flair,t1c+flair'; every one by default.", rich_help_panel=_SUBSETS),
    ] = None,
    config: Annotated[str | None, typer.Option(help=CONFIG_HELP, rich_help_panel=_SUBSETS)] = None,
    fold: Annotated[
        str | None,
        typer.Option(help="Folds that predict: numbers with commas, or all (the default).", rich_help_panel=_SUBSETS),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Device that computes: auto (the default), cpu, cuda or mps.", rich_help_panel=_SUBSETS),
    ] = None,
    tta: Annotated[
        bool | None,
        typer.Option(
            "--tta/--no-tta",
            help="Average over mirrored images (the default).",
            rich_help_panel=_SUBSETS,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Compare predicted label maps with references: Dice, surface distances, volumes of each case.

    With --channel-subsets, a run predicts the cases of a dataset instead, once with every subset of its channels.
    """
    from autoseg.utils.progress import say, silenced

    if channel_subsets:
        others = {
            "--model": model,
            "--labels": labels,
            "--metrics": metrics,
            "--ignore": ignore,
            "--challenge": challenge,
            "--label": label,
            "--brats": brats,
        }
        if given := _given({**others, "--partial": partial or None}):
            raise UsageError(f"{given[0]} does not go with --channel-subsets, which evaluates what the run segments.")
        if layout is not None and references is None:
            raise UsageError(f"--layout {layout} says how a dataset is laid out; give the dataset, too.")
        # Imported here: it needs the network code, which takes seconds to load.
        from autoseg.data.dataset import Dataset
        from autoseg.study.channel_subsets import TrainedConfiguration, evaluate_channel_subsets, parse_subsets

        with silenced() if as_json else nullcontext():
            found = evaluate_channel_subsets(
                TrainedConfiguration.open(
                    predictions, config, parse_folds(fold or "all"), device or "auto", tta is not False
                ),
                references if references is None or layout is None else Dataset.open(references, layout),
                subsets=None if subsets is None else parse_subsets(subsets),
                protocol=EvaluationProtocol(tolerance, cast(Empty, empty)),
                out=out,
                workers=workers,
            )
        if as_json:
            typer.echo(json.dumps(found.to_json(), indent=2))
            return
        results_console().print(found.table())
        if out is not None:
            say(f"The table: {out / 'subsets.csv'}; every case: {out / 'SUBSET' / 'metrics.csv'}")
        return
    if given := _given(
        {"--subsets": subsets, "--config": config, "--fold": fold, "--device": device, "--tta/--no-tta": tta}
    ):
        raise UsageError(f"{given[0]} goes with --channel-subsets only.")
    if references is None:
        raise UsageError("give the references, too: autoseg evaluate PREDICTIONS REFERENCES.")
    if model is not None and labels is not None:
        raise UsageError("--model and --labels both say what to evaluate; give one of them.")
    # Imported here, as all that takes long: the help of all commands shows this one's options.
    from autoseg.data.dataset import Dataset
    from autoseg.evaluation.challenges import brats_evaluation
    from autoseg.evaluation.folders import (
        evaluate,
        open_dataset,
        parse_structures,
        plan_structures,
        refuse_other_meaning,
        refuse_other_values,
    )
    from autoseg.runs.run import Run

    choices = choices_of(label=label, challenge=challenge)
    targets = None if labels is None else parse_structures(labels)
    named = None if metrics is None else tuple(parse_names(metrics, "--metrics"))
    protocol = EvaluationProtocol(tolerance, cast(Empty, empty), ignore, named)
    run = None if model is None else Run.open(model)
    if run is not None:
        targets = plan_structures(run.plan, run.dataset)
        refuse_other_meaning(predictions, targets, str(run.path))
        protocol = protocol.with_ignore(run.plan.target.ignore)
    if brats is not None:
        if empty != "skip":
            raise UsageError("--brats and --empty both say what an absent structure counts; give one of them.")
        rules = brats_evaluation(brats)
        targets = rules.structures if targets is None else targets
        protocol = rules.protocol(protocol)
    with silenced() if as_json else nullcontext():
        opened: Path | Dataset = references
        if choices or layout is not None:
            opened = Dataset.open(references, layout, choices=choices)
        elif run is not None:
            opened = open_dataset(references) or references
        if run is not None and isinstance(opened, Dataset):
            refuse_other_values(opened, run.dataset)
        evaluation = evaluate(
            predictions,
            opened,
            out=out,
            targets=targets,
            protocol=protocol,
            partial=partial,
            workers=workers,
        )
    if as_json:
        typer.echo(json.dumps(evaluation.to_json(), indent=2))
        return
    console = results_console()
    console.print(evaluation.table(wide=console.width >= WIDE_TERMINAL))
    if out is not None:
        say(f"Every case: {out / 'metrics.csv'}; summary: {out / 'summary.csv'}, {out / 'summary.json'}")


def _given(options: dict[str, object]) -> list[str]:
    return [option for option, value in options.items() if value is not None]
