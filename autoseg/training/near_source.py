"""Keeping a fine-tuned network near the weights that it started from, step by step."""

import copy

import torch
from torch import nn

from autoseg.step.training_step import StepOutcome
from autoseg.training.callback import Callback
from autoseg.training.training import Training

#: Steps from one projection to the next on a device that is not a CPU, which is waited for in each of a network's
#: thirty and more decompositions; a single step is shorter than they are (an estimate, not measured). A CPU's steps are
#: longer.
STEPS_BETWEEN = 50


class PullToSource(Callback):
    """Draws the weights back to the initial ones after each step (:attr:`autoseg.plans.recipe.Initialization.pull`).

    Args:
        pull: strength.
    """

    def __init__(self, pull: float) -> None:
        self._pull = pull
        self._start: dict[str, torch.Tensor] = {}

    def on_build(self, training: Training, network: nn.Module, fresh: bool) -> None:
        """Copy the initial weights."""
        self._start = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}

    def on_start(self, training: Training) -> None:
        """Lay them out as the weights lie by now, which a GPU then draws back all at once."""
        self._start = {name: training.step.variant.arrange(start) for name, start in self._start.items()}

    @torch.no_grad()
    def after_step(self, training: Training, outcome: StepOutcome) -> None:
        """Draw back those that are trained."""
        moved = [(p, self._start[name]) for name, p in training.step.network.named_parameters() if p.requires_grad]
        rate = training.step.optimizer.param_groups[0]["lr"]
        torch._foreach_lerp_([p for p, _ in moved], [start for _, start in moved], min(1.0, self._pull * float(rate)))


class LowRank(Callback):
    """Keeps what is added to each kernel of low rank (:attr:`autoseg.plans.recipe.Initialization.rank`).

    The sum of all changes is replaced by the nearest of that rank (Eckart & Young 1936), so that the network has no
    further parameters and its weights are those of any other: on a CPU after each step, on other devices after each
    :data:`STEPS_BETWEEN`. The weights that are saved, a moving average of changes of many ranks or of what was not
    replaced yet, are so at the end.

    Args:
        rank: largest.
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._start: dict[str, torch.Tensor] = {}

    def on_build(self, training: Training, network: nn.Module, fresh: bool) -> None:
        """Copy the initial kernels."""
        kernels = [(name, kernel) for name, kernel in network.named_parameters() if kernel.ndim > 1]
        self._start = {name: kernel.detach().clone() for name, kernel in kernels}

    @torch.no_grad()
    def after_step(self, training: Training, outcome: StepOutcome) -> None:
        """Project the changes of all kernels that are trained, where it is time."""
        if training.device.type != "cpu" and training.state.iteration % STEPS_BETWEEN:
            return
        trained = {name for name, kernel in training.step.network.named_parameters() if kernel.requires_grad}
        self._project(training.step.network, trained)

    def on_end(self, training: Training, network: nn.Module) -> nn.Module:
        """Project those of the weights that are saved."""
        projected = copy.deepcopy(network)
        self._project(projected, set(self._start))
        return projected

    @torch.no_grad()
    def _project(self, network: nn.Module, names: set[str]) -> None:
        for name, kernel in network.named_parameters():
            if name in names and name in self._start:
                start = self._start[name]
                kernel.copy_(start + nearest_of_rank(kernel - start, self._rank))


def nearest_of_rank(change: torch.Tensor, rank: int) -> torch.Tensor:
    """The nearest tensor whose matrix, of the first axis by all others, has at most this rank; same shape.

    Args:
        change: ``(n, …)``.
        rank: at least 1.
    """
    # Metal has no 64-bit numbers.
    matrix = (change.cpu() if change.device.type == "mps" else change).flatten(1).double()
    if rank >= min(matrix.shape):
        return change
    # Its leading left singular vectors are the eigenvectors of a small square matrix.
    _, vectors = torch.linalg.eigh(matrix @ matrix.T)
    leading = vectors[:, -rank:]
    return (leading @ (leading.T @ matrix)).to(change).reshape(change.shape)
