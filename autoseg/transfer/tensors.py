"""What a run takes over from its source: which tensor comes from where, and giving a network these weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from autoseg.networks import build
from autoseg.networks.weights import identity_of, load_weights, planned_weights, save_weights
from autoseg.plans.plan import Plan
from autoseg.plans.stage import Stage
from autoseg.plans.target import Target
from autoseg.runs.run import Run
from autoseg.runs.weight_files import read_metadata
from autoseg.transfer.surgery import Correspondence, TensorTransfer, carry_over, match_decoders
from autoseg.utils.errors import AutosegError

#: Name of the background's head: of exclusive labels it is one like the others.
BACKGROUND = "background"

#: Before the name of a channel that holds what the stage before found.
HANDED_ON = "found: "


def input_names(stage: Stage) -> list[str]:
    """Names of the channels that a stage's network is given."""
    handed_on = [] if stage.input_target is None else stage.input_target.outputs
    return [*stage.channel_names, *(f"{HANDED_ON}{output.name}" for output in handed_on)]


def head_names(target: Target) -> list[str]:
    """Names of a network's heads, in order."""
    return [*([BACKGROUND] if target.kind == "labels" else []), *(output.name for output in target.outputs)]


def start_from_model(network: nn.Module, stage: Stage, run: Path) -> str:
    """Give a freshly built network of a stage what the source in the run folder has for it.

    Returns:
        In words, what was taken over.

    Raises:
        AutosegError: the file is gone, damaged or another one.
    """
    weights = planned_weights(stage.recipe.initialization, run, load_weights, "--source")
    return summary(_transfer(network, stage, weights))


def fitted_source(stage: Stage, run: Path, folder: Path) -> list[Path]:
    """The weights of all folds of a source, fitted to a stage's channels and outputs: what predicts like it as it is.

    Args:
        stage: whose network they are for; its recipe names the source's files.
        run: folder in which these lie.
        folder: of the files to write, ``<number>.safetensors``, where they are not there yet.

    Returns:
        The files, in the order of the source's folds; none where the source can't be used as it is.

    Raises:
        AutosegError: a file of the source is gone or damaged.
    """
    files = []
    for number, name in enumerate(stage.recipe.initialization.ensemble):
        path = folder / f"{number}.safetensors"
        metadata = {**identity_of(stage), "source": name, "names": stage.recipe.initialization.names}
        if read_metadata(path) != metadata:
            if not (run / name).is_file():
                raise AutosegError(f"{run / name}, a fold of the source, is gone; plan again with --source.")
            network = build(stage.network, stage.in_channels, stage.heads)
            _transfer(network, stage, load_weights(run / name))
            folder.mkdir(parents=True, exist_ok=True)
            save_weights(path, network.state_dict(), metadata)
        files.append(path)
    return files


def untouched_source(stage: Stage, run: Path, folder: Path) -> list[Path]:
    """The weights of all folds of a source as its own run predicts with them, with all channels and outputs it has.

    Args:
        stage: that starts from it; its recipe says what the source has more.
        run: as for :func:`fitted_source`.
        folder: likewise; of its own where the network is another one (:meth:`autoseg.runs.run.Run.untouched_folder`).

    Returns:
        As :func:`fitted_source`.

    Raises:
        AutosegError: likewise.
    """
    own = stage.recipe.initialization.untouched
    return fitted_source(stage if own is None or not own.has_network else stage.as_source, run, folder)


def transfer_table(stage: Stage, weights: Mapping[str, torch.Tensor]) -> list[TensorTransfer]:
    """What becomes of each tensor of a stage's network, given the source's weights by name.

    Raises:
        AutosegError: the network is of another architecture than the source's.
    """
    return _transfer(unfilled(stage), stage, weights)


def stages_from_model(plan: Plan) -> list[Stage]:
    """Stages of a plan that start from a source's weights."""
    return [stage for stage in plan.stages if stage.recipe.initialization.source == "model"]


def transfer_tables(run: Run) -> dict[str, list[TensorTransfer]]:
    """Configuration → what becomes of each tensor; empty for a run that starts from no model.

    Raises:
        AutosegError: the source's weights are gone, damaged or others.
    """
    return {
        stage.name: transfer_table(
            stage, planned_weights(stage.recipe.initialization, run.path, load_weights, "--source")
        )
        for stage in stages_from_model(run.plan)
    }


def summary(rows: Sequence[TensorTransfer]) -> str:
    """How many tensors were copied, adapted, new."""
    copied = sum(row.done == "copied" for row in rows)
    new = sum(not row.source for row in rows)
    return f"of {len(rows)} tensors {copied} are the source's, {len(rows) - copied - new} adapted and {new} new"


def unfilled(stage: Stage) -> nn.Module:
    """A stage's network without memory for its weights."""
    with torch.device("meta"):
        return build(stage.network, stage.in_channels, stage.heads)


def _transfer(network: nn.Module, stage: Stage, weights: Mapping[str, torch.Tensor]) -> list[TensorTransfer]:
    given, own = stage.recipe.initialization, stage.recipe.initialization.untouched
    inputs, outputs = input_names(stage), head_names(stage.target)
    # What a source has more is part of the network that it predicts with as it is.
    more = [] if own is None else [channel.name for channel in own.channels]
    more_heads = [] if own is None or own.target is None else head_names(own.target)
    pairs = {**given.channels, **dict(zip(more, given.source_channels, strict=False))}
    of_heads = {**given.outputs, **dict(zip(more_heads, given.source_outputs, strict=False))}
    channels = Correspondence(inputs, given.source_channels, _only(pairs, inputs))
    heads = Correspondence(outputs, given.source_outputs, _only(of_heads, outputs))
    ours = match_decoders(weights, given.source_annotators, stage.annotators)
    return carry_over(stage.network, network, ours, channels, heads)


def _only(pairs: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    return {name: other for name, other in pairs.items() if name in names}
