"""Prediction on raw exams: prepared as the training data were, and results back on the scanner's grids."""

import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import SimpleITK as sitk

from autoseg.clinical.cohort import PreparationOutcome, PreparationRequest, prepare_exams
from autoseg.clinical.exams import Exam, find_exams
from autoseg.clinical.pseudonyms import Pseudonyms
from autoseg.clinical.settings import PREPARATION_FILE, ExamPreparation
from autoseg.clinical.transforms import TRANSFORMS_FILE, PreparedCase, SpatialGrid, to_native
from autoseg.data.dataset import Case, ChannelFile
from autoseg.data.dicom import holds_dicom
from autoseg.data.dicom_series import Stack
from autoseg.data.layouts.manifest import FILE_NAME
from autoseg.data.names import channel_key
from autoseg.data.result_files import PREDICTIONS, refuse_replacing, results_in
from autoseg.inference.formats.format import RESULT_FORMATS, LabelContent, ResultFormat
from autoseg.inference.label_schemes import LabelScheme
from autoseg.inference.predictor import Outcome, Predictor
from autoseg.inference.results.record import FoundResults
from autoseg.inference.segments import exclusive_segments, segments_of
from autoseg.runs.run import Run
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import read_json, read_json_table, refuse_unwritable_folder, write_json
from autoseg.utils.lock import waited_for
from autoseg.utils.progress import say

#: Folders of a prediction: the prepared exams, and what was predicted in their space.
PREPARED_EXAMS, PREPARED_SPACE = "prepared_exams", "prepared_space"

#: File in the latter: case → fingerprint of the preparation that its results were made of.
_PREPARED_FROM = "prepared_from.json"


def preparation_of(runs: Sequence[Run]) -> ExamPreparation | None:
    """How the training data of the runs were made of raw exams; None where they were not.

    Raises:
        UsageError: two runs learned from data that were prepared differently.
    """
    found = [
        None if (stored := run.dataset.preparation) is None else ExamPreparation.of(stored, run.path / "dataset.json")
        for run in runs
    ]
    known = [one for one in found if one is not None]
    if not known:
        return None
    for run, one in zip(runs, found, strict=True):
        if one is None or one.model_copy(update={"channels": known[0].channels}) != known[0]:
            raise UsageError(f"{run.path} learned from data prepared otherwise; predict the exam with each run alone.")
    # The file that the preparation named may be on another machine; the run has a copy.
    kept = next((run.template for run in runs if run.template is not None), None)
    if known[0].atlas is None or kept is None:
        return known[0]
    return known[0].model_copy(update={"atlas": kept.absolute()})


def is_raw_exam(path: Path) -> bool:
    """Whether a folder holds exams as they come from the scanner: DICOM, or images of one exam on several grids."""
    if not path.is_dir() or (path / PREPARATION_FILE).is_file() or (path / FILE_NAME).is_file():
        return False
    if holds_dicom(path):
        return True
    try:
        exams = find_exams(path)
    except AutosegError:
        return False
    usable = [[series for series in exam.series if not series.fault] for exam in exams]
    return any(one and not all(one[0].shares_grid_with(other) for other in one) for one in usable)


def raw_exams_in(source: Path, runs: Sequence[Run], out: Path, raw: bool | None = None) -> PreparationOutcome | None:
    """Prepare what is to be predicted, where it is raw exams and the runs learned from prepared ones.

    Args:
        source: to be predicted.
        runs: that predict it.
        out: folder of the results.
        raw: whether it is raw exams; None to tell by its files.

    Returns:
        The prepared exams; None where the source is to be predicted as it is.

    Raises:
        AutosegError: no exam could be prepared.
        UsageError: the runs learned from data that were prepared differently.
    """
    if raw is False or (raw is None and not any(run.dataset.preparation for run in runs)):
        return None
    if not raw and not is_raw_exam(source):
        return None
    settings = preparation_of(runs)
    if settings is None:
        say(f"{runs[0].path} does not say how to prepare exams; the defaults of 'autoseg prepare' are used.")
        settings = ExamPreparation(channels=tuple(channel_key(name) for name in runs[0].plan.channel_names))
    return prepare_like_training(source, out, settings)


def prepare_like_training(exams: Path, out: Path, settings: ExamPreparation) -> PreparationOutcome:
    """Prepare raw exams as the training data were, below the folder of the results.

    Args:
        exams: folder of an exam or a cohort.
        out: folder of the results; the table of pseudonyms lies beside it.
        settings: from the run.

    Raises:
        AutosegError: none of the exams could be prepared; gives the reasons.
    """
    settings = _without_mask_files(exams, settings)
    request = PreparationRequest(settings, with_labels=False, pseudonyms_of=out)
    outcome = prepare_exams(exams, out / PREPARED_EXAMS, request)
    if not outcome.prepared:
        raise AutosegError("no exam could be prepared: " + " ".join(f"{c}: {why}" for c, why in outcome.failed.items()))
    return outcome


@dataclass(frozen=True)
class NativeResults:
    """Results of prepared cases on the grid of one of their original series.

    Attributes:
        out: folder of the results.
        series: name of a series, or the channel that it became; None for each case's reference.
        form: file format; NIfTI where None.
        scheme: label values that the prediction was written with.
        exams: that were prepared for this prediction; they have the files that a DICOM-SEG refers to.
    """

    out: Path
    series: str | None = None
    form: ResultFormat | None = None
    scheme: LabelScheme | None = None
    exams: PreparationOutcome | None = None

    def check(self, cases: Sequence[Case]) -> None:
        """Refuse what could not be written, before anything is predicted.

        That is a series that no case has, a format that can't hold it, and a folder that allows no files or holds one
        that is no result in the place of one.

        Raises:
            AutosegError: the first case's reason.
            UsageError: the folder is none to write to.
        """
        refuse_unwritable_folder(self.out)
        refuse_replacing(self.out, map(self._path, cases), set(results_in(self.out)))
        refused: list[AutosegError] = []
        for case in cases:
            try:
                self._check(case)
            except AutosegError as error:
                refused.append(error)
            else:
                return
        if refused:
            raise refused[0]

    def _check(self, case: Case) -> None:
        stored = stored_beside(case)
        stored.find(self.series or stored.reference)
        if self.form is not None:
            with self._original(case, stored) as (original, _):
                self.form.check(original)

    def renew(self, cases: Sequence[Case]) -> None:
        """Remove earlier results of cases that were prepared anew since, as where a series came later.

        They are on the old grid; with ``--no-overwrite`` they would pass for current results.
        """
        folder = self.out / PREPARED_SPACE
        folder.mkdir(parents=True, exist_ok=True)
        with waited_for(folder):
            self._renew(folder, cases)

    def _renew(self, folder: Path, cases: Sequence[Case]) -> None:
        try:
            known = read_json_table(folder / _PREPARED_FROM)
        except AutosegError:
            known = {}
        now = {}
        for case in cases:
            with suppress(AutosegError):  # said where its result is written
                now[case.id] = stored_beside(case).source
        names = sorted({*now, *known}, key=len, reverse=True)
        for path in sorted(folder.iterdir()):
            # Of P1_1 and P1_11 or P1_1_2, the longer name.
            case_id = next((name for name in names if path.name.startswith((f"{name}.", f"{name}_"))), None)
            if path.name in (PREDICTIONS, _PREPARED_FROM):
                continue
            if case_id in now and known.get(case_id) != now[case_id] and path.is_file():
                say(f"{case_id}: {path.name} was made of an earlier preparation and is removed.")
                path.unlink()
        write_json(folder / _PREPARED_FROM, {**known, **now})

    def write(self, outcome: Outcome, cases: Sequence[Case], predictor: Predictor) -> Outcome:
        """Bring the label maps of a prediction in the prepared space back, and write them.

        Args:
            outcome: of the prediction.
            cases: that were predicted.
            predictor: names the segments.

        Returns:
            The files on the original grids, and what failed, in the preparation, too.
        """
        failed = {**({} if self.exams is None else self.exams.failed), **outcome.failed}
        due = {case.id for case in cases if case.id in outcome.written}
        alike = FoundResults.of(self.out).alike(FoundResults.of(self.out / PREPARED_SPACE))
        written = {}
        for case in cases:
            if case.id in outcome.written:
                # Before the result: what a killed command leaves is neither somebody's file for the next one nor a
                # result of before that passes for one of now.
                due.remove(case.id)
                if case.id not in alike:
                    self._path(case).unlink(missing_ok=True)
                self._record(outcome, [self._path(case)], due)
                try:
                    written[case.id] = self._write(case, outcome.written[case.id], predictor)
                except (AutosegError, RuntimeError) as error:
                    failed[case.id] = str(error)
                    say(f"{case.id} failed: {error}")
        self._record(outcome, written.values(), ())
        return replace(outcome, written=written, failed=failed)

    def _record(self, outcome: Outcome, written: Iterable[Path], due: Collection[str]) -> None:
        """Say beside the native results what they are: as beside those in the prepared space, but of these files.

        Nothing is said of cases whose native results are still due.
        """
        there = next(iter(outcome.written.values()), None)
        if there is None or not (there.parent / PREDICTIONS).is_file():
            return
        with waited_for(self.out):
            files = {path.name for path in (*results_in(self.out), *written)}
            told = read_json(there.parent / PREDICTIONS)
            cases = {case: entry for case, entry in told.get("cases", {}).items() if case not in due}
            kept = [case for case in told.get("kept_from_before", ()) if case not in due]
            write_json(
                self.out / PREDICTIONS, {**told, "cases": cases, "kept_from_before": kept, "files": sorted(files)}
            )

    def _write(self, case: Case, result: Path, predictor: Predictor) -> Path:
        stored = stored_beside(case)
        name = self.series or stored.reference
        predicted = sitk.ReadImage(str(result))
        if (difference := SpatialGrid.of(predicted).geometry.differs_from(stored.output.geometry)) is not None:
            raise AutosegError(
                f"{result} does not lie on the grid of its prepared exam ({difference}), as where that was prepared "
                "anew since; predict it again, without --no-overwrite."
            )
        native = to_native(predicted, stored, name)
        values = None if self.scheme is None else self.scheme.values
        parts = exclusive_segments(predictor.target, predictor.members[0].label_names, values)
        path = self._path(case)
        array = sitk.GetArrayFromImage(sitk.DICOMOrient(native, "LPS"))
        with self._original(case, stored) as (original, stack):
            segments = segments_of(predictor.target, values)
            content = LabelContent(original, tuple(original.channels), segments, parts, stack)
            try:
                self._form.write(path, array, stored.find(name).grid.geometry, content)
            except AutosegError as error:
                if stack is None:
                    raise
                # The folder may be called after the patient.
                where = str(stack.files[0].parent)
                raise AutosegError(str(error).replace(where, stored.name_of(name))) from None
        return path

    @property
    def _form(self) -> ResultFormat:
        return self.form or RESULT_FORMATS.find("nifti")

    def _path(self, case: Case) -> Path:
        return self.out / f"{case.id}{self._form.ending}"

    @contextmanager
    def _original(self, case: Case, stored: PreparedCase) -> Iterator[tuple[Case, Stack | None]]:
        """The original series as a case of one channel, where its files are at hand; else the prepared case.

        And its slices, where they are DICOM: of a file of several echoes or kinds of image, those of one.

        The files of a DICOM series are linked, or copied, into a folder of their own: in an exam's, several series may
        lie.
        """
        name = stored.name_of(self.series or stored.reference)
        wanted = stored.series[name]
        exam = _source_of(case) if self.exams is None else self.exams.exams.get(case.id)
        for series in () if exam is None else exam.series:
            if series.name == name and SpatialGrid.of(series.grid) == wanted.grid:
                with TemporaryDirectory(prefix="autoseg_") as folder:
                    for number, file in enumerate(series.files):
                        _link(file, Path(folder) / f"{number:06d}.dcm")
                    path = Path(folder) if series.dicom else series.files[0]
                    channels = {wanted.channel or name: ChannelFile(path=path)}
                    stack = Stack(series.files, series.frames, series.grid) if series.dicom else None
                    yield Case(id=case.id, channels=channels), stack
                return
        yield case, None


def _link(file: Path, link: Path) -> None:
    try:
        link.symlink_to(file.absolute())
    except OSError:  # Windows lets few users make links
        shutil.copyfile(file, link)


def stored_beside(case: Case) -> PreparedCase:
    """What is stored beside a prepared case's images.

    Raises:
        AutosegError: the case was not prepared by ``autoseg prepare``.
    """
    first = next(iter(case.channels.values())).path
    if not (first.parent / TRANSFORMS_FILE).is_file():
        raise AutosegError(
            f"case {case.id} has no {TRANSFORMS_FILE} beside its images; results go back to the original series of "
            "cases that 'autoseg prepare' made."
        )
    return PreparedCase.read(first.parent)


def _source_of(case: Case) -> Exam | None:
    """The exam that a prepared case was made from, by the table of pseudonyms beside its dataset; None without it."""
    dataset = next(iter(case.channels.values())).path.absolute().parent.parent
    # The exams that a prediction prepared have their table beside its results.
    owner = dataset.parent if dataset.name == PREPARED_EXAMS else dataset
    rows = [*Pseudonyms.beside(dataset).rows, *Pseudonyms.beside(owner).rows]
    row = next((row for row in rows if row["case"] == case.id), None)
    if row is None or not Path(row["folder"]).is_dir():
        return None
    for exam in find_exams(row["folder"]):
        if row["study_uid"] in ("", *(series.identity.study for series in exam.series)):
            return exam
    return None


def _without_mask_files(exams: Path, settings: ExamPreparation) -> ExamPreparation:
    """Where the training data had brain masks in files and these exams have none, the template finds the brain."""
    if settings.brain_mask is None:
        return settings
    if any(file.match(settings.brain_mask) for file in exams.rglob("*")):
        return settings
    say(f"No file fits the {settings.brain_mask} of the training data; the brain is found with a template.")
    return settings.model_copy(update={"brain_mask": None, "skull_strip": "atlas"})
