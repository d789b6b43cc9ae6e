"""Members of an ensemble: the trained folds of a run, of one stage or of several that follow each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from autoseg import __version__
from autoseg.inference.chain import TrainedStage
from autoseg.inference.results.record import KEPT_SHARE
from autoseg.inference.translation import Translation, load_source
from autoseg.plans.stage import Stage
from autoseg.plans.target import Target
from autoseg.runs.run import SOURCE_SHARE, Run
from autoseg.runs.splits import read_splits
from autoseg.utils.digest import file_digest
from autoseg.utils.errors import AutosegError, UsageError


@dataclass(frozen=True)
class Member:
    """One run's part in a prediction.

    Attributes:
        name: of the run, for messages.
        stages: all of them in order; often there is only one.
        planner: that made the run's plan.
        brain_mask: whether its training cases had brain masks, which decide on cropping and normalization.
        detail: which configuration, folds, checkpoint and weights, for the record.
        label_names: value → name, of the training data's labels.
        translation: of what it segments to what is written, where that is a source's with more channels or outputs.
    """

    name: str
    stages: list[TrainedStage]
    planner: str = ""
    brain_mask: bool = False
    detail: dict[str, object] = field(default_factory=dict)
    label_names: dict[int, str] = field(default_factory=dict)
    translation: Translation | None = None

    @property
    def written(self) -> Target:
        """What is written of its result: the target of its run."""
        return self.last.result if self.translation is None else self.translation.target

    @property
    def channels(self) -> list[str]:
        """The channels that a case may have, in order."""
        return self.last.channel_names if self.translation is None else list(self.translation.channels)

    @property
    def last(self) -> Stage:
        """The stage whose result it is."""
        return self.stages[-1].stage

    def by_fold(self) -> "list[Member]":
        """A member for each fold of the last stage, with the same fold of the stages before it.

        A stage that was not trained in that fold keeps all of its folds.
        """

        def only(trained: TrainedStage, fold: int) -> TrainedStage:
            network = trained.by_fold.get(fold)
            return trained if network is None else replace(trained, networks=[network], folds=[fold])

        return [replace(self, stages=[only(stage, fold) for stage in self.stages]) for fold in self.stages[-1].by_fold]


def load_member(
    run: Run, configuration: str | None, folds: Sequence[int] | None, device: torch.device, checkpoint: str
) -> Member:
    """Load a run's trained folds, and those of the stages before.

    Args:
        run: the run folder.
        configuration: name; the recommended one where None, or one that is trained and segments as much.
        folds: numbers, taken of every stage; all trained ones where None. Of a run that keeps its source, that fold of
            the source which each of these numbers has; all of the source's where None.
        device: to compute on.
        checkpoint: name of the weights' file without its ending.

    Raises:
        AutosegError: weights are missing or unreadable.
        UsageError: no such configuration; nothing trained; a fold without this checkpoint.
    """
    plan = run.plan
    last = plan.stage(run.usual_configuration() if configuration is None else configuration)
    of_stage = {stage.name: _folds(run, stage.name, folds) for stage in last.chain}
    files = {
        stage.name: [run.fold(stage, number).checkpoint(checkpoint) for number in of_stage[stage.name]]
        for stage in last.chain
    }
    if checkpoint != "weights":
        _refuse_lacking(run, of_stage, checkpoint)
    kept = run.kept_source(last) if checkpoint == "weights" else []
    if kept and folds is None:
        # Not as many copies of one model as there are folds, but that model, with all of its own.
        of_stage[last.name] = list(range(len(kept)))
    if kept:
        files[last.name] = [kept[number % len(kept)] for number in of_stage[last.name]]
    untouched = bool(kept) and run.used(last) != last
    load = load_source if untouched else TrainedStage.load
    stages = [load(stage, files[stage.name], device, of_stage[stage.name]) for stage in last.chain]
    detail: dict[str, object] = {
        "configuration": last.name,
        "folds": of_stage[last.name],
        "checkpoint": checkpoint,
        "autoseg": __version__,
    }
    if kept:
        how = "as it is" if untouched or not last.differs_for_source else "as this run's plan predicts with it"
        detail["source"] = f"kept, {how}; {last.name}/{SOURCE_SHARE} has what was compared"
        detail[KEPT_SHARE] = run.kept_share(last)
    if len(stages) > 1:
        detail["stages"] = [{"configuration": stage, "folds": numbers} for stage, numbers in of_stage.items()]
    detail["weights"] = {
        f"{stage}/fold_{number}": file_digest(file)
        for stage, numbers in of_stage.items()
        for number, file in zip(numbers, files[stage], strict=True)
    }
    dataset = run.dataset
    brain_mask = any(case.mask is not None for case in dataset.cases)
    names = {value: name for name, value in dataset.labels.items()}
    translation = Translation.of(last) if untouched else None
    return Member(str(run.path), stages, plan.planner, brain_mask, detail, names, translation)


def untrained_note(run: Run, member: Member) -> str | None:
    """A sentence on the folds that predict, where a run's splits have more.

    None where all are trained, where the run predicts with its source as it is, and of an imported model, whose splits
    are not known.

    Args:
        run: of the member.
        member: of all trained folds.
    """
    if KEPT_SHARE in member.detail or not run.dataset.cases:
        return None
    try:
        count = len(read_splits(run.path / "splits.json"))
    except AutosegError:  # nothing but this sentence needs the file
        return None
    folds = [number for number in member.stages[-1].by_fold if number < count]
    if len(folds) == count:
        return None
    if len(folds) == 1:
        return f"{run.path}: fold {folds[0]} of {count} is trained; it predicts alone."
    return f"{run.path}: folds {', '.join(map(str, folds))} of {count} are trained; their average is taken."


def _refuse_lacking(run: Run, folds: Mapping[str, Sequence[int]], checkpoint: str) -> None:
    """Refuse a checkpoint that a trained fold has not: none was kept on the way, or none came with the model."""
    why = "nothing was validated on the way" if run.dataset.cases else "the imported model has no checkpoint_best.pth"
    for name, numbers in folds.items():
        for number in numbers:
            file = run.fold(name, number).checkpoint(checkpoint)
            if not file.exists():
                raise UsageError(
                    f"--checkpoint {checkpoint}: fold {number} of {name} in {run.path} has no {file.name} ({why}); "
                    "leave the option out."
                )


def _folds(run: Run, name: str, wanted: Sequence[int] | None) -> list[int]:
    available = run.trained_folds(name)
    if not available:
        raise UsageError(f"{run.path} has no trained fold of {name}; {run.how_to_train(name)}.")
    absent = sorted(set(wanted or ()) - set(available))
    if absent:
        raise UsageError(
            f"fold {absent[0]} of {name} is not trained in {run.path}; trained: {', '.join(map(str, available))}."
        )
    return list(wanted or available)
