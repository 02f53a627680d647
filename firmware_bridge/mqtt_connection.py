"""One connection to an MQTT broker: v5, or 3.1.1 where the broker refuses v5. Used by one thread, never reused.

paho's own threads end silently when a callback raises, and its client resends what it holds in memory next to what the
journal resends. So the network loop runs here (paho's documented `loop_read`, `loop_write`, `loop_misc`), every error
of it becomes a BrokerError, and a lost connection takes its client with it: what is to be sent stands in the journal.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from typing import TYPE_CHECKING, Any

from firmware_bridge.errors import BrokerError
from firmware_bridge.mqtt import Broker
from firmware_bridge.mqtt_message import (
    MOST_PACKET_BYTES,
    Ack,
    Inbox,
    Incoming,
    Message,
    publish_properties,
)

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage

_CONNACK_TIMEOUT_S = 10.0
# Some brokers without MQTT 5 (amqtt 0.12) neither answer nor hang up when its CONNECT has a will: so not for long.
_SILENT_S = 2.0
_MOST_IN_FLIGHT = 16
# Messages that came and were not taken out yet; more than any broker sends that keeps to what is agreed.
_MOST_UNTAKEN = 64
_SMALL_PACKET_BYTES = 64 * 1024  # acknowledgements and the like
_SESSION_TAKEN_OVER = 142  # MQTT 5.0, 2.4
_UNSUPPORTED_PROTOCOL = 132  # MQTT 5.0, 2.4; paho maps 3.1.1's return code 1 onto it


class Connection:
    """An open connection.

    Args:
        broker: where to.
        client_id: of this device; a second client with the same id would throw this one out.
        wake: a readable socket that ends a `poll` early.
        will: what the broker publishes when we vanish.
        inbox: what is received; None: nothing, and no session is kept.
        speaks_5: it is known to: it may be slow, but is not taken for one without MQTT 5, with which response topics
            and correlation data get lost.

    Attributes:
        protocol: "5" or "3.1.1".
        most_in_flight: so many messages may wait for their acknowledgement.
        taken_over: the connection ended because another client with our id came.

    Raises:
        BrokerError: the broker is away or refuses us; from every method: the connection is lost.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        client_id: str,
        wake: socket.socket,
        will: Message | None = None,
        inbox: Inbox | None = None,
        speaks_5: bool = False,
    ) -> None:
        self._broker = broker
        self._client_id = client_id
        self._will = will
        self._wake = wake
        self._inbox = inbox
        self._speaks_5 = speaks_5
        self._acks: list[Ack] = []
        self._came: list[Incoming] = []
        self._answers: list[tuple[bool, int, str]] = []  # to CONNECT: refused, reason code, its name
        self._lost = ""
        self.taken_over = False
        self.protocol = "5"
        self.most_in_flight = _MOST_IN_FLIGHT
        self.max_packet_bytes = MOST_PACKET_BYTES
        self._retain = True
        self._max_qos = 2
        if not self._open("5") and not self._open("3.1.1"):
            raise self._error("a broker that speaks MQTT 5 or 3.1.1", "it refuses both", "check what listens there")

    def _open(self, protocol: str) -> bool:
        """Connect; False when the broker does not speak that version."""
        self.protocol, self._answers, self._lost = protocol, [], ""
        try:
            self._connect()
        except (OSError, ValueError) as error:
            # ValueError: host names that cannot be encoded. Certificates that do not fit are an OSError.
            raise self._error(
                "a broker that answers", str(error), "start the broker, check address and network"
            ) from error
        guessing = protocol == "5" and not self._speaks_5
        deadline_s = time.monotonic() + (_SILENT_S if guessing and self._inbox is None else _CONNACK_TIMEOUT_S)
        while not self._answers:
            # Other brokers hang up instead of naming the version they miss.
            if self._lost or time.monotonic() > deadline_s:
                self.abandon()
                if guessing:
                    return False
                raise self._error("an answer to CONNECT", self._lost or "none in time", "check what listens there")
            self._turn(0.5)
        refused, code, reason = self._answers[0]
        if refused:
            self.close()
            if code == _UNSUPPORTED_PROTOCOL:
                return False
            raise self._error("to be let in", reason, "check user, password, and the broker's access list")
        if self._max_qos < 1:
            self.close()
            raise self._error("a broker with QoS 1", "it takes QoS 0 only", "use a broker that acknowledges messages")
        if self._inbox is not None:
            self._subscribe(self._inbox)
        return True

    def _connect(self) -> None:
        # paho costs about 100 ms to import; the first X-ray is scored before that.
        from firmware_bridge.mqtt_handshake import make_client, send_connect

        client = make_client(
            self._broker,
            client_id=self._client_id,
            protocol=self.protocol,
            keeps_session=self._inbox is not None,
            will=self._will,
        )
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_unreadable = self._on_unreadable
        client.on_subscribe = self._on_subscribe
        self._client: Client = client
        send_connect(
            client, self._broker, protocol=self.protocol, inbox=self._inbox, most_bytes=self._max_incoming_bytes
        )

    @property
    def _max_incoming_bytes(self) -> int:
        return self._inbox.max_packet_bytes if self._inbox is not None else _SMALL_PACKET_BYTES

    def _subscribe(self, inbox: Inbox) -> None:
        from firmware_bridge.mqtt_handshake import subscribe

        try:
            subscribe(self._client, inbox, protocol=self.protocol)
        except Exception as error:  # paho refuses filters with a ValueError, and raises what the socket raises
            raise self._error("to subscribe", f"{type(error).__name__}: {error}", "mend the topic prefix") from error

    def _on_connect(self, _client: Client, _data: object, _flags: object, reason: Any, properties: Any) -> None:
        self._answers.append((bool(reason.is_failure), int(reason.value), str(reason)))
        # MQTT 5.0, 3.2.2.3: to send more unacknowledged messages, larger ones, ... than these is a protocol error.
        self.most_in_flight = min(_MOST_IN_FLIGHT, int(getattr(properties, "ReceiveMaximum", _MOST_IN_FLIGHT)))
        self.max_packet_bytes = int(getattr(properties, "MaximumPacketSize", MOST_PACKET_BYTES))
        self._retain = bool(getattr(properties, "RetainAvailable", 1))
        self._max_qos = int(getattr(properties, "MaximumQoS", 2))

    def _on_disconnect(self, _client: Client, _data: object, _flags: object, reason: Any, _properties: Any) -> None:
        self._lost = self._lost or f"the connection ended ({reason})"
        self.taken_over = int(reason.value) == _SESSION_TAKEN_OVER

    def _on_publish(self, _client: Client, _data: object, mid: int, reason: Any, _properties: Any) -> None:
        self._acks.append(Ack(mid, not reason.is_failure, int(reason.value), str(reason)))

    def _on_subscribe(self, _client: Client, _data: object, _mid: int, reasons: Any, _properties: Any) -> None:
        refused = [str(reason) for reason in reasons if reason.is_failure]
        if refused:
            self._lost = self._lost or f"a subscription was refused: {refused[0]}"

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        self._arrived(Incoming.from_paho(message))

    def _on_unreadable(self, mid: int, qos: int, why: str) -> None:
        self._arrived(Incoming(mid, "", b"", qos, retained=False, unreadable=why))

    def _arrived(self, message: Incoming) -> None:
        if self._inbox is None:
            self._lost = self._lost or "a message came, though nothing was subscribed to"
            return
        if len(self._came) >= _MOST_UNTAKEN:
            self._lost = self._lost or "more messages came at once than were agreed"
            return
        self._came.append(message)

    def fits(self, message: Message) -> bool:
        """Whether the broker takes a packet of that size. paho would send it all the same, and be thrown out."""
        return message.packet_bytes <= self.max_packet_bytes

    def publish(self, message: Message) -> int:
        """Send; the answer comes out of `poll` with the number that is returned here."""
        retain = message.retain and self._retain
        properties = publish_properties(message) if self.protocol == "5" else None
        try:
            info = self._client.publish(
                message.topic, message.payload, qos=message.qos, retain=retain, properties=properties
            )
        except Exception as error:  # whatever paho raises here, this message did not go out
            raise self._error("to send", f"{type(error).__name__}: {error}", "nothing: it is tried again") from error
        if info.rc != 0:
            raise self._error("to send", self._lost or f"paho's code {info.rc}", "nothing: it is tried again")
        return info.mid

    def acknowledge(self, message: Incoming) -> None:
        """Tell the broker that a message which came is ours now; until then it would send it again."""
        try:
            self._client.ack(message.mid, message.qos)
        except Exception as error:  # the socket's errors; the message comes again
            raise self._error("to acknowledge", str(error), "nothing: it is tried again") from error

    def poll(self, timeout_s: float) -> list[Ack]:
        """Let the network work until something happens; the answers that came. What came besides: `take`."""
        if not self._acks and not self._came:
            self._turn(timeout_s)
        acks, self._acks = self._acks, []
        if not acks and not self._came and self._lost:
            raise self._error("a connection that stays", self._lost, "nothing: it is tried again")
        return acks

    def take(self) -> list[Incoming]:
        """The messages that came, in their order."""
        came, self._came = self._came, []
        return came

    def _turn(self, timeout_s: float) -> None:
        sock = self._client.socket()
        if sock is None:
            self._lost = self._lost or "the connection is closed"
            return
        try:
            self._wait_and_work(sock, timeout_s)
        except Exception as error:  # paho raises what it likes on malformed packets; the connection is then of no use
            self._lost = f"{type(error).__name__}: {error}"

    def _wait_and_work(self, sock: Any, timeout_s: float) -> None:
        pending = getattr(sock, "pending", None)  # TLS keeps decrypted bytes that select cannot see
        readable = bool(pending and pending())
        with selectors.DefaultSelector() as selector:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._client.want_write() else 0)
            selector.register(sock, events)
            selector.register(self._wake, selectors.EVENT_READ)
            for key, mask in selector.select(0 if readable else timeout_s):
                if key.fileobj is self._wake:
                    with contextlib.suppress(BlockingIOError):
                        self._wake.recv(4096)
                elif mask & selectors.EVENT_READ:
                    readable = True
        if readable:
            self._client.loop_read()
            self._check_packet()
        if self._client.want_write():
            self._client.loop_write()
        self._client.loop_misc()

    def _check_packet(self) -> None:
        """End the connection of a broker that sends what was never agreed: it could fill the memory.

        paho has no bound of its own, and no public way to see a packet before it is whole.
        """
        packet = self._client._in_packet
        if packet["remaining_length"] > self._max_incoming_bytes:
            self._lost = f"a packet of {packet['remaining_length']} bytes came, {self._max_incoming_bytes} were agreed"
        elif self._client._in_messages:
            self._lost = "a message with QoS 2 came, QoS 1 was agreed"  # paho keeps it until it is released

    def close(self) -> None:
        """Say goodbye, so that the broker does not publish the will."""
        # Nothing is left to mend here: the broker may be gone already.
        with contextlib.suppress(Exception):
            self._client.disconnect()
            self._client.loop_write()
        sock = self._client.socket()
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.close()

    def abandon(self) -> None:
        """Drop the connection without a goodbye."""
        sock = self._client.socket()
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.close()

    def _error(self, expected: str, came: str, do: str) -> BrokerError:
        return BrokerError(f"MQTT broker {self._broker.where}", expected=expected, came=came, do=do)
