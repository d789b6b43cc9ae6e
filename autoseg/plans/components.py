"""Parts of a plan of which users will want one more: described by a class that is registered under a name.

In the plan's JSON, a key names the component (``family``, ``scheme``, ``name``), and the class that is registered under
that name validates the rest. What the component does is registered under the same name in the room that does it; both
may stand in one file, which need not be part of autoseg (:mod:`autoseg.utils.registry`).
"""

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticCustomError

from autoseg.utils.errors import UsageError
from autoseg.utils.registry import Registry


def by_name(registry: Registry[type[Any]], key: str, default: str) -> Callable[[Any], Any]:
    """A validator that hands a JSON object to the class that its ``key`` names.

    Args:
        registry: name → class.
        key: that holds the name.
        default: name where the key is missing.
    """

    def resolve(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return find(registry, str(value.get(key, default))).model_validate(value)

    return resolve


def table_of(registry: Registry[type[Any]]) -> Callable[[Any], Any]:
    """A validator that hands each entry of a table, name → description, to the class of that name."""

    def resolve(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {
            name: find(registry, name).model_validate(entry) if isinstance(entry, dict) else entry
            for name, entry in value.items()
        }

    return resolve


def find(registry: Registry[type[Any]], name: str) -> type[BaseModel]:
    """The class of this name, for a validator: an unknown name is a fault of the file."""
    try:
        return registry.find(name)
    except UsageError as error:
        message = str(error).rstrip(".").replace("{", "{{").replace("}", "}}")
        raise PydanticCustomError("unknown_component", message) from None
