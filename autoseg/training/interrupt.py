"""Postpones Ctrl-C to the end of a training step."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def postponed_interrupt() -> Iterator[Callable[[], bool]]:
    """Postpone the first Ctrl-C inside this block; a second one is raised at once.

    A state saved within a step can't be resumed exactly: only some of the weights are updated.

    Yields:
        A function that returns whether Ctrl-C was pressed. Outside the main thread, and where Ctrl-C has another
        handler already, it always returns False and nothing is postponed.
    """
    pressed = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return
    signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
