"""How the agent is: named problems, each with a text, a call when one comes or goes; and facts that parts tell."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from firmware_bridge.progress import Progress

_LOG = logging.getLogger(__name__)


class Health:
    """Thread-safe."""

    def __init__(self) -> None:
        self._problems: dict[str, str] = {}
        self._facts: dict[str, Mapping[str, Any]] = {}
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []
        self.progress = Progress()

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Have `listener` called after each change of the problems: it must not block. Returns what undoes it."""
        with self._lock:
            self._listeners.append(listener)

        def undo() -> None:
            with self._lock:
                self._listeners.remove(listener)

        return undo

    def report(self, name: str, problem: str | None) -> None:
        """Say that the problem `name` is there, with a text, or (None) gone."""
        with self._lock:
            if self._problems.get(name) == problem:
                return
            if problem is None:
                del self._problems[name]
            else:
                self._problems[name] = problem
            listeners = list(self._listeners)
        if problem is None:
            _LOG.info("mended: %s", name)
        else:
            _LOG.error("%s", problem)
        for listener in listeners:
            listener()

    def has(self, name: str) -> bool:
        """Whether that problem is there."""
        with self._lock:
            return name in self._problems

    def problems(self) -> dict[str, str]:
        """All of them, by name."""
        with self._lock:
            return dict(self._problems)

    def tell(self, name: str, facts: Mapping[str, Any]) -> None:
        """Put down how a part is, in JSON's types, for status and page; it replaces what was told before."""
        with self._lock:
            self._facts[name] = facts

    def facts(self) -> dict[str, Mapping[str, Any]]:
        """What was told last, by the part's name."""
        with self._lock:
            return dict(self._facts)
