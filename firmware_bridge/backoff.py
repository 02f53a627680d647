"""How long to wait before the next attempt."""

from __future__ import annotations

import random

_FIRST_S = 0.5
LONGEST_S = 60.0


class Backoff:
    """Exponential with jitter, so that a clinic's devices do not come back all at once."""

    def __init__(self, *, longest_s: float = LONGEST_S) -> None:
        self._longest_s = longest_s
        self._failures = 0

    def good(self) -> None:
        """It worked: the next failure is a first one."""
        self._failures = 0

    def failed(self) -> float:
        """It failed; the seconds to wait."""
        most_s = min(self._longest_s, _FIRST_S * 2.0 ** min(self._failures, 20))
        self._failures += 1
        return most_s * random.uniform(0.5, 1.0)
