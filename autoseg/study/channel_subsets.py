"""``autoseg evaluate --channel-subsets``: how well a run does without some of its channels.

Every labelled case is read once and predicted in memory with each subset of its channels, the others put to zero as if
the case lacked them.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from autoseg.data.dataset import Case, Dataset, LoadedCase, load_case
from autoseg.evaluation.cases import WORKERS, evaluate_arrays
from autoseg.evaluation.metrics import TOLERANCE_MM, Empty, check_options
from autoseg.evaluation.summary import Evaluation, Row, number
from autoseg.inference.inputs import by_other_names, refuse_incomplete
from autoseg.inference.predictor import Predictor
from autoseg.plans.plan import Plan
from autoseg.runs.run import Run
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import write_csv, write_json
from autoseg.utils.progress import Steps, say

#: Some channels of a run, in its order.
Subset = tuple[str, ...]

#: Subsets that are evaluated unless some are chosen: all those of five channels.
MOST_SUBSETS = 31


@dataclass(frozen=True)
class SubsetEvaluation:
    """The evaluation of a run with each of several subsets of its channels.

    Attributes:
        run: folder.
        configuration: name.
        folds: that predicted.
        parts: subset → evaluation of the cases that have all its channels; in the order of the table.
    """

    run: str
    configuration: str
    folds: tuple[int, ...]
    parts: dict[Subset, Evaluation]

    def table(self) -> Table:
        """For the terminal: a row a subset, mean Dice of each structure over the cases, and the mean of these."""
        table = Table(title=f"{self.configuration}: mean Dice with some of the channels")
        table.add_column("channels", overflow="fold")
        for target in self._targets:
            table.add_column(target, justify="right", overflow="fold")
        table.add_column("mean", justify="right")
        table.add_column("cases", justify="right")
        for subset, part in self.parts.items():
            values = [*(part.mean("dice", target) for target in self._targets), part.mean("dice")]
            table.add_row(name_of(subset), *(number(value, 3) for value in values), str(len(part.cases)))
        return table

    def to_json(self) -> dict[str, Any]:
        """What ``subsets.json`` holds; undefined values are null."""
        return {
            "run": self.run,
            "configuration": self.configuration,
            "folds": list(self.folds),
            "subsets": [
                {"channels": list(subset), **{key: part.to_json()[key] for key in ("cases", "mean", "targets")}}
                for subset, part in self.parts.items()
            ],
        }

    def write(self, folder: str | Path) -> None:
        """Write ``subsets.csv``, ``subsets.json``, and a folder a subset with the metrics of each case."""
        folder = Path(folder)
        lines = [["channels", *self._targets, "mean", "cases"]]
        for subset, part in self.parts.items():
            values = [*(part.mean("dice", target) for target in self._targets), part.mean("dice")]
            cells = ["" if np.isnan(value) else format(value, ".10g") for value in values]
            lines.append([name_of(subset), *cells, str(len(part.cases))])
            part.write(folder / folder_of(subset))
        write_csv(folder / "subsets.csv", lines)
        write_json(folder / "subsets.json", self.to_json())

    @property
    def _targets(self) -> tuple[str, ...]:
        return next(iter(self.parts.values())).targets


def name_of(subset: Sequence[str]) -> str:
    """``t1c+flair``."""
    return "+".join(subset)


def folder_of(subset: Sequence[str]) -> str:
    """What a subset's folder is called: its name, without what a folder's name can't have."""
    return name_of(subset).replace("/", "_").replace("\\", "_")


def parse_subsets(text: str) -> list[Subset]:
    """``flair,t1c+flair`` → ``[("flair",), ("t1c", "flair")]``.

    Raises:
        UsageError: a subset is empty.
    """
    subsets = [tuple(name.strip() for name in item.split("+")) for item in text.split(",")]
    if not all(all(subset) for subset in subsets):
        raise UsageError(f"--subsets {text} is not of the form a,a+b: subsets with commas, their channels joined by +.")
    return subsets


def choose_subsets(channels: Sequence[str], wanted: Sequence[Sequence[str]] | None) -> list[Subset]:
    """The subsets to evaluate, each in the channels' order.

    Args:
        channels: of the run.
        wanted: those to take, in this order; all non-empty ones where None, the largest first.

    Raises:
        UsageError: an unknown channel; or more than :data:`MOST_SUBSETS`, and none chosen.
    """
    if wanted is None:
        count = 2 ** len(channels) - 1
        if count > MOST_SUBSETS:
            raise UsageError(
                f"the run has {len(channels)} channels and thus {count} subsets, too many to evaluate all; choose "
                f"some: --subsets {channels[0]},{channels[0]}+{channels[1]}."
            )
        return [subset for size in range(len(channels), 0, -1) for subset in combinations(channels, size)]
    for name in (name for subset in wanted for name in subset):
        if name not in channels:
            raise UsageError(f"--subsets: {name} is no channel of the run; it has {', '.join(channels)}.")
    return list(dict.fromkeys(tuple(name for name in channels if name in subset) for subset in wanted))


def evaluate_channel_subsets(
    run: Run | str | Path,
    dataset: Dataset | str | Path | None = None,
    *,
    subsets: Sequence[Sequence[str]] | None = None,
    configuration: str | None = None,
    folds: Sequence[int] | None = None,
    device: str = "auto",
    mirror: bool = True,
    out: str | Path | None = None,
    tolerance: float = TOLERANCE_MM,
    empty: Empty = "skip",
    workers: int = WORKERS,
) -> SubsetEvaluation:
    """Predict labelled cases with every subset of a run's channels, and evaluate each.

    A case counts for the subsets of which it has all channels.

    Args:
        run: its folder; trained for missing channels.
        dataset: labelled cases, predicted as ``autoseg predict`` does. Where None, the run's own validation cases, each
            predicted by the fold that was not trained on it, without post-processing (which was chosen on them).
        subsets: channel names of each; all non-empty ones where None.
        configuration: name; that of :meth:`autoseg.runs.run.Run.usual_configuration` where None.
        folds: numbers; all trained ones where None.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        mirror: use test-time augmentation.
        out: folder for the table and every case's metrics; None to write nothing.
        tolerance: of the normalised surface Dice, in mm.
        empty: convention for empty masks (:mod:`autoseg.evaluation.metrics`).
        workers: cases measured at a time, while the next one is predicted.

    Raises:
        AutosegError: a case or weights can't be read; no labelled case has all channels of any subset.
        UsageError: the run has one channel, or was not trained for missing ones; wrong options.

    Example:
        >>> found = autoseg.evaluate_channel_subsets("RUN", "DATASET")  # doctest: +SKIP
        >>> found.parts["t1c", "flair"].mean("dice", "tumor core")  # doctest: +SKIP
        0.812
    """
    check_options(tolerance, empty)
    if workers < 1:
        raise UsageError(f"--workers {workers} can't evaluate anything; give 1 or more.")
    run = run if isinstance(run, Run) else Run.open(run)
    plan = run.plan
    name, chosen = plan.configuration(run.usual_configuration() if configuration is None else configuration)
    if len(plan.channels) == 1:
        raise UsageError(f"{run.path} has the one channel {plan.channel_names[0]}; there is no subset to evaluate.")
    if not plan.takes_missing_channels(chosen):
        raise UsageError(
            f"{name} of {run.path} was not trained for missing channels; plan it with --set recipe.channel_dropout=0.2 "
            "and train it."
        )
    order = choose_subsets(plan.channel_names, subsets)
    if isinstance(dataset, str | Path):
        dataset = Dataset.open(dataset)
    numbers = tuple(folds or run.trained_folds(name) or [0])  # where none is trained, loading one says so

    def load(of: Sequence[int], postprocessing: bool) -> Predictor:
        return Predictor.load(run.path, name, of, device, mirror, postprocessing=postprocessing)

    if dataset is None:
        source = run.dataset
        validation = {fold: [source.case(case) for case in run.split(fold)["validation"]] for fold in numbers}
        groups = [(load([fold], False), cases) for fold, cases in validation.items()]
    else:
        source = dataset
        groups = [(load(numbers, True), by_other_names(list(dataset.cases), dataset.channels, plan))]
    target = plan.result_of(name)
    ignore = target.ignore if source.ignore_label is None else source.ignore_label

    def measure(label: np.ndarray, case: LoadedCase) -> dict[str, dict[str, float]]:
        assert case.label is not None
        return evaluate_arrays(
            label, case.label, case.spacing, target.outputs, tolerance=tolerance, empty=empty, ignore=ignore
        )

    due = [(predictor, case, _held(order, case)) for predictor, cases in groups for case in cases]
    if not due:
        raise AutosegError(
            f"{run.path} has no validation cases of its own; give labelled ones: autoseg evaluate RUN DATASET "
            "--channel-subsets."
            if dataset is None
            else f"{source.root} has no labelled cases; give a dataset that has some."
        )
    possible = {subset for *_, held in due for subset in held}
    if not possible:
        raise AutosegError(
            f"no labelled case of {source.root} has all of the channels {name_of(order[-1])}; evaluate other subsets "
            "or another dataset."
        )
    if out_of_reach := [name_of(subset) for subset in order if subset not in possible]:
        say(f"No case has all of the channels {', or all of '.join(out_of_reach)}: left out.")
    rows: dict[Subset, list[Row]] = {subset: [] for subset in order if subset in possible}
    measuring: list[tuple[str, Subset, Future[dict[str, dict[str, float]]]]] = []
    pool = ThreadPoolExecutor(workers)
    try:
        with Steps("Predicting subsets of channels", max(sum(len(held) for *_, held in due), 1)) as steps:
            for predictor, case, held in due:
                before, measuring = measuring, []
                loaded = _read(case, plan) if held else None
                for subset in held:
                    assert loaded is not None
                    label = predictor.predict_case(with_only(loaded, plan.channel_names, subset)).label
                    measuring.append((case.id, subset, pool.submit(measure, label, loaded)))
                    steps.advance(note=f"{case.id} {name_of(subset)}")
                _collect(before, rows)  # no more than two cases wait in memory
            _collect(measuring, rows)
    finally:
        pool.shutdown(cancel_futures=True)
    names = tuple(output.name for output in target.outputs)
    parts = {subset: Evaluation(tuple(found), names, tolerance, empty) for subset, found in rows.items()}
    evaluation = SubsetEvaluation(str(run.path), name, numbers, parts)
    if out is not None:
        evaluation.write(out)
    return evaluation


def with_only(case: LoadedCase, channels: Sequence[str], subset: Sequence[str]) -> LoadedCase:
    """The case as if it had been read without its other channels.

    Args:
        case: has all of the subset.
        channels: what its channels are called.
        subset: those to keep.
    """
    present = tuple(name in subset for name in channels)
    image = case.image.copy()
    image[~np.array(present)] = 0
    return case.model_copy(update={"image": image, "present": present})


def _held(subsets: Sequence[Subset], case: Case) -> list[Subset]:
    return [subset for subset in subsets if set(subset) <= set(case.channels)]


def _read(case: Case, plan: Plan) -> LoadedCase:
    refuse_incomplete(case)
    return load_case(case, plan.channel_names)


def _collect(
    measured: Sequence[tuple[str, Subset, "Future[dict[str, dict[str, float]]]"]], rows: dict[Subset, list[Row]]
) -> None:
    for case, subset, future in measured:
        rows[subset] += [Row(case, target, values) for target, values in future.result().items()]
