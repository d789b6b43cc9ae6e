"""Preprocess all cases of a run: parallel, resumable, and only what a changed plan touches."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.data.counts import value_counts
from autoseg.data.dataset import Case, Dataset, LoadedCase, load_case
from autoseg.data.description import LabelSource, StructureMasks
from autoseg.data.formats.tiff import spacing_file
from autoseg.data.intensities import doubt_about
from autoseg.plans.reasons import values_since
from autoseg.plans.stage import Stage
from autoseg.preprocessing.case import preprocess_case
from autoseg.preprocessing.store import StoredCase, save, stored_key
from autoseg.runs.run import Run
from autoseg.utils.digest import digest
from autoseg.utils.errors import AutosegError
from autoseg.utils.lock import do_once
from autoseg.utils.parallel import available_cpus, each
from autoseg.utils.progress import say

#: Version of what is stored; raise it when the same plan would store other numbers.
_STORE_VERSION = 1

#: Keys of preprocessing that have always been in fingerprints of stored cases.
_FIRST = ("transpose", "crop")

#: Default limit of worker processes: each holds a whole case in memory, in several copies at times.
LARGEST_POOL = 8


def case_key(case: Case, stage: Stage) -> str:
    """A fingerprint of all that a preprocessed case depends on: ``PLAN-FILES``, a digest of each."""
    parts: dict[str, Any] = {
        "version": _STORE_VERSION,
        "channels": [
            [channel.name, channel.normalization.model_dump(exclude={"reasons"})] for channel in stage.channels
        ],
        "preprocessing": values_since(stage.preprocessing, _FIRST),
        "spacing": stage.configuration.spacing,
        "resampling": stage.configuration.resampling.model_dump(exclude={"reasons"}),
        # Which channel of a file is which.
        "components": {name: file.component for name, file in case.channels.items() if file.component is not None},
    }
    parts |= stage.annotators_part
    present = [channel.name in case.channels for channel in stage.channels]
    if not all(present):
        parts["present"] = present  # the same files may be other channels' by now
    if isinstance(case.label, StructureMasks):  # their order numbers the label values
        parts["structures"] = case.label.structures
    # Names, not paths: a dataset may move.
    stacks = (path for path in case.files if path.suffix.lower() in (".tif", ".tiff"))
    beside = [found for path in stacks if (found := spacing_file(path)) is not None]
    files = [
        [path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in (*case.files, *beside) if path.exists()
    ]
    return f"{digest(parts)}-{digest(files)}"


@dataclass(frozen=True)
class _Job:
    """One case to preprocess, sent to a worker.

    Attributes:
        values: label value → that of the plan, of a case from elsewhere; empty where they are the same.
        known: values that its label maps may have; None for any.
        changed: whether its files have been changed since it was preprocessed: nobody has looked at them then.
    """

    case: Case
    stage: Stage
    folder: Path
    key: str
    values: Mapping[int, int] = field(default_factory=dict)
    known: Collection[int] | None = None
    changed: bool = False


def _one(job: _Job) -> list[str]:
    """Preprocess a case; what is to be said of it."""
    try:
        return _preprocess_one(job)
    except MemoryError:
        spacing = "×".join("the case's own" if mm is None else f"{mm:g}" for mm in job.stage.configuration.spacing)
        raise AutosegError(
            f"not enough memory to preprocess case {job.case.id} at the plan's spacing of {spacing} mm; see whether "
            "plan and case have theirs in the same unit, or use fewer workers (--workers 1)."
        ) from None


def _preprocess_one(job: _Job) -> list[str]:
    case, stage = job.case, job.stage
    loaded = load_case(case, stage.channel_names, annotators=stage.annotators)
    if loaded.label is None:
        raise AutosegError(f"case {case.id} has no label.")
    if stage.annotators and all(label is None for label in loaded.annotations):
        raise AutosegError(f"case {case.id} was annotated by none of {', '.join(stage.annotators)}; take it out.")
    if job.values:
        loaded = loaded.model_copy(update={"label": _with_values(case, loaded.label, job.values)})
    if job.known is not None:
        sources = (case.label, *(case.raters.get(name) for name in stage.annotators))
        for source, label in zip(sources, (loaded.label, *loaded.annotations), strict=True):
            _refuse_unknown(case, source, label, job.known)
    try:
        prepared = preprocess_case(loaded, stage)
    except AutosegError as error:
        raise AutosegError(f"case {case.id}: {error}") from None
    save(job.folder, case.id, prepared, job.key)
    remarks = (*loaded.remarks, *_doubts(case, loaded, stage)) if job.changed else ()
    return [f"{case.id}: {remark}" for remark in remarks]


def _with_values(case: Case, label: np.ndarray, values: Mapping[int, int]) -> np.ndarray:
    """A label map with other values; 0 stays 0."""
    _refuse_unknown(case, case.label, label, {0, *values})
    found = np.zeros(label.shape, np.int64)
    for value, new in values.items():
        found[label == value] = new
    return found


def _refuse_unknown(case: Case, source: LabelSource | None, label: np.ndarray | None, known: Collection[int]) -> None:
    """Refuse a label map with a value that would be learned as background."""
    unknown = [] if label is None else sorted(set(value_counts(label)) - set(known))
    if unknown:
        raise AutosegError(
            f"case {case.id} has the label value {unknown[0]}, which its dataset does not name; correct {source}, or "
            "name the value among the dataset's labels and plan again."
        )


def _doubts(case: Case, loaded: LoadedCase, stage: Stage) -> Iterator[str]:
    """What a check of the dataset says of a case's intensities."""
    channels = zip(stage.channel_names, loaded.present, loaded.image, strict=True)
    seen = {name: voxels for name, present, voxels in channels if present}
    for name, voxels in seen.items():
        path = case.channels[name].path
        beside = (seen[other] for other in seen if other != name and case.channels[other].path == path)
        if (doubt := doubt_about(name, voxels, beside)) is not None:
            yield f"{doubt.what}. {doubt.remedy}"


def refuse_lacking(dataset: Dataset, stage: Stage) -> None:
    """Refuse to train a stage on cases that lack a channel, where it was not planned for them.

    Args:
        dataset: whose labelled cases are checked.
        stage: to train; the stages before it must allow missing channels, too.

    Raises:
        AutosegError: names the first such case.
    """
    if stage.takes_missing_channels:
        return
    for case in (*dataset.cases, *dataset.labelled_test_cases):
        lacking = [channel for channel in stage.channel_names if channel not in case.channels]
        if lacking:
            raise AutosegError(
                f"case {case.id} lacks the channel {', '.join(lacking)}; plan without it (--channels), allow it (--set "
                "allow_missing_channels=true), train for it (--set recipe.channel_dropout=0.2) or take the case out."
            )


def preprocess(run: Run, configuration: str | None = None, workers: int | None = None) -> Path:
    """Preprocess the labelled cases of a run for one configuration; finished cases are kept.

    Args:
        run: with its plan and dataset.
        configuration: name; the recommended one where None.
        workers: processes; one a core (at most :data:`LARGEST_POOL`) where None, this process where 1.

    Returns:
        The folder of the preprocessed cases.

    Raises:
        AutosegError: a case can't be read.
    """
    stage = run.plan.stage(configuration)
    refuse_lacking(run.dataset, stage)
    folder = run.preprocessed(stage.configuration.data)
    if folder.is_symlink() and not folder.exists():
        folder.unlink()  # a link to a study's shared cases, broken since the run was moved
    dataset = run.dataset
    cases = [*dataset.cases, *dataset.labelled_test_cases]
    preprocess_cases(cases, stage, folder, workers, advice=run.how_to_find_dataset, learned=dataset)
    return folder


def preprocess_cases(
    cases: Sequence[Case],
    stage: Stage,
    folder: Path,
    workers: int | None,
    values: Mapping[int, int] | None = None,
    advice: str = "bring them back",
    learned: Dataset | None = None,
) -> None:
    """Preprocess labelled cases as a stage is trained on them; finished cases are kept.

    What a check of the dataset would say of scans that changed since they were preprocessed is said.

    Args:
        cases: whose channels have the plan's names.
        stage: that they are for.
        folder: of the preprocessed cases.
        workers: as for :func:`preprocess`.
        values: label value of the cases → that of the plan, of cases from elsewhere; None where they are the same.
        advice: what to do where a case's files are gone, for the message.
        learned: dataset whose cases are trained on: their label maps must have its values alone.

    Raises:
        AutosegError: a case can't be read, or has a label value that ``values``, or its dataset, does not name.
    """

    def due() -> list[_Job]:
        return _due(cases, stage, folder, values, advice, learned)

    def work(jobs: Sequence[_Job]) -> None:
        for remarks in each(_one, jobs, pool_size(workers), f"Preprocessing for {stage.configuration.data}"):
            for remark in remarks:
                say(remark)

    do_once(folder, f"Another process preprocesses {folder}", due, work)


def pool_size(workers: int | None) -> int:
    """Processes for so many workers: one a core (at most :data:`LARGEST_POOL`) where None, this one where 0 or 1."""
    # 0 means no loading workers; preprocessing then uses this process, too.
    return min(available_cpus(), LARGEST_POOL) if workers is None else max(workers, 1)


def _usable_key(folder: Path, case_id: str, stage: Stage) -> str | None:
    """The key that a stored case was made with; None where there is none that a stage can be trained on.

    Earlier versions stored no positions in the mask and in healthy tissue, in which patches may have to be centred.
    """
    stored = stored_key(folder, case_id)
    if stored is None or stage.recipe.sampling.background == "anywhere":
        return stored
    return stored if StoredCase(folder, case_id).places else None


def _due(
    cases: Sequence[Case],
    stage: Stage,
    folder: Path,
    values: Mapping[int, int] | None,
    advice: str,
    learned: Dataset | None,
) -> list[_Job]:
    """What is to be preprocessed of some cases."""
    due = []
    # Of a test set's label maps nothing is learned, and planning does not look at them either.
    known = {} if learned is None else dict.fromkeys((case.id for case in learned.cases), learned.known_values)
    for case in cases:
        key = case_key(case, stage)
        if values:
            key = f"{digest([key.split('-')[0], sorted(values.items())])}-{key.split('-')[1]}"
        stored = _usable_key(folder, case.id, stage)
        if stored == key:
            continue
        if not any(path.exists() for path in case.files):
            # A run folder that was moved to a machine without the scans keeps what was preprocessed before.
            if stored is not None and stored.split("-")[0] == key.split("-")[0]:
                continue
            nothing_left = stored_key(folder, case.id) is None
            of_before = "" if nothing_left else "put back the plan that the run was preprocessed with, or "
            raise AutosegError(
                f"case {case.id} has to be preprocessed, but its files are gone ({case.files[0]}); {of_before}{advice}."
            )
        changed = stored is not None and stored.split("-")[0] == key.split("-")[0]
        due.append(_Job(case, stage, folder, key, values or {}, known.get(case.id), changed))
    return due
