"""autoseg's commands, each in a process of its own."""

import subprocess
import sys

#: The command line with this Python.
AUTOSEG = (sys.executable, "-m", "autoseg")


def autoseg(*arguments: object) -> None:
    """Print a command and run it."""
    words = [str(argument) for argument in arguments]
    print("$ autoseg", *words, flush=True)
    subprocess.run([*AUTOSEG, *words], check=True)
