"""Target of a segmentation: labels or regions."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from autoseg.plans.reasons import Reasoned

if TYPE_CHECKING:
    from typing import Self


class Output(Reasoned):
    """One label or region to segment.

    Attributes:
        name: of the label or region.
        values: label values it is made of (one, for a label).
        paint: value written into a predicted label map where this output is the last one that is positive.
    """

    name: str
    values: list[int] = Field(min_length=1)
    paint: int


class Target(Reasoned):
    """The labels or regions that a network segments.

    Attributes:
        kind: ``labels`` are exclusive (softmax with a background class); ``regions`` may overlap (sigmoid each).
        outputs: in painting order: a later region is painted over an earlier one.
        ignore: label value of voxels that the loss leaves out.
    """

    kind: Literal["labels", "regions"]
    outputs: list[Output] = Field(min_length=1)
    ignore: int | None = None

    @property
    def heads(self) -> int:
        """Number of output channels of the network."""
        return len(self.outputs) + (1 if self.kind == "labels" else 0)

    @property
    def values(self) -> list[int]:
        """0, and every label value that matters: those of the outputs in ascending order, then the ignored one."""
        found = sorted({value for output in self.outputs for value in output.values} - {0})
        return [0, *found, *([] if self.ignore is None or self.ignore in (0, *found) else [self.ignore])]

    @property
    def indexed(self) -> "Target":
        """The same target for label maps that hold indices of :attr:`values`, in which values of any size fit."""
        index = {value: position for position, value in enumerate(self.values)}
        outputs = [
            output.model_copy(update={"values": [index[value] for value in output.values]}) for output in self.outputs
        ]
        ignore = None if self.ignore is None else index[self.ignore]
        return self.model_copy(update={"outputs": outputs, "ignore": ignore})

    @model_validator(mode="after")
    def _exclusive(self) -> "Self":
        names = [output.name for output in self.outputs]
        if len(set(names)) != len(names):
            raise ValueError("two outputs have the same name")
        if self.kind == "labels":
            values = [value for output in self.outputs for value in output.values]
            if len(set(values)) != len(values):
                raise ValueError("with kind labels no value may belong to two outputs; use kind regions")
            if len({output.paint for output in self.outputs}) != len(names):
                raise ValueError("with kind labels two outputs can't be painted with the same value")
        return self
