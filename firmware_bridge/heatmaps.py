"""Heat maps on their way to the broker: PNG, each on a topic of its own. The latest; others lie on the disk."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable

from firmware_bridge.mqtt_message import Message
from firmware_bridge.result import NOTICE

_MOST_BYTES = 32 * 2**20


class Heatmaps:
    """A source of the outbox (`outbox_lanes.Source`) that is filled by whoever draws the maps. Thread-safe.

    They are kept in memory, `most` at a time and the oldest going first: a map can be drawn again from its X-ray, and
    must not keep a small disk full while the broker is away.

    Args:
        topic: the device's own.
        most: how many wait at most.
    """

    gives_up = True

    def __init__(self, topic: str, *, most: int = 16) -> None:
        self._topic = topic
        self._most = most
        self._lock = threading.Lock()
        self._maps: OrderedDict[int, Message] = OrderedDict()
        self._count = 0

    def offer(self, result_id: str, png: bytes) -> None:
        """Have a map sent to DEVICE/heatmap/RESULT_ID."""
        properties = {"result": result_id, "notice": NOTICE}
        message = Message(f"{self._topic}/heatmap/{result_id}", png, content_type="image/png", user=properties)
        with self._lock:
            self._count += 1
            self._maps[self._count] = message
            while len(self._maps) > self._most or sum(len(one.payload) for one in self._maps.values()) > _MOST_BYTES:
                self._maps.popitem(last=False)

    def due(self, *, limit: int) -> list[tuple[int, Message]]:
        """See `Source`."""
        with self._lock:
            return list(self._maps.items())[:limit]

    def mark_sent(self, numbers: Iterable[int]) -> None:
        """See `Source`."""
        with self._lock:
            for number in numbers:
                self._maps.pop(number, None)

    def drop(self, number: int, why: str) -> None:
        """See `Source`."""
        self.mark_sent([number])
