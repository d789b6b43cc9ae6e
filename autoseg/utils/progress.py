"""Progress of long steps: a bar with the remaining time on a terminal, plain lines with the same numbers elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_T = TypeVar("_T")

#: Standard error, for progress and messages; results go to standard output.
console = Console(stderr=True, highlight=False)

#: Seconds between two plain lines where there is no terminal.
LINE_INTERVAL = 15.0

#: Of the whole process and not of one context: the threads of a pool have contexts of their own, and are silenced too.
_quiet = False


@contextmanager
def silenced() -> Iterator[None]:
    """Suppress progress and messages inside this block (for ``--json`` and for library use)."""
    global _quiet
    before, _quiet = _quiet, True
    try:
        yield
    finally:
        _quiet = before


def say(message: str) -> None:
    """Print a message to standard error, unless silenced."""
    if not _quiet:
        console.print(message, markup=False, soft_wrap=True)


class Steps:
    """Progress over a known amount of work; use as a context manager and call :meth:`advance`.

    Args:
        description: of the work.
        total: number of items; 1 to count fractions.
    """

    def __init__(self, description: str, total: float) -> None:
        self._description = description
        self._total = max(total, 1e-9)
        self._done = 0.0
        self._note = ""
        self._start = self._last_line = time.monotonic()
        self._bar: Progress | None = None
        self._task: int | None = None
        if not _quiet and sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn() if total > 1 else TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=console,
            )

    def __enter__(self) -> "Steps":
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self._description, total=self._total, note="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif error is None:
            self._line(final=True)

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Advance the progress by ``amount``."""
        self.at(self._done + amount, note)

    def at(self, done: float, note: str = "") -> None:
        """Set the progress to ``done`` of the total."""
        self._done = min(done, self._total)
        self._note = note or self._note
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, note=self._note)  # type: ignore[arg-type]
        elif time.monotonic() - self._last_line >= LINE_INTERVAL:
            self._line()

    def _line(self, final: bool = False) -> None:
        if _quiet:
            return
        self._last_line = time.monotonic()
        elapsed = self._last_line - self._start
        share = self._done / self._total
        left = f", {elapsed / share - elapsed:.0f} s left" if share > 0 and not final else ""
        say(f"{self._description}: {100 * share:.0f} % after {elapsed:.0f} s{left} {self._note}".rstrip())


def track(items: Iterable[_T], description: str, total: int) -> Iterator[_T]:
    """Iterate with progress."""
    with Steps(description, total) as steps:
        for item in items:
            yield item
            steps.advance()
