"""Commands, run in this process."""

import sys
from collections.abc import Callable

import pytest

from autoseg.cli.main import run as main

#: Exit code, standard output and standard error of a command.
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Call:
    def call(*arguments: object) -> tuple[int, str, str]:
        """Exit code, standard output and standard error of a command."""
        monkeypatch.setattr(sys, "argv", ["autoseg", *(str(a) for a in arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return int(stopped.value.code or 0), printed.out, printed.err

    return call
