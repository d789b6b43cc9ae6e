"""Callback: hooks of the training loop."""

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from autoseg.step.training_step import StepOutcome
    from autoseg.training.training import Training


class Callback:
    """Hooks of the training loop; each does nothing unless it is overridden. They run in the callbacks' order."""

    def on_build(self, training: "Training", network: nn.Module, fresh: bool) -> None:
        """The network is built and not trained yet.

        Args:
            training: partly built: fold, cases, settings.
            network: with freshly initialised weights, on its device.
            fresh: whether the training starts from the beginning; else a saved state is loaded next.
        """

    def on_start(self, training: "Training") -> None:
        """Before the first step, also after each resume."""

    def before_step(self, training: "Training") -> None:
        """After the learning rate is set, before the batch is made."""

    def after_step(self, training: "Training", outcome: "StepOutcome") -> None:
        """After the step is counted; in the last step of an epoch, before :meth:`on_epoch_end`."""

    def on_epoch_end(self, training: "Training") -> None:
        """After the epoch's row is added to the history; it may be extended."""

    def after_iteration(self, training: "Training") -> None:
        """At the end of each iteration of the loop."""

    def on_end(self, training: "Training", network: nn.Module) -> nn.Module:
        """After the training.

        Args:
            training: finished.
            network: whose weights will be saved.

        Returns:
            The network whose weights are saved instead, or the same.
        """
        return network
