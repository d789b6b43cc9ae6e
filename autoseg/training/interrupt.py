"""Ctrl-C between two steps of a training, not in the middle of one."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def postponed_interrupt() -> Iterator[Callable[[], bool]]:
    """Hold back the first Ctrl-C inside this block; a second one is raised at once.

    What is saved in the middle of a step can't be resumed exactly: some weights have moved and others have not.

    Yields:
        A function that says whether Ctrl-C was pressed. Outside the main thread, and where somebody else already
        handles Ctrl-C, it always says no and nothing is held back.
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
