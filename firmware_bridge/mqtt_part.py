"""The part that sends results to the broker."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from firmware_bridge.errors import ResourceError
from firmware_bridge.mqtt import parse_broker
from firmware_bridge.mqtt_settings import MqttSettings
from firmware_bridge.parts import Context

if TYPE_CHECKING:
    from firmware_bridge.outbox import Outbox

# paho's import (100 ms) waits for the first result, but not for long: a quiet folder must show up as online too.
_HEAD_START_S = 1.0


def make_part(context: Context) -> MqttPart | None:
    """The part, if there is a broker to send to.

    Raises:
        ConfigError: see `parse_broker`.
    """
    settings = context.settings.section(MqttSettings)
    return MqttPart(context, settings) if settings.url else None


class MqttPart:
    """Runs the outbox."""

    name = "mqtt"

    def __init__(self, context: Context, settings: MqttSettings) -> None:
        self._context = context
        self._broker = parse_broker(settings.url, password_file=settings.password_file, ca_file=settings.ca)
        self._outbox: Outbox | None = None
        self._stop = threading.Event()

    def run(self) -> None:
        """Send until `stop`."""
        self._wait_for_first_result()
        from firmware_bridge.outbox import Outbox

        context = self._context
        outbox = Outbox(self._broker, context.journal, device=context.device, status=self._status)
        self._outbox = outbox
        undo = [context.changes.listen(outbox.wake), context.health.listen(outbox.refresh)]
        try:
            if not self._stop.is_set():
                outbox.run()
        finally:
            for one in undo:
                one()
            last = outbox.last_error
            context.health.tell(self.name, {"broker": self._broker.where, "error": last.came if last else ""})

    def stop(self) -> None:
        """Say goodbye and end."""
        self._stop.set()
        if self._outbox is not None:
            self._outbox.stop()
        self._context.changes.note()  # wakes the wait for the first result

    def _wait_for_first_result(self) -> None:
        changes, tally = self._context.changes, self._context.tally
        deadline_s = time.monotonic() + _HEAD_START_S
        while not self._stop.is_set() and not (tally.scored or tally.refused or tally.known):
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return
            changes.wait(changes.count, timeout_s=left_s)

    def _status(self) -> dict[str, Any]:
        bundle = self._context.bundle
        return {
            "bundle": {"id": bundle.id, "name": bundle.manifest.name},
            "waiting": self._context.intake.waiting,
            "unsent": self._unsent(),
            "problems": self._context.health.problems(),
        }

    def _unsent(self) -> int | None:
        try:
            return self._context.journal.counts().unsent
        except ResourceError:
            return None  # a broken disk must not keep the status, which tells of it, from going out
