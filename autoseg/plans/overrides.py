"""``--set path.to.key=value``: change values of a plan, validated like the file."""

import json
from collections.abc import Sequence
from contextlib import suppress
from itertools import combinations
from typing import Any

from pydantic import TypeAdapter, ValidationError

from autoseg.plans.architecture import Architecture, Network
from autoseg.plans.augmentation import Augmentation
from autoseg.plans.configuration import Configuration
from autoseg.plans.files import say_invalid
from autoseg.plans.plan import Plan
from autoseg.plans.reasons import without_reasons
from autoseg.plans.recipe import Optimizer
from autoseg.plans.schedule import Schedule
from autoseg.plans.target import ALL_VALUES
from autoseg.utils.errors import UsageError

#: Paths inside a configuration whose value has a number for each axis of the network.
_PER_AXIS = (["patch_size"], ["inference", "patch_size"], ["inference", "step"])

#: Paths inside a configuration that say which axes are mirrored in training, and in predictions.
_TRAINED = (["recipe", "augmentation", "mirror_axes"], ["recipe", "augmentation", "mirror_probability"])
_TESTED = ["inference", "mirror_axes"]


def override(plan: Plan, assignments: list[str]) -> Plan:
    """Apply ``--set path.to.key=value`` overrides, validated like the file.

    The value is JSON where it parses as JSON, else a string. A path may start inside a configuration
    (``configurations.3d_fullres.batch_size``); a path that starts with a key of a configuration (``recipe.epochs``)
    is applied to every configuration, and ``*`` stands for every entry of a list or table
    (``channels.*.normalization.scheme``).

    A value may be a whole part of the plan (``network={"family": "vnet"}``); keys left out have their defaults. A
    network, or a value of one number an axis, set for every configuration is applied to those with as many axes, and
    axes to mirror to those that have them. Patch sizes that are not set with a network are rounded to what it can take,
    and test-time augmentation keeps of its axes those that training still mirrors.

    Raises:
        UsageError: no ``=``, an unknown key, a value that the plan can't have, or configurations that would preprocess
            their cases differently into one folder.
    """
    data = plan.model_dump(mode="json", context={ALL_VALUES: True})
    assigned: list[list[str]] = []
    for assignment in assignments:
        keys, value = parsed(assignment)
        if keys[0] in Configuration.model_fields and keys[0] not in Plan.model_fields:
            names = list(data["configurations"]) if isinstance(data["configurations"], dict) else []
            names = [name for name in names if _suits(keys, value, plan.configurations.get(name))] or names
            roots = [["configurations", name, *keys] for name in names]
        else:
            roots = [keys]
        for full in roots:
            _assign(data, full, value, assignment)
            assigned.append(full)
    # What is no configuration, or none of its values, is reported when the whole plan is validated.
    with suppress(AttributeError, TypeError):
        for name, configuration in data["configurations"].items():
            own = [full[2:] for full in assigned if full[0] == "configurations" and full[1:2] in ([name], ["*"])]
            if ["network"] in own:
                _suit_patches(configuration, own)
            if any(_sets(keys, path) for keys in own for path in _TRAINED) and not any(_sets(k, _TESTED) for k in own):
                _mirror_as_trained(configuration)
    try:
        changed = Plan.model_validate(data)
    except ValidationError as error:
        raise UsageError(f"--set {' '.join(assignments)} makes the plan invalid: {say_invalid(error)}.") from None
    _refuse_sharing(plan, changed, assignments)
    return changed


def refuse_unread(plan: Plan, assignments: Sequence[str]) -> None:
    """Refuse assignments to keys of an optimizer or a schedule that the chosen one does not read.

    They would change nothing. A key that one of the configurations reads is taken, and in a whole part that is set
    (``recipe.schedule={…}``) so are values at their defaults, which a plan.json has of all keys.

    Args:
        plan: with the assignments applied (:func:`override`).
        assignments: of the user, ``path.to.key=value`` each.

    Raises:
        UsageError: names the key, and who reads it.
    """
    for assignment in assignments:
        keys, value = parsed(assignment)
        own, names = keys, list(plan.configurations)
        if keys[0] == "configurations":
            own, names = keys[2:], [name for name in names if keys[1:2] in ([name], ["*"])]
        if own[:1] != ["recipe"] or own[1:2] not in (["optimizer"], ["schedule"]):
            continue
        parts: list[Optimizer | Schedule] = [getattr(plan.configurations[name].recipe, own[1]) for name in names]
        for key in _set_keys(own[2:], value, parts[0]):
            readers = [name for name, read in parts[0].READS.items() if key in read]
            if readers and all(part.name in part.READS and part.name not in readers for part in parts):
                raise UsageError(
                    f"--set {assignment} would change nothing: {key} is read by {', '.join(readers)}, and the "
                    f"{own[1]} is {parts[0].name}; set recipe.{own[1]}.name, too, or leave {key} out."
                )


def _set_keys(path: Sequence[str], value: Any, part: Optimizer | Schedule) -> list[str]:
    """Keys that an assignment sets in a part of the recipe: the one at a path in it, or those of the whole part."""
    if path:
        return [path[0]]
    if not isinstance(value, dict) or value.get("name", part.name) != part.name:
        return []  # an assignment after this one chose another name
    fields = type(part).model_fields
    return [key for key, given in value.items() if key in fields and given != fields[key].default]


def parsed(assignment: str) -> tuple[list[str], Any]:
    """``path.to.key=value`` → the keys and the value.

    Raises:
        UsageError: no ``=``, no such key at the beginning, or one that can't be set.
    """
    path, separator, text = assignment.partition("=")
    keys = path.strip().split(".")
    if not separator or not path.strip():
        raise UsageError(f"--set {assignment} is not of the form path.to.key=value.")
    known = {**Plan.model_fields, **Configuration.model_fields}
    if keys[0] not in known:
        names = ", ".join(name for name in Plan.model_fields if name != "reasons")
        raise UsageError(f"--set {assignment}: there is no key {keys[0]} in the plan ({names}).")
    if keys == ["schema_version"]:
        raise UsageError(f"--set {assignment}: the version says how the file is to be read; it can't be set.")
    try:
        return keys, json.loads(text)
    except json.JSONDecodeError:
        return keys, text


def _refuse_sharing(before: Plan, plan: Plan, assignments: list[str]) -> None:
    """Refuse to part what two configurations preprocess alike, into one folder."""
    for one, other in combinations(plan.configurations, 2):
        pair = plan.configurations[one], plan.configurations[other]
        if pair[0].data != pair[1].data or _stored_as(pair[0]) == _stored_as(pair[1]):
            continue
        were = [before.configurations[name] for name in (one, other) if name in before.configurations]
        if len(were) == 2 and were[0].data == were[1].data and _stored_as(were[0]) != _stored_as(were[1]):
            continue  # so it was planned
        raise UsageError(
            f"--set {' '.join(assignments)}: {one} and {other} share their preprocessed cases (data {pair[0].data}) "
            f"and would differ in spacing or resampling; add --set configurations.{one}.data=NAME, or set both."
        )


def _stored_as(configuration: Configuration) -> Any:
    """What a configuration's preprocessed cases depend on."""
    return configuration.spacing, without_reasons(configuration.resampling.model_dump())


def assignment(path: str, value: Any) -> str:
    """``path.to.key=value`` as :func:`override` parses it, for any value."""
    return f"{path}={json.dumps(value)}"


def _architecture(value: Any) -> Architecture | None:
    try:
        network: Architecture = TypeAdapter(Network).validate_python(value)
    except ValidationError:
        return None  # reported when the whole plan is validated
    return network


def _suits(keys: list[str], value: Any, configuration: Configuration | None) -> bool:
    """Whether a value set for every configuration can be this one's, by the number of its axes; None for a new one."""
    if configuration is None:
        return True
    dimensions = configuration.network.dimensions
    if keys == ["network"]:
        network = _architecture(value)
        return network is not None and network.dimensions == dimensions
    if keys in _PER_AXIS and isinstance(value, list):
        return len(value) == dimensions
    if keys in (_TRAINED[0], _TESTED) and isinstance(value, list):
        return all(isinstance(axis, int) and axis < dimensions for axis in value)
    return True


def _sets(keys: list[str], path: list[str]) -> bool:
    """Whether an assignment to ``keys`` sets what is at ``path``, alone or with what it is part of."""
    return path[: len(keys)] == keys


def _mirror_as_trained(configuration: Any) -> None:
    """Take axes that training does not mirror out of test-time augmentation: the network never saw it so."""
    try:
        augmentation = Augmentation.model_validate(configuration.get("recipe", {}).get("augmentation", {}))
    except ValidationError:
        return  # reported when the whole plan is validated
    trained = augmentation.mirror_axes if augmentation.mirror_probability else []
    inference = configuration.get("inference", {})
    kept = [axis for axis in inference.get("mirror_axes", []) if axis in trained]
    if kept != inference.get("mirror_axes", []):
        inference["mirror_axes"] = kept
        inference.setdefault("reasons", {})["mirror_axes"] = "those that training mirrors, which the user set"


def _suit_patches(configuration: Any, assigned: list[list[str]]) -> None:
    """Round patch sizes that were not set together with a new network to what it can take."""
    network = _architecture(configuration["network"])
    if network is None:
        return
    for node, keys in ((configuration, ["patch_size"]), (configuration.get("inference", {}), _PER_AXIS[1])):
        patch = node.get("patch_size")
        if patch is None or keys in assigned or len(patch) != network.dimensions or network.fits(patch) is None:
            continue
        node["patch_size"] = network.nearest(patch)
        told = f"{'×'.join(map(str, patch))}, made to suit the network that the user set"
        node.setdefault("reasons", {})["patch_size"] = told


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
