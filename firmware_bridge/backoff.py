"""How long to wait before the next attempt."""

from __future__ import annotations

import random

_FIRST_S = 0.5
LONGEST_S = 60.0


class Backoff:
    """Exponential with jitter, so that a clinic's devices do not come back all at once.

    Args:
        first_s: the first wait, at most.
        longest_s: no wait is longer.
    """

    def __init__(self, *, first_s: float = _FIRST_S, longest_s: float = LONGEST_S) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._failures = 0

    def good(self) -> None:
        """It worked: the next failure is a first one."""
        self._failures = 0

    def failed(self) -> float:
        """It failed; the seconds to wait."""
        most_s = min(self._longest_s, self._first_s * 2.0 ** min(self._failures, 20))
        self._failures += 1
        return most_s * random.uniform(0.5, 1.0)
