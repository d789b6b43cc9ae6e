"""A folder that one process works in: the operating system's lock, which ends with its process however that ends."""

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from autoseg.utils.errors import AutosegError
from autoseg.utils.files import read_json, write_json
from autoseg.utils.progress import say

_Item = TypeVar("_Item")

#: Files in a held folder: the lock, and who has it; that stays behind and means nothing without the lock.
_LOCK, _HOLDER = ".lock", ".holder.json"


@contextmanager
def held(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder inside this block; it is made where it is missing.

    Args:
        folder: that nobody else may work in.
        what: is done there, for the message.

    Raises:
        AutosegError: another process holds it; names that.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise AutosegError(f"{what} is being trained by {_holder(folder)}; wait for it, or stop it first.") from None
    except (NotImplementedError, OSError):
        yield  # some network drives have no locks; better to train without
        return
    try:
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        write_json(folder / _HOLDER, {"process": os.getpid(), "host": socket.gethostname(), "since": now})
        yield
    finally:
        lock.release()


@contextmanager
def waited_for(folder: Path, what: str | None = None) -> Iterator[None]:
    """Hold a folder inside this block, once no other process does; the lock lies beside it.

    Args:
        folder: that exists; of a link the one that it leads to.
        what: the other process does, as a sentence without its end, said before waiting; None where that is a moment's
            work.
    """
    folder = folder.resolve()
    lock = FileLock(folder.with_name(f".{folder.name}{_LOCK}"))
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if what is not None:
                say(f"{what}; waiting until it is done.")
            lock.acquire()
    except (NotImplementedError, OSError):
        yield  # some network drives have no locks
        return
    try:
        yield
    finally:
        lock.release()


def do_once(
    folder: Path, what: str, due: Callable[[], Sequence[_Item]], work: Callable[[Sequence[_Item]], object]
) -> None:
    """Do what is due in a folder, once: what another process does there is waited for, and not done again.

    Args:
        folder: that gets the results; it is made where it is missing.
        what: the other process does, as for :func:`waited_for`.
        due: tells what is to be done; asked again after waiting.
        work: does that.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not due():
        return
    with waited_for(folder, what):
        if items := due():
            work(items)


def _holder(folder: Path) -> str:
    try:
        told = read_json(folder / _HOLDER)
        return f"process {told['process']} on {told['host']} since {told['since']}"
    except (AutosegError, KeyError, TypeError):
        return "another process"
