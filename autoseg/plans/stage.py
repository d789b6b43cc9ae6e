"""Stage: one configuration of a plan, resolved for preprocessing, training and inference."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from autoseg.plans.architecture import Network
from autoseg.plans.configuration import Configuration, Previous
from autoseg.plans.inference import Inference
from autoseg.plans.preprocessing import Channel, Preprocessing
from autoseg.plans.reasons import without_reasons
from autoseg.plans.recipe import ANNOTATORS_KEY, Recipe
from autoseg.plans.target import Target
from autoseg.utils.digest import digest


@dataclass(frozen=True)
class Stage:
    """One configuration of a plan, resolved (:meth:`autoseg.plans.plan.Plan.stage`).

    Attributes:
        name: of the configuration.
        configuration: as the plan has it.
        channels: of the image, in order.
        preprocessing: steps before resampling, shared by all configurations of the plan.
        target: what this stage is trained to segment.
        result: target of a prediction with it and the stages before it: the plan's, or its own where another stage
            follows it.
        before: the stage that is trained first and whose segmentation this one uses; None for the first.
        annotators: who are learned separately, each by a decoder; empty for a single decoder.
        allows_missing: whether the plan allows cases that lack a channel.
        empty: convention for structures that are absent, in its validations (``plan.evaluation.empty``).
        file_ending: of results.
    """

    name: str
    configuration: Configuration
    channels: tuple[Channel, ...]
    preprocessing: Preprocessing
    target: Target
    result: Target
    before: "Stage | None" = None
    annotators: tuple[str, ...] = ()
    allows_missing: bool = False
    empty: Literal["skip", "brats"] = "skip"
    file_ending: str = ".nii.gz"

    @property
    def network(self) -> Network:
        """The network's description."""
        return self.configuration.network

    @property
    def recipe(self) -> Recipe:
        """Its training settings."""
        return self.configuration.recipe

    @property
    def inference(self) -> Inference:
        """Its inference settings."""
        return self.configuration.inference

    @property
    def previous(self) -> Previous | None:
        """How the previous stage's segmentation is used, if there is one."""
        return self.configuration.previous

    @property
    def idle_without_validation(self) -> list[str]:
        """Settings that change nothing in a fold that validates no case."""
        stops = ["recipe.early_stopping"] if self.recipe.early_stopping else []
        return [*stops, *(["inference.checkpoint=best"] if self.inference.checkpoint == "best" else [])]

    @property
    def channel_names(self) -> list[str]:
        """Names of the image's channels, in order."""
        return [channel.name for channel in self.channels]

    @property
    def chain(self) -> "list[Stage]":
        """All stages that have to be trained for this one, in order; it comes last."""
        return [self] if self.before is None else [*self.before.chain, self]

    @property
    def input_target(self) -> Target | None:
        """Target of the previous stage, where its segmentation is further input, one channel for each output."""
        if self.before is None or self.previous is None or self.previous.use != "channels":
            return None
        return self.before.target

    @property
    def in_channels(self) -> int:
        """Input channels of the network: the image's, and those of the previous stage's segmentation."""
        return len(self.channels) + (0 if self.input_target is None else len(self.input_target.outputs))

    @property
    def heads(self) -> int:
        """Output channels of one decoder of the network."""
        return self.target.heads

    @property
    def out_channels(self) -> int:
        """Output channels of the network: the heads of all its decoders."""
        return self.target.heads * self.network.answers

    @property
    def takes_missing_channels(self) -> bool:
        """Whether it accepts, with all stages before it, cases that lack a channel.

        Either the plan allows them, or every one of these stages learns to do without (``recipe.channel_dropout``).
        """
        return self.allows_missing or all(stage.recipe.channel_dropout > 0 for stage in self.chain)

    @property
    def harmonizes_for_source(self) -> bool:
        """Whether images are harmonized that the source model, as it is, sees without."""
        return not set(self.preprocessing.harmonize) <= set(self.recipe.initialization.harmonized)

    @property
    def differs_for_source(self) -> bool:
        """Whether the source model predicts otherwise, as its own run does, than by this plan with its weights."""
        return self.harmonizes_for_source or self.recipe.initialization.untouched is not None

    @property
    def unharmonized(self) -> "Stage":
        """The same with images as the source model sees them: harmonized where it was trained on such."""
        own = self.recipe.initialization.harmonized
        kept = {name: values for name, values in self.preprocessing.harmonize.items() if name in own}
        return replace(
            self,
            preprocessing=self.preprocessing.model_copy(update={"harmonize": kept}),
            before=None if self.before is None else self.before.unharmonized,
        )

    @property
    def as_source(self) -> "Stage":
        """The source model as its own run predicts: its images, and what it has more than the plan."""
        seen, own = self.unharmonized, self.recipe.initialization.untouched
        if own is None:
            return seen
        ours = {channel.name: channel for channel in self.channels}
        inference = self.inference.model_copy(update={"mirror_axes": own.mirror_axes})
        return replace(
            seen,
            configuration=self.configuration.model_copy(update={"inference": inference}),
            channels=tuple(ours.get(channel.name, channel) for channel in own.channels) or self.channels,
            target=own.target or self.target,
            result=own.target or self.result,
            allows_missing=self.allows_missing or bool(own.channels),
        )

    @property
    def annotators_part(self) -> dict[str, Any]:
        """The annotators' part of fingerprints; empty without them, so that older fingerprints stay valid."""
        return {ANNOTATORS_KEY: self.annotators} if self.annotators else {}

    @cached_property
    def identity(self) -> str:
        """A fingerprint of all that weights depend on: input, network and target.

        Values at their defaults do not count, so that a later version's new keys leave the weights of older ones valid.
        """
        parts: dict[str, Any] = {
            "channels": [channel.model_dump(exclude_defaults=True) for channel in self.channels],
            "preprocessing": self.preprocessing.model_dump(exclude_defaults=True),
            "spacing": self.configuration.spacing,
            "resampling": self.configuration.resampling.model_dump(exclude_defaults=True),
            "target": self.target.model_dump(exclude_defaults=True),
            "network": {"family": self.network.family, **self.network.model_dump(exclude_defaults=True)},
        }
        parts |= self.annotators_part
        if self.before is not None and self.previous is not None:
            parts["previous"] = self.previous.model_dump(exclude_defaults=True)
            parts["handed_on"] = self.before.target.model_dump(exclude_defaults=True)
        return digest(without_reasons(parts))
