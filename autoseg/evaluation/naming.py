"""Names of a command's inputs: given as ``NAME=PATH``, or the shortest part of the path that tells it apart."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from autoseg.data.file_names import image_ending
from autoseg.utils.errors import UsageError

#: One or several paths of each input, by name.
Inputs = Mapping[str, str | Path | Sequence[str | Path]]

#: Last parts of paths that say nothing about whose values they hold.
_COMMON = ("metrics", "crossval", "validation")


def name_inputs(inputs: Inputs | Sequence[str | Path] | str | Path, several: bool = False) -> dict[str, list[Path]]:
    """Name → paths, with names made of the paths where none are given.

    Args:
        inputs: by name; or paths, each of which may be ``NAME=PATH``; a single one may stand alone.
        several: split a string at its commas into several paths of one input.

    Raises:
        UsageError: a name or an unnamed path is given twice, or there is an input without a path.
    """
    if isinstance(inputs, Mapping):
        given = [(str(name), _paths(paths, several)) for name, paths in inputs.items()]
    else:
        given = [_parse(str(item), several) for item in ([inputs] if isinstance(inputs, str | Path) else inputs)]
    for number, (name, paths) in enumerate(given, start=1):
        if not paths:
            raise UsageError(f"{name or f'input {number}'} names no file or folder; give PATH or NAME=PATH.")
    names = iter(short_names([paths for name, paths in given if not name]))
    sources: dict[str, list[Path]] = {}
    for name, paths in given:
        name = name or next(names)
        if name in sources:
            raise UsageError(f"{name} is given twice; give each input a name of its own: NAME=PATH.")
        sources[name] = paths
    return sources


def short_names(inputs: Sequence[Sequence[Path]]) -> list[str]:
    """The shortest ends of the paths that tell the inputs apart.

    Raises:
        UsageError: an input is given twice.
    """
    parts = [[_own_parts(path) for path in paths] for paths in inputs]
    longest = max((len(part) for paths in parts for part in paths), default=0)
    for length in range(1, longest + 1):
        names = ["+".join("/".join(part[-length:]) for part in paths) for paths in parts]
        if len(set(names)) == len(names):
            return names
    if inputs:
        twice = next((paths for n, paths in enumerate(inputs) if paths in inputs[:n]), inputs[-1])
        raise UsageError(f"{twice[0]} is given twice; give different inputs, or each a name: NAME=PATH.")
    return []


def _parse(text: str, several: bool) -> tuple[str, list[Path]]:
    """``NAME=PATH`` or ``PATH``; a name holds no slash, so that paths may hold an equals sign."""
    name, separator, rest = text.partition("=")
    if Path(text).exists() or not separator or "/" in name:
        return "", _paths(text, several)
    if not name or not rest.strip(","):
        raise UsageError(f"{text} is not of the form NAME=PATH.")
    return name, _paths(rest, several)


def _paths(given: str | Path | Sequence[str | Path], several: bool) -> list[Path]:
    if not isinstance(given, str | Path):
        return [Path(path) for path in given]
    if isinstance(given, Path) or not several or Path(given).exists():
        return [Path(given)]
    return [Path(part) for part in given.split(",") if part]


def _own_parts(path: Path) -> list[str]:
    parts = list(path.resolve().parts[1:])
    ending = image_ending(path) or (path.suffix if path.suffix.lower() in (".csv", ".tsv", ".txt") else "")
    if parts and ending:
        parts[-1] = parts[-1].removesuffix(ending)
    while len(parts) > 1 and parts[-1] in _COMMON:
        parts.pop()
    return parts or [str(path)]
