"""From the journal to the broker: oldest first, QoS 1, and sent only once the broker has acknowledged it as good."""

from __future__ import annotations

import logging
import random
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from firmware_bridge.errors import BrokerError, ResourceError
from firmware_bridge.journal import Journal
from firmware_bridge.mqtt import Ack, Broker, Connection, Message
from firmware_bridge.result import NOTICE, SCHEMA, dump, utc_now

_LOG = logging.getLogger(__name__)
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 60.0
_POLL_S = 1.0
_GOODBYE_S = 2.0


class Outbox:
    """Publishes what the journal holds, in a thread of its own, for as long as it takes.

    Topics below the broker's prefix: `DEVICE/result`, and `DEVICE/status` (retained; the last will says "offline").

    Args:
        broker: where to.
        journal: open.
        device: the name of this device, part of the topics.
        status: what the status message says besides state and time; asked for on every connect and `refresh`.
        longest_wait_s: the cap of the backoff between attempts.
    """

    def __init__(
        self,
        broker: Broker,
        journal: Journal,
        *,
        device: str,
        status: Callable[[], dict[str, Any]],
        longest_wait_s: float = _LONGEST_WAIT_S,
    ) -> None:
        self._broker = broker
        self._journal = journal
        self._device = device
        self._status = status
        self._longest_wait_s = longest_wait_s
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._stop = threading.Event()
        self._refresh = False
        self._failures = 0
        self._in_flight: dict[int, int] = {}  # paho's message number -> row
        self._acknowledged: set[int] = set()  # rows the journal does not know about yet
        self._hold_until_s = 0.0
        self.last_error: BrokerError | None = None

    def wake(self) -> None:
        """There are new results."""
        # A full buffer means that it is awake anyway.
        try:
            self._wake_write.send(b"x")
        except OSError:
            return

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
        while not self._stop.is_set():
            try:
                self._session()
            except BrokerError as error:
                self._failures += 1
                wait_s = self._backoff_s()
                level = logging.DEBUG if str(error) == str(self.last_error) else logging.WARNING
                _LOG.log(level, "%s: %s; next try in %.1f s", error.what, error.came, wait_s)
                self.last_error = error
                self._stop.wait(wait_s)

    def _backoff_s(self) -> float:
        """Exponential with jitter, so that a clinic's devices do not come back all at once."""
        most_s = min(self._longest_wait_s, _FIRST_WAIT_S * 2.0 ** min(self._failures - 1, 20))
        return most_s * random.uniform(0.5, 1.0)

    def _session(self) -> None:
        self._in_flight.clear()
        connection = Connection(
            self._broker,
            client_id=f"cxr-edge-{self._device}",
            will=self._status_message("offline"),
            wake=self._wake_read,
        )
        _LOG.info("MQTT broker %s: connected (MQTT %s)", self._broker.where, connection.protocol)
        try:
            self._refresh = True  # the birth: republished on every connect
            while not self._stop.is_set():
                self._send(connection)
                self._receive(connection, _POLL_S)
            self._goodbye(connection)
            connection.close()
        except BaseException:
            connection.abandon()
            raise

    def _send(self, connection: Connection) -> None:
        if self._refresh:
            self._refresh = False
            connection.publish(self._status_message("online"))
        room = connection.most_in_flight - len(self._in_flight) - 1  # one place stays free for the status
        if room <= 0 or time.monotonic() < self._hold_until_s:
            return
        taken = self._acknowledged | set(self._in_flight.values())
        try:
            rows = self._journal.unsent(limit=len(taken) + room)
        except ResourceError as error:
            _LOG.warning("the outbox cannot be read: %s", error.came)
            self._hold_until_s = time.monotonic() + _POLL_S
            return
        for seq, record in rows:
            if seq not in taken and room > 0:
                room -= 1
                mid = connection.publish(Message(f"{self._broker.prefix}/{self._device}/result", record))
                self._in_flight[mid] = seq

    def _receive(self, connection: Connection, timeout_s: float) -> None:
        for ack in connection.poll(timeout_s):
            self._note(ack)
        if not self._acknowledged:
            return
        try:
            self._journal.mark_sent(self._acknowledged)
        except ResourceError as error:
            # Kept in memory: at worst, after a crash, they are sent once more under the same ids.
            _LOG.warning("sent results cannot be noted: %s", error.came)
        else:
            self._acknowledged.clear()

    def _note(self, ack: Ack) -> None:
        seq = self._in_flight.pop(ack.mid, None)
        if ack.accepted:
            self._failures = 0
            self.last_error = None
            if seq is not None:
                self._acknowledged.add(seq)
            return
        # Refused, not lost: it stays the oldest, and is offered again after a while.
        if time.monotonic() < self._hold_until_s:
            return  # sent together with one that was refused before: the same failure, not another
        self._failures += 1
        wait_s = self._backoff_s()
        self._hold_until_s = time.monotonic() + wait_s
        self.last_error = BrokerError(
            f"MQTT broker {self._broker.where}",
            expected="to take our message",
            came=ack.reason,
            do="check the broker's access list and quotas for this user",
        )
        _LOG.warning("MQTT broker %s refuses a message: %s; next try in %.1f s", self._broker.where, ack.reason, wait_s)

    def _goodbye(self, connection: Connection) -> None:
        """Wait shortly for what is under way, and leave the status as "stopped"."""
        last = connection.publish(self._status_message("stopped"))
        self._in_flight[last] = -1
        deadline_s = time.monotonic() + _GOODBYE_S
        while last in self._in_flight and time.monotonic() < deadline_s:
            self._receive(connection, 0.1)
            self._acknowledged.discard(-1)

    def _status_message(self, state: str) -> Message:
        status = {"schema": SCHEMA, "notice": NOTICE, "state": state, "time": utc_now(), "device": self._device}
        if state != "offline":
            status.update(self._status())
        return Message(f"{self._broker.prefix}/{self._device}/status", dump(status), retain=True)
