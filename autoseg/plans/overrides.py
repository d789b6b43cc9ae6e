"""``--set path.to.key=value``: change values of a plan, validated like the file."""

import json
from typing import Any

from pydantic import TypeAdapter, ValidationError

from autoseg.plans.architecture import Architecture, Network
from autoseg.plans.configuration import Configuration
from autoseg.plans.files import say_invalid
from autoseg.plans.plan import Plan
from autoseg.plans.target import ALL_VALUES
from autoseg.utils.errors import UsageError


def override(plan: Plan, assignments: list[str]) -> Plan:
    """Apply ``--set path.to.key=value`` overrides, validated like the file.

    The value is JSON where it parses as JSON, else a string. A path may start inside a configuration
    (``configurations.3d_fullres.batch_size``); a path that starts with a key of a configuration (``recipe.epochs``)
    is applied to every configuration, and ``*`` stands for every entry of a list or table
    (``channels.*.normalization.scheme``).

    A value may be a whole part of the plan (``network={"family": "vnet"}``); keys left out have their defaults. A
    network set for every configuration is applied to those with its number of axes, and patch sizes that are not set
    as well are rounded to what it can take.

    Raises:
        UsageError: no ``=``, an unknown key, or a value that the plan can't have.
    """
    data = plan.model_dump(mode="json", context={ALL_VALUES: True})
    assigned: list[list[str]] = []
    for assignment in assignments:
        path, separator, text = assignment.partition("=")
        if not separator or not path:
            raise UsageError(f"--set {assignment} is not of the form path.to.key=value.")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        keys = path.strip().split(".")
        if keys[0] in Configuration.model_fields and keys[0] not in Plan.model_fields:
            names = list(data["configurations"])
            if keys == ["network"]:
                names = [name for name in names if _suits(value, plan.configurations[name])] or names
            roots = [["configurations", name, *keys] for name in names]
        else:
            roots = [keys]
        for full in roots:
            _assign(data, full, value, assignment)
            assigned.append(full)
    for name, configuration in data["configurations"].items():
        own = [full[2:] for full in assigned if full[0] == "configurations" and full[1:2] in ([name], ["*"])]
        if ["network"] in own:
            _suit_patches(configuration, own)
    try:
        return Plan.model_validate(data)
    except ValidationError as error:
        raise UsageError(f"--set {' '.join(assignments)} makes the plan invalid: {say_invalid(error)}.") from None


def assignment(path: str, value: Any) -> str:
    """``path.to.key=value`` as :func:`override` parses it, for any value."""
    return f"{path}={json.dumps(value)}"


def _architecture(value: Any) -> Architecture | None:
    try:
        network: Architecture = TypeAdapter(Network).validate_python(value)
    except ValidationError:
        return None  # reported when the whole plan is validated
    return network


def _suits(value: Any, configuration: Configuration) -> bool:
    network = _architecture(value)
    return network is not None and network.dimensions == configuration.network.dimensions


def _suit_patches(configuration: Any, assigned: list[list[str]]) -> None:
    """Round patch sizes that were not set together with a new network to what it can take."""
    network = _architecture(configuration["network"])
    if network is None:
        return
    for node, keys in ((configuration, ["patch_size"]), (configuration["inference"], ["inference", "patch_size"])):
        patch = node["patch_size"]
        if patch is None or keys in assigned or len(patch) != network.dimensions or network.fits(patch) is None:
            continue
        node["patch_size"] = network.nearest(patch)
        node["reasons"]["patch_size"] = f"{'×'.join(map(str, patch))}, made to suit the network that the user set"


def _assign(data: dict[str, Any], keys: list[str], value: Any, assignment: str) -> None:
    node: Any = data
    for depth, key in enumerate(keys):
        if key == "*" and isinstance(node, list | dict):
            entries = range(len(node)) if isinstance(node, list) else [name for name in node if name != "reasons"]
            for entry in entries:
                _assign(data, [*keys[:depth], str(entry), *keys[depth + 1 :]], value, assignment)
            return
        index: Any = key
        if isinstance(node, list) and key.isdigit() and int(key) < len(node):
            index = int(key)
        elif isinstance(node, list):
            names = [item.get("name") if isinstance(item, dict) else None for item in node]
            if key not in names:
                raise UsageError(f"--set {assignment}: {'.'.join(keys[:depth])} has no entry {key}.")
            index = names.index(key)
        elif not isinstance(node, dict) or key not in node:
            known = ", ".join(k for k in node if k != "reasons") if isinstance(node, dict) else "no keys"
            raise UsageError(
                f"--set {assignment}: there is no key {key} in {'.'.join(keys[:depth]) or 'the plan'} ({known})."
            )
        if depth == len(keys) - 1:
            node[index] = value
            if isinstance(node, dict) and isinstance(node.get("reasons"), dict):
                node["reasons"][key] = "set by the user"
        else:
            node = node[index]
