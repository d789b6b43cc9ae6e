"""Commands in messages, to be copied into a terminal."""

import shlex
import subprocess
import sys
from pathlib import Path


def quoted(path: str | Path) -> str:
    """A path as one word of a command line, in quotes where it needs them.

    Example:
        >>> quoted("runs/first"), quoted("runs/my first")
        ('runs/first', "'runs/my first'")
    """
    return subprocess.list2cmdline([str(path)]) if sys.platform == "win32" else shlex.quote(str(path))
