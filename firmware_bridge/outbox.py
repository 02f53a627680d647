"""From the journal to the broker: oldest first, QoS 1, and sent only once the broker has acknowledged it as good."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from firmware_bridge.backoff import LONGEST_S, Backoff
from firmware_bridge.errors import BrokerError, ResourceError
from firmware_bridge.journal import Journal
from firmware_bridge.mqtt import Broker
from firmware_bridge.mqtt_connection import Connection
from firmware_bridge.mqtt_message import Ack, Message
from firmware_bridge.outbox_lanes import JSON, Lane, Results, Source
from firmware_bridge.result import NOTICE, SCHEMA, dump, utc_now
from firmware_bridge.wake import Wake

_LOG = logging.getLogger(__name__)
_POLL_S = 1.0
_GOODBYE_S = 2.0
_TAKEN_OVER_S = 30.0
_LASTING_S = 30.0  # a connection that held for so long was a good one
# MQTT 5.0, 3.4.2.1: not authorized, topic name invalid, payload format invalid. These do not change by themselves.
_FOR_GOOD = frozenset({135, 144, 153})


class Outbox:
    """Publishes what the journal holds, in a thread of its own, for as long as it takes.

    Topics below the broker's prefix: `DEVICE/result`; `DEVICE/status` (retained; the last will says "offline");
    `DEVICE/telemetry`.

    Args:
        broker: where to.
        journal: open.
        device: the name of this device, part of the topics.
        status: what the status message says besides state and time; asked for on every connect and `refresh`.
        more: what is sent from the journal besides results.
        greetings: retained messages that follow the status on every connect.
        telemetry: how the device is; asked for on every connect and then every `telemetry_s`.
        telemetry_s: 0: never.
        problem: told what is wrong with the broker, and (None) that nothing is.
        longest_wait_s: the cap of the backoff between attempts.
    """

    def __init__(
        self,
        broker: Broker,
        journal: Journal,
        *,
        device: str,
        status: Callable[[], dict[str, Any]],
        more: Sequence[Source] = (),
        greetings: Sequence[Message] = (),
        telemetry: Callable[[], dict[str, Any]] = dict,
        telemetry_s: float = 0.0,
        problem: Callable[[str | None], None] = lambda _problem: None,
        longest_wait_s: float = LONGEST_S,
    ) -> None:
        self._broker = broker
        self._device = device
        self._topic = f"{broker.prefix}/{device}"
        self._status = status
        self._greetings = greetings
        self._telemetry = telemetry
        self._telemetry_s = telemetry_s
        self._problem = problem
        self._wake = Wake()
        self._stop = threading.Event()
        self._refresh = False
        self._telemetry_due_s = 0.0
        self._backoff = Backoff(longest_s=longest_wait_s)
        sources = [*more, Results(journal, f"{self._topic}/result")]
        self._lanes = [Lane(source, longest_wait_s=longest_wait_s) for source in sources]
        self._in_flight: dict[int, tuple[Lane, int] | None] = {}  # paho's message number -> lane and row
        self._least_wait_s = 0.0
        self._speaks_5 = False
        self.last_error: BrokerError | None = None

    def wake(self) -> None:
        """There are new results."""
        self._wake.up()

    def refresh(self) -> None:
        """The status changed."""
        self._refresh = True
        self.wake()

    def stop(self) -> None:
        """Say "stopped" to the broker and end."""
        self._stop.set()
        self.wake()

    def run(self) -> None:
        """Body of the thread."""
        try:
            self._run()
        finally:
            self._wake.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._session()
            except BrokerError as error:
                wait_s = max(self._backoff.failed(), self._least_wait_s)
                self.last_error = error
                self._problem(f"{error.what}: {error.came}")
                _LOG.debug("next try in %.1f s", wait_s)
                self._stop.wait(wait_s)

    def _session(self) -> None:
        self._forget_connection()
        self._least_wait_s = 0.0
        will = self._status_message("offline")
        client_id = f"cxr-edge-{self._device}"
        connection = Connection(
            self._broker, client_id=client_id, will=will, wake=self._wake.readable, speaks_5=self._speaks_5
        )
        self._speaks_5 = self._speaks_5 or connection.protocol == "5"
        connected_s = time.monotonic()
        _LOG.info("MQTT broker %s: connected (MQTT %s)", self._broker.where, connection.protocol)
        self._problem(None)
        self._refresh = True  # the birth: republished on every connect
        greetings = list(self._greetings)
        self._telemetry_due_s = time.monotonic()
        try:
            while not self._stop.is_set():
                self._send_status(connection, greetings)
                self._send(connection)
                self._receive(connection, self._wait_s())
            self._goodbye(connection)
            connection.close()
        except BaseException:
            if time.monotonic() - connected_s > _LASTING_S:
                self._backoff.good()
            if connection.taken_over:
                # Two devices with one name would throw each other out without end; the second try is not in a hurry.
                self._least_wait_s = _TAKEN_OVER_S * random.uniform(0.5, 1.0)
            connection.abandon()
            raise

    def _forget_connection(self) -> None:
        self._in_flight.clear()
        for lane in self._lanes:
            lane.under_way.clear()
            lane.too_large.clear()

    def _wait_s(self) -> float:
        if self._telemetry_s <= 0:
            return _POLL_S
        return min(_POLL_S, max(0.0, self._telemetry_due_s - time.monotonic()))

    def _room(self, connection: Connection) -> int:
        return connection.most_in_flight - len(self._in_flight)

    def _send_status(self, connection: Connection, greetings: list[Message]) -> None:
        if self._refresh and self._room(connection) > 0:
            self._refresh = False
            self._in_flight[connection.publish(self._status_message("online"))] = None
        while greetings and self._room(connection) > 0:
            greeting = greetings.pop(0)
            if connection.fits(greeting):
                self._in_flight[connection.publish(greeting)] = None
            else:
                _LOG.warning("MQTT broker %s takes no message as large as %s", self._broker.where, greeting.topic)
        if self._telemetry_s > 0 and self._telemetry_due_s <= time.monotonic():
            self._telemetry_due_s = time.monotonic() + self._telemetry_s
            facts = self._head() | self._telemetry()
            message = Message(f"{self._topic}/telemetry", dump(facts).encode(), qos=0, content_type=JSON)
            if connection.fits(message):
                connection.publish(message)

    def _send(self, connection: Connection) -> None:
        for lane in self._lanes:
            room = self._room(connection)
            if room <= 0 or time.monotonic() < lane.hold_until_s:
                continue
            if lane is not self._lanes[-1]:
                room = (room + 1) // 2  # whoever sends requests must not keep results from being sent
            try:
                messages = lane.next(limit=room)
            except ResourceError as error:
                _LOG.warning("the outbox cannot be read: %s", error.came)
                lane.hold_until_s = time.monotonic() + _POLL_S
                continue
            for number, message in messages:
                self._publish(connection, lane, number, message)

    def _publish(self, connection: Connection, lane: Lane, number: int, message: Message) -> None:
        if connection.fits(message):
            self._in_flight[connection.publish(message)] = (lane, number)
            lane.under_way.add(number)
        elif lane.source.gives_up:
            lane.given_up[number] = f"larger than the broker's {connection.max_packet_bytes} bytes"
        else:
            lane.too_large.add(number)
            most = connection.max_packet_bytes
            self._problem(f"MQTT broker {self._broker.where} takes {most} bytes at most: a result waits in the journal")

    def _receive(self, connection: Connection, timeout_s: float) -> None:
        for ack in connection.poll(timeout_s):
            self._note(ack)
        for lane in self._lanes:
            try:
                lane.note_sent()
            except ResourceError as error:
                # Kept in memory: at worst, after a crash, they are sent once more under the same ids.
                _LOG.warning("sent messages cannot be noted: %s", error.came)

    def _note(self, ack: Ack) -> None:
        if ack.mid not in self._in_flight:
            return  # telemetry: QoS 0 is "acknowledged" by paho itself
        entry = self._in_flight.pop(ack.mid)
        if entry is None:
            # A status that is refused is only told: it is out of date by the time it could be offered again.
            if not ack.accepted:
                _LOG.warning("MQTT broker %s refuses our status: %s", self._broker.where, ack.reason)
            return
        lane, number = entry
        lane.under_way.discard(number)
        if ack.accepted:
            self._backoff.good()
            lane.backoff.good()
            lane.acknowledged.add(number)
            self._problem(None)
            self.last_error = None
        elif lane.source.gives_up and ack.code in _FOR_GOOD:
            _LOG.warning("MQTT broker %s refuses an answer, which is dropped: %s", self._broker.where, ack.reason)
            lane.given_up[number] = ack.reason
        else:
            self._hold(lane, ack)

    def _hold(self, lane: Lane, ack: Ack) -> None:
        """Refused, not lost: it stays the oldest, and is offered again after a while."""
        if time.monotonic() < lane.hold_until_s:
            return  # sent together with one that was refused before: the same failure, not another
        wait_s = lane.backoff.failed()
        lane.hold_until_s = time.monotonic() + wait_s
        self.last_error = BrokerError(
            f"MQTT broker {self._broker.where}",
            expected="to take our message",
            came=ack.reason,
            do="check the broker's access list and quotas for this user",
        )
        self._problem(f"MQTT broker {self._broker.where} refuses a message: {ack.reason}")

    def _goodbye(self, connection: Connection) -> None:
        """Wait shortly for what is under way, and leave the status as "stopped"."""
        deadline_s = time.monotonic() + _GOODBYE_S
        while self._room(connection) <= 0 and time.monotonic() < deadline_s:
            self._receive(connection, 0.1)
        last = connection.publish(self._status_message("stopped"))
        self._in_flight[last] = None
        while last in self._in_flight and time.monotonic() < deadline_s:
            self._receive(connection, 0.1)

    def _head(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "notice": NOTICE, "time": utc_now(), "device": self._device}

    def _status_message(self, state: str) -> Message:
        status = self._head() | {"state": state}
        if state != "offline":
            status |= self._status()
        return Message(f"{self._topic}/status", dump(status).encode(), retain=True, content_type=JSON)
