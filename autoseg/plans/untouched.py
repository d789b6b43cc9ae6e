"""Untouched: what a model that a training starts from is like as its own run predicts, where the plan is not."""

from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from autoseg.plans.augmentation import Axis
from autoseg.plans.postprocessing import Step
from autoseg.plans.preprocessing import Channel
from autoseg.plans.reasons import Reasoned
from autoseg.plans.target import Target

if TYPE_CHECKING:
    from typing import Self


class Untouched(Reasoned):
    """A model with channels, outputs or mirroring that the plan which starts from it has not.

    So it predicts as its own run does: it decides and is cleaned up by all that it knows, and its label maps are
    brought to the plan's values last.

    Attributes:
        channels: its own, in its order, where it has more than the plan; those that both have go by the plan's names,
            the others by names that no image has, so that they are always missing. Empty where it has no more.
        target: its own, where it has more outputs than the plan; those that both have go by the plan's names. None
            where it has no more.
        values: value that ``target`` is painted with → the plan's value that belongs to the same outputs; 0 for none.
        postprocessing: steps on its label maps before that, by the names of ``target``; without one, they are those of
            the initialization.
        mirror_axes: axes flipped in its test-time augmentation.
    """

    channels: list[Channel] = Field(default_factory=list)
    target: Target | None = None
    values: dict[int, int] = Field(default_factory=dict)
    postprocessing: list[Step] = Field(default_factory=list)
    mirror_axes: list[Axis] = Field(default_factory=list)

    @property
    def has_network(self) -> bool:
        """Whether its network has other channels or heads than the plan's."""
        return bool(self.channels) or self.target is not None

    @model_validator(mode="after")
    def _complete(self) -> "Self":
        outputs = [] if self.target is None else self.target.outputs
        if set(self.values) != {output.paint for output in outputs}:
            raise ValueError("values must name each value that target is painted with")
        if unknown := sorted({step.output for step in self.postprocessing} - {output.name for output in outputs}):
            raise ValueError(f"postprocessing names {', '.join(unknown)}, which target has not")
        return self
