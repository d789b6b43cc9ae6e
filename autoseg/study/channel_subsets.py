"""``autoseg evaluate --channel-subsets``: evaluation of a run with subsets of its channels.

Every labelled case is read once and predicted in memory with each subset of its channels; the others are set to zero,
as if the case lacked them.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from autoseg.data.dataset import Case, Dataset, LoadedCase, load_case
from autoseg.data.description import label_files
from autoseg.evaluation.cases import COUNTED, evaluate_arrays
from autoseg.evaluation.folders import refuse_other_values
from autoseg.evaluation.protocol import WORKERS, EvaluationProtocol
from autoseg.evaluation.summary import Evaluation, Row, number
from autoseg.inference.inputs import by_other_names
from autoseg.inference.predictor import Predictor
from autoseg.plans.plan import Plan
from autoseg.runs.run import Run
from autoseg.runs.trained_folds import folds_of_plan
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.files import refuse_unwritable_folder, write_csv, write_json
from autoseg.utils.parallel import refuse_no_workers
from autoseg.utils.progress import Steps, say

if TYPE_CHECKING:
    from typing import Self

#: Some channels of a run, in its order.
Subset = tuple[str, ...]

#: Largest number of subsets that are evaluated by default: all those of five channels.
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
        """Table for the terminal: for each subset the mean Dice of each structure over the cases, and their mean."""
        table = Table(title=f"{escape(self.configuration)}: mean Dice with some of the channels")
        table.add_column("channels", overflow="fold")
        for target in self._targets:
            table.add_column(escape(target), justify="right", overflow="fold")
        table.add_column("mean", justify="right")
        table.add_column("cases", justify="right")
        for subset, part in self.parts.items():
            values = [*(part.mean("dice", target) for target in self._targets), part.mean("dice")]
            table.add_row(escape(name_of(subset)), *(number(value, 3) for value in values), str(len(part.cases)))
        return table

    def to_json(self) -> dict[str, Any]:
        """Content of ``subsets.json``; undefined values are null."""
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
        """Write ``subsets.csv``, ``subsets.json``, and for each subset a folder with the metrics of each case."""
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
    """Name of a subset: ``t1c+flair``."""
    return "+".join(subset)


def folder_of(subset: Sequence[str]) -> str:
    """Name of a subset's folder: its name without slashes."""
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
        wanted: requested subsets, in this order; all non-empty ones where None, the largest first.

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


@dataclass(frozen=True)
class TrainedConfiguration:
    """A trained configuration of a run, with the folds to predict with and the device.

    Attributes:
        run: folder.
        name: of the configuration.
        folds: numbers of the folds to predict with; None for those that ``autoseg predict`` takes.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        mirror: use test-time augmentation.
    """

    run: Run
    name: str
    folds: tuple[int, ...] | None = None
    device: str = "auto"
    mirror: bool = True

    @classmethod
    def open(
        cls,
        run: Run | str | Path,
        name: str | None = None,
        folds: Sequence[int] | None = None,
        device: str = "auto",
        mirror: bool = True,
    ) -> "Self":
        """Choose configuration and folds of a run.

        Args:
            run: folder.
            name: of the configuration; that of :meth:`autoseg.runs.run.Run.usual_configuration` where None.
            folds: numbers; those that ``autoseg predict`` takes where None: all trained ones, or a source that is kept.
            device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
            mirror: use test-time augmentation.

        Raises:
            UsageError: the run has no such configuration.
        """
        run = Run.open(run.path if isinstance(run, Run) else run)
        name = run.plan.stage(run.usual_configuration() if name is None else name).name
        return cls(run, name, tuple(folds) if folds else None, device, mirror)

    def load(self, folds: Sequence[int] | None, postprocessing: bool) -> Predictor:
        """The networks of some folds; None for those that ``autoseg predict`` takes.

        Raises:
            AutosegError: weights are missing or damaged.
        """
        return Predictor.load(self.run.path, self.name, folds, self.device, self.mirror, postprocessing=postprocessing)

    def validating_folds(self) -> list[int]:
        """Folds that were not trained on their validation cases: of the plan and the split as they are now.

        Raises:
            AutosegError: all were trained under others.
            UsageError: one of those asked for was.
        """
        run, trained = self.run, self.run.trained_folds(self.name)
        chain = run.plan.stage(self.name).chain
        current = set.intersection(*({fold.number for fold in folds_of_plan(run, stage)} for stage in chain))
        others = [fold for fold in trained if fold not in current]
        for fold in self.folds or ():
            if fold in others:
                raise UsageError(
                    f"fold {fold} of {self.name} was trained under another plan or split, and may have seen its "
                    "validation cases; train it again, or choose other folds."
                )
        if others and self.folds is None:
            for fold in others:
                say(f"Fold {fold} of {self.name} was trained under another plan or split and is left out of the table.")
            if not current:
                raise AutosegError(
                    f"{run.path} has no fold of {self.name} that was trained under its plan and splits as they are "
                    f"now; {run.how_to_train(self.name)}, or give labelled cases: autoseg evaluate RUN "
                    "DATASET --channel-subsets."
                )
        # If no fold is trained, loading fold 0 raises an error with the reason.
        return list(self.folds or sorted(current) or [0])


@dataclass(frozen=True)
class _Due:
    """A case to predict with each of some subsets."""

    predictor: Predictor
    case: Case
    subsets: list[Subset]


def evaluate_channel_subsets(
    model: TrainedConfiguration | Run | str | Path,
    dataset: Dataset | str | Path | None = None,
    *,
    subsets: Sequence[Sequence[str]] | None = None,
    protocol: EvaluationProtocol = EvaluationProtocol(),
    out: str | Path | None = None,
    workers: int = WORKERS,
) -> SubsetEvaluation:
    """Predict labelled cases with every subset of a run's channels, and evaluate each subset.

    A case is evaluated with the subsets of which it has all channels.

    Args:
        model: a run folder, or a :class:`TrainedConfiguration` of one; trained for missing channels.
        dataset: labelled cases, predicted as ``autoseg predict`` does. Where None, the run's own validation cases, each
            predicted by the fold that was not trained on it, without post-processing (which was chosen on them); folds
            of another plan or split are left out.
        subsets: channel names of each; all non-empty ones where None.
        protocol: metrics and conventions; the ignore label of the dataset or run is added where it has none, and Dice
            and volumes are always measured.
        out: folder for the table and every case's metrics; None to write nothing.
        workers: cases evaluated in parallel, while the next one is predicted.

    Raises:
        AutosegError: a case or weights can't be read; no labelled case has all channels of any subset; no fold is left;
            labels of the dataset have other values than the run's.
        UsageError: the run has one channel, or was not trained for missing ones; a fold asked for may have seen its
            validation cases; wrong options.

    Example:
        >>> evaluation = autoseg.evaluate_channel_subsets("RUN", "DATASET")  # doctest: +SKIP
        >>> evaluation.parts["t1c", "flair"].mean("dice", "tumor core")  # doctest: +SKIP
        0.812
    """
    if out is not None:
        refuse_unwritable_folder(out)
    refuse_no_workers(workers)
    networks = model if isinstance(model, TrainedConfiguration) else TrainedConfiguration.open(model)
    plan = networks.run.plan
    _check_channels(networks)
    order = choose_subsets(plan.channel_names, subsets)
    if isinstance(dataset, str | Path):
        dataset = Dataset.open(dataset)
    if dataset is not None:
        refuse_other_values(dataset, networks.run.dataset)
    source = networks.run.dataset if dataset is None else dataset
    due = _cases_due(networks, dataset, order)
    possible = {subset for item in due for subset in item.subsets}
    if not possible:
        raise AutosegError(
            f"no labelled case of {source.root} has all of the channels {name_of(order[-1])}; evaluate other subsets "
            "or another dataset."
        )
    if out_of_reach := [name_of(subset) for subset in order if subset not in possible]:
        say(f"No case has all of the channels {', or all of '.join(out_of_reach)}: left out.")
    target = plan.stage(networks.name).result
    protocol = protocol.with_ignore(source.ignore_label).with_ignore(target.ignore).with_metrics("dice", *COUNTED)

    def measure_case(label: np.ndarray, case: LoadedCase) -> dict[str, dict[str, float]]:
        assert case.label is not None
        return evaluate_arrays(label, case.label, case.spacing, target.outputs, protocol)

    rows = _predict_and_measure(due, plan, measure_case, workers)
    names = tuple(output.name for output in target.outputs)
    parts = {
        subset: Evaluation(tuple(rows[subset]), names, protocol.tolerance_mm, protocol.empty)
        for subset in order
        if subset in possible
    }
    folds = sorted({fold for item in due for fold in item.predictor.members[0].stages[-1].by_fold})
    evaluation = SubsetEvaluation(str(networks.run.path), networks.name, tuple(folds), parts)
    if out is not None:
        evaluation.write(out)
    return evaluation


def _check_channels(networks: TrainedConfiguration) -> None:
    """Refuse a run without subsets of channels, or one that was not trained for them."""
    run, name = networks.run, networks.name
    if len(run.plan.channels) == 1:
        raise UsageError(f"{run.path} has the one channel {run.plan.channel_names[0]}; there is no subset to evaluate.")
    if not run.plan.stage(name).takes_missing_channels:
        raise UsageError(
            f"{name} of {run.path} was not trained for missing channels; plan it with --set recipe.channel_dropout=0.2 "
            "and train it."
        )


def _cases_due(networks: TrainedConfiguration, dataset: Dataset | None, order: Sequence[Subset]) -> list[_Due]:
    """The labelled cases, each with the networks that predict it and the subsets of which it has all channels."""
    run = networks.run
    if dataset is None:
        validation = {
            fold: [run.dataset.case(case) for case in run.split(fold)["validation"]]
            for fold in networks.validating_folds()
        }
        groups = [(networks.load([fold], False), cases) for fold, cases in validation.items()]
    else:
        cases = by_other_names(list(dataset.cases), dataset.channels, [run.plan], [run.dataset])
        groups = [(networks.load(networks.folds, True), cases)]
    due = [
        _Due(predictor, case, [subset for subset in order if set(subset) <= set(case.channels)])
        for predictor, cases in groups
        for case in cases
    ]
    gone = (file for item in due for file in _needed(item.case) if not file.exists())
    if dataset is None and (first := next(gone, None)) is not None:
        raise AutosegError(f"{first} is gone; {run.how_to_find_dataset}.")
    if not due:
        raise AutosegError(
            f"{run.path} has no validation cases of its own; give labelled ones: autoseg evaluate RUN DATASET "
            "--channel-subsets."
            if dataset is None
            else f"{dataset.root} has no labelled cases; give a dataset that has some."
        )
    return due


def _needed(case: Case) -> list[Path]:
    return [*(channel.path for channel in case.channels.values()), *label_files(case.label)]


def _predict_and_measure(
    due: Sequence[_Due],
    plan: Plan,
    measure_case: Callable[[np.ndarray, LoadedCase], dict[str, dict[str, float]]],
    workers: int,
) -> dict[Subset, list[Row]]:
    """Predict case by case; the metrics of one are computed while the next one is predicted."""
    rows: dict[Subset, list[Row]] = {}
    measuring: list[tuple[str, Subset, Future[dict[str, dict[str, float]]]]] = []
    pool = ThreadPoolExecutor(workers)
    try:
        with Steps("Predicting subsets of channels", max(sum(len(item.subsets) for item in due), 1)) as steps:
            for item in due:
                before, measuring = measuring, []
                loaded = _read(item.case, plan) if item.subsets else None
                for subset in item.subsets:
                    assert loaded is not None
                    label = item.predictor.predict_case(with_only(loaded, plan.channel_names, subset)).label
                    measuring.append((item.case.id, subset, pool.submit(measure_case, label, loaded)))
                    steps.advance(note=f"{item.case.id} {name_of(subset)}")
                _collect(before, rows)  # no more than two cases wait in memory
            _collect(measuring, rows)
    finally:
        pool.shutdown(cancel_futures=True)
    return rows


def with_only(case: LoadedCase, channels: Sequence[str], subset: Sequence[str]) -> LoadedCase:
    """The case with only some channels, as if it lacked the others.

    Args:
        case: with all channels of the subset.
        channels: names of its channels, in order.
        subset: those to keep.
    """
    present = tuple(name in subset for name in channels)
    image = case.image.copy()
    image[~np.array(present)] = 0
    return case.model_copy(update={"image": image, "present": present})


def _read(case: Case, plan: Plan) -> LoadedCase:
    return load_case(case, plan.channel_names)


def _collect(
    measured: Sequence[tuple[str, Subset, "Future[dict[str, dict[str, float]]]"]], rows: dict[Subset, list[Row]]
) -> None:
    for case, subset, future in measured:
        rows.setdefault(subset, []).extend(Row(case, target, values) for target, values in future.result().items())
