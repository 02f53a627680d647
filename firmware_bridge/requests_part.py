"""The part that receives requests. The broker hears that we have one only once the journal has it.

A connection of its own: what comes in, however much and however large, never keeps results from going out. Its session
outlives it, so the broker keeps requests while the agent is away, and sends again what was not acknowledged.
"""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

from firmware_bridge.backoff import Backoff
from firmware_bridge.errors import BrokerError, ConfigError, CxrEdgeError, ImageError, ResourceError
from firmware_bridge.files import write_atomically
from firmware_bridge.journal import ReplyTo
from firmware_bridge.mqtt import Broker
from firmware_bridge.mqtt_connection import Connection
from firmware_bridge.mqtt_message import Inbox, Incoming
from firmware_bridge.mqtt_part import KIND, broker_of
from firmware_bridge.mqtt_settings import MqttSettings
from firmware_bridge.parts import Context
from firmware_bridge.requests import NoAnswerPossible, Topics, check_payload, digest_of, unreadable
from firmware_bridge.requests_settings import RequestsSettings
from firmware_bridge.result import ImageFacts, Refusal, dump, image_id, result_id
from firmware_bridge.wake import Wake

_LOG = logging.getLogger(__name__)
_POLL_S = 1.0
_BUSY_S = 0.5
_PACKET_ROOM_BYTES = 128 * 1024  # topic and properties beside the payload
_MOST_REFUSALS = 1000
_LOOK_EVERY_REFUSALS = 100
_DAY_S = 86_400
_MOST_EXPIRY_S = 2**32 - 2  # MQTT 5.0, 3.1.2.11.2: one more is "never"
_SUBSCRIBED = "mqtt-subscriptions.json"


def make_part(context: Context) -> RequestsPart | None:
    """The part, if it is enabled.

    Raises:
        ConfigError: there is no broker, or the group's name cannot be part of a topic.
    """
    settings = context.settings.section(RequestsSettings)
    if not settings.enabled:
        if settings.group:
            _LOG.warning("[requests] has a group and is off: enabled = true turns it on")
        return None
    broker = broker_of(context)
    if broker is None:
        raise ConfigError(
            "requests without a broker", expected="an address in [mqtt] url, or --mqtt", came="none", do="add it"
        )
    # MQTT 5.0, 4.8.2
    if any(letter in settings.group for letter in "/+#\0"):
        raise ConfigError(
            "[requests] group is wrong", expected="no '/', '+' or '#'", came=repr(settings.group)[:80], do="mend it"
        )
    return RequestsPart(context, settings, broker)


class _Busy(Exception):
    """More waits than may; what the broker holds stays there."""


class RequestsPart:
    """Receives requests, answers what is not taken, and leaves the rest to spool, pipeline and outbox."""

    name = "requests"

    def __init__(self, context: Context, settings: RequestsSettings, broker: Broker) -> None:
        self._context = context
        self._settings = settings
        self._broker = broker
        discovery = context.settings.section(MqttSettings).discovery_prefix.split("/")[0]
        self._topics = Topics(broker.prefix, context.device, settings.group, reserved=(discovery,))
        self._backoff = Backoff()
        self._wake = Wake()
        self._stop = threading.Event()
        self._speaks_5 = False
        self._dropped = 0
        self._refusals = 0

    def run(self) -> None:
        """Receive until `stop`."""
        try:
            self._run()
        finally:
            self._wake.close()

    def _run(self) -> None:
        while not self._stop.is_set() and not self._context.stopping.is_set():
            try:
                self._session()
            except _Busy:
                while not self._stop.wait(_BUSY_S) and not self._has_room():
                    pass
            except (BrokerError, ResourceError) as error:
                self._context.health.report(self.name, f"requests: {error.what}: {error.came}")
                self._stop.wait(self._backoff.failed())

    def stop(self) -> None:
        """Receive nothing more."""
        self._stop.set()
        self._wake.up()

    def _session(self) -> None:
        filters = self._topics.filters
        before = _read_filters(self._context.state / _SUBSCRIBED)
        inbox = Inbox(
            filters,
            [name for name in before if name not in filters],
            expiry_s=min(_MOST_EXPIRY_S, int(self._settings.session_days * _DAY_S)),
            # Those a bit too large do come, so that their senders can be told.
            max_packet_bytes=2 * self._settings.max_bytes + _PACKET_ROOM_BYTES,
        )
        client_id = f"cxr-edge-{self._context.device}-requests"
        # Written first: whatever happens next, the next run knows what the broker may still have for us.
        _write_filters(self._context.state / _SUBSCRIBED, sorted({*before, *filters}))
        connection = Connection(
            self._broker, client_id=client_id, wake=self._wake.readable, inbox=inbox, speaks_5=self._speaks_5
        )
        self._speaks_5 = self._speaks_5 or connection.protocol == "5"
        _LOG.info("MQTT broker %s: taking requests (%s)", self._broker.where, ", ".join(filters))
        self._context.health.report(self.name, None)
        try:
            while not self._stop.is_set() and not self._context.stopping.is_set():
                connection.poll(_POLL_S)
                for message in connection.take():
                    self._take(connection, message)
            connection.close()
        except BaseException:
            connection.abandon()
            raise

    def _take(self, connection: Connection, message: Incoming) -> None:
        """Everything a request needs is durable before it is acknowledged.

        Raises:
            ResourceError: the disk is full. The message is not acknowledged, and comes again.
        """
        if message.unreadable:
            self._drop(unreadable(message))
        elif message.retained:
            _LOG.warning("a retained message on %s is no request: remove it from the broker", self._topics.prefix)
        elif not self._context.spool.has_room or self._refused_too_many():
            raise _Busy
        else:
            try:
                self._accept(message, self._topics.reply_to(message))
            except NoAnswerPossible as error:
                self._drop(error)
        connection.acknowledge(message)
        self._backoff.good()

    def _accept(self, message: Incoming, reply: ReplyTo | None) -> None:
        digest = digest_of(message)
        if message.again and reply and self._context.journal.asked(KIND, reply, sha256=digest):
            return  # we died, or lost the connection, between journal and acknowledgement
        try:
            check_payload(message, max_bytes=self._settings.max_bytes)
        except ImageError as error:
            self._refuse(error, reply, digest)
        else:
            self._context.spool.submit(message.payload, kind=KIND, reply=reply)

    def _refuse(self, error: ImageError, reply: ReplyTo | None, digest: str) -> None:
        if reply is None:
            self._drop(error)
            return
        bundle = self._context.bundle
        refusal = Refusal.from_error(
            error,
            id=result_id(digest, bundle.id),
            image=ImageFacts(image_id(digest, self._context.device_key)),
            bundle=bundle.ref,
        )
        self._context.journal.answer(KIND, reply, record=dump(refusal.to_json()))
        self._context.changes.note()
        self._refusals += 1

    def _refused_too_many(self) -> bool:
        """Whether refusals wait to be sent, so many that the broker must keep what comes; looked at now and then."""
        if self._refusals < _LOOK_EVERY_REFUSALS:
            return False
        journal = self._context.journal
        if journal.unsent_refusals() >= _MOST_REFUSALS:
            return True
        journal.forget_answers(keep=_MOST_REFUSALS)
        self._refusals = 0
        return False

    def _has_room(self) -> bool:
        try:
            return self._context.spool.has_room and not self._refused_too_many()
        except ResourceError:
            return False

    def _drop(self, error: CxrEdgeError) -> None:
        self._dropped += 1
        # The 1st, 2nd, 4th, 8th, ...: a flood must not fill the log as well.
        if self._dropped & (self._dropped - 1) == 0:
            _LOG.warning("%s: %s (%d so far)", error.what, error.came, self._dropped)


def _read_filters(file: Path) -> list[str]:
    try:
        known = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return []  # a first run; or one that has to do without
    return [name for name in known if isinstance(name, str)] if isinstance(known, list) else []


def _write_filters(file: Path, filters: list[str]) -> None:
    try:
        write_atomically(file, json.dumps(filters).encode())
    except OSError as error:
        raise ResourceError(
            f"{file} cannot be written",
            expected="a state folder that this user can write, with some space",
            came=error.strerror or str(error),
            do="free some space or mend the disk",
        ) from error
