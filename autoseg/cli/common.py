"""What several commands share: options' parsers."""

import re

from autoseg.errors import UsageError

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def parse_duration(text: str, option: str = "--max-time") -> float:
    """``30m``, ``1h30m``, ``90s`` → seconds.

    Raises:
        UsageError: not of that form.
    """
    match = _DURATION.fullmatch(text.strip().lower())
    if not match or not any(match.groups()):
        raise UsageError(f"{option} {text} is no duration; write it like 30m, 1h30m or 90s.")
    hours, minutes, seconds = (float(group or 0) for group in match.groups())
    return 3600 * hours + 60 * minutes + seconds


def parse_folds(text: str, option: str = "--fold") -> list[int] | None:
    """``all`` → None; ``0`` or ``0,2`` → numbers.

    Raises:
        UsageError: neither.
    """
    if text == "all":
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{option} {text} is no fold; give a number, several with commas, or all.") from None


def parse_names(text: str, option: str) -> list[str]:
    """``dice, hd95`` → ``["dice", "hd95"]``.

    Raises:
        UsageError: there is none.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError(f"{option} names nothing; give one or several with commas.")
    return names


def parse_channels(pairs: list[str]) -> dict[str, str]:
    """``["t1c=a.nii.gz"]`` → ``{"t1c": "a.nii.gz"}``.

    Raises:
        UsageError: without ``=``, or a channel given twice.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, separator, path = pair.partition("=")
        if not separator or not name or not path:
            raise UsageError(f"--channel {pair} is not of the form NAME=PATH.")
        if name in found:
            raise UsageError(f"--channel {name} is given twice.")
        found[name] = path
    return found
