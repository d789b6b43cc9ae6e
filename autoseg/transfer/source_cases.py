"""Cases of the source's own data (``--source-data``), mixed into the batches of its fine-tuning.

Replaying what a network has learned keeps it from forgetting (rehearsal; Robins 1995, "Catastrophic forgetting,
rehearsal and pseudorehearsal").
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from autoseg.data.dataset import Case, Dataset
from autoseg.data.names import channel_key, output_key, pair
from autoseg.planning.carried import CARRIED
from autoseg.planning.request import Request
from autoseg.plans.mixing import USUAL_SHARE, Mixed
from autoseg.plans.plan import Plan
from autoseg.plans.recipe import Initialization
from autoseg.plans.stage import Stage
from autoseg.plans.target import Target
from autoseg.transfer.mixed_cases import MixedDataset, MixedIn, same_case
from autoseg.transfer.source import Source
from autoseg.transfer.teacher import Teacher
from autoseg.transfer.tensors import BACKGROUND, stages_from_model
from autoseg.utils.digest import digest
from autoseg.utils.errors import UsageError


@CARRIED.register("source cases")
@dataclass(frozen=True)
class SourceCases(MixedIn):
    """A dataset whose cases are to be mixed in.

    Attributes:
        path: of the dataset, in any layout.
        cohort_values: label values of the cohort's own dataset; known once it is checked.
    """

    path: str | Path
    cohort_values: list[int] = field(default_factory=list, init=False, compare=False, repr=False)
    key: ClassVar[str] = "source_cases"
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

    def check(self, request: Request, dataset: Dataset, out: Path) -> None:
        """Refuse a dataset without labels, or that has cases of the cohort, which are scored."""
        refuse_without_source(self.option, request)
        if not self.dataset.cases:
            raise UsageError(f"--source-data {self.path} has no labelled case; give the data that the source learned.")
        if (found := same_case(self.dataset.cases, (*dataset.cases, *dataset.unlabelled))) is not None:
            raise UsageError(
                f"--source-data {self.path} has the scan of {found[1].id} of the dataset ({found[0].id} there), which "
                "is held out when it is scored; give the source's own cases."
            )
        self.cohort_values[:] = dataset.labels.values()

    def apply(self, plan: Plan) -> Plan:
        """The plan with these cases in the recipe.

        Raises:
            UsageError: the plan starts from no model, or the dataset lacks a channel or an output.
        """
        stage = single_stage(self.option, plan)
        target = plan.target
        if self.dataset.ignore_label is not None:
            target = with_ignore(target, self.cohort_values, why="voxels that the source's cases leave open")
        described = self.described(plan.model_copy(update={"target": target}))
        why = f"{len(described.dataset.cases)} cases of {self.path}, so that what the source knew is not forgotten"
        reasons = {"file": why, "share": f"{USUAL_SHARE:g}, an estimate: the cohort's own cases decide"}
        return self.mixed_into(plan, stage, Mixed(file=self.file_of(described), reasons=reasons), target)

    def check_plan(self, plan: Plan) -> None:
        """Nothing more: :meth:`apply` has looked at it."""

    def described(self, plan: Plan) -> MixedDataset:
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

        def outputs_of(value: int) -> frozenset[str]:
            return frozenset(output.name for output in target.outputs if value in output.values)

        own = {outputs_of(value): value for value in sorted(target.values, reverse=True) if value != target.ignore}
        own[frozenset()] = 0
        values = {}
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


def refuse_without_source(option: str, request: Request) -> None:
    """Refuse what goes with a source alone, and not with a teacher.

    Raises:
        UsageError: names the option.
    """
    if request.carries(Source) is None:
        raise UsageError(f"{option} goes with --source, the model to start from.")
    if request.carries(Teacher) is not None:
        raise UsageError(f"{option} and --teacher don't go together: the teacher does not know these cases.")


def single_stage(option: str, plan: Plan) -> Stage:
    """The stage of a plan that starts from a model.

    Raises:
        UsageError: the plan has several stages, learns annotators separately or starts from no model.
    """
    stages = stages_from_model(plan)
    if len(plan.stages) > 1 or plan.raters or not stages:
        what = (
            "several stages" if len(plan.stages) > 1 else "separate raters" if plan.raters else "no model to start from"
        )
        raise UsageError(f"{option}: the plan has {what}, and no cases can be mixed in; leave the option out.")
    return stages[0]


def with_ignore(target: Target, cohort_values: Collection[int], why: str) -> Target:
    """A target with an ignore label: its own, or a value above all others.

    Args:
        target: of the plan, which may leave out some labels of the dataset.
        cohort_values: all label values of the dataset.
        why: for the plan.
    """
    if target.ignore is not None:
        return target
    value = max(*target.values, *cohort_values, 0) + 1
    return target.model_copy(update={"ignore": value, "reasons": {**target.reasons, "ignore": why}})


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
