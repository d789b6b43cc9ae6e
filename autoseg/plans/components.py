"""Extensible parts of a plan: each is described by a class that is registered under a name.

In the plan's JSON, a key names the component (``family``, ``scheme``, ``name``), and the class that is registered under
that name validates the rest. Its implementation is registered under the same name in the package that uses it; both
may stand in one file, which need not be part of autoseg (:mod:`autoseg.utils.registry`).
"""

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticCustomError

from autoseg.utils.errors import UsageError
from autoseg.utils.registry import Registry


def by_name(registry: Registry[type[Any]], key: str, default: str) -> Callable[[Any], Any]:
    """A validator that parses a JSON object with the class that its ``key`` names.

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
    """A validator that parses each entry of a table, name → description, with the class of that name."""

    def resolve(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {
            name: find(registry, name).model_validate(entry) if isinstance(entry, dict) else entry
            for name, entry in value.items()
        }

    return resolve


def find(registry: Registry[type[Any]], name: str) -> type[BaseModel]:
    """The class of this name.

    Raises:
        PydanticCustomError: the name is unknown; inside a validator it is reported like any invalid value.
    """
    try:
        return registry.find(name)
    except UsageError as error:
        message = str(error).rstrip(".").replace("{", "{{").replace("}", "}}")
        raise PydanticCustomError("unknown_component", message) from None
