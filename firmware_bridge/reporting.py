"""The loop that every way of reporting shares: look at new results, make what is to be sent, send what waits."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from firmware_bridge.backoff import Backoff
from firmware_bridge.errors import ResourceError
from firmware_bridge.journal import Stored
from firmware_bridge.parts import Context
from firmware_bridge.report_outbox import ReportOutbox

_POLL_S = 1.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 2.0, 300.0

# A result and its record -> name -> content; empty: nothing to send; None: not yet, and what comes after it waits.
Make = Callable[[Stored, Mapping[str, Any]], "dict[str, bytes] | None"]


class Reporting:
    """See the module.

    Args:
        context: see there.
        outbox: what is made and not sent; closed at the end.
        problem: the name under which trouble is told.
        make: see `Make`; called once for each result, again after a crash or None.
        send: sends what waits, until `stopped`, or it calls `later` and returns.
        facts: of the outbox, told to status and metrics under `problem`, where there is a name for them.
    """

    def __init__(
        self,
        context: Context,
        outbox: ReportOutbox,
        *,
        problem: str,
        make: Make,
        send: Callable[[], None],
        facts: str = "",
    ) -> None:
        self._context = context
        self._outbox = outbox
        self._problem = problem
        self._make_one = make
        self._send = send
        self._facts = facts
        self._stop = threading.Event()
        self._backoff = Backoff(first_s=_FIRST_WAIT_S, longest_s=_LONGEST_WAIT_S)
        self._failed = False
        self._hold_until_s = 0.0

    @property
    def stopped(self) -> bool:
        """Whether the end was asked for."""
        return self._stop.is_set()

    def stop(self) -> None:
        """End soon."""
        self._stop.set()
        self._context.changes.note()

    def run(self) -> None:
        """Make and send until `stop`; a single run ends only when the last result is reported or cannot be."""
        seen = self._context.changes.count
        while not self._stop.is_set():
            self._work()
            seen = self._context.changes.wait(seen, timeout_s=_POLL_S)
        if self._context.once:
            self._hold_until_s = 0.0
            self._work()
        self._outbox.close()

    def later(self, text: str, *, least_s: float = 0.0) -> None:
        """Sending failed for a reason that may pass: tell it, and try again after a while.

        Args:
            text: what is wrong.
            least_s: the server asked for so long a pause.
        """
        self._failed = True
        self._hold_until_s = time.monotonic() + max(self._backoff.failed(), least_s)
        self._context.health.report(self._problem, text)

    def good(self) -> None:
        """Something was sent."""
        self._backoff.good()
        self._failed = False

    def _work(self) -> None:
        try:
            self._make()
            if time.monotonic() >= self._hold_until_s:
                self._send()
            if self._facts:
                self._context.health.tell(self._facts, self._outbox.counts())
            if self._context.health.has(self._problem) and not self._failed:
                self._context.health.report(self._problem, None)
        except ResourceError as error:
            self._context.health.report(self._problem, f"{error.what}: {error.came}")

    def _make(self) -> None:
        while rows := self._context.journal.results(after=self._outbox.progress, limit=20):
            for row in rows:
                objects = self._make_one(row, json.loads(row.record))
                if objects is None:
                    return
                self._outbox.add(row.seq, objects)
                if self._stop.is_set() and not self._context.once:
                    return
