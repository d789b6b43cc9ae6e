"""Plan: what to do with a dataset, as one readable and validated file.

A planner writes it; preprocessing, training and inference execute it and decide nothing. Each model has a field
``reasons`` (field name → one line) with the reason of each derived value.

Axes: all per-axis values are in array order ``(z, y, x)`` *after* ``Preprocessing.transpose``; spacing is in mm.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from autoseg.plans.configuration import Configuration, FolderName
from autoseg.plans.evaluation import EvaluationRules
from autoseg.plans.preprocessing import Channel, Preprocessing
from autoseg.plans.reasons import Reasoned, without_reasons
from autoseg.plans.stage import Stage
from autoseg.plans.target import Target
from autoseg.utils.errors import UsageError

if TYPE_CHECKING:
    from typing import Self

#: Version of the file format. A reader refuses newer files and upgrades older ones (:mod:`autoseg.plans.files`).
SCHEMA_VERSION = 1


class Plan(Reasoned):
    """The plan of a dataset: preprocessing, networks, training and inference.

    Attributes:
        schema_version: of the file format.
        autoseg_version: that wrote the file.
        planner: name of the planner.
        dataset: name of the dataset.
        device: kind of device planned for: ``cuda``, ``mps`` or ``cpu``.
        gpu_memory_gb: memory budget, 10⁹ bytes.
        channels: input of the network, in order.
        allow_missing_channels: whether a case may lack a channel (it is then zero); without it, cases may where the
            recipe drops channels (:attr:`autoseg.plans.stage.Stage.takes_missing_channels`).
        target: what to segment.
        raters: names of the raters of the cases who are learned separately, each by a decoder of its own, in this
            order; empty to learn from one label map a case.
        preprocessing: steps shared by all configurations.
        configurations: name (``2d``, ``3d_fullres``, ``3d_lowres``) → configuration.
        recommended: the configuration used where none is named.
        evaluation: which cases are held out, and by which convention results are measured.
        file_ending: of results.
    """

    schema_version: int = SCHEMA_VERSION
    autoseg_version: str = ""
    planner: str
    dataset: str
    device: Literal["cuda", "mps", "cpu"] = "cuda"
    gpu_memory_gb: float = Field(8.0, gt=0)
    channels: list[Channel] = Field(min_length=1)
    allow_missing_channels: bool = False
    target: Target
    raters: list[FolderName] = Field(default_factory=list)
    preprocessing: Preprocessing = Preprocessing()
    configurations: dict[FolderName, Configuration] = Field(min_length=1)
    recommended: str
    evaluation: EvaluationRules = EvaluationRules()
    file_ending: str = ".nii.gz"

    @property
    def channel_names(self) -> list[str]:
        """Names of the input channels, in order."""
        return [channel.name for channel in self.channels]

    @model_validator(mode="after")
    def _consistent(self) -> "Self":
        if self.recommended not in self.configurations:
            raise ValueError(f"recommended names {self.recommended}, which is none of the configurations")
        if len(set(self.channel_names)) != len(self.channels):
            raise ValueError("two channels have the same name")
        if len(self.raters) == 1 or len(set(self.raters)) != len(self.raters):
            raise ValueError("raters must name two different ones or more, or none")
        for name, configuration in self.configurations.items():
            self._check_stages(name)
            dropout = configuration.recipe.channel_dropout
            if dropout and len(self.channels) == 1:
                raise ValueError(
                    f"configurations.{name}.recipe.channel_dropout is {dropout:g}, but {self.channel_names[0]} is the "
                    "only channel and always kept; set it to 0"
                )
            if configuration.recipe.initialization.keep == "auto" and (configuration.previous or self.raters):
                raise ValueError(
                    f"configurations.{name}.recipe.initialization.keep can't be auto for a stage that follows another "
                    "one or for separate raters; give a share from 0 to below 1"
                )
            unsuited = configuration.network.suits(self._target_of(name).kind)
            if unsuited:
                raise ValueError(f"configurations.{name}.{unsuited}")
            self._check_answers(name)
        return self

    def _check_answers(self, name: str) -> None:
        """A network must have as many decoders as there are annotators to learn separately."""
        answers = self.configurations[name].network.answers
        if answers != max(len(self.raters), 1):
            raise ValueError(
                f"configurations.{name}.network answers for {answers} rater(s), but the plan names "
                f"{len(self.raters)}; only families with several decoders can (network.decoders)"
            )

    def _check_stages(self, name: str) -> None:
        """A chain of stages must end, provide the outputs that later stages use, and cover the plan's target."""
        chain = [name]
        segmented: set[str] = set()
        while True:
            configuration = self.configurations[chain[-1]]
            segmented |= {output.name for output in self._target_of(chain[-1]).outputs}
            previous = configuration.previous
            if previous is None:
                break
            where = f"configurations.{chain[-1]}.previous"
            if previous.configuration not in self.configurations:
                raise ValueError(f"{where}.configuration names {previous.configuration}, which does not exist")
            if previous.configuration in chain:
                raise ValueError(f"{where} goes round in a circle: {' → '.join([*chain, previous.configuration])}")
            outputs = self._target_of(previous.configuration).outputs
            if previous.use == "box" and previous.output not in [output.name for output in outputs]:
                raise ValueError(f"{where}.output names {previous.output}, which {previous.configuration} has not")
            for shared in ("spacing", "data", "resampling") if previous.use == "box" else ():
                both = [c.model_dump()[shared] for c in (configuration, self.configurations[previous.configuration])]
                if without_reasons(both[0]) != without_reasons(both[1]):
                    raise ValueError(f"{where}: a stage inside another one's box must have the same {shared}")
            chain.append(previous.configuration)
        last = [c.previous.configuration for c in self.configurations.values() if c.previous is not None]
        missing = [output.name for output in self.target.outputs if output.name not in segmented]
        if name in last:
            return
        if missing:
            raise ValueError(f"configurations.{name} and the stages before it do not segment {', '.join(missing)}")
        self._check_result(name)

    def _check_result(self, name: str) -> None:
        """Outputs of a chain's stages that belong to the plan's target must be defined as they are there."""
        where = f"configurations.{name}.target"
        own = self._target_of(name)
        if self.target.kind == "labels":
            same_outputs = without_reasons(own.model_dump()["outputs"]) == without_reasons(
                self.target.model_dump()["outputs"]
            )
            if own.kind != "labels" or not same_outputs:
                raise ValueError(f"{where}: labels come from the last stage, whose outputs must be the plan's")
            return
        for output in self.target.outputs:
            for stage in self._chain(name):
                target = self._target_of(stage)
                same = [candidate for candidate in target.outputs if candidate.name == output.name]
                if same and (target.kind != "regions" or same[0].values != output.values):
                    raise ValueError(
                        f"configurations.{stage}.target: {output.name} must be a region of the values {output.values}, "
                        "as in the plan's target"
                    )

    def stage(self, name: str | None = None) -> Stage:
        """The configuration of this name, or the recommended one, resolved.

        Raises:
            UsageError: the plan has no such configuration.
        """
        name = name or self.recommended
        if name not in self.configurations:
            raise UsageError(f"--config {name} is not in the plan; it has {', '.join(self.configurations)}.")
        configuration = self.configurations[name]
        previous = configuration.previous
        followed = {c.previous.configuration for c in self.configurations.values() if c.previous is not None}
        return Stage(
            name=name,
            configuration=configuration,
            channels=tuple(self.channels),
            preprocessing=self.preprocessing,
            target=self._target_of(name),
            result=self._target_of(name) if name in followed else self.target,
            before=None if previous is None else self.stage(previous.configuration),
            annotators=tuple(self.raters),
            allows_missing=self.allow_missing_channels,
            empty=self.evaluation.empty,
            file_ending=self.file_ending,
        )

    @property
    def stages(self) -> list[Stage]:
        """All configurations, resolved, in the plan's order."""
        return [self.stage(name) for name in self.configurations]

    def _target_of(self, name: str) -> Target:
        return self.configurations[name].target or self.target

    def _chain(self, name: str) -> list[str]:
        """The configurations that have to be trained for this one, in order; it comes last."""
        chain = [name]
        while (previous := self.configurations[chain[0]].previous) is not None:
            chain.insert(0, previous.configuration)
        return chain


def channels_of_all(plans: Iterable[Plan]) -> list[str]:
    """Names of the channels that any of several plans has, in order, those of the first plan first."""
    return list(dict.fromkeys(name for plan in plans for name in plan.channel_names))
