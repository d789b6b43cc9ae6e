"""Predictor: trained folds of one or several runs, applied to cases.

Reading, network and writing overlap: one thread reads and preprocesses the next case (large ones are read one after the
other), this one runs the network, one writes the case before. There are no worker processes, and never more than three
cases in memory.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoseg.data.dataset import Case, LoadedCase
from autoseg.data.file_names import image_ending, result_ending, why_not_plain
from autoseg.data.geometry import Geometry
from autoseg.data.result_files import refuse_replacing, results_in
from autoseg.inference.chain import ScoresOnScan
from autoseg.inference.decoding import paint_probabilities
from autoseg.inference.ensemble import Ensemble, Prepared
from autoseg.inference.formats.format import LabelContent, ResultFormat
from autoseg.inference.label_schemes import LabelScheme
from autoseg.inference.members import Member, load_member
from autoseg.inference.opinions import FROM_SCORES, Group, Opinions
from autoseg.inference.prediction import NamedProbabilities, Prediction
from autoseg.inference.read_ahead import ReadAhead
from autoseg.inference.results.record import SCANS, Record, scans_of
from autoseg.inference.results.writer import LABEL, Destination, ResultWriter, chosen_writers
from autoseg.inference.segments import exclusive_segments, segments_of
from autoseg.postprocessing.steps import Step, agreed_steps, apply_steps
from autoseg.preprocessing.case import restore
from autoseg.runs.run import Run
from autoseg.utils.device import keep_large_blocks, lacks_memory, saying_what_lacks_memory, select_device, wait_for
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import lacks_room, refuse_unwritable_folder
from autoseg.utils.progress import Steps, say


@dataclass
class Outcome:
    """What became of the cases.

    Attributes:
        written: case → file of its label map.
        failed: case → what went wrong, in one sentence.
    """

    written: dict[str, Path] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Scored:
    """A case after the networks: everything that needs them is done, decoding and writing are left.

    Attributes:
        prepared: the case as each stage of each member sees it.
        scores: logits of each member; None where nothing but the label map is wanted, and that is decided.
        opinions: grouping → opinions that took predictions of their own.
        label: on the cropped grid of the scan, where there are no scores.
    """

    prepared: Prepared
    scores: list[ScoresOnScan] | None
    opinions: dict[Group, Opinions]
    label: torch.Tensor | None = None


class Predictor:
    """Segments cases with the average of all members' folds.

    Args:
        members: of one run or of several with the same target.
        device: to compute on.
        mirror: use test-time augmentation.
        postprocessing: steps applied to label maps; probabilities stay as they are. A source that is kept with more
            outputs than its run has steps of its own before (:attr:`translation`).

    Raises:
        UsageError: targets that differ.
    """

    def __init__(
        self, members: Sequence[Member], device: torch.device, mirror: bool = True, postprocessing: Sequence[Step] = ()
    ) -> None:
        self.ensemble = Ensemble(members, device, mirror)
        self.postprocessing = tuple(postprocessing)
        self.translation = self.members[0].translation if len(self.members) == 1 else None
        self.target = self.ensemble.target
        self.file_ending = self.members[0].last.file_ending

    @property
    def all_steps(self) -> tuple[Step, ...]:
        """The steps applied to label maps, in order."""
        return (*(() if self.translation is None else self.translation.steps), *self.postprocessing)

    @property
    def members(self) -> list[Member]:
        """The runs."""
        return self.ensemble.members

    @classmethod
    def load(
        cls,
        runs: str | Path | Sequence[str | Path],
        configuration: str | None = None,
        folds: Sequence[int] | None = None,
        device: str = "auto",
        mirror: bool = True,
        checkpoint: str = "weights",
        postprocessing: bool = True,
    ) -> "Predictor":
        """Load the trained folds of one or several run folders.

        Args:
            runs: run folder(s).
            configuration: name; each run's recommended one (or the only trained one) where None.
            folds: numbers, of every stage; all trained ones where None.
            device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
            mirror: use test-time augmentation.
            checkpoint: ``weights`` (end of the training) or ``best`` (best validation on the way).
            postprocessing: apply what ``autoseg postprocess`` chose, and what belongs to a source that is kept as it
                is; for several runs, where all have the same.

        Raises:
            AutosegError: a run or its weights are missing or unreadable, or the device has no memory for them.
            UsageError: no such configuration or device; nothing trained; targets that differ.
        """
        chosen = select_device(device)
        if chosen.type == "cpu":
            keep_large_blocks()
        paths = [runs] if isinstance(runs, str | Path) else list(runs)
        doing = f"loading the networks of {', '.join(map(str, paths))}"
        way_out = f"try again when nothing else uses its memory, or {_more_memory(chosen)}"
        with saying_what_lacks_memory(chosen, doing, way_out):
            members = [load_member(Run.open(path), configuration, folds, chosen, checkpoint) for path in paths]
        of_runs = [(Path(member.name), str(member.detail["configuration"])) for member in members]
        steps = agreed_steps(of_runs, members[0].written, checkpoint) if postprocessing else ()
        predictor = cls(members, chosen, mirror, steps)
        if predictor.translation is not None and not postprocessing:
            predictor.translation = predictor.translation.uncleaned
        return predictor

    def predict_case(self, case: Case | LoadedCase, results: Iterable[str] = (LABEL,)) -> Prediction:
        """Segment one case.

        Args:
            case: what to segment.
            results: names of the results that the prediction has to hold, of those that are registered
                (:data:`autoseg.inference.results.writer.RESULTS`); the label map is always there.

        Raises:
            AutosegError: the case can't be read, or lacks a channel that the plan insists on, or memory lacks for it.
            UsageError: no such result, or the members can't give it.
        """
        writers = chosen_writers(results, self.ensemble)
        device, name = self.ensemble.device, case.id if isinstance(case, Case) else "a case"
        with saying_what_lacks_memory(device, f"predicting {name}", _more_memory(device)):
            return self._decode(self._score(self.ensemble.prepare(case), writers), writers)

    def opinions(self, case: Case | LoadedCase, group: Group) -> Opinions:
        """The predictions of one case by fold, run, mirroring or rater: their mean, spread and entropy.

        Args:
            case: what to segment.
            group: what makes an opinion (:meth:`autoseg.inference.ensemble.Ensemble.opinions`).

        Returns:
            Opinions ``(outputs, z, y, x)`` in canonical axes, on the grid of the original image.

        Raises:
            AutosegError: as for :meth:`predict_case`.
            UsageError: by rater, where none was learned separately.
        """
        return self.ensemble.opinions(self.ensemble.prepare(case), group)

    def predict_prepared(self, prepared: Prepared, results: Iterable[str] = (LABEL,)) -> Callable[[], Prediction]:
        """Apply the networks to a case that is prepared already.

        Args:
            prepared: the case as each stage of each member sees it.
            results: as for :meth:`predict_case`.

        Returns:
            What does the rest, and can do it in another thread, while the networks are applied to the next case.
        """
        writers = chosen_writers(results, self.ensemble)
        return partial(self._decode, self._score(prepared, writers), writers)

    def predict(
        self,
        cases: Iterable[Case],
        out: str | Path,
        results: Iterable[str] = (LABEL,),
        overwrite: bool = True,
        form: ResultFormat | None = None,
        scheme: LabelScheme | None = None,
    ) -> Outcome:
        """Segment cases into a folder; a case that fails is reported and does not stop the others.

        Args:
            cases: to segment.
            out: folder for ``<case><ending>``, and for ``predictions.json``, which says how they were made, and what
                earlier calls said of other cases of the same model.
            results: names of what is written for a case (:data:`autoseg.inference.results.writer.RESULTS`); the label
                map always is. ``probabilities`` writes ``<case>_probability_<output>``, for example.
            overwrite: segment a case again whose results, all that are asked for, exist and are of the same model.
            form: file format of label maps (:data:`autoseg.inference.formats.format.RESULT_FORMATS`); that of the scan
                where None.
            scheme: label values to write instead of the training data's.

        Returns:
            What was written, what failed.

        Raises:
            AutosegError: the disk is full.
            UsageError: no such result, or the members can't give it, or a result would overwrite a scan, a file that is
                no result, or the result of other scans, or one of another model would be kept, or no case can be
                written in the format, or no file in the folder.
        """
        writers = chosen_writers(results, self.ensemble)
        out = Path(out)
        refuse_unwritable_folder(out)
        out.mkdir(parents=True, exist_ok=True)
        outcome = Outcome()
        due = []
        cases = list(cases)
        for case in cases:
            if (why := why_not_plain(case.id)) is not None:
                raise UsageError(f"{case.id!r} can't name a result: {why}; rename the case.")
        places = {case.id: self._destination(case, out, form, scheme) for case in cases}
        self._refuse_overwriting(cases, places, writers)
        record = Record.of(out, self._provenance(writers, scheme), places)
        record.refuse_other_scans(cases)
        if not overwrite:
            record.refuse_keeping()
        for case in cases:
            known = not overwrite and case.id in record.earlier
            if known and all(path.exists() for path in self._paths(places[case.id], writers)):
                outcome.written[case.id] = places[case.id].label
                continue
            due.append(case)
        files = {case.id: self._paths(places[case.id], writers) for case in due}
        refuse_replacing(out, chain.from_iterable(files.values()), set(results_in(out)))
        due = _writable(due, form, outcome)
        self.ensemble.tune(len(due))
        record = record.begun(files)
        details: dict[str, dict[str, object]] = {}
        scans: dict[str, list[str]] = {}
        with (
            record.kept_up(details, outcome.written, outcome.failed) as tell,
            ReadAhead(due, partial(self._read, scans)) as reader,
            ThreadPoolExecutor(1, "writer") as writer,
            Steps("Predicting", max(len(due), 1)) as steps,
        ):
            writing: tuple[Case, Future[Path]] | None = None
            for case in due:
                started = time.monotonic()
                try:
                    prepared = reader.take()
                    scored = self._score(prepared, writers)
                    wait_for(self.ensemble.device)  # scores that stay there may not be computed yet
                    if writing is not None:
                        self._settle(*writing, outcome, out)
                    details[case.id] = {"seconds": round(time.monotonic() - started, 2), SCANS: scans[case.id]}
                    if missing := self.ensemble.missing_channels(prepared):
                        details[case.id]["missing_channels"] = missing
                        say(f"{case.id}: predicted without {', '.join(missing)}.")
                    # Before the result: of what a killed command leaves it is known what it is, and that it is no scan.
                    record.clear(case.id, scans[case.id])
                    tell()
                    writing = case, writer.submit(self._write, scored, places[case.id], scheme, writers)
                except Exception as error:  # one case must not stop the others, whatever is wrong with it
                    _stop_where_full(error, out)
                    _record_failure(outcome, case, error)
                steps.advance(note=case.id)
            if writing is not None:
                self._settle(*writing, outcome, out)
        return outcome

    def _read(self, scans: dict[str, list[str]], case: Case) -> Prepared:
        """A case as the networks see it; by what its scans are known again is noted."""
        prepared = self.ensemble.prepare(case)
        scans[case.id] = scans_of(case)
        return prepared

    def _score(self, prepared: Prepared, writers: Sequence[ResultWriter]) -> _Scored:
        """Apply the networks: everything that needs the device."""
        groups = dict.fromkeys(group for writer in writers for group in writer.groups)
        opinions = {group: self.ensemble.opinions(prepared, group) for group in groups if group not in FROM_SCORES}
        from_scores = any(writer.probabilities or writer.each_answer for writer in writers)
        if self.ensemble.decides_by_scores and not from_scores and not FROM_SCORES.intersection(groups):
            return _Scored(prepared, None, opinions, self.ensemble.segment(prepared))
        return _Scored(prepared, self.ensemble.scores(prepared), opinions)

    def _decode(self, scored: _Scored, writers: Sequence[ResultWriter]) -> Prediction:
        """Bring scores to the grid of the scan, and make label maps of them."""
        prepared, ensemble, scores = scored.prepared, self.ensemble, scored.scores
        trace = prepared[0][-1].trace
        missing, opinions = ensemble.missing_channels(prepared), dict(scored.opinions)
        if scores is None:
            assert scored.label is not None
            label = self._postprocessed(restore(scored.label.numpy(), trace), trace.geometry)
            return Prediction(label, {}, trace.geometry, missing, {}, opinions)
        groups = {group for writer in writers for group in writer.groups}
        for group in FROM_SCORES & groups:
            opinions[group] = ensemble.opinions(prepared, group, scores)
        labels: dict[str, np.ndarray] = {}
        if any(writer.each_answer for writer in writers):
            answers = zip(ensemble.answer_names, ensemble.answers(prepared, scores), strict=True)
            labels = {name: self._decided(one, trace.geometry) for name, one in answers}
        mean = ensemble.mean(prepared, scores)
        if not any(writer.probabilities for writer in writers):
            return Prediction(self._decided(mean, trace.geometry), {}, trace.geometry, missing, labels, opinions)
        every = NamedProbabilities([output.name for output in ensemble.deciding.outputs], mean)
        label = self._decided(every.volumes, trace.geometry)
        probabilities = every.only([output.name for output in self.target.outputs])
        return Prediction(label, probabilities, trace.geometry, missing, labels, opinions)

    def _decided(self, probabilities: Iterable[torch.Tensor], geometry: Geometry) -> np.ndarray:
        return self._postprocessed(paint_probabilities(probabilities, self.ensemble.deciding).numpy(), geometry)

    def _postprocessed(self, label: np.ndarray, geometry: Geometry) -> np.ndarray:
        if self.translation is not None:
            own = apply_steps(label, self.translation.steps, self.ensemble.deciding, geometry.spacing)
            label = self.translation.label(own)
        return apply_steps(label, self.postprocessing, self.target, geometry.spacing)

    def _destination(self, case: Case, out: Path, form: ResultFormat | None, scheme: LabelScheme | None) -> Destination:
        first = next(iter(case.channels.values()), None)
        ending = result_ending(image_ending(first.path) if first else None, self.file_ending)
        values = None if scheme is None else scheme.values
        parts = exclusive_segments(self.target, self.members[0].label_names, values)
        channels = tuple(self.members[0].channels)
        content = LabelContent(case, channels, segments_of(self.target, values), parts)
        return Destination(out / f"{case.id}{ending if form is None else form.ending}", case.id, form, content)

    def _write(
        self, scored: _Scored, to: Destination, scheme: LabelScheme | None, writers: Sequence[ResultWriter]
    ) -> Path:
        prediction = self._decode(scored, writers)
        if scheme is not None:
            prediction = scheme.applied(prediction)
        for writer in writers:
            writer.write(prediction, to)
        return to.label

    def _refuse_overwriting(
        self, cases: Sequence[Case], places: Mapping[str, Destination], writers: Sequence[ResultWriter]
    ) -> None:
        """A result must never take the place of a scan, or of another case's."""
        scans = {path.resolve() for case in cases for path in case.files}
        results: dict[Path, str] = {}
        for case in cases:
            files = self._paths(places[case.id], writers)
            # A scan may be the folder of a DICOM series.
            taken = next((path for path in files if scans & {path.resolve(), path.parent.resolve()}), None)
            if taken is not None:
                raise UsageError(f"--out {taken.parent}: the result would overwrite {taken}; choose another folder.")
            for path in files:
                if (other := results.setdefault(path, case.id)) != case.id:
                    raise UsageError(f"{path} would be a result of {other} and of {case.id}; rename one of them.")

    def _paths(self, to: Destination, writers: Sequence[ResultWriter]) -> list[Path]:
        """The files of a case's results."""
        return [writer.path(to.label, to.case, name) for writer in writers for name in writer.names(self.ensemble)]

    def _settle(self, case: Case, writing: "Future[Path]", outcome: Outcome, out: Path) -> None:
        try:
            outcome.written[case.id] = writing.result()
        except Exception as error:  # as in predict: reported, the others go on
            _stop_where_full(error, out)
            _record_failure(outcome, case, error)

    def _provenance(self, writers: Sequence[ResultWriter], scheme: LabelScheme | None) -> dict[str, Any]:
        """How results are made, as ``predictions.json`` says it."""
        told: dict[str, Any] = {
            "runs": [
                {
                    "run": member.name,
                    "planner": member.planner,
                    "networks": len(member.stages[-1].networks),
                    **member.detail,
                }
                for member in self.members
            ],
            "test_time_augmentation": self.ensemble.mirror,
            "postprocessing": [step.model_dump() for step in self.all_steps],
            **{key: value for writer in reversed(writers) for key, value in writer.provenance(self.ensemble).items()},
        }
        if scheme is not None:
            told["label_values"] = scheme.name
            told["outputs"] = {o.name: scheme.values.get(o.paint, o.paint) for o in self.target.outputs}
            told["structures"] = {s.name: list(s.values) for s in segments_of(self.target, scheme.values)}
        return told


def _more_memory(device: torch.device) -> str:
    """Where a user may find more memory than on a device, as an order."""
    return "use a machine with more" if device.type == "cpu" else "use --device cpu or a machine with more"


def _writable(cases: Sequence[Case], form: ResultFormat | None, outcome: Outcome) -> list[Case]:
    """The cases whose results can be written in a format; the others are reported, in one sentence where all are."""
    found, errors = [], {}
    for case in cases:
        try:
            if form is not None:
                form.check(case)
            found.append(case)
        except AutosegError as error:
            errors[case.id] = error
    if errors and not found:
        raise UsageError(str(next(iter(errors.values()))))
    for case in cases:
        if case.id in errors:
            _record_failure(outcome, case, errors[case.id])
    return found


def _stop_where_full(error: Exception, out: Path) -> None:
    """Raise an error that says that a folder of results is full: what is computed from then on is lost."""
    if lacks_room(error) and error.filename and Path(error.filename).parent == out:
        raise error


def _record_failure(outcome: Outcome, case: Case, error: Exception) -> None:
    outcome.failed[case.id] = _sentence(case, error)
    say(f"{case.id} failed: {outcome.failed[case.id]}")


def _sentence(case: Case, error: Exception) -> str:
    if isinstance(error, AutosegError):
        return str(error)
    if lacks_memory(error):
        return f"not enough memory for case {case.id}; use --device cpu or a machine with more."
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
