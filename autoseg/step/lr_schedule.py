"""Learning-rate schedules: factor of the learning rate by the share of the budget (iterations or time) spent."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from autoseg.plans.recipe import Schedule
from autoseg.utils.registry import Registry

#: ``one_cycle`` rises over this share of the budget, from this factor (the defaults of torch and fastai for the cycle
#: of Smith 2018).
CYCLE_RISE, CYCLE_START = 0.3, 1 / 25

#: A loss counts as improved where it is lower by this share (as in torch's ReduceLROnPlateau).
IMPROVEMENT = 1e-4

#: Factor of the learning rate, from the description, the share of the budget that is spent (0 to 1), and the losses so
#: far that the schedule follows.
RateFactor = Callable[[Any, float, Sequence[float]], float]

#: Name → its function (:data:`autoseg.plans.recipe.SCHEDULES` describes it).
RATE_FACTORS: Registry[RateFactor] = Registry("learning-rate schedule", package="autoseg.step")


def rate_factor(schedule: Schedule, progress: float, losses: Sequence[float] = ()) -> float:
    """Factor of the learning rate at ``progress`` (0 to 1) of the budget.

    Args:
        schedule: of the plan.
        progress: share of the budget that is spent.
        losses: so far, that ``plateau`` follows: of each epoch in training, or of each validation.
    """
    return RATE_FACTORS.find(schedule.name)(schedule, min(max(progress, 0.0), 1.0), losses)


@RATE_FACTORS.register("one_cycle")
def one_cycle(schedule: Schedule, progress: float, losses: Sequence[float]) -> float:
    """Up over the first 30 %, then down to the floor, without the plan's warm-up (Smith 2018)."""
    if progress < CYCLE_RISE:
        return _cosine(CYCLE_START, 1.0, progress / CYCLE_RISE)
    return _cosine(1.0, schedule.floor, (progress - CYCLE_RISE) / (1 - CYCLE_RISE))


def after_warmup(factor: RateFactor) -> RateFactor:
    """A schedule with the plan's linear warm-up before it; it still counts from the start of the budget."""

    def warmed_up(schedule: Schedule, progress: float, losses: Sequence[float]) -> float:
        if progress < schedule.warmup:
            # Never zero: the first step should already change the weights.
            return max(progress / schedule.warmup, 0.01)
        return factor(schedule, progress, losses)

    return warmed_up


def _after(schedule: Schedule, progress: float) -> float:
    """Share that is spent of the budget left after the warm-up."""
    return (progress - schedule.warmup) / (1 - schedule.warmup)


@RATE_FACTORS.register("cosine")
@after_warmup
def cosine(schedule: Schedule, progress: float, losses: Sequence[float]) -> float:
    """Half a cosine down to the floor."""
    return schedule.floor + (1 - schedule.floor) * 0.5 * (1 + math.cos(math.pi * _after(schedule, progress)))


@RATE_FACTORS.register("poly")
@after_warmup
def poly(schedule: Schedule, progress: float, losses: Sequence[float]) -> float:
    """(1 − progress)^power."""
    return float((1 - _after(schedule, progress)) ** schedule.power)


@RATE_FACTORS.register("explore_exploit")
@after_warmup
def explore_exploit(schedule: Schedule, progress: float, losses: Sequence[float]) -> float:
    """The full rate, then a linear decay to the floor (Wright & Demeure 2021)."""
    if progress <= schedule.explore:
        return 1.0
    return 1 - (1 - schedule.floor) * (progress - schedule.explore) / (1 - schedule.explore)


@RATE_FACTORS.register("plateau")
@after_warmup
def plateau(schedule: Schedule, progress: float, losses: Sequence[float]) -> float:
    """Divided by a factor whenever the loss stopped falling."""
    return max(schedule.factor ** -plateaus(losses, schedule.patience), schedule.floor)


@RATE_FACTORS.register("constant")
@after_warmup
def constant(schedule: Schedule, progress: float, losses: Sequence[float]) -> float:
    """The full rate."""
    return 1.0


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


def plateaus(losses: Sequence[float], patience: int) -> int:
    """Number of plateaus: ``patience`` losses without improvement, counted anew after each.

    Computed from the history alone, so that a resumed training continues with the same learning rate.

    Args:
        losses: in order; NaN is no improvement.
        patience: of them without improvement.
    """
    best, waited, count = math.inf, 0, 0
    for loss in losses:
        if loss < best * (1 - IMPROVEMENT):
            best, waited = loss, 0
        else:
            waited += 1
        if waited == patience:
            waited, count = 0, count + 1
    return count


def without_improvement(losses: Sequence[float]) -> int:
    """How many losses in a row, at the end, are no improvement; NaN is none."""
    best, waited = math.inf, 0
    for loss in losses:
        best, waited = (loss, 0) if loss < best * (1 - IMPROVEMENT) else (best, waited + 1)
    return waited
