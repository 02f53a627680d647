"""Ctrl-C that is never lost.

Python drops a KeyboardInterrupt that is raised inside a finalizer or a weak reference's callback, and tracing a graph
runs thousands of those. So the signal is also remembered, and every loop with a progress bar asks.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Signals belong to the process, and so does the memory of one.
_asked = threading.Event()


@contextmanager
def remembering_interrupts() -> Iterator[None]:
    """Remember SIGINT for as long as this lasts; outside the main thread, which no signal reaches, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def remember(number: int, frame: FrameType | None) -> None:
        _asked.set()
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield
        raise_if_interrupted()
    finally:
        signal.signal(signal.SIGINT, before)
        _asked.clear()


def raise_if_interrupted() -> None:
    """Raise the KeyboardInterrupt that was asked for, if one was.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed within `remembering_interrupts`.
    """
    if _asked.is_set():
        raise KeyboardInterrupt
