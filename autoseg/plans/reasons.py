"""The base of every model of a plan: unknown keys, NaN and infinity are refused, and derived values carry a reason."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from typing import Self


class Reasoned(BaseModel):
    """A part of a plan.

    Attributes:
        reasons: field name → one line with the reason of its value.
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
    """Dumped models, also nested in lists and tables, without their reasons."""
    if isinstance(node, dict):
        return {key: without_reasons(value) for key, value in node.items() if key != "reasons"}
    if isinstance(node, list):
        return [without_reasons(value) for value in node]
    return node


def values_since(part: BaseModel, first: Collection[str]) -> dict[str, Any]:
    """The values of a part of a plan for a fingerprint, without reasons, which keys that are added later leave valid.

    Args:
        part: of a plan.
        first: keys that the fingerprint has always had; of later ones it has those that differ from their defaults.
    """
    values = part.model_dump(mode="json", exclude={"reasons"})
    changed = part.model_dump(mode="json", exclude={"reasons"}, exclude_defaults=True)
    return {name: value for name, value in values.items() if name in first or name in changed}


def explanations(plan: BaseModel) -> list[tuple[str, Any, str]]:
    """Every value of a plan (or a part of one) that has a reason: (path, value, reason), in the order of the file."""
    explained: list[tuple[str, Any, str]] = []

    def walk(node: Any, path: str) -> None:
        if isinstance(node, BaseModel):
            reasons = getattr(node, "reasons", {})
            for name in type(node).model_fields:
                value = getattr(node, name)
                here = f"{path}.{name}" if path else name
                if name in reasons:
                    explained.append((here, value, reasons[name]))
                walk(value, here)
        elif isinstance(node, dict):
            for key, value in node.items():
                walk(value, f"{path}.{key}")
        elif isinstance(node, list):
            for index, value in enumerate(node):
                walk(value, f"{path}.{getattr(value, 'name', None) or index}")

    walk(plan, "")
    return [item for item in explained if not item[0].endswith("reasons")]
