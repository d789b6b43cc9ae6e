"""The training loop of one fold."""

from collections.abc import Sequence

from autoseg.runs.fold import Fold
from autoseg.training.callback import Callback
from autoseg.training.callbacks import with_usual_callbacks
from autoseg.training.interrupt import postponed_interrupt
from autoseg.training.state import State
from autoseg.training.training import Budget, Cases, Training, TrainingSettings


def train_fold(
    fold: Fold, cases: Cases, budget: Budget, settings: TrainingSettings, callbacks: Sequence[Callback] = ()
) -> State:
    """Train one fold until its budget is spent; resumes an interrupted training.

    Args:
        fold: its folder gets weights (:attr:`~autoseg.runs.fold.Fold.end_checkpoint`), state and history; its stage is
            trained.
        cases: to train on and to validate with.
        budget: iterations or seconds.
        settings: device, seed, threads.
        callbacks: further ones, called before the history is written and the state saved.

    Returns:
        The state at the end.

    Raises:
        AutosegError: the saved state belongs to another plan, or the loss stays not finite.
    """
    hooks = with_usual_callbacks(callbacks)
    with Training(fold, cases, budget, settings, hooks) as training, postponed_interrupt() as interrupted:
        for hook in hooks:
            hook.on_start(training)
        while not training.finished:
            if interrupted():
                training.save()
                raise KeyboardInterrupt
            rate = training.set_rate()
            for hook in hooks:
                hook.before_step(training)
            outcome = training.step(training.next_batch())
            training.count(outcome)
            for hook in hooks:
                hook.after_step(training, outcome)
            if training.ends_epoch:
                training.end_epoch(rate)
                for hook in hooks:
                    hook.on_epoch_end(training)
            for hook in hooks:
                hook.after_iteration(training)
        training.state.finished = True
        network = training.weights
        # Until here, an earlier and shorter training of the fold counts: its weights are replaced next.
        fold.done.unlink(missing_ok=True)
        for hook in hooks:
            network = hook.on_end(training, network)
        training.save_weights(network, fold.end_checkpoint)
        training.save()
        if interrupted():
            raise KeyboardInterrupt
    return training.state
