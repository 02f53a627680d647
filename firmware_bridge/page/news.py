"""What the page shows, and the waiting for something new to show."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from firmware_bridge.journal_reader import open_reader
from firmware_bridge.parts import Context
from firmware_bridge.results_export import decision_of
from firmware_bridge.status import snapshot, works

MOST_RESULTS = 40
_TICK_S = 5.0
# A folder of old X-rays is scored at dozens a second; people do not read that fast.
_LEAST_S = 0.5


class News:
    """What is to be seen now: made once for all browsers, and only when something changed."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._made_at = (-1, -_TICK_S)
        self._text = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._count = 0
        self._undo: list[Callable[[], None]] = []

    def open(self) -> None:
        """Listen to the agent; called in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._undo = [self._context.changes.listen(self._note), self._context.health.listen(self._note)]

    def close(self) -> None:
        """Listen no more."""
        for undo in self._undo:
            undo()

    def _note(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._count += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, timeout_s: float) -> None:
        """Wait for a change, or so long."""
        changed = self._changed
        try:
            await asyncio.wait_for(changed.wait(), timeout_s)
        except asyncio.TimeoutError:
            return
        await asyncio.sleep(_LEAST_S)

    def text(self) -> str:
        """All that the page shows, as JSON on one line.

        Raises:
            ConfigError: see `open_reader`.
            ResourceError: the journal cannot be read.
        """
        with self._lock:
            count, now_s = self._count, time.monotonic()
            if self._made_at[0] != count or now_s - self._made_at[1] >= _TICK_S:
                self._text = json.dumps(self._view(), ensure_ascii=True, allow_nan=False)
                self._made_at = (count, now_s)
            return self._text

    def _view(self) -> dict[str, Any]:
        status = snapshot(self._context)
        return {**status, "works": works(status["problems"]), "results": latest(self._context, limit=MOST_RESULTS)}


def latest(context: Context, *, limit: int) -> list[dict[str, Any]]:
    """The newest results first, with what the page shows of each.

    Raises:
        ConfigError: see `open_reader`.
        ResourceError: the journal cannot be read.
    """
    query = """SELECT record, (SELECT path FROM intake WHERE result_id = result.id ORDER BY intake.seq DESC LIMIT 1)
               FROM result ORDER BY seq DESC LIMIT ?"""
    with open_reader(context.state) as journal:
        rows = journal.execute(query, (limit,)).fetchall()
    return [_shown(json.loads(text), sent=path is not None and _is_spooled(context, path)) for text, path in rows]


def _is_spooled(context: Context, path: bytes) -> bool:
    return context.spool.holds(Path(os.fsdecode(path)))


def _shown(record: dict[str, Any], *, sent: bool) -> dict[str, Any]:
    image = record["image"]
    keys = ("id", "time", "label_positive", "probability", "threshold", "refused", "explanation", "suitability")
    return {
        **{key: record.get(key) for key in keys},
        "decision": decision_of(record),
        "image": image["id"],
        "name": image.get("name", ""),
        # A file that could not be decoded when it came is not tried again for the page's sake. One that was sent over
        # MQTT left with its answer.
        "picture": image.get("width_px") is not None and not sent,
        "sent": sent,
    }
