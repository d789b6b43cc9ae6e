"""The entry point: errors of the system are one sentence, too."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

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
    def fail(args: list[str]) -> None:
        raise error

    monkeypatch.setattr(main, "app", fail)
    monkeypatch.setattr(sys, "argv", ["autoseg"])
    with pytest.raises(SystemExit) as stopped:
        main.run()
    assert stopped.value.code == 1
    assert capsys.readouterr().err == sentence


@pytest.mark.parametrize(
    ("word", "seen"),
    [
        ("--out=~/run", "--out=/home/me/run"),
        ("t1=~/a~b=~/c", "t1=/home/me/a~b=~/c"),
        ("~", "/home/me"),
        ("~/scans", "/home/me/scans"),
        ("recipe.x=~y", "recipe.x=~y"),
        ("scan~", "scan~"),
    ],
)
def test_the_home_folder_behind_an_option(monkeypatch: pytest.MonkeyPatch, word: str, seen: str) -> None:
    """bash leaves the ~ of --out=~/run alone, and a folder of that name would be made."""
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    assert main.with_home(word) == seen


WAIT = """
import signal, sys, time
from autoseg.cli import main

signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background may ignore it

@main.app.command("wait")
def wait() -> None:
    print("waiting", flush=True)
    time.sleep(60)

sys.argv = ["autoseg", "wait"]
main.run()
"""


@pytest.mark.skipif(os.name != "posix", reason="Windows has another signal for Ctrl-C")
def test_ctrl_c_ends_a_command_with_a_sentence() -> None:
    """In a process of its own: typer, too, catches what Ctrl-C raises."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", WAIT], stdout=pipe, stderr=pipe, text=True) as waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "waiting\n"
        waiting.send_signal(signal.SIGINT)
        _, said = waiting.communicate(timeout=30)
    assert (waiting.returncode, said) == (130, "Stopped; what was finished is kept.\n")


def test_the_help_follows_the_flow() -> None:
    shown = CliRunner().invoke(main.app, ["--help"], env={"COLUMNS": "120"}).output
    places = [shown.index(f"─ {panel}") for panel in (*main.COMMANDS, "Other tools")]
    assert places == sorted(places)


@pytest.mark.parametrize("spelling", ["--fold", "--folds"])
@pytest.mark.parametrize(
    ("names", "arguments"),
    [
        (("train",), ("RUN",)),
        (("predict",), ("RUN", "SCANS", "--out", "OUT")),
        (("evaluate",), ("RUN",)),
        (("sweep",), ("DATASET", "--grid", "GRID", "--out", "OUT")),
        (("export", "nnunet"), ("RUN", "--out", "OUT")),
    ],
)
def test_some_folds_are_chosen_by_either_spelling(
    names: tuple[str, ...], arguments: tuple[str, ...], spelling: str
) -> None:
    """The help shows one of them."""
    command: Any = get_command(main.app)
    for name in names:
        command = command.commands[name]
    for given in ([spelling, "0,2"], [f"{spelling}=0,2"]):
        assert command.make_context(names[-1], [*arguments, *given]).params["fold"] == "0,2"
    assert [option.opts for option in command.params if option.name == "fold"] == [["--fold"]]


def test_the_number_of_folds_has_one_spelling() -> None:
    plan: Any = get_command(main.app).commands["plan"]
    assert plan.make_context("plan", ["DATASET", "--folds", "3"]).params["folds"] == 3
    assert CliRunner().invoke(main.app, ["plan", "DATASET", "--fold", "3"]).exit_code == 2


def test_no_help_is_lost_or_a_fragment() -> None:
    """In square brackets it would be taken for a style; "Of …" does not say what an option is."""

    def helps(command: Any) -> Iterator[str]:
        for parameter in command.params:
            yield parameter.help or ""
        for other in getattr(command, "commands", {}).values():
            yield from helps(other)

    found = list(helps(get_command(main.app)))
    assert len(found) > 100
    assert [text for text in found if not text or "[" in text or text.startswith("Of ")] == []


def test_the_help_loads_nothing_heavy() -> None:
    """Each of these takes longer to import than all the rest of the help."""
    heavy = {"torch", "SimpleITK", "numpy", "scipy", "skimage", "matplotlib", "pydantic"}
    code = f"import sys, autoseg.cli.main; sys.exit(', '.join({heavy!r} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_package_can_be_run() -> None:
    done = subprocess.run([sys.executable, "-m", "autoseg", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip()
