"""Predictor: trained folds of one or several runs, applied to cases.

Reading, network and writing overlap: one thread reads and preprocesses the next case, this one runs the network, one
writes the case before. There are no worker processes, and never more than three cases in memory.
"""

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from autoseg.data.dataset import Case, LoadedCase, load_case
from autoseg.data.image import Geometry, result_ending, write_image
from autoseg.data.layouts.common import image_ending
from autoseg.data.nifti import faults
from autoseg.inference.chain import OnOriginal, TrainedStage, apply_stages
from autoseg.inference.decide import (
    DISAGREEMENT,
    Opinions,
    paint_probabilities,
    paint_scores,
    probability_channels,
)
from autoseg.inference.members import Member, load_member
from autoseg.inference.sliding_window import SlidingWindow, collector
from autoseg.plans.target import Target
from autoseg.postprocessing.steps import Step, agreed_steps, apply
from autoseg.preprocessing.case import PreprocessedCase, Trace, preprocess_case, restore
from autoseg.runs.run import Run
from autoseg.utils.device import keep_large_blocks, select_device
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import write_json
from autoseg.utils.progress import Steps, say

#: File formats that can't hold a probability between 0 and 1.
_INTEGER_FORMATS = (".png", ".jpg", ".jpeg", ".bmp")


@dataclass(frozen=True)
class Prediction:
    """What was found in one case, in canonical axes on the grid of the original image.

    Attributes:
        label: int16 ``(z, y, x)`` with the values of the training data.
        probabilities: output name → float32 ``(z, y, x)``; empty unless asked for.
        geometry: of the original file.
        missing: channels of the plan that the case lacked.
        raters: rater → label map in the way of ``label``, where raters were learned separately and it was asked for.
        disagreement: float32 ``(z, y, x)``: how far the raters' probabilities differ, 0 to 1
            (:meth:`autoseg.inference.decide.Opinions.disagreement`); None without ``raters``.
    """

    label: np.ndarray
    probabilities: dict[str, np.ndarray]
    geometry: Geometry
    missing: list[str] = field(default_factory=list)
    raters: dict[str, np.ndarray] = field(default_factory=dict)
    disagreement: np.ndarray | None = None


@dataclass(frozen=True)
class _Wanted:
    """What is asked for besides the label map."""

    probabilities: bool = False
    raters: bool = False


@dataclass
class Outcome:
    """What became of the cases: files written, and one sentence a case that failed."""

    written: dict[str, Path] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


class Predictor:
    """Segments cases with the average of all members' folds.

    Args:
        members: of one run or of several with the same target.
        device: to compute on.
        mirror: use test-time augmentation.
        postprocessing: what is done to a label map when it is decided; probabilities stay as they are.
    """

    def __init__(
        self, members: Sequence[Member], device: torch.device, mirror: bool = True, postprocessing: Sequence[Step] = ()
    ) -> None:
        self.members = list(members)
        self.device = device
        self.mirror = mirror
        self.postprocessing = tuple(postprocessing)
        first = self.members[0]
        for other in self.members[1:]:
            if _comparable(other.last.result) != _comparable(first.last.result):
                raise UsageError(
                    f"{other.name} segments {_names(other.last.result)}, {first.name} segments "
                    f"{_names(first.last.result)}; only runs with the same target can be averaged."
                )
        self.target = first.last.result
        self.file_ending = first.last.file_ending

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
            postprocessing: apply what ``autoseg postprocess`` chose; for several runs, where all have the same.

        Raises:
            AutosegError: a run or its weights are missing or unreadable.
            UsageError: no such configuration or device; nothing trained; targets that differ.
        """
        chosen = select_device(device)
        if chosen.type == "cpu":
            keep_large_blocks()
        paths = [runs] if isinstance(runs, str | Path) else list(runs)
        members = [load_member(Run.open(path), configuration, folds, chosen, checkpoint) for path in paths]
        of_runs = [(Path(member.name), str(member.detail["configuration"])) for member in members]
        steps = agreed_steps(of_runs, members[0].last.result) if postprocessing else ()
        return cls(members, chosen, mirror, steps)

    @property
    def raters(self) -> list[str]:
        """The raters that all members have learned separately; empty where they have not, or not the same ones."""
        first = self.members[0].last.raters
        return list(first) if all(member.last.raters == first for member in self.members) else []

    def predict_case(self, case: Case | LoadedCase, probabilities: bool = False, raters: bool = False) -> Prediction:
        """Segment one case.

        Args:
            case: what to segment.
            probabilities: of each output, too.
            raters: each rater's label map and their disagreement, too.

        Raises:
            AutosegError: the case can't be read, or lacks a channel that the plan insists on.
            UsageError: no raters were learned separately.
        """
        wanted = self._wanted(probabilities, raters)
        prepared = self._prepare(case)
        return self._finish(prepared, [self._heads(m, p) for m, p in zip(self.members, prepared, strict=True)], wanted)

    def scores(self, case: Case) -> tuple[OnOriginal, Trace]:
        """Logits of the only member's heads on the cropped original grid of a case, and the way from there to the scan.

        Raises:
            AutosegError: as for :meth:`predict_case`.
        """
        (prepared,) = self._prepare(case)
        return self._heads(self.members[0], prepared), prepared[-1].trace

    def predict(
        self,
        cases: Iterable[Case],
        out: str | Path,
        probabilities: bool = False,
        overwrite: bool = True,
        raters: bool = False,
    ) -> Outcome:
        """Segment cases into a folder; a case that fails is reported and does not stop the others.

        Args:
            cases: to segment.
            out: folder for ``<case><ending>``, and for ``predictions.json``, which says how they were made.
            probabilities: also write ``<case>_probability_<output>``.
            overwrite: segment a case again whose result exists.
            raters: also write ``<case>_rater_<name>`` and ``<case>_disagreement``.

        Returns:
            What was written, what failed.

        Raises:
            AutosegError: the folder can't be made.
            UsageError: no raters were learned separately, or a result would overwrite a scan.
        """
        wanted = self._wanted(probabilities, raters)
        out = Path(out)
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AutosegError(f"--out {out} can't be made ({error.strerror}); choose another folder.") from None
        outcome = Outcome()
        due = []
        cases = list(cases)
        self._refuse_overwriting(cases, out)
        for case in cases:
            path = out / f"{case.id}{self._ending(case)}"
            if path.exists() and not overwrite:
                outcome.written[case.id] = path
            else:
                due.append(case)
        details: dict[str, dict[str, object]] = {}
        with (
            ThreadPoolExecutor(1, "reader") as reader,
            ThreadPoolExecutor(1, "writer") as writer,
            Steps("Predicting", max(len(due), 1)) as steps,
        ):
            reading = reader.submit(self._prepare, due[0]) if due else None
            writing: tuple[Case, Future[Path]] | None = None
            for index, case in enumerate(due):
                started = time.monotonic()
                assert reading is not None
                current, reading = reading, None
                try:
                    prepared = current.result()
                    if index + 1 < len(due):
                        reading = reader.submit(self._prepare, due[index + 1])
                    heads = [self._heads(m, p) for m, p in zip(self.members, prepared, strict=True)]
                    if writing is not None:
                        self._settle(*writing, outcome)
                    writing = case, writer.submit(self._write, case, prepared, heads, out, wanted)
                    missing = _missing(self.members, [stages[-1].trace for stages in prepared])
                    details[case.id] = {"seconds": round(time.monotonic() - started, 2)}
                    if missing:
                        details[case.id]["missing_channels"] = missing
                        say(f"{case.id}: predicted without {', '.join(missing)}.")
                except Exception as error:  # one case must not stop the others, whatever is wrong with it
                    outcome.failed[case.id] = _sentence(case, error)
                    say(f"{case.id} failed: {outcome.failed[case.id]}")
                    if reading is None and index + 1 < len(due):
                        reading = reader.submit(self._prepare, due[index + 1])
                steps.advance(note=case.id)
            if writing is not None:
                self._settle(*writing, outcome)
        write_json(out / "predictions.json", self._provenance(details, outcome, wanted))
        return outcome

    def predict_preprocessed(
        self, image: np.ndarray, trace: Trace, earlier: Sequence[PreprocessedCase] = (), raters: bool = False
    ) -> Prediction:
        """Segment a preprocessed image (of the only member's configuration).

        Args:
            image: float32 ``(channel, z, y, x)``.
            trace: of the case.
            earlier: the case as each stage before sees it.
            raters: each rater's label map, too.
        """
        prepared = [*earlier, PreprocessedCase(image, None, trace)]
        return self._finish([prepared], [self._heads(self.members[0], prepared)], self._wanted(False, raters))

    def _wanted(self, probabilities: bool, raters: bool) -> _Wanted:
        if raters and not self.raters:
            names = ", ".join(member.name for member in self.members)
            raise UsageError(
                f"--raters: {names} did not learn the same raters separately; plan with --raters all, or leave it out."
            )
        return _Wanted(probabilities, raters)

    def _prepare(self, case: Case | LoadedCase) -> list[list[PreprocessedCase]]:
        """The case as each stage of each member sees it; stages on the same grid share one."""
        prepared = []
        if isinstance(case, Case):
            refuse_incomplete(case)
        for member in self.members:
            last = member.last
            loaded = load_case(case, last.channel_names, with_label=False) if isinstance(case, Case) else case
            if not all(loaded.present) and not last.takes_missing_channels:
                lacking = [n for n, p in zip(last.channel_names, loaded.present, strict=True) if not p]
                raise AutosegError(
                    f"the channel {', '.join(lacking)} is missing, and {member.name} was not "
                    "trained for missing channels; give it, or train a run with --set recipe.channel_dropout=0.2."
                )
            if member.brain_mask and loaded.mask is None:
                name = case.id if isinstance(case, Case) else "this case"
                say(
                    f"{name}: {member.name} was trained with brain masks and this scan has none: non-zero voxels count."
                )
            seen: dict[str, PreprocessedCase] = {}
            data = [trained.stage.configuration.data for trained in member.stages]
            for name, trained in zip(data, member.stages, strict=True):
                if name not in seen:
                    seen[name] = preprocess_case(loaded, trained.stage)
            prepared.append([seen[name] for name in data])
        return prepared

    def _heads(self, member: Member, prepared: Sequence[PreprocessedCase]) -> OnOriginal:
        return apply_stages(member.stages, prepared, self.target, self._scores)

    def _scores(self, trained: TrainedStage, image: torch.Tensor) -> torch.Tensor:
        return SlidingWindow.of(trained.stage, self.device, mirror=self.mirror).scores(trained.networks, image)

    def _finish(
        self, prepared: Sequence[Sequence[PreprocessedCase]], heads: Sequence[OnOriginal], wanted: _Wanted
    ) -> Prediction:
        """Bring scores to the original grid and decide."""
        traces = [stages[-1].trace for stages in prepared]
        missing = _missing(self.members, traces)
        if len(self.members) == 1 and not wanted.probabilities and not self.raters:
            painted = paint_scores(heads[0], self.target)
            label = self._postprocessed(restore(painted.cpu().numpy(), traces[0]), traces[0].geometry)
            return Prediction(label, {}, traces[0].geometry, missing)
        blocks = [logits.blocks(self.target.heads) for logits in heads]
        # A rater's opinion is the mean of all members' decoders for that rater.
        parts = [
            [(trace, own[rater], len(blocks)) for trace, own in zip(traces, blocks, strict=True)]
            for rater in range(len(self.raters))
        ] or [[(trace, one, len(blocks) * len(own)) for trace, own in zip(traces, blocks, strict=True) for one in own]]
        opinions = Opinions()
        raters: dict[str, np.ndarray] = {}
        for name, part in zip(self.raters or [""], parts, strict=True):
            said = self._probabilities(part)
            if wanted.raters:
                raters[name] = self._decided(said, traces[0].geometry)
            opinions.add(said)
        named = {output.name: opinions.mean[index].numpy() for index, output in enumerate(self.target.outputs)}
        return Prediction(
            self._decided(opinions.mean, traces[0].geometry),
            named if wanted.probabilities else {},
            traces[0].geometry,
            missing,
            raters,
            opinions.disagreement().numpy() if wanted.raters else None,
        )

    def _probabilities(self, parts: Sequence[tuple[Trace, OnOriginal, int]]) -> torch.Tensor:
        """Sum of opinions' probabilities, each divided by its number, on the scan's grid: ``(outputs, z, y, x)``."""
        total = collector((len(self.target.outputs), *parts[0][0].canonical_shape), torch.device("cpu"))
        for trace, logits, divisor in parts:
            for index, channel in enumerate(probability_channels(logits, self.target)):
                total[index] += torch.from_numpy(restore(channel.numpy(), trace)) / divisor
        return total

    def _decided(self, probabilities: torch.Tensor, geometry: Geometry) -> np.ndarray:
        return self._postprocessed(paint_probabilities(probabilities, self.target).numpy(), geometry)

    def _postprocessed(self, label: np.ndarray, geometry: Geometry) -> np.ndarray:
        return apply(label, self.postprocessing, self.target, geometry.spacing)

    def _write(
        self,
        case: Case,
        prepared: Sequence[Sequence[PreprocessedCase]],
        heads: Sequence[OnOriginal],
        out: Path,
        wanted: _Wanted,
    ) -> Path:
        prediction = self._finish(prepared, heads, wanted)
        path = out / f"{case.id}{self._ending(case)}"
        for name, volume in prediction.probabilities.items():
            write_image(beside(path, case.id, f"probability_{name}"), volume, prediction.geometry)
        for name, label in prediction.raters.items():
            write_label(out / f"{case.id}_rater_{name}{self._ending(case)}", label, prediction.geometry)
        if prediction.disagreement is not None:
            write_image(beside(path, case.id, "disagreement"), prediction.disagreement, prediction.geometry)
        write_label(path, prediction.label, prediction.geometry)
        return path

    def _ending(self, case: Case) -> str:
        first = next(iter(case.channels.values()), None)
        return result_ending(image_ending(first.path) if first else None, self.file_ending)

    def _refuse_overwriting(self, cases: Sequence[Case], out: Path) -> None:
        """A result must never take the place of a scan."""
        scans = {path.resolve() for case in cases for path in case.files}
        for case in cases:
            ending = self._ending(case)
            names = [f"{case.id}{ending}"]
            names += [f"{case.id}_probability_{output.name}{ending}" for output in self.target.outputs]
            names += [f"{case.id}_{said}{ending}" for said in (*(f"rater_{r}" for r in self.raters), "disagreement")]
            taken = next((name for name in names if (out / name).resolve() in scans), None)
            if taken is not None:
                raise UsageError(f"--out {out}: the result would overwrite {out / taken}; choose another folder.")

    def _settle(self, case: Case, writing: "Future[Path]", outcome: Outcome) -> None:
        try:
            outcome.written[case.id] = writing.result()
        except Exception as error:  # as in predict: reported, the others go on
            outcome.failed[case.id] = _sentence(case, error)
            say(f"{case.id} failed: {outcome.failed[case.id]}")

    def _provenance(
        self, details: dict[str, dict[str, object]], outcome: Outcome, wanted: _Wanted
    ) -> dict[str, object]:
        return {
            "runs": [
                {
                    "run": member.name,
                    "planner": member.planner,
                    "networks": len(member.stages[-1].networks),
                    **member.detail,
                }
                for member in self.members
            ],
            "test_time_augmentation": self.mirror,
            "postprocessing": [step.model_dump() for step in self.postprocessing],
            "outputs": {output.name: output.paint for output in self.target.outputs},
            **({"mean_of_raters": self.raters} if self.raters else {}),
            **({"disagreement": DISAGREEMENT} if wanted.raters else {}),
            "cases": {case: said for case, said in details.items() if case not in outcome.failed},
            "kept_from_before": [case for case in outcome.written if case not in details],
            "failed": outcome.failed,
        }


def beside(result: Path, case: str, what: str) -> Path:
    """Where a map of numbers between 0 and 1 lies that belongs to a case's label map."""
    ending = result.name[len(case) :]
    return result.with_name(f"{case}_{what}{'.tiff' if ending in _INTEGER_FORMATS else ending}")


def write_label(path: Path, label: np.ndarray, geometry: Geometry) -> None:
    """Write a label map in the smallest integer type that holds it."""
    write_image(path, label.astype(np.uint8) if label.min() >= 0 and label.max() <= 255 else label, geometry)


def refuse_incomplete(case: Case) -> None:
    """SimpleITK reads what a broken download lacks as zeros; a segmentation of that must not leave the house.

    Raises:
        AutosegError: a file of the case is cut off.
    """
    for path in case.files:
        if path.exists() and faults(path).incomplete:
            raise AutosegError(f"{path} is cut off: voxels are missing at its end; copy or download it again.")


def _comparable(target: Target) -> tuple[str, list[tuple[str, int]]]:
    return target.kind, [(output.name, output.paint) for output in target.outputs]


def _names(target: Target) -> str:
    return f"the {target.kind} {', '.join(f'{output.name} ({output.paint})' for output in target.outputs)}"


def _missing(members: Sequence[Member], traces: Sequence[Trace]) -> list[str]:
    names = [
        name
        for member, trace in zip(members, traces, strict=True)
        for name, present in zip(member.last.channel_names, trace.present, strict=True)
        if not present
    ]
    return list(dict.fromkeys(names))


def _sentence(case: Case, error: Exception) -> str:
    if isinstance(error, AutosegError):
        return str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return f"not enough memory for case {case.id}; use --device cpu or a machine with more."
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
