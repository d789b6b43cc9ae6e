"""The command line: registers one module for each command; turns errors into one sentence and an exit code."""

import io
import os
import re
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from autoseg.cli.common import one_spelling
from autoseg.utils.cpu_sharing import share_cpu
from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.progress import console, say

#: Steps of the flow → their commands, in the order a user meets them; each module of this package defines ``command``.
COMMANDS = {
    "Start": ("demo", "inspect", "prepare"),
    "Train": ("plan", "train", "postprocess"),
    "Use": ("predict", "report"),
    "Measure": ("evaluate", "compare", "agreement", "volumes", "sweep"),
}

#: Commands that compute for long, on a CPU with all of its cores.
LONG = {"demo", "train", "predict", "sweep"}

#: Commands that take some of a run's folds, by ``--fold`` or ``--folds``; ``plan --folds`` is a number of folds.
_OF_FOLDS = {"train", "predict", "evaluate", "sweep", "export"}

#: Commands with a further word, what they do, and the words; a module ``COMMAND_WORD`` of this package each.
GROUPS = {
    "import": ("Make a run of another tool's model.", ("nnunet",)),
    "export": ("Write a run as another tool's model.", ("nnunet",)),
}

#: Panel of the help that lists the groups.
_OTHER_TOOLS = "Other tools"


def _settings(name: str) -> dict[str, Any] | None:
    return {"token_normalize_func": one_spelling} if name in _OF_FOLDS else None


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:  # the type of a context is another one from version to version of typer
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # here, as typer ends the process without a word
            console.print("Stopped; what was finished is kept.")
            raise typer.Exit(130) from None


app = typer.Typer(
    name="autoseg",
    cls=_Commands,
    help="Self-configuring segmentation of medical images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if context.invoked_subcommand in LONG and "--help" not in sys.argv and (note := share_cpu()):
        say(note)
    if version:
        from autoseg import __version__

        typer.echo(__version__)
        raise typer.Exit()


for _step, _names in COMMANDS.items():
    for _name in _names:
        _module = import_module(f"autoseg.cli.{_name}")
        app.command(_name, context_settings=_settings(_name), rich_help_panel=_step)(_module.command)

for _name, (_help, _words) in GROUPS.items():
    _group = typer.Typer(name=_name, help=_help, no_args_is_help=True)
    for _word in _words:
        _module = import_module(f"autoseg.cli.{_name}_{_word}")
        _group.command(_word, context_settings=_settings(_name))(_module.command)
    app.add_typer(_group, rich_help_panel=_OTHER_TOOLS)


def with_home(word: str) -> str:
    """A word of the command line with the home folder for ``~``, which shells leave as it is in ``--out=~/run``."""
    return re.sub(r"^([^=]*=)?~(?=/|$)", lambda found: (found[1] or "") + os.path.expanduser("~"), word)


def run() -> None:
    """Entry point of the console script: exit code 0, 1 for a failed run, 2 for wrong usage, 130 for a stopped one."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a pipe on Windows may know no arrows
    try:
        app(args=[with_home(word) for word in sys.argv[1:]])
    except AutosegError as error:
        console.print(f"Error: {error}", markup=False, soft_wrap=True)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except OSError as error:
        # Any file: no permission, no space left, a folder instead of a file.
        where = f"{error.filename}: " if error.filename else ""
        console.print(f"Error: {where}{error.strerror or error}.", markup=False, soft_wrap=True)
        sys.exit(1)
