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
from torch import nn

from autoseg import __version__
from autoseg.dataset import Case, LoadedCase, load_case
from autoseg.device import keep_large_blocks, resolve_precision, select_device
from autoseg.errors import AutosegError, UsageError
from autoseg.files import write_json
from autoseg.image import Geometry, result_ending, write_image
from autoseg.inference.decide import paint_probabilities, paint_scores, probability_channels
from autoseg.inference.sliding_window import collector, predict_scores
from autoseg.layouts.common import image_ending
from autoseg.networks.weights import load_network
from autoseg.nifti import faults
from autoseg.plan import Configuration, Plan, Target
from autoseg.preprocessing.case import PreprocessedCase, Trace, preprocess_case, restore, scores_on_original
from autoseg.progress import Steps, say
from autoseg.run import Run

#: File formats that can't hold a probability between 0 and 1.
_INTEGER_FORMATS = (".png", ".jpg", ".jpeg", ".bmp")


@dataclass(frozen=True)
class Member:
    """One run's part in a prediction.

    Attributes:
        name: of the run, for messages.
        plan: what it was trained by.
        configuration: which of the plan's.
        networks: of its folds.
        brain_mask: whether its training cases had brain masks, which decide on cropping and normalization.
        detail: which configuration, folds and checkpoint, for the record.
    """

    name: str
    plan: Plan
    configuration: Configuration
    networks: list[nn.Module]
    brain_mask: bool = False
    detail: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """What was found in one case, in canonical axes on the grid of the original image.

    Attributes:
        label: int16 ``(z, y, x)`` with the values of the training data.
        probabilities: output name → float32 ``(z, y, x)``; empty unless asked for.
        geometry: of the original file.
        missing: channels of the plan that the case lacked.
    """

    label: np.ndarray
    probabilities: dict[str, np.ndarray]
    geometry: Geometry
    missing: list[str] = field(default_factory=list)


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
    """

    def __init__(self, members: Sequence[Member], device: torch.device, mirror: bool = True) -> None:
        self.members = list(members)
        self.device = device
        self.mirror = mirror
        first = self.members[0].plan
        for other in self.members[1:]:
            if _comparable(other.plan.target) != _comparable(first.target):
                raise UsageError(
                    f"{other.name} segments {_names(other.plan.target)}, {self.members[0].name} segments "
                    f"{_names(first.target)}; only runs with the same target can be averaged."
                )
        self.target = first.target
        self.file_ending = first.file_ending

    @classmethod
    def load(
        cls,
        runs: str | Path | Sequence[str | Path],
        configuration: str | None = None,
        folds: Sequence[int] | None = None,
        device: str = "auto",
        mirror: bool = True,
        checkpoint: str = "weights",
    ) -> "Predictor":
        """Load the trained folds of one or several run folders.

        Args:
            runs: run folder(s).
            configuration: name; each run's recommended one (or the only trained one) where None.
            folds: numbers; all trained ones where None.
            device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
            mirror: use test-time augmentation.
            checkpoint: ``weights`` (end of the training) or ``best`` (best validation on the way).

        Raises:
            AutosegError: a run or its weights are missing or unreadable.
            UsageError: no such configuration or device; nothing trained; targets that differ.
        """
        chosen = select_device(device)
        if chosen.type == "cpu":
            keep_large_blocks()
        paths = [runs] if isinstance(runs, str | Path) else list(runs)
        members = [_load_member(Run.open(path), configuration, folds, chosen, checkpoint) for path in paths]
        return cls(members, chosen, mirror)

    def predict_case(self, case: Case | LoadedCase, probabilities: bool = False) -> Prediction:
        """Segment one case.

        Raises:
            AutosegError: the case can't be read, or lacks a channel that the plan insists on.
        """
        prepared = self._prepare(case)
        return self._finish(
            prepared, [self._scores(m, p) for m, p in zip(self.members, prepared, strict=True)], probabilities
        )

    def predict(
        self, cases: Iterable[Case], out: str | Path, probabilities: bool = False, overwrite: bool = True
    ) -> Outcome:
        """Segment cases into a folder; a case that fails is reported and does not stop the others.

        Args:
            cases: to segment.
            out: folder for ``<case><ending>``, and for ``predictions.json``, which says how they were made.
            probabilities: also write ``<case>_probability_<output>``.
            overwrite: segment a case again whose result exists.

        Returns:
            What was written, what failed.
        """
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
                    scores = [self._scores(m, p) for m, p in zip(self.members, prepared, strict=True)]
                    if writing is not None:
                        self._settle(*writing, outcome)
                    writing = case, writer.submit(self._write, case, prepared, scores, out, probabilities)
                    missing = _missing(self.members, prepared)
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
        write_json(out / "predictions.json", self._provenance(details, outcome))
        return outcome

    def predict_preprocessed(self, image: np.ndarray, trace: Trace) -> np.ndarray:
        """Segment a preprocessed image (of the only member's configuration); int16 in canonical original axes."""
        prepared = PreprocessedCase(image, None, trace)
        return self._finish([prepared], [self._scores(self.members[0], prepared)], False).label

    def _prepare(self, case: Case | LoadedCase) -> list[PreprocessedCase]:
        prepared = []
        if isinstance(case, Case):
            _refuse_incomplete(case)
        for member in self.members:
            plan = member.plan
            loaded = load_case(case, plan.channel_names, with_label=False) if isinstance(case, Case) else case
            if not all(loaded.present) and not plan.allow_missing_channels:
                lacking = [n for n, p in zip(plan.channel_names, loaded.present, strict=True) if not p]
                raise AutosegError(
                    f"the channel {', '.join(lacking)} is missing, and {member.name} was not "
                    "trained for missing channels."
                )
            if member.brain_mask and loaded.mask is None:
                name = case.id if isinstance(case, Case) else "this case"
                say(
                    f"{name}: {member.name} was trained with brain masks and this scan has none: non-zero voxels count."
                )
            prepared.append(preprocess_case(loaded, plan, member.configuration))
        return prepared

    def _scores(self, member: Member, prepared: PreprocessedCase) -> torch.Tensor:
        configuration = member.configuration
        return predict_scores(
            member.networks,
            torch.from_numpy(prepared.image),
            configuration.tile_size,
            self.target.heads,
            configuration.inference,
            self.device,
            resolve_precision(configuration.recipe.precision, self.device),
            mirror=self.mirror,
            context=configuration.tile_context,
        )

    def _finish(
        self, prepared: Sequence[PreprocessedCase], scores: list[torch.Tensor], probabilities: bool
    ) -> Prediction:
        """Bring scores to the original grid and decide."""
        trace = prepared[0].trace
        missing = _missing(self.members, prepared)
        if len(self.members) == 1 and not probabilities:
            painted = paint_scores(_OnOriginal(scores[0], trace), self.target)
            return Prediction(restore(painted.cpu().numpy(), trace), {}, trace.geometry, missing)
        size = [trace.shape[axis] for axis in np.argsort(trace.transpose)]
        mean = collector((len(self.target.outputs), *size), torch.device("cpu"))
        for case, logits in zip(prepared, scores, strict=True):
            heads = _OnOriginal(logits, case.trace)
            for index, channel in enumerate(probability_channels(heads, self.target)):
                mean[index] += torch.from_numpy(restore(channel.numpy(), case.trace)) / len(prepared)
        label = paint_probabilities(mean, self.target).numpy()
        named = {output.name: mean[index].numpy() for index, output in enumerate(self.target.outputs)}
        return Prediction(label, named if probabilities else {}, trace.geometry, missing)

    def _write(
        self,
        case: Case,
        prepared: Sequence[PreprocessedCase],
        scores: list[torch.Tensor],
        out: Path,
        probabilities: bool,
    ) -> Path:
        prediction = self._finish(prepared, scores, probabilities)
        ending = self._ending(case)
        exact = ".tiff" if ending in _INTEGER_FORMATS else ending
        for name, volume in prediction.probabilities.items():
            write_image(out / f"{case.id}_probability_{name}{exact}", volume, prediction.geometry)
        path = out / f"{case.id}{ending}"
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
            taken = next((name for name in names if (out / name).resolve() in scans), None)
            if taken is not None:
                raise UsageError(f"--out {out}: the result would overwrite {out / taken}; choose another folder.")

    def _settle(self, case: Case, writing: "Future[Path]", outcome: Outcome) -> None:
        try:
            outcome.written[case.id] = writing.result()
        except Exception as error:  # as in predict: reported, the others go on
            outcome.failed[case.id] = _sentence(case, error)
            say(f"{case.id} failed: {outcome.failed[case.id]}")

    def _provenance(self, details: dict[str, dict[str, object]], outcome: Outcome) -> dict[str, object]:
        return {
            "runs": [
                {"run": member.name, "planner": member.plan.planner, "networks": len(member.networks), **member.detail}
                for member in self.members
            ],
            "test_time_augmentation": self.mirror,
            "outputs": {output.name: output.paint for output in self.target.outputs},
            "cases": {case: said for case, said in details.items() if case not in outcome.failed},
            "kept_from_before": [case for case in outcome.written if case not in details],
            "failed": outcome.failed,
        }


class _OnOriginal(Sequence[torch.Tensor]):
    """Scores on the cropped original grid, resampled a head at a time when looked at, to hold few in memory."""

    def __init__(self, scores: torch.Tensor, trace: Trace) -> None:
        self._scores = scores
        self._trace = trace

    def __len__(self) -> int:
        return len(self._scores)

    def __getitem__(self, index: int) -> torch.Tensor:  # type: ignore[override]
        return scores_on_original(self._scores[index], self._trace).cpu()


def write_label(path: Path, label: np.ndarray, geometry: Geometry) -> None:
    """Write a label map in the smallest integer type that holds it."""
    write_image(path, label.astype(np.uint8) if label.min() >= 0 and label.max() <= 255 else label, geometry)


def _refuse_incomplete(case: Case) -> None:
    """SimpleITK reads what a broken download lacks as zeros; a segmentation of that must not leave the house."""
    for path in case.files:
        if path.exists() and faults(path).incomplete:
            raise AutosegError(f"{path} is cut off: voxels are missing at its end; copy or download it again.")


def _load_member(
    run: Run, configuration: str | None, folds: Sequence[int] | None, device: torch.device, checkpoint: str
) -> Member:
    plan = run.plan
    name = configuration
    if name is None:
        trained = [c for c in plan.configurations if run.trained_folds(c)]
        name = plan.recommended if plan.recommended in trained or not trained else trained[0]
    name, chosen = plan.configuration(name)
    available = run.trained_folds(name)
    if not available:
        raise UsageError(f"{run.path} has no trained fold of {name}; train it with 'autoseg train {run.path}'.")
    absent = sorted(set(folds or ()) - set(available))
    if absent:
        raise UsageError(
            f"--folds {absent[0]} of {name} is not trained in {run.path}; trained: {', '.join(map(str, available))}."
        )
    networks = [
        load_network(run.fold(name, fold) / f"{checkpoint}.safetensors", plan, chosen, device)
        for fold in (folds or available)
    ]
    brain_mask = any(case.mask is not None for case in run.dataset.cases)
    detail: dict[str, object] = {
        "configuration": name,
        "folds": list(folds or available),
        "checkpoint": checkpoint,
        "autoseg": __version__,
    }
    return Member(str(run.path), plan, chosen, networks, brain_mask, detail)


def _comparable(target: Target) -> tuple[str, list[tuple[str, int]]]:
    return target.kind, [(output.name, output.paint) for output in target.outputs]


def _names(target: Target) -> str:
    return f"the {target.kind} {', '.join(f'{output.name} ({output.paint})' for output in target.outputs)}"


def _missing(members: Sequence[Member], prepared: Sequence[PreprocessedCase]) -> list[str]:
    names = [
        name
        for member, case in zip(members, prepared, strict=True)
        for name, present in zip(member.plan.channel_names, case.trace.present, strict=True)
        if not present
    ]
    return list(dict.fromkeys(names))


def _sentence(case: Case, error: Exception) -> str:
    if isinstance(error, AutosegError):
        return str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return f"not enough memory for case {case.id}; use --device cpu or a machine with more."
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
