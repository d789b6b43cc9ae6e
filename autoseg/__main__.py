"""``python -m autoseg``: the command line."""

from autoseg.cli.main import run

run()
