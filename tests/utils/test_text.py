"""Lists of names in messages."""

from pathlib import Path

import pytest

from autoseg.utils.text import listed


@pytest.mark.parametrize(
    ("names", "said"),
    [([], ""), (["a"], "a"), (["a", "b"], "a, b"), (["a", "b", "c"], "a, b and 1 more"), (range(9), "0, 1 and 7 more")],
)
def test_the_first_names_are_listed_and_the_rest_counted(names: list[object], said: str) -> None:
    assert listed(names, most=2) == said


def test_any_names_will_do() -> None:
    """Of a generator, of keys, of paths; eight of them unless asked otherwise."""
    assert listed(str(number) for number in range(10)) == "0, 1, 2, 3, 4, 5, 6, 7 and 2 more"
    assert listed({"a": 1, "b": 2}) == "a, b"
    assert listed([Path("a/b")]) == str(Path("a/b"))
