"""ReadAhead: a thread reads and preprocesses the next case while the networks segment the one before."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

from autoseg.inference.ensemble import Prepared
from autoseg.utils.device import return_large_blocks

_T = TypeVar("_T")

#: Voxels of a scan, all channels together, above which the next one is read after it and not beside it: preprocessing
#: takes some 30 bytes for each.
READ_AHEAD = 1 << 25


class ReadAhead(Generic[_T]):
    """Cases that are prepared in order, each while the one before is segmented; use as a context manager.

    The case after a large one is begun when it is asked for. So there are never more than two, or a large one.

    Args:
        cases: what ``prepare`` is given.
        prepare: reads and preprocesses one.
    """

    def __init__(self, cases: Sequence[_T], prepare: Callable[[_T], Prepared]) -> None:
        self._cases = list(cases)
        self._prepare = prepare
        self._begun = 0
        self._reading: Future[Prepared] | None = None
        self._pool = ThreadPoolExecutor(1, "reader")

    def __enter__(self) -> "ReadAhead[_T]":
        self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()

    def take(self) -> Prepared:
        """The next case; if it can't be prepared, its error is raised, and the next call gives the case after it."""
        self._begin()
        current, self._reading = self._reading, None
        assert current is not None
        try:
            prepared = current.result()
        finally:
            del current  # else the case would stay in memory until the next one is read
        if _is_large(prepared):
            return_large_blocks()
        else:
            self._begin()
        return prepared

    def _begin(self) -> None:
        """Begin with the next case, unless that is done or there is none."""
        if self._reading is None and self._begun < len(self._cases):
            self._reading = self._pool.submit(self._prepare, self._cases[self._begun])
            self._begun += 1


def _is_large(prepared: Prepared) -> bool:
    """Whether reading the next scan beside this one would take much memory, if it is as large."""
    return max(math.prod(seen[-1].trace.shape) * len(seen[-1].image) for seen in prepared) > READ_AHEAD
