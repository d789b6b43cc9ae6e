"""What options are made of, and where results are printed."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg import cli
from autoseg.cli.common import (
    parse_channels,
    parse_duration,
    parse_folds,
    parse_names_if_given,
    parse_numbers,
    results_console,
)
from autoseg.utils.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("1h30m", 5400),
        ("2h", 7200),
        ("1h1m1s", 3661),
        ("1.5h", 5400),
        (" 5M ", 300),
        ("0s", 0),
    ],
)
def test_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@given(h=st.integers(0, 99), m=st.integers(0, 99), s=st.integers(0, 99))
def test_any_duration(h: int, m: int, s: int) -> None:
    assert parse_duration(f"{h}h{m}m{s}s") == 3600 * h + 60 * m + s


@pytest.mark.parametrize("text", ["", "30", "m", "-5m", "5 minutes", "30m1h", "1h30", "1,5h", "1e3s", "∞"])
def test_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match=r"--max-time .*write it like 30m"):
        parse_duration(text)


def test_folds() -> None:
    assert parse_folds("all") is None
    assert parse_folds("0") == [0]
    assert parse_folds("0,2, 4") == [0, 2, 4]
    assert parse_folds("2,0,2,0") == [2, 0]  # each once
    for text in ("", "x", "1-3", "0,", "1.5"):
        with pytest.raises(UsageError, match=f"--fold {text} is no fold"):
            parse_folds(text)


def test_numbers() -> None:
    assert parse_numbers("3", "--seeds") == [3]
    assert parse_numbers("3,1, 3", "--seeds") == [3, 1]
    for text in ("", "x", "all", "1.5"):
        with pytest.raises(UsageError, match=f"--seeds {text}: give numbers with commas"):
            parse_numbers(text, "--seeds")


def test_names() -> None:
    assert parse_names_if_given("", "--channels") == ()
    assert parse_names_if_given("t1, flair,", "--channels") == ("t1", "flair")
    with pytest.raises(UsageError, match="--channels names nothing"):
        parse_names_if_given(" ,", "--channels")


@pytest.mark.parametrize(("columns", "width"), [("80", 160), ("200", 200)])
def test_a_pipe_is_wide_enough_for_a_table(monkeypatch: pytest.MonkeyPatch, columns: str, width: int) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert results_console().width == width


def test_all_commands_print_results_alike() -> None:
    modules = [path for folder in cli.__path__ for path in Path(folder).glob("*.py")]
    assert [path.name for path in modules if "Console(" in path.read_text(encoding="utf-8")] == ["common.py"]


def test_channels() -> None:
    assert parse_channels(["t1=a.nii.gz", "t2=/x/y=z.nii"]) == {"t1": "a.nii.gz", "t2": "/x/y=z.nii"}
    assert parse_channels([]) == {}
    for pair in ("t1", "=x", "t1="):
        with pytest.raises(UsageError, match=f"--channel {pair} is not of the form NAME=PATH"):
            parse_channels([pair])
    with pytest.raises(UsageError, match="--channel t1 is given twice"):
        parse_channels(["t1=a", "t1=b"])
