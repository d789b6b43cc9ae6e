"""The entry point: errors of the system are one sentence, too."""

import sys

import pytest

from autoseg.cli import main


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (PermissionError(13, "Permission denied", "/scans/a"), "Error: /scans/a: Permission denied.\n"),
        (OSError(28, "No space left on device"), "Error: No space left on device.\n"),
        (OSError("the cable is loose"), "Error: the cable is loose.\n"),
    ],
)
def test_errors_of_the_system(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: OSError, sentence: str
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(main, "app", fail)
    monkeypatch.setattr(sys, "argv", ["autoseg"])
    with pytest.raises(SystemExit) as stopped:
        main.run()
    assert stopped.value.code == 1
    assert capsys.readouterr().err == sentence
