"""Files to take, from whoever found them to whoever takes them: each once at a time, the urgent ones first."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path

_MAX_WAITING = 1000


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file to take. `last_chance`: it has kept still for so long that what is wrong with it will stay wrong."""

    path: Path
    last_chance: bool = False
    recovered: bool = False


class Line:
    """Where files wait to be taken. Thread-safe, by one lock: `_changed`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[Candidate] = deque()
        self._urgent: deque[Candidate] = deque()  # somebody waits for the answer: these go first
        self._present: set[Path] = set()  # handed in, not yet `done`
        self._again: set[Path] = set()  # changed while present
        self._stopped = False

    def stop(self) -> None:
        """Wake everybody and end."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def batch(self, most: int, *, timeout_s: float) -> list[Candidate]:
        """Up to `most` files: those of `offer`, then the others, oldest first; empty when none came in time."""
        with self._changed:
            if not (self._urgent or self._waiting or self._stopped):
                self._changed.wait(timeout_s)
            if self._stopped:
                return []
            taken: list[Candidate] = []
            for line in (self._urgent, self._waiting):
                taken += [line.popleft() for _ in range(min(most - len(taken), len(line)))]
            self._changed.notify_all()
            return taken

    def wait_done(self, path: Path, *, timeout_s: float) -> bool:
        """Wait until the file is accounted for, put off, or to be read again; False when that took longer."""

        def done() -> bool:
            waiting = (candidate.path for line in (self._urgent, self._waiting) for candidate in line)
            return path not in self._present or path in waiting

        with self._changed:
            return self._changed.wait_for(done, timeout_s)

    def at_rest(self, besides: int, *, timeout_s: float) -> bool:
        """Wait until no more than so many of the files that were handed out are not done yet; False: it took longer."""
        with self._changed:
            return self._changed.wait_for(lambda: self._in_work() <= besides, timeout_s)

    def works_on_more_than(self, count: int) -> bool:
        """Whether more than so many of the files that were handed out are not done yet."""
        with self._changed:
            return self._in_work() > count

    def _in_work(self) -> int:
        return len(self._present) - len(self._waiting) - len(self._urgent)

    def done(self, path: Path) -> None:
        """The file is accounted for. If it changed meanwhile it comes again."""
        with self._changed:
            self._present.discard(path)
            if path in self._again:
                self._again.discard(path)
                self._add(Candidate(path))
            self._changed.notify_all()

    def offer(self, path: Path) -> None:
        """Hand in a file that is finished and journaled and goes before others; it need not lie in the watched folder.

        Does not wait.
        """
        with self._changed:
            self._add(Candidate(path, last_chance=True), self._urgent)

    @property
    def _is_long(self) -> bool:
        return len(self._waiting) >= _MAX_WAITING

    def _offer(self, candidate: Candidate) -> None:
        """Add, and wait while there are too many."""
        with self._changed:
            while self._is_long and not self._stopped:
                self._changed.wait(1.0)
            self._add(candidate)

    def _add(self, candidate: Candidate, line: deque[Candidate] | None = None) -> None:
        """Put a file in, unless it is there already; under the lock."""
        if candidate.path not in self._present:
            self._present.add(candidate.path)
            (self._waiting if line is None else line).append(candidate)
            self._changed.notify_all()
