"""A step of post-processing, as plans and run folders name it; :mod:`autoseg.postprocessing.steps` does it."""

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from typing import Self


class Step(BaseModel):
    """One step of post-processing.

    Attributes:
        kind: ``largest_component`` keeps the output's largest component (the first in scan order at a tie);
            ``minimum_size`` drops its components smaller than ``mm3``; ``minimum_total`` drops all of it where a
            case has less than ``mm3`` of it altogether.
        output: name of the label or region.
        mm3: volume in mm³.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: Literal["largest_component", "minimum_size", "minimum_total"]
    output: str
    mm3: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _complete(self) -> "Self":
        if (self.mm3 is None) != (self.kind == "largest_component"):
            raise ValueError(f"{self.kind} needs {'no' if self.mm3 is not None else 'a volume in'} mm3")
        return self

    @property
    def what_stays(self) -> str:
        """What of the output is left, in a few words."""
        if self.mm3 is None:
            return "largest component"
        return f"{'components' if self.kind == 'minimum_size' else 'total'} ≥ {self.mm3:g} mm³"

    def __str__(self) -> str:
        """In words: ``inner: components ≥ 20 mm³``."""
        return f"{self.output}: {self.what_stays}"
