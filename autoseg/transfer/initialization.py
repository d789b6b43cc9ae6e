"""Giving a new network the weights that its recipe has it start from, whatever they are."""

from collections.abc import Callable

from torch import nn

from autoseg.networks.weights import load_weights
from autoseg.runs.fold import Fold
from autoseg.transfer.pretrained import load_pretrained
from autoseg.transfer.source_start import start_file
from autoseg.transfer.tensors import start_from_model


def load_initial_weights(network: nn.Module, fold: Fold, log: Callable[[str], None]) -> None:
    """Put the weights in the run folder that a training starts from into its network.

    Args:
        network: freshly built, for the fold's stage.
        fold: that will be trained.
        log: is told what was taken over.
    """
    initialization = fold.stage.recipe.initialization
    if initialization.source == "model" and initialization.begin == "best":
        network.load_state_dict(load_weights(start_file(fold)))
    elif initialization.source == "model":
        log(start_from_model(network, fold.stage, fold.run.path))
    elif initialization.source != "random":
        loaded = load_pretrained(network, initialization, fold.run.path)
        if loaded:
            log(loaded)
