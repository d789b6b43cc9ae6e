"""Reading, writing, validating and upgrading ``plan.json``."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autoseg.plans.plan import SCHEMA_VERSION, Plan
from autoseg.utils.errors import AutosegError
from autoseg.utils.files import read_json, write_json


def load_plan(path: str | Path) -> Plan:
    """Read and validate a plan file.

    Raises:
        AutosegError: missing, no JSON, of a newer schema, or invalid (with the path of each wrong key).
    """
    data = read_json(path)
    if not isinstance(data, dict):
        raise AutosegError(f"{path} is no plan: it should hold a JSON object.")
    return validate_plan(_upgrade(data, path), str(path))


def save_plan(plan: Plan, path: str | Path) -> None:
    """Write a plan file atomically."""
    write_json(path, plan.model_dump(mode="json"))


def validate_plan(data: dict[str, Any], source: str) -> Plan:
    """Turn parsed JSON into a plan.

    Raises:
        AutosegError: names ``source`` and the path of every wrong key.
    """
    try:
        return Plan.model_validate(data)
    except ValidationError as error:
        raise AutosegError(f"{source} is not a valid plan: {say_invalid(error)}.") from None


def say_invalid(error: ValidationError) -> str:
    """One message for all errors of a plan, with the path of each invalid key."""
    parts = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"] if part != "[key]") or "the plan"
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "this key is unknown"
        parts.append(f"{where}: {message}")
    return "; ".join(parts)


def _upgrade(data: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """Take out what earlier versions wrote and this one does not know."""
    version = data.get("schema_version", 1)
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise AutosegError(
            f"{path} has plan schema version {version}; this autoseg knows versions up to "
            f"{SCHEMA_VERSION}: update autoseg."
        )
    configurations = data.get("configurations")
    for configuration in configurations.values() if isinstance(configurations, dict) else ():
        recipe = configuration.get("recipe") if isinstance(configuration, dict) else None
        if isinstance(recipe, dict):
            # Scans that the source labelled, mixed into a tuning: weights stay valid, trainings can't go on as before.
            recipe.pop("unlabelled", None)
    return data
