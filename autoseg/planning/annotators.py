"""Which annotators of a dataset a run learns separately."""

from collections.abc import Sequence

from autoseg.data.dataset import Dataset
from autoseg.planning.planners import able_to
from autoseg.plans.plan import Plan
from autoseg.utils.errors import UsageError
from autoseg.utils.progress import say
from autoseg.utils.text import listed

#: Cases that a message names before it counts.
_LISTED = 5


def choose_annotators(dataset: Dataset, wanted: Sequence[str]) -> tuple[Dataset, tuple[str, ...]]:
    """Those to learn separately, and the dataset without the cases that none of them drew.

    Args:
        dataset: whose cases name who drew them.
        wanted: names, or ``all``; empty for none.

    Raises:
        UsageError: the dataset names no raters, not these, or they are fewer than two.
    """
    if not wanted:
        return dataset, ()
    known = list(dict.fromkeys(name for case in dataset.cases for name in case.raters))
    names = known if list(wanted) == ["all"] and "all" not in known else list(dict.fromkeys(wanted))
    if not known:
        raise UsageError(f"--raters: {dataset.root} names no raters of its cases; name them in its autoseg.toml.")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"--raters {', '.join(unknown)} is unknown; the dataset has {', '.join(known)}.")
    if len(names) < 2:
        raise UsageError(f"--raters {', '.join(names)} is only one; give two or more, or all.")
    unfit = [name for name in names if name.startswith(".") or set(name) & set("/\\")]
    if unfit:
        raise UsageError(
            f"--raters {unfit[0]} can't be part of a file's name; call the rater otherwise in autoseg.toml."
        )
    # A test case that none of them annotated can't be scored against them, and is only predicted.
    unscored = tuple(
        case if set(names) & set(case.raters) else case.model_copy(update={"label": None})
        for case in dataset.unlabelled
    )
    dataset = dataset.model_copy(update={"unlabelled": unscored})
    lost = [case.id for case in dataset.cases if not set(names) & set(case.raters)]
    if lost:
        say(
            f"{len(lost)} of {len(dataset.cases)} cases were annotated by none of {', '.join(names)}, "
            f"left out: {listed(lost, _LISTED)}."
        )
        kept = tuple(case for case in dataset.cases if case.id not in lost)
        dataset = dataset.model_copy(update={"cases": kept})
    return dataset, tuple(names)


def check_decoders(plan: Plan, annotators: Sequence[str]) -> None:
    """Refuse a plan that does not learn separately whom it was asked to.

    Args:
        plan: as a planner made it.
        annotators: whom the user asked for.

    Raises:
        UsageError: names ``--raters``.
    """
    if annotators and list(plan.stage().annotators) != list(annotators):
        raise UsageError(
            f"--raters: planner {plan.planner} learns from one label map a case; use --planner {able_to('decoders')}."
        )
