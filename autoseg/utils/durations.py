"""Durations as text: parsing ``1h30m``, and formatting."""

import re

from autoseg.utils.errors import UsageError

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def parse_duration(text: str, option: str = "--max-time") -> float:
    """``30m``, ``1h30m``, ``90s`` → seconds.

    Raises:
        UsageError: the text has another form.
    """
    match = _DURATION.fullmatch(text.strip().lower())
    if not match or not any(match.groups()):
        raise UsageError(f"{option} {text} is no duration; write it like 30m, 1h30m or 90s.")
    hours, minutes, seconds = (float(group or 0) for group in match.groups())
    return 3600 * hours + 60 * minutes + seconds


def say_duration(seconds: float) -> str:
    """Seconds → ``45 s``, ``12 min`` or ``3 h 20 min``, rounded."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
