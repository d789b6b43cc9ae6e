"""Run by ``unchanged.py`` in the environment of one version: commands of autoseg, one after the other in one process.

    PYTHON unchanged_side.py COMMANDS CODES

COMMANDS is a JSON file of lists of words, CODES one to write with the exit code of each (70: an exception that nobody
caught). What depends on the clock or on the number of cores is replaced, in whichever module it is by now.
"""

import importlib
import json
import pkgutil
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGES = ("autoseg", "planners")


def time_step(network: Any, *rest: Any, **named: Any) -> float:
    """Seconds of a training step by a formula: proportional to the batch's voxels and the network's width."""
    given = [*rest, *named.values()]
    product = [value for value in given if isinstance(value, int)][-1]
    for size in next(value for value in given if isinstance(value, Sequence)):
        product *= size
    width = getattr(network, "features", 16)
    while isinstance(width, Sequence):  # of each stage, or each layer of each path
        width = width[0]
    return 6e-8 * product * width


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """A dataset is the same for every planner: it is read once."""
    seen: dict[str, Any] = {}

    def call(*arguments: Any, **named: Any) -> Any:
        key = repr((arguments, sorted(named.items())))
        if key not in seen:
            seen[key] = function(*arguments, **named)
        return seen[key]

    return call


#: What is replaced, by its name.
STAND_INS: dict[str, Callable[[Any], Any]] = {
    "time_step": lambda old: time_step,
    "VALIDATION_SHARE": lambda old: float("inf"),
    "available_cpus": lambda old: lambda: 1,
    "examine": once,
}


def import_all() -> list[ModuleType]:
    """Every module of the version."""
    for package in PACKAGES:
        try:
            path = importlib.import_module(package).__path__
        except ImportError:
            continue
        for found in pkgutil.walk_packages(path, f"{package}."):
            if not found.name.endswith("__main__"):
                try:
                    importlib.import_module(found.name)
                except ImportError as error:
                    print(f"{found.name} is left out: {error}")
    return [module for name, module in list(sys.modules.items()) if name.split(".")[0] in PACKAGES]


def replace() -> None:
    done: set[str] = set()
    for module in import_all():
        for name, stand_in in STAND_INS.items():
            old = vars(module).get(name)
            if old is not None and not isinstance(old, ModuleType):
                setattr(module, name, stand_in(old))
                done.add(name)
    if missing := set(STAND_INS) - done:
        sys.exit(f"{', '.join(missing)}: called otherwise by now; correct {__file__}")


def main() -> None:
    commands, codes = Path(sys.argv[1]), Path(sys.argv[2])
    replace()
    from autoseg.cli.main import run

    found: list[int] = []
    for command in json.loads(commands.read_text(encoding="utf-8")):
        print("$ autoseg", *command, flush=True)
        sys.argv = ["autoseg", *command]
        try:
            run()
            found.append(0)
        except SystemExit as stopped:
            found.append(stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None))
        except Exception:
            traceback.print_exc()
            found.append(70)
    codes.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
