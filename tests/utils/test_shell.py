"""Paths in commands that are offered for copying."""

import shlex
import sys

import pytest

from autoseg.utils.shell import quoted


@pytest.mark.parametrize("path", ["runs/run_1", "Läufe mit Leer/run 1", "it's", "$HOME/a;b"])
def test_one_word_again(path: str) -> None:
    assert shlex.split(f"autoseg train {quoted(path)}") == ["autoseg", "train", path]


def test_a_plain_path_stays_plain() -> None:
    assert quoted("runs/run_1") == "runs/run_1"


def test_on_windows_backslashes_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shells take no single quotes."""
    monkeypatch.setattr(sys, "platform", "win32")
    assert quoted(r"C:\runs\first") == r"C:\runs\first"
    assert quoted(r"C:\my runs\first") == r'"C:\my runs\first"'
