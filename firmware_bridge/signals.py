"""Signals, held until somebody can act on them, then passed on to whoever they are for in a thread of its own."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType


def hold(numbers: Collection[int]) -> None:
    """Have these signals wait in the kernel: until `passed_on` is entered, and again from when it is left.

    For a program that takes a while to start. A signal is not lost then, and does not end it half-way; one that comes
    when all is done does not turn its exit code into a failure.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)


@contextmanager
def passed_on(actions: Mapping[int, Callable[[], None]]) -> Iterator[None]:
    """Until the block ends, do what belongs to each signal that comes. Entered in the main thread.

    Args:
        actions: signal number -> what to do; called in a thread of its own.
    """
    # A handler runs between any two steps of this thread, perhaps while it holds the lock that `set` of an event wants:
    # then nothing ever ends. Of this queue alone the documentation says that a handler may use it.
    came: queue.SimpleQueue[int] = queue.SimpleQueue()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        came.put(number)

    def pass_on() -> None:
        while number := came.get():
            actions[number]()

    threading.Thread(target=pass_on, name="signals", daemon=True).start()
    before = {number: signal.signal(number, on_signal) for number in actions}
    held = signal.pthread_sigmask(signal.SIG_UNBLOCK, actions)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        for number, handler in before.items():
            signal.signal(number, handler)
        came.put(0)
