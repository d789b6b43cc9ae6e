"""A trained model as the starting point of another: which one, what of it is of use, and its weights in the run folder.

Channels, labels and regions are matched by name (:mod:`autoseg.data.names`); what the tensors make of that is in
:mod:`autoseg.transfer.surgery`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from autoseg.data.names import channel_key, output_key, pair
from autoseg.networks import build
from autoseg.networks.parts import own_tensors
from autoseg.networks.weights import (
    content_of,
    is_of,
    load_weights,
    planned_weights,
    save_weights,
)
from autoseg.plans.configuration import Configuration
from autoseg.plans.plan import Plan
from autoseg.plans.recipe import Initialization
from autoseg.plans.target import Target
from autoseg.runs.run import Run
from autoseg.transfer.surgery import Carried, Inlet, carry_over, of_raters
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import read_json, write_json

#: What the background's head is called: of exclusive labels it is one like the others.
BACKGROUND = "background"

#: Before the name of a channel that holds what the stage before found.
HANDED_ON = "found: "

#: File in the run folder that says what became of each tensor.
RECORD = "transfer.json"

#: With ``--map-channel NAME=new``, a channel gets nothing from the source.
NEW = "new"


@dataclass(frozen=True)
class Source:
    """A model that somebody asks to start from.

    Attributes:
        path: its run folder.
        configuration: name; the run's usual one where None.
        fold: number; the first trained one where None.
        channels: channel of the dataset → channel of the source, where names do not tell; or :data:`NEW`.
        outputs: label or region of the dataset → that of the source, likewise.
        tuning: how to train what is taken over, for the planner; its default where empty.
    """

    path: str | Path
    configuration: str | None = None
    fold: int | None = None
    channels: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    tuning: str = ""


@dataclass(frozen=True)
class SourceModel:
    """A source, opened.

    Attributes:
        asked: for it.
        run: its folder.
        plan: that it was trained by.
        name: of the configuration.
        fold: number.
        dimension: 2 where it was trained on pictures, 3 on volumes.
    """

    asked: Source
    run: Run
    plan: Plan
    name: str
    fold: int
    dimension: int

    @property
    def title(self) -> str:
        """What to call it in reasons and messages."""
        return f"{self.run.path} ({self.name}, fold {self.fold})"

    def weights(self, stage: str) -> dict[str, torch.Tensor]:
        """Tensors of one of its stages by name, each once.

        Raises:
            AutosegError: they are missing, unreadable or of another plan.
        """
        path = self.run.fold(stage, self.fold).weights
        weights = load_weights(path)
        if not is_of(self.plan.stage(stage), path):
            raise AutosegError(f"--source: {path} was trained under another plan than the one beside it.")
        configuration = self.plan.configurations[stage]
        return {name: weights[name] for name in own_tensors(_unfilled(self.plan, configuration)) if name in weights}


def open_source(source: Source) -> SourceModel:
    """Find the model that is asked for.

    Raises:
        AutosegError: the folder is no run.
        UsageError: nothing is trained there, or not what is asked for.
    """
    path = Path(source.path)
    if not (path / "plan.json").is_file():
        if (path / "plans.json").is_file() and (path / "dataset.json").is_file():
            raise UsageError(
                f"--source {path} is a model folder of nnU-Net; import it first with 'autoseg import nnunet {path} "
                "--out SOURCE', then give that folder."
            )
        raise UsageError(f"--source {path} is no run folder (it has no plan.json); give one that 'autoseg train' made.")
    run = Run.open(path)
    plan = run.plan
    name = source.configuration or run.usual_configuration()
    if name not in plan.configurations:
        raise UsageError(f"--source-config {name} is not in {path}; it has {', '.join(plan.configurations)}.")
    trained = run.trained_folds(name)
    if not trained:
        raise UsageError(f"--source {path} has no trained fold of {name}; train it with 'autoseg train {path}'.")
    fold = trained[0] if source.fold is None else source.fold
    if fold not in trained:
        raise UsageError(
            f"--source-fold {fold} of {name} is not trained in {path}; trained: {', '.join(map(str, trained))}."
        )
    return SourceModel(source, run, plan, name, fold, run.fingerprint.dimension)


def match_channels(names: Sequence[str], model: SourceModel) -> dict[str, str]:
    """Channel → the source's channel that is the same, by name or as the user says.

    Raises:
        UsageError: the user names an unknown one, or there is none in common.
    """
    found = _match(names, model.plan.channel_names, model.asked.channels, channel_key, "--map-channel")
    if not found:
        raise UsageError(
            f"--source {model.run.path} has the channels {', '.join(model.plan.channel_names)} and the dataset "
            f"{', '.join(names)}: none is the same; say which is which with --map-channel {names[0]}="
            f"{model.plan.channel_names[0]}."
        )
    return found


def match_outputs(names: Sequence[str], model: SourceModel) -> dict[str, str]:
    """Label or region → the source's that is the same, by name or as the user says; possibly none.

    Raises:
        UsageError: the user names an unknown one.
    """
    known = dict.fromkeys(
        output.name
        for stage in model.plan.stages(model.name)
        for output in model.plan.target_of(model.plan.configurations[stage]).outputs
    )
    return _match(names, list(known), model.asked.outputs, output_key, "--map-label")


def _match(
    names: Sequence[str], others: Sequence[str], given: Mapping[str, str], key: Callable[[str], str], option: str
) -> dict[str, str]:
    for name, other in given.items():
        if name not in names:
            raise UsageError(f"{option} {name}={other}: the dataset has {', '.join(names)}, not {name}.")
        if other not in others and other != NEW:
            raise UsageError(f"{option} {name}={other}: the source has {', '.join(others)}, not {other}.")
    found = pair([name for name in names if name not in given], [o for o in others if o not in given.values()], key)
    found |= {name: other for name, other in given.items() if other != NEW}
    return {name: found[name] for name in names if name in found}


def input_names(plan: Plan, configuration: Configuration) -> list[str]:
    """What a configuration's network is given, channel by channel."""
    names = list(plan.channel_names)
    previous = configuration.previous
    if previous is not None and previous.use == "channels":
        before = plan.target_of(plan.configurations[previous.configuration])
        names += [f"{HANDED_ON}{output.name}" for output in before.outputs]
    return names


def head_names(target: Target) -> list[str]:
    """What a network's heads speak of, in order."""
    return [*([BACKGROUND] if target.kind == "labels" else []), *(output.name for output in target.outputs)]


def initialization(
    model: SourceModel,
    stage: str,
    inputs: Sequence[str],
    target: Target,
    channels: Mapping[str, str],
    outputs: Mapping[str, str],
) -> Initialization:
    """Where the weights of a configuration come from, as its recipe says it.

    Args:
        model: to start from.
        stage: the source's configuration that this one is made of.
        inputs: see :func:`input_names`, of the new configuration.
        target: of the new configuration.
        channels: from :func:`match_channels`.
        outputs: from :func:`match_outputs`.
    """
    configuration = model.plan.configurations[stage]
    source_channels = input_names(model.plan, configuration)
    source_outputs = head_names(model.plan.target_of(configuration))
    pairs = {
        **channels,
        **{f"{HANDED_ON}{name}": f"{HANDED_ON}{other}" for name, other in outputs.items()},
    }
    heads = {BACKGROUND: BACKGROUND, **outputs}
    return Initialization(
        source="model",
        file=f"source_{stage}.safetensors",
        content=content_of(model.weights(stage)),
        source_channels=source_channels,
        source_outputs=source_outputs,
        source_raters=model.plan.raters,
        channels={name: pairs[name] for name in inputs if pairs.get(name) in source_channels},
        outputs={name: heads[name] for name in head_names(target) if heads.get(name) in source_outputs},
        reasons={
            "source": f"all that {model.title} has to give",
            "channels": _say(inputs, channels),
            "outputs": _say([output.name for output in target.outputs], outputs),
        },
    )


def _say(names: Sequence[str], pairs: Mapping[str, str]) -> str:
    same = [name for name in names if pairs.get(name) == name]
    renamed = [f"{name} is the source's {pairs[name]}" for name in names if name in pairs and pairs[name] != name]
    new = [name for name in names if name not in pairs and not name.startswith(HANDED_ON)]
    parts = [f"{', '.join(same)} by name" if same else "", *renamed, f"{', '.join(new)} new" if new else ""]
    return "; ".join(part for part in parts if part) or "none"


def carry(model: SourceModel, plan: Plan) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, list[Carried]]]:
    """Check that a plan's networks can start from a source.

    Args:
        model: the source.
        plan: of the new run, whose recipes say what comes from where; its configurations have the source's names.

    Returns:
        File name → the source's tensors, and configuration → what becomes of each tensor.

    Raises:
        AutosegError: a network is of another architecture than the source's.
    """
    files: dict[str, dict[str, torch.Tensor]] = {}
    tables: dict[str, list[Carried]] = {}
    for name, configuration in plan.configurations.items():
        given = configuration.recipe.initialization
        if given.source != "model":
            continue
        files[given.file] = model.weights(name)
        tables[name] = _apply(_unfilled(plan, configuration), plan, configuration, files[given.file])
    return files, tables


def keep(
    run: Path,
    model: SourceModel,
    files: Mapping[str, Mapping[str, torch.Tensor]],
    tables: Mapping[str, Sequence[Carried]],
) -> None:
    """Put a source's weights into a run folder, and the table of what becomes of each tensor."""
    for file, weights in files.items():
        save_weights(run / file, weights)
    record = {
        "source": str(Path(model.run.path).absolute()),
        "configuration": model.name,
        "fold": model.fold,
        "tensors": {name: [asdict(row) for row in rows] for name, rows in tables.items()},
    }
    write_json(run / RECORD, record)
    # Last, so that a full disk leaves what an earlier plan kept.
    for path in run.glob("source_*.safetensors"):
        if path.name not in files:
            path.unlink(missing_ok=True)


def forget(run: Path) -> None:
    """Remove what an earlier plan of a run folder kept of a source."""
    for path in (run / RECORD, *run.glob("source_*.safetensors")):
        path.unlink(missing_ok=True)


def read_record(run: Path) -> dict[str, list[Carried]]:
    """Configuration → what became of each tensor; empty for a run that started from no model."""
    path = run / RECORD
    if not path.is_file():
        return {}
    return {name: [Carried(**row) for row in rows] for name, rows in read_json(path)["tensors"].items()}


def start_from_model(network: nn.Module, plan: Plan, configuration: Configuration, run: Path) -> str:
    """Give a freshly built network what the source in the run folder has for it.

    Returns:
        In words, what was taken over.

    Raises:
        AutosegError: the file is gone, damaged or another one.
    """
    weights = planned_weights(configuration.recipe.initialization, run, load_weights, "--source")
    return summary(_apply(network, plan, configuration, weights))


def summary(rows: Sequence[Carried]) -> str:
    """How many tensors were copied, adapted, new."""
    copied = sum(row.done == "copied" for row in rows)
    new = sum(not row.source for row in rows)
    return f"of {len(rows)} tensors {copied} are the source's, {len(rows) - copied - new} adapted and {new} new"


def _unfilled(plan: Plan, configuration: Configuration) -> nn.Module:
    """A network without memory for its weights."""
    with torch.device("meta"):
        return build(configuration.network, plan.in_channels(configuration), plan.target_of(configuration).heads)


def _apply(
    network: nn.Module, plan: Plan, configuration: Configuration, weights: Mapping[str, torch.Tensor]
) -> list[Carried]:
    given = configuration.recipe.initialization
    channels = Inlet(input_names(plan, configuration), given.source_channels, given.channels)
    heads = Inlet(head_names(plan.target_of(configuration)), given.source_outputs, given.outputs)
    ours = of_raters(weights, given.source_raters, plan.raters)
    return carry_over(configuration.network, network, ours, channels, heads)
