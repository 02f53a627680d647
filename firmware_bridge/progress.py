"""Whether every stage still moves: what the watchdog asks before it is fed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Progress:
    """Signs of life of the stages, each a thread known by its name. Thread-safe.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last_s: dict[str, float] = {}  # of the threads that are at work
        self._threads: dict[str, threading.Thread] = {}

    def watch(self, thread: threading.Thread) -> None:
        """From now on this thread must live."""
        self._threads[thread.name] = thread

    def release(self) -> None:
        """From now on they may end: the agent stops."""
        self._threads = {}
        self._last_s = {}

    def beat(self) -> None:
        """The calling thread is at work, and got somewhere since the last time."""
        self._last_s[threading.current_thread().name] = self._clock()

    def rest(self) -> None:
        """The calling thread waits for work: it may do so for as long as it takes."""
        self._last_s.pop(threading.current_thread().name, None)

    def stuck(self, limit_s: float) -> dict[str, str]:
        """The threads that ended, or are at work on one thing for longer than `limit_s`, with what they are."""
        now_s = self._clock()
        found = {}
        for name, thread in list(self._threads.items()):
            last_s = self._last_s.get(name)
            if not thread.is_alive():
                found[name] = "ended"
            elif last_s is not None and now_s - last_s > limit_s:
                found[name] = f"at one thing for {now_s - last_s:.0f} s"
        return found
