"""Cases from elsewhere in a run: a file in its folder describes them, and they are preprocessed by its plan."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from autoseg.data.dataset import Case, Dataset
from autoseg.plans.stage import Stage
from autoseg.preprocessing.dataset import preprocess_cases, refuse_lacking
from autoseg.preprocessing.store import StoredCase
from autoseg.runs.fold import Fold
from autoseg.runs.run import Run
from autoseg.training.training import MixedCases
from autoseg.utils.digest import digest, file_digest
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import read_json
from autoseg.utils.shell import quoted


class MixedDataset(BaseModel):
    """Cases from elsewhere, as a run folder describes them.

    Attributes:
        dataset: their files; channels have the plan's names.
        values: label value of the files → label value of the plan.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: Dataset
    values: dict[int, int]

    @property
    def content(self) -> str:
        """Fingerprint of the description."""
        return digest(self.model_dump(mode="json"))


def same_case(cases: Iterable[Case], others: Iterable[Case]) -> tuple[Case, Case] | None:
    """A case of each list that have a scan in common, by its file or by what is in it; None where there is none."""
    return next(same_cases(cases, others), None)


def same_cases(cases: Iterable[Case], others: Iterable[Case]) -> Iterator[tuple[Case, Case]]:
    """The cases that have a scan in common with one of another list, each with the first such one."""
    known: dict[Path, Case] = {}
    alike: dict[tuple[int, bytes], list[tuple[Path, Case]]] = {}
    for case in others:
        for path in _scans(case):
            known[path.resolve()] = case
            alike.setdefault(_glance(path), []).append((path, case))
    for case in cases:
        twins = (
            other
            for path in _scans(case)
            for twin, other in [(path, known.get(path.resolve())), *alike.get(_glance(path), [])]
            if other is not None and (twin == path or file_digest(path) == file_digest(twin))
        )
        if (first := next(twins, None)) is not None:
            yield case, first


def _glance(path: Path) -> tuple[int, bytes]:
    """Size of a file and the bytes in its middle: files of one grid often have one size."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(size // 2)
        return size, file.read(4096)


def _scans(case: Case) -> list[Path]:
    """Files of its channels that are there; of a series in a folder, the one in the middle."""
    found: list[Path] = []
    for channel in case.channels.values():
        inside = sorted(channel.path.iterdir()) if channel.path.is_dir() else [channel.path]
        files = [path for path in inside if path.is_file()]
        found += files[len(files) // 2 :][:1]
    return found


def mixed_dataset(run: Run, file: str) -> MixedDataset:
    """The description in a run folder.

    Raises:
        AutosegError: it is gone or damaged.
    """
    path = run.path / file
    if not path.is_file():
        raise AutosegError(f"{path}, which describes cases that the training mixes in, is gone; plan again.")
    try:
        return MixedDataset.model_validate(read_json(path))
    except ValidationError:
        raise AutosegError(f"{path} is damaged; plan again.") from None


def preprocess_mixed(run: Run, stage: Stage, workers: int | None) -> None:
    """Preprocess the cases of a source that a stage's training mixes in; finished ones are kept.

    Args:
        run: whose plan names them.
        stage: to train.
        workers: as for :func:`autoseg.preprocessing.dataset.preprocess`.
    """
    given = stage.recipe.source_cases
    if given is not None and given.share > 0:
        found = mixed_dataset(run, given.file)
        refuse_lacking(found.dataset, stage)
        advice = (
            "put the source's dataset back where it was or, where it moved, plan again: 'autoseg plan DATASET --source "
            f"MODEL --source-data NEW_PLACE --out {quoted(run.path)}', with the same options as before"
        )
        folder = _mixed_folder(run, stage, given.file)
        preprocess_cases(found.dataset.cases, stage, folder, workers, found.values, advice)


def mixed_cases(fold: Fold) -> list[MixedCases]:
    """The groups of cases that a fold's training mixes in."""
    given = fold.stage.recipe.source_cases
    if given is None or not given.share:
        return []
    folder = _mixed_folder(fold.run, fold.stage, given.file)
    cases = [StoredCase(folder, case.id) for case in mixed_dataset(fold.run, given.file).dataset.cases]
    return [MixedCases(cases, given.share)]


def _mixed_folder(run: Run, stage: Stage, file: str) -> Path:
    """Folder of the preprocessed cases that a file in the run folder describes."""
    return run.preprocessed(stage.configuration.data) / Path(file).stem
