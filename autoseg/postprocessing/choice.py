"""Choice of a run's post-processing: which steps improve its cross-validated Dice.

Nothing is predicted again: steps are tried on the label maps of the validated folds and measured by counting voxels.
The outputs are treated one after the other, in painting order. For each there are two groups of steps, tried in turn:
drop small components (below one of several sizes, or all but the largest), and drop all of the output where a case has
little of it. A step may be kept if the mean Dice over all outputs rises by more than :data:`GAIN` and no output's falls
by more than :data:`LOSS`. Of the steps of a group that may be kept, the one with the highest mean Dice is kept, at
equal Dice the gentlest; the next group is tried on the label maps that it leaves.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from rich.markup import escape
from rich.table import Table
from scipy import ndimage

from autoseg import __version__
from autoseg.data.description import LabelSource
from autoseg.data.file_names import result_ending
from autoseg.evaluation.cases import grid_difference, read_labels
from autoseg.evaluation.protocol import WORKERS, Empty
from autoseg.evaluation.summary import Evaluation, number
from autoseg.evaluation.voxel_counts import counts, dices
from autoseg.plans.stage import Stage
from autoseg.plans.target import Output, Target
from autoseg.postprocessing.steps import (
    POSTPROCESSING_FILE,
    Postprocessing,
    Score,
    Step,
    Trial,
    apply_steps,
    find_parts,
    removal,
    weights_digests,
)
from autoseg.runs.run import SOURCE_SHARE, Run
from autoseg.runs.trained_folds import folds_of_plan
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.parallel import refuse_no_workers
from autoseg.utils.progress import Steps, say

if TYPE_CHECKING:
    from typing import Self

#: A step is kept where the mean Dice rises by more than this: half of the last digit that the tables show.
GAIN = 0.0005

#: No output's mean Dice may fall by more than this; nnU-Net (Isensee et al. 2021) allows no fall at all, which the
#: chance of a single voxel would decide.
LOSS = 0.0001

#: Volumes that are tried, as shares of the median volume of the output in those references that have it.
SHARES = (0.001, 0.003, 0.01, 0.03, 0.1)

#: A case's Dice counts as changed from here on.
CHANGED = 1e-6

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class _Pair:
    """A case's label maps, cut to where either is, and compressed: hundreds of cases fit into memory.

    Attributes:
        prediction: label values ``(z, y, x)``.
        reference: label values, of the same shape.
        voxel: volume of one in mm³.
        volumes: mm³ of each output in the reference.
    """

    prediction: "_Packed"
    reference: "_Packed"
    voxel: float
    volumes: tuple[float, ...]


@dataclass(frozen=True)
class _Packed:
    """A label map in a few kilobytes."""

    shape: tuple[int, ...]
    kind: str
    content: bytes

    @classmethod
    def of(cls, label: np.ndarray) -> "Self":
        small = label.size == 0 or (label.min() >= 0 and label.max() <= 255)
        label = np.ascontiguousarray(label, np.uint8) if small else np.ascontiguousarray(label)
        return cls(label.shape, label.dtype.str, zlib.compress(label.tobytes(), 1))

    def array(self) -> np.ndarray:
        return np.frombuffer(zlib.decompress(self.content), self.kind).reshape(self.shape)


def postprocess(run: Run | str | Path, configuration: str | None = None, workers: int = WORKERS) -> Postprocessing:
    """Choose the post-processing of a configuration by its cross-validated Dice, and write it into the run folder.

    Args:
        run: the run folder; at least one fold of the configuration is trained.
        configuration: name; that of :meth:`autoseg.runs.run.Run.usual_configuration` where None.
        workers: cases worked on at a time.

    Returns:
        The steps chosen and those tried. They are also written to ``RUN/<configuration>/postprocessing.json``, from
        where ``autoseg predict`` applies them.

    Raises:
        AutosegError: a label map is missing, unreadable, or on another grid than its reference.
        UsageError: no such configuration, or none of its folds is trained.
    """
    refuse_no_workers(workers)
    run = Run.open(run.path if isinstance(run, Run) else run)
    stage = run.plan.stage(run.usual_configuration() if configuration is None else configuration)
    name = stage.name
    evaluations = _validated(run, name)
    target = stage.result
    empty = next(iter(evaluations.values())).empty
    with ThreadPoolExecutor(workers) as pool:
        files = list(_files(run, name, evaluations, result_ending(stage.file_ending)))
        with Steps("Reading", len(files)) as progress:
            pairs = list(_each(pool, partial(_read, target), files, progress))
        chooser = _Chooser(pairs, target, empty, pool)
        steps, tried, before, after = chooser.choose()
    improved, worsened = chooser.changes(before, after)
    found = Postprocessing(
        autoseg_version=__version__,
        configuration=name,
        steps=steps,
        before=chooser.score(before),
        after=chooser.score(after),
        improved=improved,
        worsened=worsened,
        cases=len(pairs),
        all_cases=len({case for split in run.splits for case in split["validation"]}),
        folds=list(evaluations),
        all_folds=len(run.splits),
        empty=empty,
        weights=weights_digests(run.path, _weights(run, stage, evaluations)),
        tried=tried,
    )
    found.write(run.path / name / POSTPROCESSING_FILE)
    return found


class _Chooser:
    """Tries steps on all cases, and keeps those that help.

    Args:
        pairs: the cases.
        target: what they are segmented into.
        empty: convention for empty masks.
        pool: threads that work on cases.
    """

    def __init__(self, pairs: Sequence[_Pair], target: Target, empty: Empty, pool: ThreadPoolExecutor) -> None:
        self._pairs = pairs
        self._target = target
        self._empty = empty
        self._pool = pool

    def choose(self) -> tuple[list[Step], list[Trial], np.ndarray, np.ndarray]:
        """The steps kept, all that were tried, and the voxel counts (:func:`counts`) without and with those kept."""
        steps: list[Step] = []
        tried: list[Trial] = []
        with Steps("Trying", 1 + 2 * len(self._target.outputs)) as progress:
            current = before = np.stack(list(_each(self._pool, self._count, self._pairs)))
            progress.advance()
            for index, output in enumerate(self._target.outputs):
                for group in self._groups(index, output):
                    found = list(_each(self._pool, partial(self._try, output, group), self._pairs))
                    after = [current + np.stack(changes) for changes in zip(*found, strict=True)]
                    trials = [self._judge(step, current, then) for step, then in zip(group, after, strict=True)]
                    allowed = [number for number, trial in enumerate(trials) if trial.kept]
                    # max takes the first of equals, and the gentler steps come first.
                    best = max(allowed, key=lambda number: trials[number].after.mean or 0.0, default=None)
                    tried += [t.model_copy(update={"kept": number == best}) for number, t in enumerate(trials)]
                    if best is not None:
                        steps.append(group[best])
                        current = after[best]
                        self._pairs = list(_each(self._pool, partial(self._do, group[best]), self._pairs))
                    progress.advance(note=output.name)
        return steps, tried, before, current

    def score(self, counted: np.ndarray) -> Score:
        """Means of Dice, undefined ones left out, as an evaluation has them."""
        outputs = [_mean(column) for column in dices(counted, self._empty).T]
        named = {output.name: value for output, value in zip(self._target.outputs, outputs, strict=True)}
        return Score(mean=_mean(np.array([np.nan if v is None else v for v in outputs])), outputs=named)

    def changes(self, before: np.ndarray, after: np.ndarray) -> tuple[int, int]:
        """Cases made better and worse: by the mean over outputs, one that is rightly absent counting 1."""
        first, second = (
            np.nan_to_num(dices(counted, self._empty), nan=1.0).mean(axis=1) for counted in (before, after)
        )
        return int(np.sum(second - first > CHANGED)), int(np.sum(first - second > CHANGED))

    def _groups(self, index: int, output: Output) -> Iterator[list[Step]]:
        """Steps of which at most one is kept, the gentlest first."""
        volumes = [pair.volumes[index] for pair in self._pairs if pair.volumes[index] > 0]
        median = float(np.median(volumes)) if volumes else 0.0
        smallest = min(pair.voxel for pair in self._pairs)
        # Nothing is smaller than a voxel. Two digits are enough for a rule, and are what the file holds.
        sizes = sorted({size for share in SHARES if (size := float(f"{share * median:.2g}")) > smallest})
        components = [Step(kind="minimum_size", output=output.name, mm3=size) for size in sizes]
        yield [*components, Step(kind="largest_component", output=output.name, mm3=None)]
        yield [Step(kind="minimum_total", output=output.name, mm3=size) for size in sizes]

    def _judge(self, step: Step, current: np.ndarray, after: np.ndarray) -> Trial:
        first, second = self.score(current), self.score(after)
        improved, worsened = self.changes(current, after)
        kept = _helps(first, second)
        return Trial(step=step, before=first, after=second, improved=improved, worsened=worsened, kept=kept)

    def _count(self, pair: _Pair) -> np.ndarray:
        return counts(pair.prediction.array(), pair.reference.array(), self._target)

    def _try(self, output: Output, group: Sequence[Step], pair: _Pair) -> list[np.ndarray]:
        """How each step would change the counts; only the voxels that it changes are counted."""
        prediction, reference = pair.prediction.array(), pair.reference.array()
        parts = find_parts(prediction, output)
        found = []
        for step in group:
            where, values = removal(prediction, parts, step, self._target, pair.voxel)
            real = reference[where]
            found.append(counts(values, real, self._target) - counts(prediction[where], real, self._target))
        return found

    def _do(self, step: Step, pair: _Pair) -> _Pair:
        label = apply_steps(pair.prediction.array(), [step], self._target, [pair.voxel])
        return replace(pair, prediction=_Packed.of(label))


def results_table(found: Postprocessing) -> Table:
    """What was tried, for the terminal; steps that change no case are left out."""
    table = Table(title=escape(f"Post-processing of {found.configuration}, {found.grounds}"))
    table.add_column("output", overflow="fold")
    table.add_column("what stays")
    for heading in ("mean Dice", "its Dice", "cases", "chosen"):
        table.add_column(heading, justify="right")
    last = ""
    for trial in found.tried:
        if not (trial.improved or trial.worsened):
            continue
        name = trial.step.output
        if name != last:
            table.add_section()
            table.add_row(escape(name), "all", show_dice(trial.before.mean), show_dice(trial.before.outputs[name]))
            last = name
        dice = show_dice(trial.after.mean), show_dice(trial.after.outputs[name])
        counts = f"+{trial.improved} −{trial.worsened}"
        table.add_row("", escape(trial.step.what_stays), *dice, counts, "yes" if trial.kept else "")
    idle = sum(not (trial.improved or trial.worsened) for trial in found.tried)
    table.caption = "cases: made better (+) and worse (−)" + (f"; {idle} more tried change none" if idle else "")
    return table


def verdict(found: Postprocessing) -> str:
    """The outcome in a sentence or two."""
    if found.steps:
        text = (
            f"Chosen: {'; '.join(map(str, found.steps))}. Mean Dice {show_dice(found.before.mean)} → "
            f"{show_dice(found.after.mean)}; {found.improved} of {found.cases} cases better, {found.worsened} worse."
        )
    else:
        text = f"Nothing is chosen: {why_none(found)}."
    if found.cases < found.all_cases:
        text += (
            f" This rests on {found.cases} of {found.all_cases} cases; train the other folds and run it again to "
            "decide on all."
        )
    return text


def why_none(found: Postprocessing) -> str:
    """Why no step was chosen."""
    means = [(trial.before.mean, trial.after.mean) for trial in found.tried]
    gain = max((after - before for before, after in means if before is not None and after is not None), default=0.0)
    mean = f"the mean Dice of {show_dice(found.before.mean)}"
    if gain > GAIN:
        return f"each step that raises {mean} by more than {GAIN:g} lowers a structure's own by more than {LOSS:g}"
    return f"no step raises {mean}" + (f" by more than {GAIN:g}" if gain > CHANGED else "")


def show_dice(value: float | None) -> str:
    """Four digits: gains are small."""
    return number(np.nan if value is None else value, 4)


def _validated(run: Run, name: str) -> dict[int, Evaluation]:
    """The evaluations of the folds that are trained under this plan and validated."""
    found = {}
    stage = run.plan.stage(name)
    current = folds_of_plan(run, stage)
    for fold in run.folds(name):
        if fold not in current:
            say(f"Fold {fold.number} of {name} was trained under another plan or split and is left out.")
        elif fold.validated:
            # As in the cross-validated table: by the plan's convention, whatever it was when the fold was measured.
            found[fold.number] = Evaluation.read(fold.validation).counting_absent(stage.empty)
    if not found:
        raise UsageError(f"{run.path} has no trained and validated fold of {name}; {run.how_to_validate(name)}.")
    Evaluation.merge(found.values())  # no case twice, one convention
    return found


def _weights(run: Run, stage: Stage, folds: Iterable[int]) -> list[str]:
    """The files, in the run folder, that predictions of these folds depend on: of weights, and of how a source is kept.

    The same weights predict otherwise where images are harmonized for a source that is kept, or where it has outputs
    beyond the plan's.
    """
    files = [run.fold(part, fold).weights for part in stage.chain for fold in folds]
    if run.kept_source(stage):
        files.append(run.path / stage.name / SOURCE_SHARE)
    return [file.relative_to(run.path).as_posix() for file in files]


def _files(run: Run, name: str, folds: dict[int, Evaluation], ending: str) -> Iterator[tuple[str, Path, LabelSource]]:
    """Each validated case with its prediction and its reference."""
    dataset = run.dataset
    for fold, evaluation in folds.items():
        folder = run.fold(name, fold).validation
        for case in evaluation.cases:
            reference = dataset.case(case).label
            if reference is None or not reference.exists():
                # Validation made one from the preprocessed data where the dataset's was gone already.
                reference = folder / "references" / f"{case}{ending}"
                if not reference.exists():
                    raise AutosegError(
                        f"the reference of case {case} is gone ({dataset.case(case).label}); {run.how_to_find_dataset}."
                    )
            yield case, folder / f"{case}{ending}", reference


def _read(target: Target, files: tuple[str, Path, LabelSource]) -> _Pair:
    case, prediction_path, reference_path = files
    prediction, predicted = read_labels(prediction_path)
    reference, real = read_labels(reference_path)
    difference = grid_difference(predicted, real)
    if difference is not None:
        raise AutosegError(
            f"case {case}: {prediction_path} does not lie on the grid of {reference_path} ({difference}); train the "
            "fold again."
        )
    voxel = float(np.prod(real.spacing))
    volumes = tuple(voxel * int(np.count_nonzero(np.isin(reference, output.values))) for output in target.outputs)
    found = ndimage.find_objects(((prediction != 0) | (reference != 0)).view(np.uint8))
    # A voxel more on each side shows what is around a component.
    grown = (slice(max(part.start - 1, 0), part.stop + 1) for part in found[0]) if found else [slice(0, 1)] * 3
    box = tuple(grown)
    return _Pair(_Packed.of(prediction[box]), _Packed.of(reference[box]), voxel, volumes)


def _each(
    pool: ThreadPoolExecutor, function: "Callable[..., _Result]", items: Sequence, progress: Steps | None = None
) -> Iterator[_Result]:
    """``function(item)`` in order; the first failure stops those that wait."""
    futures = [pool.submit(function, item) for item in items]
    try:
        for future in futures:
            yield future.result()
            if progress is not None:
                progress.advance()
    finally:
        for future in futures:
            future.cancel()


def _helps(before: Score, after: Score) -> bool:
    if before.mean is None or after.mean is None or after.mean - before.mean <= GAIN:
        return False
    for name, value in before.outputs.items():
        now = after.outputs[name]
        if value is not None and now is not None and now < value - LOSS:
            return False
    return True


def _mean(values: np.ndarray) -> float | None:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None
