"""The part that sends results to the broker."""

from __future__ import annotations

import threading
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from firmware_bridge.errors import ConfigError, ResourceError
from firmware_bridge.mqtt import Broker, parse_broker, warn_of_open_secrets
from firmware_bridge.mqtt_settings import MqttSettings
from firmware_bridge.parts import Context

if TYPE_CHECKING:
    from firmware_bridge.mqtt_message import Message
    from firmware_bridge.outbox import Outbox

KIND = "mqtt"  # of the replies that are sent here
# paho's import (100 ms) waits for the first result, but not for long: a quiet folder must show up as online too.
_HEAD_START_S = 1.0


def broker_of(context: Context) -> Broker | None:
    """The broker of the section [mqtt], if there is one.

    Raises:
        ConfigError: see `parse_broker`.
    """
    settings = context.settings.section(MqttSettings)
    if not settings.url:
        return None
    return parse_broker(
        settings.url,
        password_file=settings.password_file,
        ca_file=settings.ca,
        cert_file=settings.cert,
        key_file=settings.key,
    )


def make_part(context: Context) -> MqttPart | None:
    """The part, if there is a broker to send to.

    Raises:
        ConfigError: see `parse_broker`; a discovery prefix that is no topic.
    """
    broker = broker_of(context)
    if broker is None:
        return None
    settings = context.settings.section(MqttSettings)
    prefix = settings.discovery_prefix
    if not prefix or not prefix.isprintable() or any(letter in prefix for letter in "+#$"):
        raise ConfigError(
            "[mqtt] discovery_prefix is wrong",
            expected="a topic without '+', '#' or '$'",
            came=repr(prefix),
            do="mend it",
        )
    warn_of_open_secrets(settings.password_file, settings.key)
    return MqttPart(context, settings, broker)


class MqttPart:
    """Runs the outbox."""

    name = "mqtt"

    def __init__(self, context: Context, settings: MqttSettings, broker: Broker) -> None:
        self._context = context
        self._settings = settings
        self._broker = broker
        self._outbox: Outbox | None = None
        self._stop = threading.Event()

    def run(self) -> None:
        """Send until `stop`."""
        self._wait_for_first_result()
        context = self._context
        outbox = self._make_outbox()
        self._outbox = outbox
        undo = [context.changes.listen(outbox.wake), context.health.listen(outbox.refresh)]
        try:
            if not self._stop.is_set():
                outbox.run()
        finally:
            for one in undo:
                one()
            last = outbox.last_error
            self._tell(last.came if last else "")

    def _make_outbox(self) -> Outbox:
        from firmware_bridge.heatmaps import Heatmaps
        from firmware_bridge.outbox import Outbox
        from firmware_bridge.outbox_lanes import Replies, Source
        from firmware_bridge.telemetry import Telemetry

        context, settings = self._context, self._settings
        more: list[Source] = [Replies(context.journal, KIND)]
        if settings.heatmap:
            more.append(Heatmaps(context.journal, f"{self._broker.prefix}/{context.device}", context.watch))
        return Outbox(
            self._broker,
            context.journal,
            device=context.device,
            status=self._status,
            more=more,
            greetings=[self._discovery()] if settings.discovery else [],
            telemetry=Telemetry(context.journal, waiting=lambda: context.intake.waiting).sample,
            telemetry_s=settings.telemetry_s,
            problem=self._report,
        )

    def _discovery(self) -> Message:
        from firmware_bridge.discovery import discovery_message

        manifest = self._context.bundle.manifest
        return discovery_message(
            topic=f"{self._broker.prefix}/{self._context.device}",
            device=self._context.device,
            version=version("cxr-edge"),
            bundle_name=manifest.name,
            label_positive=manifest.label_positive,
            prefix=self._settings.discovery_prefix,
        )

    def _report(self, problem: str | None) -> None:
        self._context.health.report(self.name, problem)
        self._tell(problem or "")

    def _tell(self, error: str) -> None:
        self._context.health.tell(self.name, {"broker": self._broker.where, "error": error})

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
            "audit": self._context.health.facts().get("audit"),
            "problems": self._context.health.problems(),
        }

    def _unsent(self) -> int | None:
        try:
            return self._context.journal.counts().unsent
        except ResourceError:
            return None  # a broken disk must not keep the status, which tells of it, from going out
