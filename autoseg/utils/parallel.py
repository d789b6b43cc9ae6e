"""Applying a function to many items in worker processes, with progress."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from typing import TypeVar

from autoseg.utils.errors import AutosegError, UsageError
from autoseg.utils.progress import Steps

#: What most workers need, imported once for all of them, before the server that they are forked from starts the first.
#: Nothing that starts threads (blosc2, torch), since a fork of those can hang.
_PRELOADED = ("SimpleITK", "pydantic", "rich.progress")

#: Environment variables that say how many threads a library starts, read when it is loaded.
_THREADS = ("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def available_cpus() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


class _Worker:
    """A worker process, which begins no item once it, or the process that it works for, is to stop.

    An executor can't cancel items that it has sent already, and whoever waits for it would wait for these, too.
    """

    def __init__(self, stopped: Event) -> None:
        self.stopped = stopped
        self.interrupted = False
        self.busy = False

    def interrupt(self, *_: object) -> None:
        """Ctrl-C, which reaches every process of a terminal: ends the item at hand; between items there is no error."""
        self.interrupted = True
        if self.busy:
            raise KeyboardInterrupt

    def run(self, function: Callable[[_Item], _Result], item: _Item) -> _Result:
        """``function(item)``.

        Raises:
            CancelledError: this is to stop.
        """
        stopped = self.stopped.is_set()
        self.busy = True
        try:
            if stopped or self.interrupted:
                raise CancelledError
            return function(item)
        finally:
            self.busy = False


#: In a worker process, itself.
_workers: list[_Worker] = []


def _run(function: Callable[[_Item], _Result], item: _Item) -> _Result:
    return _workers[0].run(function, item)


def _start(started: Event, stopped: Event) -> None:
    _workers.append(_Worker(stopped))
    signal.signal(signal.SIGINT, _workers[0].interrupt)
    started.set()
    # One core for each worker; by default, SimpleITK and numpy's products would start a thread for every core in each.
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    if (sitk := sys.modules.get("SimpleITK")) is not None:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    if "numpy" in sys.modules:
        from threadpoolctl import threadpool_limits

        threadpool_limits(1, user_api="blas")


@contextmanager
def one_itk_thread() -> Iterator[None]:
    """Run SimpleITK's filters on one thread: the order of additions, so the last digits, would depend on their number.

    What a filter or a registration is told itself does not apply to the filters inside it.
    """
    import SimpleITK as sitk

    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def refuse_no_workers(workers: int | None) -> None:
    """Refuse a number of workers that can't do anything; None leaves the number open.

    Raises:
        UsageError: it is below 1.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"--workers {workers}: at least 1 is needed.")


def each(
    function: Callable[[_Item], _Result], items: Sequence[_Item], workers: int | None, description: str
) -> Iterator[_Result]:
    """Yield ``function(item)`` in the order of ``items``; after an error, or Ctrl-C, no further item is begun.

    Args:
        function: importable by name (a module's function or a partial of one), as it runs in other processes.
        items: arguments; each is sent to a worker.
        workers: processes; 1 runs everything in this one; None starts one for each core.
        description: label of the progress bar.

    Raises:
        UsageError: fewer than one worker.
        AutosegError: the workers did not start, or one was killed, most likely because memory ran out.
    """
    refuse_no_workers(workers)
    count = min(workers or available_cpus(), len(items))
    with Steps(description, len(items)) as steps:
        if count <= 1:
            for item in items:
                result = function(item)
                steps.advance()
                yield result
            return
        methods = multiprocessing.get_all_start_methods()
        # Not fork: this process may have started threads (torch, blosc2), and a fork of those can hang.
        context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        if context.get_start_method() == "forkserver":
            context.set_forkserver_preload(["__main__", *_PRELOADED])
        started, stopped = context.Event(), context.Event()
        with ProcessPoolExecutor(count, mp_context=context, initializer=_start, initargs=(started, stopped)) as pool:
            futures = [pool.submit(_run, function, item) for item in items]
            try:
                for future in as_completed(futures):
                    future.result()
                    steps.advance()
            except BrokenProcessPool:
                if not started.is_set():
                    raise AutosegError(
                        f"{description}: the worker processes did not start; in a script, put what runs autoseg under "
                        "'if __name__ == \"__main__\":', or use one worker (--workers 1)."
                    ) from None
                raise AutosegError(
                    f"{description}: a worker process was killed, probably because memory ran out; "
                    "use fewer workers (--workers 1)."
                ) from None
            finally:
                stopped.set()
                pool.shutdown(wait=True, cancel_futures=True)
            yield from (future.result() for future in futures)
