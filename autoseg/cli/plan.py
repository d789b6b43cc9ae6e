"""``autoseg plan``: plan the training on a dataset, and write the plan."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoseg.cli.common import (
    CHALLENGE_HELP,
    LABEL_HELP,
    LAYOUT_HELP,
    PATIENTS_HELP,
    READERS_HELP,
    choices_of,
    parse_duration,
    parse_names_if_given,
    parse_pairs,
    results_console,
)
from autoseg.utils.errors import UsageError
from autoseg.utils.shell import quoted

if TYPE_CHECKING:
    from autoseg.plans.configuration import Memory
    from autoseg.plans.plan import Plan
    from autoseg.runs.run import Run
    from autoseg.transfer.source import Source


#: Options that show a planned run.
_SHOWING = ("dataset", "explain", "verify", "as_json")


def command(
    context: typer.Context,
    dataset: Annotated[Path, typer.Argument(help="Dataset to plan for, or a planned run to show.")],
    out: Annotated[Path | None, typer.Option(help="Run folder to write.")] = None,
    planner: Annotated[
        str | None,
        typer.Option(
            help="Planner, which decides how to train (docs/systems.md; a wrong name lists the installed ones); by "
            "default one for a training from scratch, or with --source one for fine-tuning."
        ),
    ] = None,
    gpu_memory: Annotated[
        float | None, typer.Option(help="Memory budget in GB (10⁹ bytes); this machine's GPU's by default, else 8.")
    ] = None,
    device: Annotated[
        str,
        typer.Option(help="Device that will train: auto, cpu, cuda or mps, also another machine's, or cuda:1 of this."),
    ] = "auto",
    channels: Annotated[str, typer.Option(help="Channels to use, with commas; all by default.")] = "",
    regions: Annotated[str, typer.Option(help="Regions or labels to segment, with commas; all by default.")] = "",
    raters: Annotated[
        str,
        typer.Option(
            help="Raters to learn separately, with commas, or all: a decoder for each; not every planner can."
        ),
    ] = "",
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="Override a value of the plan: path.to.key=value. Repeatable.")
    ] = None,
    explain: Annotated[bool, typer.Option(help="Print every derived value with its reason.")] = False,
    verify: Annotated[
        bool, typer.Option(help="Run a step of each configuration here, to compare its memory with the computed one.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    weights: Annotated[
        str | None,
        typer.Option(help="Initial weights of the encoder: imagenet (timm downloads them), random, or a file."),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(help="Trained run to imitate as well (distillation), such as one with more channels."),
    ] = None,
    encoder: Annotated[str, typer.Option(help="2D encoder (a timm model), for planners that let it be chosen.")] = "",
    source: Annotated[Path | None, typer.Option(help="Run folder of a trained model to fine-tune.")] = None,
    source_config: Annotated[
        str | None, typer.Option(help="Configuration of the source; its recommended one by default.")
    ] = None,
    source_fold: Annotated[
        int | None, typer.Option(help="Fold of the source that the tuning starts from; the best by default.")
    ] = None,
    map_channel: Annotated[
        list[str] | None,
        typer.Option(help="Which of the source's channels one is: NAME=SOURCE, or NAME=new for none. Repeatable."),
    ] = None,
    map_label: Annotated[
        list[str] | None,
        typer.Option(
            help="Which of the source's labels or regions one is: NAME=SOURCE, or NAME=new for none. Repeatable."
        ),
    ] = None,
    tuning: Annotated[
        str,
        typer.Option(
            help="How to fine-tune: all, layerwise, unfreeze, encoder, norms, pulled, lowrank, augmented or heads."
        ),
    ] = "",
    harmonize: Annotated[
        bool, typer.Option("--harmonize", help="Map intensities to those of the source's training images.")
    ] = False,
    source_data: Annotated[
        Path | None,
        typer.Option(help="Dataset that the source learned from; its cases are mixed into the batches."),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            help="Number of folds of the cross-validation, 5 by default; 1 trains on all cases, without validation."
        ),
    ] = None,
    test_share: Annotated[
        float | None,
        typer.Option(
            help="Share of the patients held out as a test set, which the folds predict together at the end; by "
            "default the planner's, mostly 0."
        ),
    ] = None,
    max_time: Annotated[
        str | None,
        typer.Option(
            help="Time that the training of a fold will have, such as 30m, which a network for a CPU is made wide or "
            "narrow by; 2 h by default."
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Random seed of the splits and of the fingerprint's sample of voxels.", min=0)
    ] = 0,
    workers: Annotated[int | None, typer.Option(help=READERS_HELP, min=1)] = None,
    layout: Annotated[str | None, typer.Option(help=LAYOUT_HELP)] = None,
    label: Annotated[str | None, typer.Option(help=LABEL_HELP)] = None,
    challenge: Annotated[str | None, typer.Option(help=CHALLENGE_HELP)] = None,
    patients: Annotated[str | None, typer.Option(help=PATIENTS_HELP)] = None,
) -> None:
    """Plan how to train on a dataset and make its run folder; or show the plan of a run."""
    from autoseg.data.dataset import Dataset
    from autoseg.data.layouts.layout import PROPOSED
    from autoseg.data.layouts.propose import lost_description
    from autoseg.planning.making import plan_dataset
    from autoseg.planning.request import Request
    from autoseg.runs.run import Run
    from autoseg.transfer.initial_weights import InitialWeights
    from autoseg.transfer.source import Source
    from autoseg.transfer.source_cases import SourceCases
    from autoseg.transfer.teacher import Teacher
    from autoseg.utils.progress import say, silenced

    if as_json and explain:
        raise UsageError("--json has the reasons in it, which --explain prints as a table; give one of them.")
    if source is None:
        for given, option in (
            (source_config, "--source-config"),
            (source_fold is not None, "--source-fold"),
            (map_channel, "--map-channel"),
            (map_label, "--map-label"),
            (tuning, "--tuning"),
            (harmonize, "--harmonize"),
            (source_data, "--source-data"),
        ):
            if given:
                raise UsageError(f"{option} goes with --source, the model to start from.")
    shown = (dataset / "plan.json").is_file()
    if shown and out is None:
        if changes := _given(context):
            raise UsageError(
                f"{', '.join(changes)}: {dataset} is a planned run, and is only shown; "
                "to change its plan, plan its dataset again."
            )
        run = Run.open(dataset)
    elif out is None:
        raise UsageError("--out is missing: the run folder to write.")
    else:
        channels_of, outputs_of = (
            parse_pairs(map_channel or [], "--map-channel"),
            parse_pairs(map_label or [], "--map-label"),
        )
        asked = (
            None
            if source is None
            else Source(source, source_config, source_fold, channels_of, outputs_of, tuning, harmonize)
        )
        carried = (
            () if weights is None else (InitialWeights(weights),),
            () if asked is None else (asked,),
            () if source_data is None else (SourceCases(source_data),),
            () if teacher is None else (Teacher(teacher),),
        )
        request = Request(
            planner=planner,
            device=device,
            gpu_memory_gb=gpu_memory,
            channels=parse_names_if_given(channels, "--channels"),
            regions=parse_names_if_given(regions, "--regions"),
            annotators=parse_names_if_given(raters, "--raters"),
            options={"encoder": encoder} if encoder else {},
            overrides=tuple(assignments or ()),
            folds=folds,
            test_share=test_share,
            seed=seed if "--seed" in _given(context) else None,
            workers=workers,
            carried=tuple(item for items in carried for item in items),
            max_time=None if max_time is None else parse_duration(max_time),
        )
        with silenced() if as_json else nullcontext():
            choices = choices_of(label=label, challenge=challenge)
            opened = Dataset.open(dataset, layout, choices=choices, patients=patients)
            if opened.layout == PROPOSED:
                say(f"Nothing describes {dataset}; it is read as 'autoseg inspect {quoted(dataset)}' proposes.")
                if (lost := lost_description(dataset)) is not None:
                    say(f"{dataset} {lost}")
            run = plan_dataset(opened, out, request)
    plan = run.plan
    if as_json:
        typer.echo(plan.model_dump_json(indent=2))
    else:
        _show(plan, len(run.fingerprint.cases), explain)
        _show_transfer(run, explain)
        if not shown and asked is not None:
            _show_use(run, asked)
            _show_gap(run, asked)
    if verify:
        _verify(plan, device)
    if not as_json and run.test_cases:
        say(f"{len(run.test_cases)} cases are held out as a test set (splits.json).")
    if not as_json and not shown:
        length = "" if max_time is None else f" --max-time {quoted(max_time)}"
        say(f"Next: autoseg train {quoted(run.path)}{length}")


def _given(context: typer.Context) -> list[str]:
    """The options on the command line that change a plan."""
    found = []
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name not in _SHOWING and source is not None and source.name == "COMMANDLINE":
            found.append(parameter.opts[0])
    return found


def _show(plan: "Plan", cases: int, explain: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    from autoseg.plans.reasons import explanations

    console = results_console()
    if explain:
        table = Table("value", "is", "because", title="Why", title_justify="left", show_lines=False)
        for path, value, reason in explanations(plan):
            table.add_row(escape(path), escape(_brief(value)), escape(reason))
        console.print(table)
    channels = ", ".join(plan.channel_names)
    outputs = ", ".join(output.name for output in plan.target.outputs)
    console.print(
        f"{plan.dataset}: {cases} cases, {channels} → {outputs} ({plan.target.kind}); planned by "
        f"{plan.planner} for {plan.device}, {plan.gpu_memory_gb:g} GB"
        + (f"; learned separately from {', '.join(plan.raters)}" if plan.raters else ""),
        markup=False,
        soft_wrap=True,
    )
    table = Table(
        "configuration",
        "spacing mm",
        "patch",
        "batch",
        "network",
        "memory GB",
        "parameters",
        "with statistics",
        "steps",
    )
    for name, configuration in plan.configurations.items():
        recipe = configuration.recipe
        table.add_row(
            escape(name)
            + (" (recommended)" if name == plan.recommended else "")
            + (f" after {escape(configuration.previous.configuration)}" if configuration.previous is not None else ""),
            "×".join("any" if mm is None else f"{mm:.3g}" for mm in configuration.spacing),
            "×".join(str(side) for side in configuration.patch_size),
            str(configuration.batch_size),
            escape(configuration.network.summary),
            _gigabytes(configuration.memory),
            f"{configuration.parameters:,}",
            f"{configuration.parameters_with_statistics:,}",
            f"{recipe.epochs} × {'about ' if recipe.epoch_length == 'pass' else ''}{recipe.iterations_per_epoch}",
        )
    console.print(table)


def _show_transfer(run: "Run", explain: bool) -> None:
    """Print the fate of the source model's tensors, if there is one: each of them, or their number."""
    from rich.markup import escape
    from rich.table import Table

    from autoseg.transfer.learned_cases import told_of_learned
    from autoseg.transfer.tensors import summary, transfer_tables
    from autoseg.utils.progress import say

    console = results_console()
    for name, rows in transfer_tables(run).items():
        if explain:
            table = Table(
                "tensor", "shape", "source", "what was done", title=f"Weights of {escape(name)}", title_justify="left"
            )
            for row in rows:
                table.add_row(*map(escape, (row.tensor, row.shape, row.source, row.done)))
            console.print(table)
        say(f"{name}: {summary(rows)}.")
    cases = [case.id for case in (*run.dataset.cases, *run.dataset.labelled_test_cases)]
    if told := told_of_learned(run.plan.stage().recipe.initialization, cases):
        say(f"{told}.")


def _show_use(run: "Run", source: "Source") -> None:
    """Print why the source can't be scored as it is, or in what it is used otherwise than its own run would."""
    from autoseg.crossvalidation.compared import held_out_patients
    from autoseg.transfer.as_it_is import planned_otherwise, why_not_scored
    from autoseg.transfer.share_choice import too_few
    from autoseg.utils.progress import say

    stage = run.plan.stage()
    if not stage.recipe.initialization.ensemble:
        say(f"The source as it is can't be scored: {why_not_scored(stage)}.")
        return
    start = stage.recipe.initialization
    if not start.is_chosen:
        say(
            f"Held-out cases don't choose how much of the source is kept ({start.keep:.0%} is). Where they find the "
            "source as it is better, the table of 'autoseg train' says so, and "
            f"'autoseg predict {quoted(source.path)}' has it."
        )
    elif told := too_few(len(held_out_patients(run))):
        say(
            f"{told}: the source is kept as it is, which 'autoseg predict {quoted(source.path)}' does without "
            "training. --set recipe.initialization.keep=0.5 takes half of each."
        )
    others = {one.name: one for one in source.model.stage.chain}
    chain = [one for one in stage.chain if one.name in others]
    if found := list(dict.fromkeys(name for one in chain for name in planned_otherwise(one, others[one.name]))):
        say(
            f"The source as it is is scored, and kept, with this plan's {', '.join(found)}, not its own: "
            f"'autoseg predict {quoted(source.path)}' may find something else."
        )


def _show_gap(run: "Run", source: "Source") -> None:
    """Print how far the cohort lies from the source's cases."""
    from rich.markup import escape
    from rich.table import Table

    from autoseg.transfer.gap import gaps
    from autoseg.transfer.source import match_channels, match_outputs
    from autoseg.utils.progress import say

    model = source.model
    if model.keeps:
        say(
            f"How far these cases lie from the source's is not known: {model.run.path} keeps the source that it was "
            "fine-tuned from, whose cases it does not know."
        )
        return
    targets = (run.plan.target, model.plan.target)
    channels = match_channels(run.plan.channel_names, model)
    outputs = match_outputs([output.name for output in targets[0].outputs], model)
    found = gaps(run.fingerprint, model.run.fingerprint, channels, outputs, targets)
    if not found:
        say("How far these cases lie from the source's is not known: its fingerprint has no cases (it was imported).")
        return
    spread, which = "smallest to largest", "share of these cases beyond the source's range"
    if not model.run.fingerprint.cases:
        spread = "0.5th to 99.5th percentile of all cases' voxels together"
        which = "share of these cases whose own median is beyond the source's percentiles"
        say("Spacing, field of view and volumes of the source's cases are not known: it was imported.")
    table = Table("", "source", "these cases", "outside", title="Distance to the source", title_justify="left")
    for gap in found:
        table.add_row(escape(gap.name), _spread(gap.source), _spread(gap.cohort), f"{gap.outside:.0%}")
    table.caption = f"median ({spread}); outside: {which}"
    results_console().print(table)


def _spread(values: tuple[float, float, float]) -> str:
    middle, low, high = (f"{value:.4g}" for value in values)
    return middle if low == high else f"{middle} ({low} to {high})"


def _gigabytes(memory: "Memory | None") -> str:
    return "" if memory is None else f"{memory.total / 1e9:.2f} ({memory.precision})"


def _brief(value: object) -> str:
    from pydantic import BaseModel

    from autoseg.plans.configuration import Memory
    from autoseg.plans.postprocessing import Step

    if isinstance(value, Memory):
        return f"{value.total / 1e9:.2f} GB"
    if isinstance(value, Step):
        return str(value)
    if isinstance(value, BaseModel):
        return str(getattr(value, "name", type(value).__name__))
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_brief(item) for item in value) + "]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _verify(plan: "Plan", named: str) -> None:
    """Hold the memory against a real step on this machine: on the GPU that is named, or on its best device."""
    from autoseg.planning.verification import confirm
    from autoseg.utils.device import select_device
    from autoseg.utils.progress import say

    device = select_device("cpu" if plan.device == "cpu" else named if ":" in named else "auto")
    for stage in plan.stages:
        say(f"{stage.name}: {confirm(stage, device)}")
