"""Cases of the source's own data (``--source-data``), mixed into the batches of its fine-tuning.

Replaying what a network has learned keeps it from forgetting (rehearsal; Robins 1995, "Catastrophic forgetting,
rehearsal and pseudorehearsal").
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from autoseg.data.dataset import Case, Dataset
from autoseg.data.names import channel_key, output_key, pair
from autoseg.planning.carried import CARRIED, unchecked
from autoseg.planning.request import Request
from autoseg.plans.mixing import USUAL_SHARE, Mixed
from autoseg.plans.plan import Plan
from autoseg.plans.recipe import Initialization
from autoseg.plans.stage import Stage
from autoseg.plans.target import Target
from autoseg.transfer.label_values import values_by_outputs
from autoseg.transfer.mixed_cases import MixedDataset, same_case
from autoseg.transfer.source import Source
from autoseg.transfer.teacher import Teacher
from autoseg.transfer.tensors import BACKGROUND, stages_from_model
from autoseg.utils.digest import digest
from autoseg.utils.errors import UsageError
from autoseg.utils.files import write_json

#: How files in a run folder that describe such cases begin.
_FILES = "source_cases"


@CARRIED.register("source cases")
@dataclass(frozen=True)
class SourceCases:
    """A dataset whose cases are to be mixed in.

    Attributes:
        path: of the dataset, in any layout.
        cohort_values: label values of the cohort's own dataset; None until it is checked.
    """

    path: str | Path
    cohort_values: tuple[int, ...] | None = field(default=None, kw_only=True, compare=False, repr=False)
    kind: ClassVar[str] = "source cases"
    option: ClassVar[str] = "--source-data"
    provides: ClassVar[str] = "which labelled cases from elsewhere are mixed in"
    start: ClassVar[str] = "scratch"

    @cached_property
    def dataset(self) -> Dataset:
        """Its labelled cases."""
        found = Dataset.open(self.path)
        found.refuse_question()
        return found.model_copy(update={"unlabelled": ()})

    @cached_property
    def content(self) -> str:
        """Fingerprint of its description."""
        return digest(self.dataset.model_dump(mode="json"))

    def check(self, request: Request, dataset: Dataset, out: Path) -> "SourceCases":
        """Refuse a dataset without labels, or that has cases of the cohort, which are scored.

        Returns:
            The same, with the label values of the cohort's dataset.
        """
        _refuse_without_source(request)
        if not self.dataset.cases:
            raise UsageError(f"--source-data {self.path} has no labelled case; give the data that the source learned.")
        if (found := same_case(self.dataset.cases, (*dataset.cases, *dataset.unlabelled))) is not None:
            raise UsageError(
                f"--source-data {self.path} has the scan of {found[1].id} of the dataset ({found[0].id} there), which "
                "is held out when it is scored; give the source's own cases."
            )
        checked = replace(self, cohort_values=tuple(dataset.labels.values()))
        vars(checked)["dataset"] = self.dataset  # it is opened once
        return checked

    def apply(self, plan: Plan) -> Plan:
        """The plan with these cases in the recipe.

        Raises:
            UsageError: the plan starts from no model, the dataset lacks a channel or an output, or it was not checked.
        """
        if self.cohort_values is None:
            raise unchecked(self)
        stage = _single_stage(plan)
        target = plan.target
        if self.dataset.ignore_label is not None:
            target = _with_ignore(target, self.cohort_values)
        described = self._described(plan.model_copy(update={"target": target}))
        why = f"{len(described.dataset.cases)} cases of {self.path}, so that what the source knew is not forgotten"
        reasons = {"file": why, "share": f"{USUAL_SHARE:g}, an estimate: the cohort's own cases decide"}
        mixed = Mixed(file=_file_of(described), reasons=reasons)
        recipe = stage.recipe.model_copy(update={"source_cases": mixed})
        changed = {stage.name: stage.configuration.model_copy(update={"recipe": recipe})}
        return plan.model_copy(update={"configurations": changed, "target": target})

    def check_plan(self, plan: Plan) -> None:
        """Nothing more: :meth:`apply` has looked at it."""

    def install(self, plan: Plan, run: Path) -> None:
        """Describe the cases in the run folder; their scans stay where they are, like those of the dataset."""
        described = self._described(plan)
        run.mkdir(parents=True, exist_ok=True)
        write_json(run / _file_of(described), described.model_dump(mode="json"))

    @classmethod
    def remove_unused(cls, run: Path, plan: Plan) -> None:
        """Remove descriptions that the plan does not name."""
        named = [stage.recipe.source_cases for stage in plan.stages]
        used = {mixed.file for mixed in named if mixed is not None}
        for path in run.glob(f"{_FILES}_*.json"):
            if path.name not in used:
                path.unlink(missing_ok=True)

    def _described(self, plan: Plan) -> MixedDataset:
        """The dataset by the names and values of a plan."""
        (stage,) = stages_from_model(plan)
        start = stage.recipe.initialization
        channels = self._channels(stage, start)
        values = self._values(plan.target, start)
        cases = [_renamed(case, channels) for case in self.dataset.cases]
        dataset = self.dataset.model_copy(
            update={
                "cases": tuple(cases),
                "channels": tuple(stage.channel_names),
                "modalities": {},
                "preparation": None,
            }
        )
        return MixedDataset(dataset=dataset, values=values)

    def _channels(self, stage: Stage, start: Initialization) -> dict[str, str]:
        """Channel of the plan → the dataset's: what the source's weights of the channel were learned from."""
        found = _matched(start.channels, self.dataset.channels, channel_key)
        lacking = [name for name in stage.channel_names if name not in found]
        if lacking and not (found and stage.takes_missing_channels):
            raise UsageError(
                f"--source-data {self.path} has no channel {', '.join(lacking)} that the source learned (it has "
                f"{', '.join(self.dataset.channels)}); leave the option out."
            )
        return found

    def _values(self, target: Target, start: Initialization) -> dict[int, int]:
        """Label value of the dataset → a value of the plan that belongs to the same outputs, 0 for none."""
        known = {**{name: (value,) for name, value in self.dataset.labels.items()}, **self.dataset.regions}
        pairs = {name: other for name, other in start.outputs.items() if name != BACKGROUND}
        found = _matched(pairs, list(known), output_key)
        lacking = [output.name for output in target.outputs if output.name not in found]
        if lacking:
            raise UsageError(
                f"--source-data {self.path} has no {', '.join(lacking)} that the source learned (it has "
                f"{', '.join(known)}); leave the option out."
            )

        own, values = values_by_outputs(target), {}
        for label, value in self.dataset.labels.items():
            wanted = frozenset(name for name, other in found.items() if value in known[other])
            if wanted not in own:
                raise UsageError(
                    f"--source-data {self.path}: {label} belongs to {', '.join(sorted(wanted))} together, which no "
                    "label of the dataset does; leave the option out."
                )
            values[value] = own[wanted]
        if self.dataset.ignore_label is not None:
            values[self.dataset.ignore_label] = target.ignore or 0
        return values


def _file_of(described: MixedDataset) -> str:
    """Name of the file in the run folder."""
    return f"{_FILES}_{described.content}.json"


def _refuse_without_source(request: Request) -> None:
    """Refuse cases for what does not start from a source, or has a teacher."""
    if request.carries(Source) is None:
        raise UsageError("--source-data goes with --source, the model to start from.")
    if request.carries(Teacher) is not None:
        raise UsageError("--source-data and --teacher don't go together: the teacher does not know these cases.")


def _single_stage(plan: Plan) -> Stage:
    """The stage of a plan that starts from a model.

    Raises:
        UsageError: the plan has several stages, learns annotators separately or starts from no model.
    """
    stages = stages_from_model(plan)
    if len(plan.stages) > 1 or plan.raters or not stages:
        what = (
            "several stages" if len(plan.stages) > 1 else "separate raters" if plan.raters else "no model to start from"
        )
        raise UsageError(f"--source-data: the plan has {what}, and no cases can be mixed in; leave the option out.")
    return stages[0]


def _with_ignore(target: Target, cohort_values: Sequence[int]) -> Target:
    """A target with an ignore label: its own, or a value above all others.

    Args:
        target: of the plan, which may leave out some labels of the dataset.
        cohort_values: all label values of the dataset.
    """
    if target.ignore is not None:
        return target
    value = max(*target.values, *cohort_values, 0) + 1
    reasons = {**target.reasons, "ignore": "voxels that the source's cases leave open"}
    return target.model_copy(update={"ignore": value, "reasons": reasons})


def _matched(pairs: Mapping[str, str], known: Sequence[str], key: Callable[[str], str]) -> dict[str, str]:
    """Own name → name in the dataset, which calls it as the source does, or as the cohort."""
    found = {}
    for name, other in pairs.items():
        match = pair([other], known, key).get(other) or pair([name], known, key).get(name)
        if match is not None:
            found[name] = match
    return found


def _renamed(case: Case, channels: Mapping[str, str]) -> Case:
    files = {name: case.channels[other] for name, other in channels.items() if other in case.channels}
    return case.model_copy(update={"channels": files, "raters": {}})
