"""What is wrong at the moment: named problems, each with a text, and a call when one comes or goes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

_LOG = logging.getLogger(__name__)


class Health:
    """Thread-safe. `changed` is called, outside the lock, after each change."""

    def __init__(self) -> None:
        self._problems: dict[str, str] = {}
        self._lock = threading.Lock()
        self.changed: Callable[[], None] = lambda: None

    def report(self, name: str, problem: str | None) -> None:
        """Say that the problem `name` is there, with a text, or (None) gone."""
        with self._lock:
            if self._problems.get(name) == problem:
                return
            if problem is None:
                del self._problems[name]
            else:
                self._problems[name] = problem
        if problem is None:
            _LOG.info("mended: %s", name)
        else:
            _LOG.error("%s", problem)
        self.changed()

    def has(self, name: str) -> bool:
        """Whether that problem is there."""
        with self._lock:
            return name in self._problems

    def problems(self) -> dict[str, str]:
        """All of them, by name."""
        with self._lock:
            return dict(self._problems)
