"""The base of every model of a plan: unknown keys, NaN and infinity are refused, and derived values carry a reason."""

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from typing import Self


class Reasoned(BaseModel):
    """A part of a plan.

    Attributes:
        reasons: field name → one line that says why its value is what it is.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    reasons: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _reasons_name_fields(self) -> "Self":
        unknown = sorted(set(self.reasons) - set(type(self).model_fields))
        if unknown:
            raise ValueError(f"reasons are given for fields that do not exist: {', '.join(unknown)}")
        return self


def without_reasons(node: Any) -> Any:
    """Dumped models, in whatever lists and tables, without their reasons."""
    if isinstance(node, dict):
        return {key: without_reasons(value) for key, value in node.items() if key != "reasons"}
    if isinstance(node, list):
        return [without_reasons(value) for value in node]
    return node
