"""Making a plan: from a dataset and a request to a planned run folder."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from autoseg.data.checks import examine, warnings_in
from autoseg.data.cohort_checks import absent_channels
from autoseg.data.dataset import Dataset
from autoseg.data.fingerprint import Fingerprint
from autoseg.planning.annotators import check_decoders, choose_annotators
from autoseg.planning.carried import CARRIED, Carried
from autoseg.planning.derived import refresh
from autoseg.planning.planners import abilities, able_to, default_planner, find_planner
from autoseg.planning.request import Request, ResolvedRequest, refuse_unknown
from autoseg.plans.evaluation import EvaluationRules
from autoseg.plans.overrides import override, parsed, refuse_unread
from autoseg.plans.plan import Plan
from autoseg.runs.run import Run, refuse_dataset_folder
from autoseg.runs.splits import Split, keep_or_make_splits, make_splits
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import refuse_unwritable_folder
from autoseg.utils.progress import say


def plan_dataset(dataset: Dataset, out: str | Path, request: Request | None = None) -> Run:
    """Check a dataset, plan it and make its run folder.

    Planning again into the same folder replaces the plan and keeps the splits, as long as the cases are the same. Until
    the new plan is known to be good nothing is written, and a kill leaves the plan of before or the new one.

    Args:
        dataset: as :meth:`autoseg.Dataset.open` returns it.
        out: run folder to write.
        request: what the user asks for; the defaults where None.

    Raises:
        AutosegError: the dataset has errors (all are listed), the budget is too small, or what is to be carried into
            the run does not fit.
        UsageError: something is asked for that does not exist, ``out`` holds a dataset or is the source, or a stage
            depends on predictions or on a validation loss that a single fold has not.

    Example:
        >>> import autoseg
        >>> dataset = autoseg.Dataset.open("DATASET")  # doctest: +SKIP
        >>> autoseg.plan(dataset, "RUN", autoseg.Request(gpu_memory_gb=11, folds=3))  # doctest: +SKIP
    """
    out, request = Path(out), request or Request()
    refuse_dataset_folder(out, dataset)
    refuse_unwritable_folder(out)
    dataset, request = checked_request(dataset, out, request)
    if request.test_share and (own := dataset.labelled_test_cases):
        raise UsageError(
            f"--test-share: {dataset.root} has a test set of its own, with {len(own)} labelled cases; leave the option "
            "out."
        )
    seed = request.seed or 0
    fingerprint = checked_fingerprint(dataset, request.workers, seed)
    plan = make_plan(fingerprint, request)
    splits = keep_or_make_splits(out, dataset, seed, request.folds, plan.evaluation)
    if request.seed is not None and splits != make_splits(dataset, request.folds, seed, plan.evaluation):
        stored = out / "splits.json"
        say(f"{stored} stays, with the folds of before and not those of seed {seed}; delete it to have others made.")
    _check_without_validation(plan, splits)
    return planned_run(out, plan, fingerprint, dataset, splits, request.carried)


def checked_request(dataset: Dataset, out: Path, request: Request) -> tuple[Dataset, ResolvedRequest]:
    """The request with everything resolved and checked, and the dataset without the cases that it leaves out.

    Args:
        dataset: to learn from.
        out: folder that is planned into.
        request: of the user.

    Raises:
        UsageError: something is asked for that does not exist, or does not go together.
        AutosegError: what is to be carried into the run is missing, damaged or unfit.
    """
    for index, item in enumerate(request.carried):
        for other in request.carried[:index]:
            if other.provides == item.provides:
                raise UsageError(f"{other.option} and {item.option} both say {item.provides}; give one of them.")
    dataset, annotators = choose_annotators(dataset, request.annotators)
    resolved = replace(request, annotators=annotators).resolved()
    # What needs no look at the images is told before all of them are read.
    _refuse_time(resolved, resolved.planner or default_planner(resolved.start))
    refuse_unknown("--channels", resolved.channels, dataset.channels)
    refuse_unknown("--regions", resolved.regions, [*dataset.labels, *dataset.regions])
    for text in resolved.overrides:
        parsed(text)
    checked = tuple(item.check(resolved, dataset, out) for item in resolved.carried)
    return dataset, replace(resolved, carried=checked)


def planned_run(
    path: Path,
    plan: Plan,
    fingerprint: Fingerprint,
    dataset: Dataset,
    splits: list[Split],
    carried: Sequence[Carried] = (),
) -> Run:
    """Write a run folder with what is carried into it; a kill leaves what there was before, or the new plan.

    Args:
        path: run folder.
        plan: final plan.
        fingerprint: fingerprint that the plan was made for.
        dataset: dataset to learn from.
        splits: splits of its cases.
        carried: what is carried into the run, and the plan uses.

    Raises:
        AutosegError: something carried does not fit the plan; nothing is written then.
    """
    for item in carried:
        item.check_plan(plan)
    kinds = [CARRIED.find(name) for name in CARRIED]
    for item in carried:
        item.install(plan, path)
    run = Run.create(path, plan, fingerprint, dataset, splits)
    for kind in kinds:
        kind.remove_unused(path, plan)
    return run


def checked_fingerprint(dataset: Dataset, workers: int | None = None, seed: int = 0) -> Fingerprint:
    """The fingerprint of a dataset's labelled cases.

    Args:
        dataset: as :meth:`autoseg.Dataset.open` returns it.
        workers: processes that read cases; None for one a core.
        seed: of the sample of voxels.

    Raises:
        AutosegError: the dataset has errors (all are listed). That no case has a channel is one of the plans with this
            channel only (:func:`make_plan`).
    """
    # Cases without a label do not count for the plan, and what is wrong with them is for prediction to find.
    labelled = dataset.model_copy(update={"unlabelled": ()})
    if not labelled.cases:
        raise AutosegError(f"{dataset.root} has no labelled case to learn from.")
    examination = examine(labelled, workers, seed)
    of_plans = absent_channels(labelled)
    errors = [problem for problem in examination.problems if problem.severity == "error" and problem not in of_plans]
    if errors or examination.fingerprint is None:
        listed = "".join(
            f"\n  {problem.case or 'dataset'}: {f'{problem.file}: ' if problem.file else ''}{problem.what}. "
            f"{problem.remedy}"
            for problem in errors
        )
        raise AutosegError(f"{dataset.root} has {len(errors)} error(s) to be corrected before planning:{listed}")
    for line in warnings_in(examination.problems):
        say(line)
    return examination.fingerprint


def make_plan(fingerprint: Fingerprint, request: Request | None = None) -> Plan:
    """Plan a dataset.

    Args:
        fingerprint: of the dataset.
        request: what the user asks for; ``annotators`` by their names, and what is carried into the run as
            :func:`checked_request` returns it. The defaults where None.

    Raises:
        UsageError: something is asked for that does not exist, or a source was not compared with the dataset.
        AutosegError: the budget is too small, or no case has one of the plan's channels.

    Example:
        >>> from autoseg.planning.making import make_plan
        >>> plan = make_plan(run.fingerprint, Request(gpu_memory_gb=11))  # doctest: +SKIP
        >>> plan.configurations["3d_fullres"].patch_size  # doctest: +SKIP
        [128, 128, 128]
    """
    resolved = (request or Request()).resolved()
    name = resolved.planner or default_planner(resolved.start)
    _refuse_time(resolved, name)
    make = partial(find_planner(name), fingerprint)
    for item in resolved.carried:
        make = partial(_make_with, item, make)
    plan = make(resolved)
    _refuse_absent_channels(plan, fingerprint)
    encoder = resolved.options.get("encoder", "")
    if encoder and all(getattr(c.network, "encoder", None) != encoder for c in plan.configurations.values()):
        raise UsageError(
            f"--encoder {encoder}: planner {name} has no encoder to choose; use --planner {able_to('encoders')}."
        )
    check_decoders(plan, resolved.annotators)
    if resolved.test_share is not None:
        if resolved.test_share + (share := plan.evaluation.validation_share) >= 1:
            raise UsageError(
                f"--test-share {resolved.test_share:g} leaves nothing to train on beside the {share:g} that planner "
                f"{name} validates on; give less than {1 - share:g}."
            )
        rules = plan.evaluation.model_dump() | {"test_share": resolved.test_share}
        asked = EvaluationRules(**{**rules, "reasons": {**plan.evaluation.reasons, "test_share": "the user's"}})
        plan = plan.model_copy(update={"evaluation": asked})
    if not resolved.overrides:
        return plan
    changed = override(plan, list(resolved.overrides))
    refuse_unread(changed, resolved.overrides)
    return refresh(changed)


def _refuse_time(request: ResolvedRequest, planner: str) -> None:
    """Refuse a time that a planner would not plan for; or a planner that there is not."""
    if not abilities(find_planner(planner)).widths and request.max_time is not None:
        others = f"use --planner {able_to('widths')}, or " if request.start == "scratch" else ""
        raise UsageError(
            f"--max-time: planner {planner} does not choose a width; {others}give the time to autoseg train alone."
        )


def _refuse_absent_channels(plan: Plan, fingerprint: Fingerprint) -> None:
    """Refuse a plan with a channel of which its network would only ever see zeros."""
    seen = {name for case in fingerprint.cases for name in case.intensities}
    absent = [name for name in fingerprint.channels if name in plan.channel_names and name not in seen]
    if absent and seen:
        others = [name for name in plan.channel_names if name in seen] or sorted(seen)
        raise AutosegError(
            f"no labelled case has {', '.join(absent)}; correct its pattern, or the names of its files, or take it out "
            f"(--channels {','.join(others)})."
        )


def _make_with(item: Carried, make: Callable[[ResolvedRequest], Plan], request: ResolvedRequest) -> Plan:
    """A plan that uses what is carried; made anew for what this leaves of the budget, where it would not fit."""
    plan = make(request)
    changed = item.apply(plan)
    extra = {
        name: c.memory.total - before.memory.total
        for (name, c), before in zip(changed.configurations.items(), plan.configurations.values(), strict=True)
        if c.memory is not None and before.memory is not None and c.memory.total > 1e9 * request.gpu_memory_gb
    }
    if max(extra.values(), default=0) <= 0:
        return changed
    left = request.gpu_memory_gb - max(extra.values()) / 1e9
    again = item.apply(make(replace(request, gpu_memory_gb=left)))
    reason = f"the user's, or the machine's; the {item.kind} takes {request.gpu_memory_gb - left:.2f} GB of it"
    return again.model_copy(
        update={"gpu_memory_gb": request.gpu_memory_gb, "reasons": {**again.reasons, "gpu_memory_gb": reason}}
    )


def _check_without_validation(plan: Plan, splits: Sequence[Split]) -> None:
    """Where no fold validates a case, refuse a plan that depends on it, and tell what changes nothing then."""
    if any(split["validation"] for split in splits):
        return
    for stage in plan.stage().chain:
        # A stage that learns from predictions needs a fold for each case that was not trained on it.
        if stage.previous is not None and stage.previous.use == "channels":
            raise UsageError(
                f"--folds 1: {stage.name} learns from what {stage.previous.configuration} predicts of cases that it "
                "was not trained on, and a single fold has none; give --folds 2 or more."
            )
        if stage.recipe.schedule.follows_validation:
            raise UsageError(
                f"--folds 1: the learning rate of {stage.name} falls only by its validation loss, and a single fold "
                "validates no case; give --folds 2 or more, or --set recipe.schedule.name=cosine."
            )
        if idle := stage.idle_without_validation:
            say(f"--folds 1 validates no case: {stage.name} trains without {' and '.join(idle)}.")
