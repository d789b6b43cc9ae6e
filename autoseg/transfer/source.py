"""A trained model as the starting point of another (``--source``): which one, and what of it is used.

Channels, labels and regions are matched by name (:mod:`autoseg.data.names`); what becomes of each tensor is in
:mod:`autoseg.transfer.tensors` and :mod:`autoseg.transfer.surgery`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import torch

from autoseg.data.dataset import Dataset
from autoseg.data.names import channel_key, output_key, pair
from autoseg.networks.parts import own_tensors
from autoseg.networks.weights import content_of, load_weights, save_weights
from autoseg.planning.carried import CARRIED, unchecked
from autoseg.planning.planners import starting_from
from autoseg.planning.request import Request
from autoseg.plans.plan import Plan
from autoseg.plans.postprocessing import Step
from autoseg.plans.recipe import Initialization
from autoseg.plans.stage import Stage
from autoseg.plans.target import Target
from autoseg.postprocessing.steps import all_steps
from autoseg.runs.run import Run
from autoseg.runs.weight_files import is_of
from autoseg.transfer.learned_cases import learned_by, learned_cases
from autoseg.transfer.source_landmarks import source_landmarks
from autoseg.transfer.tensors import (
    BACKGROUND,
    HANDED_ON,
    head_names,
    input_names,
    stages_from_model,
    transfer_table,
    unfilled,
)
from autoseg.utils.digest import digest
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.shell import quoted

#: With ``--map-channel NAME=new``, a channel gets nothing from the source.
NEW = "new"


@CARRIED.register("source")
@dataclass(frozen=True)
class Source:
    """A model that somebody asks to start from.

    Attributes:
        path: its run folder.
        configuration: name; the run's usual one where None.
        fold: number, which the tuning starts from; where None the planner decides, and the first trained one stands for
            the source.
        channels: channel of the dataset → channel of the source, where names do not tell; or :data:`NEW`.
        outputs: label or region of the dataset → that of the source, likewise.
        tuning: how to train what is taken over, for the planner; its default where empty.
        harmonize: map intensities to those of the source's training images.
        learned: cases of the dataset that the source was trained on; None until it is checked.
        standard: channel of the source → intensities that the dataset's are mapped onto; empty until it is checked, and
            where nothing is to be harmonized.
    """

    path: str | Path
    configuration: str | None = None
    fold: int | None = None
    channels: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    tuning: str = ""
    harmonize: bool = False
    learned: Mapping[str, Literal["file", "name"]] | None = field(default=None, kw_only=True, compare=False, repr=False)
    standard: Mapping[str, list[float]] = field(default_factory=dict, kw_only=True, compare=False, repr=False)
    kind: ClassVar[str] = "source"
    option: ClassVar[str] = "--source"
    provides: ClassVar[str] = "what the training starts from"
    start: ClassVar[str] = "model"

    @cached_property
    def model(self) -> "SourceModel":
        """The model that is asked for.

        Raises:
            AutosegError: the folder is no run.
            UsageError: nothing is trained there, or not what is asked for.
        """
        return open_source(self)

    @cached_property
    def content(self) -> str:
        """Fingerprint of the weights, and of how they are to be used."""
        weights = {stage.name: content_of(self.model.weights(stage)) for stage in self.model.stage.chain}
        harmonized = [True] if self.harmonize else []
        pinned = [] if self.fold is None else [{"fold": self.fold}]
        return digest([weights, dict(self.channels), dict(self.outputs), self.tuning, *harmonized, *pinned])

    def check(self, request: Request, dataset: Dataset, out: Path) -> "Source":
        """Refuse a folder that is no trained run or is the one to write, and names that are not there.

        Returns:
            The same, with the cases that the source was trained on, and the intensities of its images where they count.

        Raises:
            UsageError: likewise; or images are to be harmonized, and no channel can be.
        """
        if Path(self.path).resolve() == out.resolve():
            raise UsageError(f"--source {self.path} is the run folder that --out writes; choose another one to write.")
        channels = match_channels(request.channels or dataset.channels, self.model)
        match_outputs(request.regions or list(dataset.regions or dataset.labels), self.model)
        standard = self._standard(channels.values(), request.workers) if self.harmonize else {}
        run, stage = self.model.run, self.model.stage
        folds = set() if self.model.keeps else {self.model.fold, *self.model.trained}
        grids = {case.id: case for case in run.fingerprint.cases}
        cohort = (*dataset.cases, *dataset.labelled_test_cases)
        return replace(self, learned=learned_cases(cohort, learned_by(run, stage, folds), grids), standard=standard)

    def _standard(self, channels: Iterable[str], workers: int | None) -> dict[str, list[float]]:
        """The intensities of the source's training images in some of its channels, of those that are no CT."""
        model = self.model
        of_ct = {channel.name for channel in model.plan.channels if channel.normalization.scheme == "ct"}
        wanted = [name for name in channels if name not in of_ct]
        if not wanted:
            raise UsageError(
                "--harmonize: there is no channel to harmonize (CT has the same intensities anywhere); leave it out."
            )
        stage = model.run.plan.stage(model.stage.name)
        return source_landmarks(model.run, stage, wanted, model.keeps, workers)

    def apply(self, plan: Plan) -> Plan:
        """The plan, whose planner has looked at the source, with the cases that this was trained on.

        Raises:
            UsageError: the planner starts from no model, or it was not checked.
        """
        if self.learned is None:
            raise unchecked(self)
        if not stages_from_model(plan):
            raise UsageError(
                f"--source: planner {plan.planner} starts from no model; use --planner {starting_from('model')}."
            )
        plan = _with_learned(plan, self.learned)
        return self._harmonized(plan) if self.harmonize else plan

    def _harmonized(self, plan: Plan) -> Plan:
        """The plan, with the intensities of the source's training images as the standard of its channels."""
        pairs = stages_from_model(plan)[-1].recipe.initialization.channels
        wanted = {
            channel.name: pairs[channel.name]
            for channel in plan.channels
            if pairs.get(channel.name) in self.standard and channel.normalization.scheme != "ct"
        }
        reason = f"{', '.join(wanted)}: the mean of the source's training images (Nyúl et al. 2000)"
        changed = {
            "harmonize": {name: self.standard[other] for name, other in wanted.items()},
            "reasons": {**plan.preprocessing.reasons, "harmonize": reason},
        }
        return plan.model_copy(update={"preprocessing": plan.preprocessing.model_copy(update=changed)})

    def check_plan(self, plan: Plan) -> None:
        """Refuse networks of another architecture than the source's, and a tuning that looks at cases that judge it."""
        for stage in stages_from_model(plan):
            if told := stage.recipe.looks_at_judges:
                raise UsageError(f"--source: {told}.")
            transfer_table(stage, self.model.weights(self._of(stage)))

    def install(self, plan: Plan, run: Path) -> None:
        """Copy the weights into the run folder."""
        for stage in stages_from_model(plan):
            save_weights(run / stage.recipe.initialization.file, self.model.weights(self._of(stage)))
            for weights in self.model.ensemble(self._of(stage)) if stage.recipe.initialization.ensemble else ():
                save_weights(run / file_name(stage, weights), weights)

    @classmethod
    def remove_unused(cls, run: Path, plan: Plan) -> None:
        """Remove the weights that the plan does not name."""
        starts = [stage.recipe.initialization for stage in stages_from_model(plan)]
        used = {name for start in starts for name in (start.file, *start.ensemble)}
        (run / "transfer.json").unlink(missing_ok=True)  # of earlier versions; the weights say what it said
        for path in run.glob("source_*.safetensors"):
            if path.name not in used:
                path.unlink(missing_ok=True)

    def _of(self, stage: Stage) -> Stage:
        """The source's stage that a stage of the plan is made of: that of the same name."""
        return next(one for one in self.model.stage.chain if one.name == stage.name)


@dataclass(frozen=True)
class SourceModel:
    """A source, opened.

    Attributes:
        asked: for it.
        run: its folder.
        stage: that is the source, with the stages before it; of a run that keeps a source with more channels or
            outputs, that source's.
        fold: number.
        dimension: 2 where it was trained on pictures, 3 on volumes.
    """

    asked: Source
    run: Run
    stage: Stage
    fold: int
    dimension: int

    @property
    def plan(self) -> Plan:
        """That it was trained by; its channels and preprocessing are what it predicts with."""
        used = self.run.used(self._planned)
        channels = {"channels": list(used.channels), "allow_missing_channels": used.allows_missing}
        return self.run.plan.model_copy(
            update={"preprocessing": used.preprocessing, **(channels if self._untouched else {})}
        )

    @property
    def _planned(self) -> Stage:
        """The stage of its plan, whatever it predicts with."""
        return self.run.plan.stage(self.stage.name)

    @cached_property
    def _untouched(self) -> list[Path]:
        """Weights of the source that it keeps with more channels or outputs than its plan has; else none."""
        return self.run.kept_source(self._planned) if self.stage.identity != self._planned.identity else []

    @property
    def title(self) -> str:
        """What to call it in reasons and messages."""
        return f"{self.run.path} ({self.stage.name}, fold {self.fold})"

    @cached_property
    def trained(self) -> list[int]:
        """Folds that all of its stages have trained: what it predicts with as it is."""
        each = [
            {fold.number for fold in self.run.folds(stage) if is_of(stage, fold.weights)}
            for stage in self._planned.chain
        ]
        return sorted(set.intersection(*each))

    @property
    def keeps(self) -> bool:
        """Whether its run keeps the source that it was fine-tuned from, which has learned none of the run's cases."""
        return bool(self.run.kept_source(self._planned))

    def weights(self, stage: Stage, fold: int | None = None) -> dict[str, torch.Tensor]:
        """Tensors of one of its stages by name, each once.

        Args:
            stage: of the source.
            fold: number; its own where None.

        Raises:
            AutosegError: they are missing, unreadable or of another plan.
        """
        number = self.fold if fold is None else fold
        kept = self._untouched
        return self._tensors(stage, kept[number % len(kept)] if kept else self.run.fold(stage, number).weights)

    def ensemble(self, stage: Stage) -> list[dict[str, torch.Tensor]]:
        """The tensors of all that predicts together where it is used as it is: its folds, or what it kept."""
        files = self.run.kept_source(stage) or [self.run.fold(stage, fold).weights for fold in self.trained]
        found = {file_name(stage, weights): weights for weights in (self._tensors(stage, file) for file in files)}
        start = self.weights(stage)
        return list({**found, file_name(stage, start): start}.values())

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The post-processing of what it predicts as it is, by its own names of outputs."""
        own = self._planned.recipe.initialization.untouched if self._untouched else None
        chosen = all_steps(self.run.path, self.stage.name, self._planned.result)
        return (*(() if own is None else own.postprocessing), *chosen)

    def _tensors(self, stage: Stage, path: Path) -> dict[str, torch.Tensor]:
        weights = load_weights(path)
        if not is_of(stage, path):
            raise AutosegError(f"--source: {path} was trained under another plan than the one beside it.")
        return {name: weights[name] for name in own_tensors(unfilled(stage)) if name in weights}


def _with_learned(plan: Plan, learned: Mapping[str, Literal["file", "name"]]) -> Plan:
    """A plan whose stages that start from a source name the cases that it was trained on."""
    configurations = dict(plan.configurations)
    for stage in stages_from_model(plan):
        start = stage.recipe.initialization.model_copy(update={"learned": dict(learned)})
        recipe = stage.recipe.model_copy(update={"initialization": start})
        configurations[stage.name] = stage.configuration.model_copy(update={"recipe": recipe})
    return plan.model_copy(update={"configurations": configurations})


def file_name(stage: Stage, weights: Mapping[str, torch.Tensor]) -> str:
    """Name, in a run folder, of the file with a source's weights for a stage."""
    return f"source_{stage.name}_{content_of(weights)}.safetensors"


def open_source(source: Source) -> SourceModel:
    """Find the model that is asked for.

    Raises:
        AutosegError: the folder is no run.
        UsageError: nothing is trained there, or not what is asked for.
    """
    path = Path(source.path)
    if not (path / "plan.json").is_file():
        if (path / "plans.json").is_file() and (path / "dataset.json").is_file():
            raise UsageError(
                f"--source {path} is a model folder of nnU-Net; import it first with 'autoseg import nnunet "
                f"{quoted(path)} --out SOURCE', then give that folder."
            )
        raise UsageError(f"--source {path} is no run folder (it has no plan.json); give one that 'autoseg train' made.")
    run = Run.open(path)
    plan = run.plan
    name = source.configuration or run.usual_configuration()
    if name not in plan.configurations:
        raise UsageError(f"--source-config {name} is not in {path}; it has {', '.join(plan.configurations)}.")
    trained = run.trained_folds(name)
    if not trained:
        raise UsageError(f"--source {path} has no trained fold of {name}; {run.how_to_train(name)}.")
    fold = trained[0] if source.fold is None else source.fold
    if fold not in trained:
        raise UsageError(
            f"--source-fold {fold} of {name} is not trained in {path}; trained: {', '.join(map(str, trained))}."
        )
    planned = plan.stage(name)
    used, own = run.used(planned), planned.recipe.initialization.untouched
    # A source that is kept with more than the plan has another network than the run's own folds.
    other = used != planned and own is not None and own.has_network
    stage = used if other else replace(planned, configuration=used.configuration)
    return SourceModel(source, run, stage, fold, run.fingerprint.dimension)


def match_channels(names: Sequence[str], model: SourceModel) -> dict[str, str]:
    """Channel → the source's channel that is the same, by name or as the user says.

    Raises:
        UsageError: the user names an unknown one, or there is none in common.
    """
    found = _match(names, model.plan.channel_names, model.asked.channels, channel_key, "--map-channel")
    if not found:
        raise UsageError(
            f"--source {model.run.path} has the channels {', '.join(model.plan.channel_names)} and the dataset "
            f"{', '.join(names)}: none is the same; say which is which with --map-channel {names[0]}="
            f"{model.plan.channel_names[0]}."
        )
    return found


def match_outputs(names: Sequence[str], model: SourceModel) -> dict[str, str]:
    """Label or region → the source's that is the same, by name or as the user says; possibly none.

    Raises:
        UsageError: the user names an unknown one.
    """
    known = dict.fromkeys(output.name for stage in model.stage.chain for output in stage.target.outputs)
    return _match(names, list(known), model.asked.outputs, output_key, "--map-label")


def _match(
    names: Sequence[str], others: Sequence[str], given: Mapping[str, str], key: Callable[[str], str], option: str
) -> dict[str, str]:
    for name, other in given.items():
        if name not in names:
            raise UsageError(f"{option} {name}={other}: the dataset has {', '.join(names)}, not {name}.")
        if other not in others and other != NEW:
            raise UsageError(f"{option} {name}={other}: the source has {', '.join(others)}, not {other}.")
    found = pair([name for name in names if name not in given], [o for o in others if o not in given.values()], key)
    found |= {name: other for name, other in given.items() if other != NEW}
    return {name: found[name] for name in names if name in found}


def source_initialization(
    model: SourceModel,
    stage: Stage,
    inputs: Sequence[str],
    target: Target,
    channels: Mapping[str, str],
    outputs: Mapping[str, str],
) -> Initialization:
    """Where the weights of a configuration come from, as its recipe says it.

    Args:
        model: to start from.
        stage: of the source, that this configuration is made of.
        inputs: see :func:`autoseg.transfer.tensors.input_names`, of the new configuration.
        target: of the new configuration.
        channels: from :func:`match_channels`.
        outputs: from :func:`match_outputs`.
    """
    source_channels = input_names(stage)
    source_outputs = head_names(stage.target)
    weights = model.weights(stage)
    pairs = {
        **channels,
        **{f"{HANDED_ON}{name}": f"{HANDED_ON}{other}" for name, other in outputs.items()},
    }
    heads = {BACKGROUND: BACKGROUND, **outputs}
    taken = {name: heads[name] for name in head_names(target) if heads.get(name) in source_outputs}
    steps = [
        step.model_copy(update={"output": name})
        for step in (model.steps if stage.name == model.stage.name else ())
        for name, other in taken.items()
        if other == step.output
    ]
    why = {"postprocessing": f"the source's: {'; '.join(map(str, steps))}"} if steps else {}
    return Initialization(
        source="model",
        file=file_name(stage, weights),
        content=content_of(weights),
        ensemble=[file_name(stage, each) for each in model.ensemble(stage)],
        source_channels=source_channels,
        source_outputs=source_outputs,
        channels={name: pairs[name] for name in inputs if pairs.get(name) in source_channels},
        outputs=taken,
        postprocessing=steps,
        harmonized=[name for name, other in channels.items() if other in model.plan.preprocessing.harmonize],
        reasons={
            "source": f"all weights of {model.title} that fit",
            "channels": _matches(inputs, channels),
            "outputs": _matches([output.name for output in target.outputs], outputs),
            **why,
        },
    ).from_annotators(model.plan.stage().annotators)


def _matches(names: Sequence[str], pairs: Mapping[str, str]) -> str:
    same = [name for name in names if pairs.get(name) == name]
    renamed = [f"{name} is the source's {pairs[name]}" for name in names if name in pairs and pairs[name] != name]
    new = [name for name in names if name not in pairs and not name.startswith(HANDED_ON)]
    parts = [f"{', '.join(same)} by name" if same else "", *renamed, f"{', '.join(new)} new" if new else ""]
    return "; ".join(part for part in parts if part) or "none"
