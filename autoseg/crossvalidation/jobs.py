"""``autoseg.train``: preprocess → train each fold → predict its validation cases → one cross-validated table.

A configuration that follows others has them trained first, as far as it needs them
(:mod:`autoseg.crossvalidation.cascades`).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import numpy as np
import torch

from autoseg import __version__
from autoseg.crossvalidation.cascades import Part, folds_of_plan, hand_on, refuse_unpredicted, schedule, stage_cases
from autoseg.crossvalidation.rater_validation import FOLDER, measure_decoders, restored_label, what_was_drawn
from autoseg.data.image import Geometry, result_ending
from autoseg.evaluation.cases import evaluate_pairs
from autoseg.evaluation.summary import Evaluation
from autoseg.inference.chain import TrainedStage
from autoseg.inference.predictor import Member, Predictor, write_label
from autoseg.inference.sliding_window import count_tiles, predict_scores
from autoseg.networks import build, set_deep_supervision
from autoseg.networks.weights import load_network
from autoseg.plans.configuration import Configuration
from autoseg.plans.plan import Plan
from autoseg.plans.stage import Stage
from autoseg.preprocessing.case import PreprocessedCase
from autoseg.preprocessing.dataset import preprocess, refuse_lacking
from autoseg.preprocessing.store import StoredCase
from autoseg.runs.fold import DONE
from autoseg.runs.run import Run
from autoseg.training.loop import Budget, train_fold, training_identity
from autoseg.training.previous import CascadeCase
from autoseg.training.state import State
from autoseg.transfer.record import start_from_model
from autoseg.transfer.teacher_scores import teacher_scores
from autoseg.utils.device import keep_large_blocks, resolve_precision, select_device
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import read_json, write_json
from autoseg.utils.parallel import available_cpus
from autoseg.utils.progress import Steps, say

#: Of a time budget at most this share is kept for predicting the validation cases at the end.
LARGEST_RESERVE = 0.3

#: Files that a fold's training leaves.
FILES = (
    DONE,
    "training_state.pt",
    "weights.safetensors",
    "best.safetensors",
    "history.csv",
    "log.txt",
    "previous.json",
)

#: A validation takes longer than its networks alone: reading, resampling, writing. An estimate on the safe side.
RESERVE_MARGIN = 1.25


def train(
    run: Run | str | Path,
    configuration: str | None = None,
    folds: Sequence[int] | None = None,
    epochs: int | None = None,
    max_seconds: float | None = None,
    device: str = "auto",
    seed: int = 0,
    workers: int | None = None,
    resume: bool | None = None,
) -> Evaluation:
    """Train folds of a cross-validation and validate them; goes on where an interrupted training stopped.

    Args:
        run: the run folder.
        configuration: name; the recommended one where None. The stages before it are trained first, with all folds
            where their predictions are its input, else with the same ones.
        folds: numbers; all where None.
        epochs: length of each fold's training, in every stage; the plan's where neither this nor ``max_seconds`` is
            given.
        max_seconds: wall-clock time for each fold, from its first step to its last validation prediction, with all the
            stages before.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        seed: of initialisation, patches and augmentation.
        workers: processes for preprocessing and for loading patches; chosen for the machine where None.
        resume: None continues a fold that was begun and starts others; True insists on there being one to continue;
            False starts over these folds, in every stage; folds of an earlier stage that only their predictions are
            needed of are kept.

    Returns:
        The evaluation of every fold of the configuration that is trained by now, these and earlier ones.

    Raises:
        AutosegError: the data can't be read, or a saved training belongs to another plan.
        UsageError: options that contradict each other or name what does not exist.
    """
    if epochs is not None and max_seconds is not None:
        raise UsageError("--epochs and --max-time can't both set the length of the training; give one.")
    if epochs is not None and epochs < 1:
        raise UsageError(f"--epochs {epochs} is too few; give 1 or more.")
    if max_seconds is not None and max_seconds <= 0:
        raise UsageError("--max-time must be longer than nothing.")
    run = run if isinstance(run, Run) else Run.open(run)
    if not run.dataset.cases:
        raise AutosegError(
            f"{run.path} has no cases to train on: its model was imported; to fine-tune it, plan a dataset with "
            f"'autoseg plan DATASET --source {run.path} --out RUN'."
        )
    chosen_device = select_device(device)
    if chosen_device.type == "cpu":
        keep_large_blocks()
        torch.set_num_threads(available_cpus())
    elif chosen_device.type == "cuda":
        # Every step has the same shapes, so that searching for the fastest convolutions once pays.
        torch.backends.cudnn.benchmark = True
    plan = run.plan
    name, _ = plan.configuration(configuration)
    chain = plan.stages(name)
    refuse_lacking(run.dataset, plan.stage(name))  # before a stage is trained that no other could follow
    refuse_unpredicted(run, plan, name)
    numbers = list(range(len(run.splits))) if folds is None else list(folds)
    for fold in numbers:
        run.split(fold)
        if resume is True and not any((run.fold(stage, fold).folder / "training_state.pt").exists() for stage in chain):
            raise UsageError(f"--resume: fold {fold} of {name} in {run.path} was never begun; leave the option out.")
    parts = schedule(plan, name, numbers, len(run.splits), max_seconds)
    for stage in chain:
        config = plan.configurations[stage]
        mine = [part for part in parts if part.name == stage]
        if len(chain) > 1:
            say(f"Stage {chain.index(stage) + 1} of {len(chain)}: {stage}, {_listed([part.fold for part in mine])}.")
        preprocess(run, stage, workers)
        if config.previous is not None and config.previous.use == "channels":
            hand_on(run, plan, stage, workers)
        for part in mine:
            _train_one(
                run,
                plan,
                config,
                part,
                epochs,
                chosen_device,
                seed,
                workers,
                resume is not False,
                asked=part.fold in numbers,
                last=stage == name,
            )
        evaluation = cross_validated(run, stage)
    return evaluation


def _listed(folds: Sequence[int]) -> str:
    return f"fold{'s' if len(folds) > 1 else ''} {', '.join(str(fold) for fold in folds)}"


def _train_one(
    run: Run,
    plan: Plan,
    config: Configuration,
    part: Part,
    epochs: int | None,
    device: torch.device,
    seed: int,
    workers: int | None,
    resume: bool,
    asked: bool,
    last: bool,
) -> None:
    name, fold, max_seconds = part.name, part.fold, part.seconds
    folder = run.fold(name, fold).folder
    folder.mkdir(parents=True, exist_ok=True)
    split = run.split(fold)
    training = stage_cases(run, plan, name, split["train"])
    validation = stage_cases(run, plan, name, split["validation"])
    if not training:
        assert config.previous is not None
        raise AutosegError(
            f"{name} works inside the box of {config.previous.output}, which no training case of fold {fold} has; "
            f"plan without that stage."
        )
    learnt = teacher_scores(run.fold(name, fold))
    if learnt is not None:
        training = [learnt.of(case) for case in training]
    request = f"{max_seconds:g} seconds" if max_seconds is not None else f"{epochs or config.recipe.epochs} epochs"
    identity = training_identity(plan.stage(name), [*training, *validation], seed)
    if not resume and (asked or not _is_done(folder, "", identity, at_least=True)):
        _start_over(folder)
    if _is_done(folder, request, identity, at_least=not last):
        say(f"Fold {fold} of {name} is trained already ({request}); --restart trains it anew.")
        return
    _start_over_after_another(folder, name, training)
    for name_of_file in FILES:
        for stale in folder.glob(f".{name_of_file}.*"):  # half-written by a process that was killed
            stale.unlink(missing_ok=True)
    if learnt is not None:
        learnt.predict(run, training, config.patch_size, str(device))
    started = time.monotonic()
    if max_seconds is not None:
        estimates = (
            _validation_seconds(
                stage_cases(run, plan, stage, split["validation"]), plan, plan.configurations[stage], device
            )
            for stage in plan.stages(name)
        )
        reserve = min(sum(estimates), LARGEST_RESERVE * max_seconds)
        budget = Budget(seconds=max(max_seconds - reserve - (time.monotonic() - started), 1.0))
        length = f"{max_seconds / 60:.3g} minutes, {reserve:.0f} s of them for the final validation"
    else:
        rounds = config.recipe.epochs if epochs is None else epochs
        budget = Budget(iterations=rounds * config.recipe.iterations_per_epoch)
        length = f"{rounds} epochs of {config.recipe.iterations_per_epoch} iterations"
    log = _Log(folder / "log.txt")
    precision = str(resolve_precision(config.recipe.precision, device)).removeprefix("torch.")
    log(
        f"autoseg {__version__}, {name}, fold {fold}: {len(training)} training and {len(validation)} validation cases, "
        f"{length}, on {device} in {precision}"
    )
    if learnt is not None:
        log(str(learnt))
    with Steps(f"Training {name}, fold {fold}", 1) as steps:
        state = train_fold(
            folder,
            plan.stage(name),
            training,
            validation,
            budget,
            device,
            seed,
            workers,
            resume,
            lambda progress, note: steps.at(progress, note),
            lambda network: _start_from(network, plan.stage(name), run, log),
        )
    log(f"trained {state.iteration} iterations in {state.seconds:.0f} s{_best(state)}")
    if config.recipe.initialization.keep:
        log(f"the weights are {1 - state.kept:.0%} trained and {state.kept:.0%} the source's")
    evaluation = validate_fold(run, plan, name, config, fold, device)
    if evaluation.cases:
        log(f"mean Dice over {len(evaluation.cases)} validation cases: {evaluation.mean('dice'):.4f}")
    done = {"request": request, "identity": identity, "iterations": state.iteration, "seconds": state.seconds}
    write_json(folder / DONE, done)


def _start_from(network: torch.nn.Module, stage: Stage, run: Run, log: Callable[[str], None]) -> None:
    """Give a new network the weights that the recipe has it start from."""
    if stage.recipe.initialization.source == "random":
        return
    if stage.recipe.initialization.source == "model":
        log(start_from_model(network, stage, run.path))
        return
    # Imported here: it needs an extra that other networks do not.
    from autoseg.transfer.pretrained import load_initial_weights

    loaded = load_initial_weights(network, stage.recipe.initialization, run.path)
    if loaded:
        log(loaded)


def _is_done(folder: Path, request: str, identity: str, at_least: bool) -> bool:
    """Whether a fold is trained and validated as asked for; with ``at_least``, or for longer."""
    if not ((folder / DONE).exists() and (folder / "weights.safetensors").exists()):
        return False
    done = read_json(folder / DONE)
    if done["identity"] != identity:
        return False
    return bool(done["request"] == request or (at_least and _no_longer(request, str(done["request"]))))


def _no_longer(request: str, other: str) -> bool:
    """Whether a request (``9 seconds``, ``20 epochs``) asks for no more than another of its kind; an empty one does."""
    if not request:
        return True
    (length, unit), (other_length, other_unit) = request.split(), other.split()
    return unit == other_unit and float(length) <= float(other_length)


def _start_over_after_another(folder: Path, name: str, training: Sequence[StoredCase]) -> None:
    """A training on predictions of a stage that was since trained anew is of no use: forget it.

    Which predictions it works on is noted in ``previous.json``.
    """
    found = {case.id: case.found.content for case in training if isinstance(case, CascadeCase)}
    if not found:
        return
    path = folder / "previous.json"
    before = read_json(path) if path.exists() else {}
    if any(before.get(case, content) != content for case, content in found.items()):
        say(f"The stage before {name} has been trained further: {folder.name.replace('_', ' ')} starts over.")
        _start_over(folder)
    write_json(path, found)


def _best(state: State) -> str:
    return f"; best validation Dice on the way {state.best_dice:.4f}" if state.best_dice >= 0 else ""


def _start_over(folder: Path) -> None:
    for name in FILES:
        (folder / name).unlink(missing_ok=True)


class _Log:
    """Lines with the time, to the fold's log and to the terminal."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, message: str) -> None:
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {message}\n")
        say(message)


def _validation_seconds(cases: Sequence[StoredCase], plan: Plan, config: Configuration, device: torch.device) -> float:
    """Estimate how long predicting the validation cases will take: one tile, times tiles, mirrorings and cases."""
    if not cases:
        return 0.0
    channels, target = plan.in_channels(config), plan.target_of(config)
    network = build(config.network, channels, target.heads).to(device).eval()
    set_deep_supervision(network, False)
    inference = config.inference
    tile = torch.zeros((channels, *[1] * (3 - len(config.patch_size)), *config.tile_size))
    dtype = resolve_precision(config.recipe.precision, device)
    fastest = float("inf")
    for _ in range(3):
        started = time.monotonic()
        predict_scores(
            [network],
            tile,
            config.tile_size,
            target.heads * config.network.answers,
            inference,
            device,
            dtype,
            mirror=False,
            context=config.tile_context,
        )
        fastest = min(fastest, time.monotonic() - started)
    tiles = sum(count_tiles(case.shape, config.tile_size, inference.overlap, inference.step) for case in cases)
    return RESERVE_MARGIN * fastest * tiles * 2 ** len(inference.mirror_axes)


def validate_fold(
    run: Run, plan: Plan, name: str, config: Configuration, fold: int, device: torch.device
) -> Evaluation:
    """Predict the fold's validation cases with test-time augmentation and evaluate them on their original grid.

    Where the dataset's own label files are gone, the preprocessed labels, put back on that grid, take their place. A
    fold without validation cases has nothing to evaluate: the result has no rows and nothing is written. Where raters
    are learned separately their mean is evaluated, and ``validation/raters`` gets each one's label maps and their Dice
    with what each rater drew.
    """
    if not run.split(fold)["validation"]:
        return _nothing(plan, name)
    folder = run.fold(name, fold).folder
    out = folder / "validation"
    out.mkdir(parents=True, exist_ok=True)
    chain = plan.stage(name).chain
    before = [stage.configuration for stage in chain[:-1]]
    stages = [TrainedStage(stage, [load_network(run.fold(stage, fold).weights, stage, device)]) for stage in chain]
    target = chain[-1].result
    member = Member(str(run.path), stages)
    predictor = Predictor([member], device)
    dataset = run.dataset
    data = run.preprocessed(config.data)
    pairs: list[tuple[str, Path, Path]] = []
    drawn: dict[str, dict[str, Path]] = {}
    with (
        ThreadPoolExecutor(1) as writer,
        Steps(f"Validating fold {fold}", len(run.split(fold)["validation"])) as steps,
    ):
        writing: Future[None] | None = None
        for case_id in run.split(fold)["validation"]:
            stored = StoredCase(data, case_id)
            seen = _as_before(run, before, case_id)
            found = predictor.predict_preprocessed(stored.image(), stored.trace, seen, raters=bool(plan.raters))
            file = f"{case_id}{result_ending(plan.file_ending)}"
            labels = {out / file: found.label}
            labels |= {out / FOLDER / rater / file: label for rater, label in found.raters.items()}
            if writing is not None:
                writing.result()
            writing = writer.submit(_write_labels, labels, found.geometry)
            case = dataset.case(case_id)
            reference = case.label
            if reference is None or not reference.exists():
                reference = restored_label(stored.label(), stored.trace, out / "references" / file)
            pairs.append((case_id, out / file, reference))
            drawn[case_id] = what_was_drawn(case, stored, plan, out / "references", file)
            steps.advance()
        if writing is not None:
            writing.result()
    if plan.raters:
        measure_decoders(out, {case: path.name for case, path, _ in pairs}, drawn, plan, target)
    return evaluate_pairs(pairs, target.outputs, out, ignore=target.ignore)


def _never_validated(run: Run, name: str) -> bool:
    """Whether something is trained, and all of it on all cases."""
    trained = run.trained_folds(name)
    return bool(trained) and not any(run.split(fold)["validation"] for fold in trained)


def _nothing(plan: Plan, name: str) -> Evaluation:
    return Evaluation((), tuple(output.name for output in plan.result_of(name).outputs))


def _as_before(run: Run, earlier: Sequence[Configuration], case: str) -> list[PreprocessedCase]:
    """A case as each of the earlier stages sees it."""
    seen = []
    for configuration in earlier:
        stored = StoredCase(run.preprocessed(configuration.data), case)
        seen.append(PreprocessedCase(stored.image(), None, stored.trace))
    return seen


def _write_labels(labels: Mapping[Path, np.ndarray], geometry: Geometry) -> None:
    for path, label in labels.items():
        write_label(path, label, geometry)


def cross_validated(run: Run, name: str) -> Evaluation:
    """Merge the evaluations of all validated folds into ``<configuration>/crossval``.

    Of folds that were trained on all cases there is nothing to merge; the result then has no rows.

    Raises:
        AutosegError: no fold is validated yet.
    """
    trained, folds = run.trained_folds(name), folds_of_plan(run, name)
    for fold in trained:
        if fold not in folds:
            say(f"Fold {fold} of {name} was trained under another plan and is left out of the table.")
    folds = [fold for fold in folds if (run.fold(name, fold).validation / "summary.json").exists()]
    parts = [Evaluation.read(run.fold(name, fold).validation) for fold in folds]
    if not parts and _never_validated(run, name):
        return _nothing(run.plan, name)
    if not parts:
        raise AutosegError(f"{run.path} has no validated fold of {name} yet; train one first.")
    merged = Evaluation.merge(parts)
    out = run.path / name / "crossval"
    merged.write(out)
    summary = read_json(out / "summary.json")
    write_json(out / "summary.json", {**summary, "folds": folds})
    return merged
