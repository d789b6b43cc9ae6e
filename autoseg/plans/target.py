"""Target of a segmentation: labels or regions."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, SerializationInfo, SerializerFunctionWrapHandler, model_serializer, model_validator

from autoseg.plans.reasons import Reasoned

if TYPE_CHECKING:
    from typing import Self


#: Key of the context in which values that were not given are written, too, so that they can be set.
ALL_VALUES = "all_values"


class Output(Reasoned):
    """One label or region to segment.

    Attributes:
        name: of the label or region.
        values: label values it is made of (one, for a label); not the background's, 0.
        paint: value written into a predicted label map where this output is the last one that is positive; not 0.
        colour: ``#rrggbb`` in result formats with colours; one of :func:`autoseg.utils.colours.colours` where None.
        code: of a terminology, for DICOM: ``SCHEME:VALUE:MEANING``, as ``SCT:79654002:Edema``; by the name where None.
    """

    name: str
    values: list[int] = Field(min_length=1)
    paint: int
    colour: str | None = Field(None, pattern=r"^#[0-9a-fA-F]{6}$")
    code: str | None = Field(None, pattern=r"^[A-Za-z0-9_]{1,16}:[^:\s]{1,16}:[^:]{1,64}$")

    @model_serializer(mode="wrap")
    def _without_defaults(self, dump: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        data: dict[str, Any] = dump(self)
        if not (info.context or {}).get(ALL_VALUES):
            data = {key: value for key, value in data.items() if value is not None or key not in ("colour", "code")}
        return data


class Target(Reasoned):
    """The labels or regions that a network segments.

    Attributes:
        kind: ``labels`` are exclusive (softmax with a background class); ``regions`` may overlap (sigmoid each).
        outputs: in painting order: a later region is painted over an earlier one.
        ignore: label value of voxels that the loss leaves out, which is no output's.
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
    def _no_contradiction(self) -> "Self":
        names = [output.name for output in self.outputs]
        if len(set(names)) != len(names):
            raise ValueError("two outputs have the same name")
        for output in self.outputs:
            if 0 in output.values:
                raise ValueError(f"{output.name} has the value 0, which is the background's")
            if output.paint == 0:
                raise ValueError(f"{output.name} is painted with 0, which is the background's")
            if self.ignore in output.values:
                raise ValueError(f"{output.name} has the value {self.ignore}, whose voxels are left out (ignore)")
        if self.kind == "labels":
            values = [value for output in self.outputs for value in output.values]
            if len(set(values)) != len(values):
                raise ValueError("with kind labels no value may belong to two outputs; use kind regions")
            if len({output.paint for output in self.outputs}) != len(names):
                raise ValueError("with kind labels two outputs can't be painted with the same value")
        return self
