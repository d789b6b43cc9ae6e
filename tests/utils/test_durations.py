"""Durations for people; what is parsed is tested with the options (``tests/cli/test_common.py``)."""

import pytest

from autoseg.utils.durations import say_duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (45, "45 s"),
        (99, "99 s"),
        (100, "2 min"),
        (720, "12 min"),
        (5930, "99 min"),
        (6000, "1 h 40 min"),
        (12000, "3 h 20 min"),
        (3 * 86400, "72 h 0 min"),
    ],
)
def test_said_as_exactly_as_matters(seconds: float, text: str) -> None:
    assert say_duration(seconds) == text
