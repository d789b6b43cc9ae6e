"""Callback: what else happens during a training, without the loop knowing of it."""

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
            training: as far as it is made: fold, cases, settings.
            network: with freshly initialised weights, on its device.
            fresh: whether the training starts; else it takes up a saved state afterwards.
        """

    def on_start(self, training: "Training") -> None:
        """Before the first step, here and after each resume."""

    def before_step(self, training: "Training") -> None:
        """The learning rate is set, the batch not made yet."""

    def after_step(self, training: "Training", outcome: "StepOutcome") -> None:
        """The step is counted; of the last one of an epoch, before :meth:`on_epoch_end`."""

    def on_epoch_end(self, training: "Training") -> None:
        """The epoch's row is in the history, and may be added to."""

    def after_iteration(self, training: "Training") -> None:
        """At the very end of each round of the loop."""

    def on_end(self, training: "Training", network: nn.Module) -> nn.Module:
        """The training is over.

        Args:
            training: finished.
            network: whose weights will be saved.

        Returns:
            The network whose weights are saved instead, or the same.
        """
        return network
