"""Validation of a fold: its validation cases, predicted like new ones and evaluated on their original grid."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from autoseg import __version__
from autoseg.crossvalidation.annotators import drawn_label_maps, measure_decoders, restored_label
from autoseg.data.description import LabelSource
from autoseg.data.file_names import result_ending
from autoseg.evaluation.cases import evaluate_pairs
from autoseg.evaluation.protocol import EvaluationProtocol
from autoseg.evaluation.summary import Evaluation
from autoseg.inference.chain import TrainedStage
from autoseg.inference.ensemble import Prepared
from autoseg.inference.formats.format import write_label
from autoseg.inference.members import Member
from autoseg.inference.prediction import Prediction
from autoseg.inference.predictor import Predictor
from autoseg.inference.read_ahead import ReadAhead
from autoseg.inference.results.writer import LABEL
from autoseg.inference.sliding_window import SlidingWindow
from autoseg.inference.translation import Translation, load_source
from autoseg.inference.variant_choice import inference_variant
from autoseg.networks import build, set_deep_supervision
from autoseg.networks.weights import content_of, load_weights
from autoseg.plans.postprocessing import Step
from autoseg.plans.recipe import ANNOTATORS_KEY
from autoseg.plans.stage import Stage
from autoseg.preprocessing.case import PreprocessedCase
from autoseg.preprocessing.store import StoredCase
from autoseg.runs.fold import Fold
from autoseg.runs.run import Run
from autoseg.runs.weight_files import read_metadata
from autoseg.utils.device import free_device_memory, wait_for
from autoseg.utils.digest import digest, file_digest
from autoseg.utils.files import write_text
from autoseg.utils.progress import Steps, say

#: Factor on the networks' time for reading, resampling and writing; a conservative estimate.
RESERVE_MARGIN = 1.25

#: File beside label maps as long as not all are made and evaluated: what they are made of, and a digest of each.
_UNFINISHED = "label_maps.txt"


def prediction_seconds(cases: Sequence[StoredCase], stage: Stage, device: torch.device) -> float:
    """Estimate the seconds to predict cases: time of one tile × tiles × mirrorings, of which two are measured."""
    if not cases:
        return 0.0
    network = build(stage.network, stage.in_channels, stage.heads).to(device).eval()
    set_deep_supervision(network, False)
    size = stage.configuration.tile_size
    tile = torch.zeros((stage.in_channels, *[1] * (3 - len(size)), *size))
    variant = inference_variant(stage, device)
    variant.prepare(network)
    window = SlidingWindow.of(stage, device, variant.dtype)
    measured = window.mirrorings[:2]
    fastest = float("inf")
    for _ in range(3):
        started = time.monotonic()
        replace(window, mirrorings=measured).scores([network], tile)
        wait_for(device)
        fastest = min(fastest, time.monotonic() - started)
    tiles = sum(window.count(case.shape) for case in cases)
    return RESERVE_MARGIN * fastest * tiles * len(window.mirrorings) / len(measured)


def validate_fold(fold: Fold, device: torch.device) -> Evaluation:
    """Predict the fold's validation cases with test-time augmentation and evaluate them on their original grid.

    The weights are the fold's, of each stage. If the dataset's label files are gone, the preprocessed labels, resampled
    to that grid, replace them. Without validation cases the result has no rows and nothing is written. Where annotators
    are learned separately, the mean of the decoders is evaluated, and a folder beside it gets each decoder's label maps
    and their Dice with each annotator.
    """
    weights = [[fold.of_stage(stage).weights] for stage in fold.stage.chain]
    return validate_with(fold, weights, fold.validation, device)


def validate_with(
    fold: Fold, weights: Sequence[Sequence[Path]], out: Path, device: torch.device, steps: Sequence[Step] = ()
) -> Evaluation:
    """Predict and evaluate a fold's validation cases as :func:`validate_fold` does, with weights from elsewhere.

    Args:
        fold: whose cases are predicted.
        weights: of each stage of its chain: files, whose networks predict together.
        out: folder of the label maps and their evaluation.
        device: to compute on.
        steps: of post-processing, where these belong to what is evaluated.
    """
    if not fold.validation_cases:
        return no_evaluation(fold.stage)
    cases = PreprocessedCases(fold.run, fold.stage, fold.validation_cases, f"Validating fold {fold.number}")
    return evaluate_cases(cases, weights, out, device, steps)


@dataclass(frozen=True)
class PreprocessedCases:
    """Cases of a run to predict and evaluate.

    Attributes:
        run: that they are preprocessed in.
        stage: that predicts them.
        names: of the cases.
        title: of the progress bar.
    """

    run: Run
    stage: Stage
    names: Sequence[str]
    title: str

    def prepared(self, name: str, predictor: Predictor) -> Prepared:
        """A case as the stages of the predictor see it."""
        stored = [StoredCase(self.run.preprocessed(one.configuration.data), name) for one in self.stage.chain]
        return [[PreprocessedCase(case.image(), None, case.trace) for case in stored]]

    def loaded(self, weights: Sequence[Sequence[Path]], device: torch.device) -> Member:
        """The networks of each stage of the chain, ready to predict the cases."""
        stages = [TrainedStage.load(*both, device) for both in zip(self.stage.chain, weights, strict=True)]
        return Member(str(self.run.path), stages)


@dataclass(frozen=True)
class CasesAsSourceSees(PreprocessedCases):
    """The same for the source model that a run starts from, as its own run predicts.

    Where the run harmonizes images, and the source was trained without, they are read from their scans.
    """

    @property
    def translates(self) -> bool:
        """Whether the source is cleaned up by steps on its own label values, before it gets the plan's."""
        return self.stage.as_source.target != self.stage.target

    def prepared(self, name: str, predictor: Predictor) -> Prepared:
        """A case as the stages of the predictor see it."""
        if self.stage.harmonizes_for_source:
            return predictor.ensemble.prepare(self.run.dataset.case(name))
        stored = StoredCase(self.run.preprocessed(self.stage.configuration.data), name)
        case, translation = PreprocessedCase(stored.image(), None, stored.trace), Translation.of(self.stage)
        return [[case if translation is None else translation.preprocessed(case, self.stage.as_source)]]

    def loaded(self, weights: Sequence[Sequence[Path]], device: torch.device) -> Member:
        """The source's networks, ready to predict the cases with all that they know."""
        stages = [load_source(*both, device) for both in zip(self.stage.chain, weights, strict=True)]
        return Member(str(self.run.path), stages, translation=Translation.of(self.stage))


def evaluate_cases(
    cases: PreprocessedCases,
    weights: Sequence[Sequence[Path]],
    out: Path,
    device: torch.device,
    steps: Sequence[Step] = (),
) -> Evaluation:
    """Predict preprocessed cases and evaluate them on their original grid, as :func:`validate_fold` says.

    As in a prediction, a thread reads the next case while the networks segment one, and another one writes the one
    before. Where that was interrupted, it goes on from the label maps that it made of the same weights, cases and
    inference.

    Args:
        cases: at least one.
        weights: of each stage of the chain: files, whose networks predict together.
        out: folder of the label maps and their evaluation.
        device: to compute on.
        steps: of post-processing, on the plan's label values, where these belong to what is evaluated.
    """
    stage, run = cases.stage, cases.run
    out.mkdir(parents=True, exist_ok=True)
    free_device_memory()  # what a training before needed
    member = cases.loaded(weights, device)
    predictor = Predictor([member], device, postprocessing=steps)
    made = _LabelMaps(out, stage.annotators, _made_of(cases, weights, member, device, steps))
    files = {name: f"{name}{result_ending(stage.file_ending)}" for name in cases.names}
    due = dict.fromkeys(name for name, file in files.items() if not made.has(file))
    if len(due) < len(files):
        say(f"{cases.title}: {len(files) - len(due)} of {len(files)} label maps are there, of the same networks.")
    results = (LABEL, ANNOTATORS_KEY) if stage.annotators else (LABEL,)
    data = run.preprocessed(stage.configuration.data)
    pairs: list[tuple[str, Path, LabelSource]] = []
    drawn: dict[str, dict[str, Path]] = {}
    with (
        ReadAhead(list(due), partial(cases.prepared, predictor=predictor)) as reader,
        ThreadPoolExecutor(1, "writer") as writer,
        Steps(cases.title, len(files)) as progress,
    ):
        writing: Future[None] | None = None
        for case_id, file in files.items():
            stored = StoredCase(data, case_id)
            if case_id in due:
                predicted = predictor.predict_prepared(reader.take(), results)
                if writing is not None:
                    writing.result()
                writing = writer.submit(made.write, predicted, file)
            case = run.dataset.case(case_id)
            reference = case.label
            if reference is None or not reference.exists():
                reference = restored_label(stored.label(), stored.trace, out / "references" / file)
            pairs.append((case_id, out / file, reference))
            drawn[case_id] = drawn_label_maps(case, stored, stage, out / "references", file)
            progress.advance()
        if writing is not None:
            writing.result()
    if stage.annotators:
        measure_decoders(out, {case: path.name for case, path, _ in pairs}, drawn, stage)
    protocol = EvaluationProtocol(empty=stage.empty, ignore=stage.result.ignore)
    evaluation = evaluate_pairs(pairs, stage.result.outputs, out, protocol)
    made.forget()
    return evaluation


def no_evaluation(stage: Stage) -> Evaluation:
    """An evaluation without cases."""
    return Evaluation((), tuple(output.name for output in stage.result.outputs), empty=stage.empty)


class _LabelMaps:
    """The label maps of an evaluation, of which an interrupted one may have made some.

    Args:
        out: their folder.
        annotators: whose decoders' label maps belong to a case, too.
        made_of: fingerprint of all that they depend on; those of another one don't count.
    """

    def __init__(self, out: Path, annotators: Sequence[str], made_of: str) -> None:
        self._out, self._annotators, self._path = out, annotators, out / _UNFINISHED
        before = self._path.read_text(encoding="utf-8", errors="replace") if self._path.is_file() else ""
        first, *lines = before.split("\n")
        parts = (line.partition(" ") for line in lines if first == made_of)
        self._digests = {name: content for content, _, name in parts if name}
        # Anew, as its last line may be cut off.
        write_text(self._path, "".join(f"{line}\n" for line in (made_of, *map(self._line, self._digests))))

    def has(self, file: str) -> bool:
        """Whether a case's label map, and that of each decoder, is there as it was written."""
        return all(map(self._is_there, (file, *(_of_decoder(name, file) for name in self._annotators))))

    def write(self, predicted: Callable[[], Prediction], file: str) -> None:
        """Finish a prediction, and write its label map and those of each decoder."""
        prediction = predicted()
        answers = {_of_decoder(name, file): label for name, label in prediction.answers.items()}
        for name, label in {file: prediction.label, **answers}.items():
            write_label(self._out / name, label, prediction.geometry)
            self._digests[name] = file_digest(self._out / name)
            with open(self._path, "a", encoding="utf-8") as noted:
                noted.write(f"{self._line(name)}\n")

    def forget(self) -> None:
        """All are made and evaluated: the next evaluation makes its own."""
        self._path.unlink(missing_ok=True)

    def _is_there(self, name: str) -> bool:
        path = self._out / name
        return name in self._digests and path.is_file() and file_digest(path) == self._digests[name]

    def _line(self, name: str) -> str:
        return f"{self._digests[name]} {name}"


def _of_decoder(name: str, file: str) -> str:
    """Where the label map of an annotator's decoder lies beside that of their mean."""
    return f"{ANNOTATORS_KEY}/{name}/{file}"


def _made_of(
    cases: PreprocessedCases,
    weights: Sequence[Sequence[Path]],
    member: Member,
    device: torch.device,
    steps: Sequence[Step],
) -> str:
    """A fingerprint of all that label maps depend on."""
    chain = cases.stage.chain
    folders = [cases.run.preprocessed(one.configuration.data) for one in chain]
    stored = [[StoredCase(folder, name) for folder in folders] for name in cases.names]
    contents = [[(content_of(load_weights(path)), read_metadata(path)) for path in files] for files in weights]
    parts = [(one.inference, one.recipe.initialization, one.result) for one in chain]
    return digest(
        {
            "autoseg": __version__,
            "device": device.type,
            "kind": type(cases).__name__,
            "stages": [[one.identity, one.configuration.tile_size] for one in chain],
            "settings": [[part.model_dump(mode="json") for part in of_stage] for of_stage in parts],
            "variants": [str(one.variant) for one in member.stages],
            "weights": contents,
            "postprocessing": [step.model_dump(mode="json") for step in steps],
            "cases": [[[one.id, one.info["key"], one.content] for one in of_case] for of_case in stored],
        }
    )
