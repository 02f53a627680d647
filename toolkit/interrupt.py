"""Ctrl-C that is never lost, and a SIGTERM (a queue's time limit, a service that is stopped) that ends work as it does.

Python drops a KeyboardInterrupt that is raised inside a finalizer or a weak reference's callback, and tracing a graph
runs thousands of those. So the signal is also remembered, and every loop with a progress bar asks.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


# Signals belong to the process, and so does the memory of one.
_asked: list[type[KeyboardInterrupt]] = []
_MEANS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}


@contextmanager
def remembering_interrupts() -> Iterator[None]:
    """Remember SIGINT and SIGTERM while this lasts; outside the main thread, which no signal reaches, do nothing.

    Raises:
        KeyboardInterrupt: one came, at the latest at the end; `Terminated` where the first was SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def remember(number: int, _frame: FrameType | None) -> None:
        _asked.append(_MEANS[signal.Signals(number)])
        raise _asked[0]

    before = {number: signal.signal(number, remember) for number in _MEANS}
    try:
        yield
        raise_if_interrupted()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _asked.clear()


def raise_if_interrupted() -> None:
    """Raise the KeyboardInterrupt that was asked for, if one was.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed within `remembering_interrupts`; `Terminated` where it was SIGTERM.
    """
    if _asked:
        raise _asked[0]
