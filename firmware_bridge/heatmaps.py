"""Heat maps on their way to the broker: PNG, each on a topic of its own. Of the latest results; all lie on the disk."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

from firmware_bridge.beside import OVERLAY_SUFFIX, json_path, path_beside
from firmware_bridge.filing import DONE, id_in, places
from firmware_bridge.journal import Journal
from firmware_bridge.mqtt_message import Message
from firmware_bridge.png import PNG_MAGIC
from firmware_bridge.reading import NoFile, NotFinished, read_file
from firmware_bridge.result import NOTICE

_DRAWN_WITHIN_S = 30.0  # the result is durable before its overlay is
_MOST_BYTES = 4 * 2**20


class Heatmaps:
    """A source of the outbox (`outbox_lanes.Source`): the overlays that lie beside the X-rays.

    Only `most` wait at a time, the oldest going first: while the broker is away results must not be kept back by their
    pictures. Results of former runs get none.

    Args:
        journal: open.
        topic: the device's own.
        watch: the watched folder.
        most: how many wait at most.
    """

    gives_up = True

    def __init__(self, journal: Journal, topic: str, watch: Path, *, most: int = 16) -> None:
        self._journal = journal
        self._topic = topic
        self._watch = watch
        self._most = most
        self._after = journal.last_result_seq()
        self._waiting: OrderedDict[int, tuple[str, float]] = OrderedDict()  # number -> id, when it was made
        self._read: dict[int, Message] = {}

    def due(self, *, limit: int) -> list[tuple[int, Message]]:
        """See `Source`."""
        self._look_for_new()
        due = []
        for number, (result_id, made_s) in list(self._waiting.items()):
            message = self._read.get(number) or self._message(result_id)
            if message is not None:
                self._read[number] = message
                due.append((number, message))
            elif abs(time.time() - made_s) > _DRAWN_WITHIN_S:
                self.mark_sent([number])
        return due[:limit]

    def _look_for_new(self) -> None:
        while rows := self._journal.results(after=self._after):
            self._after = rows[-1].seq
            for row in rows:
                if json.loads(row.record).get("explanation"):
                    self._waiting[row.seq] = (row.id, row.made_s)
            while len(self._waiting) > self._most:
                self.mark_sent([next(iter(self._waiting))])

    def _message(self, result_id: str) -> Message | None:
        image = self._journal.path_of(result_id)
        if image is None:
            return None
        for place in places(image, self._watch, [DONE]):
            # Until the journal has the place, an older picture of that name may lie where this one is looked for.
            if id_in(json_path(place)) != result_id:
                continue
            try:
                png = read_file(path_beside(place, OVERLAY_SUFFIX), max_bytes=_MOST_BYTES).data
            except (NoFile, NotFinished):
                continue  # not drawn yet, filed away, or never there
            if png.startswith(PNG_MAGIC):
                properties = {"result": result_id, "notice": NOTICE}
                topic = f"{self._topic}/heatmap/{result_id}"
                return Message(topic, png, content_type="image/png", user=properties)
        return None

    def mark_sent(self, numbers: Iterable[int]) -> None:
        """See `Source`."""
        for number in numbers:
            self._waiting.pop(number, None)
            self._read.pop(number, None)

    def drop(self, number: int, why: str) -> None:
        """See `Source`."""
        self.mark_sent([number])
