"""What goes over an MQTT connection and what comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paho.mqtt.client import MQTTMessage
    from paho.mqtt.properties import Properties

MOST_PACKET_BYTES = 268_435_455  # MQTT 5.0, 1.5.5


@dataclass(frozen=True, slots=True)
class Message:
    """What is published. The last three travel with MQTT 5 only."""

    topic: str
    payload: bytes
    retain: bool = False
    qos: int = 1
    content_type: str = ""
    correlation: bytes = b""
    user: Mapping[str, str] = field(default_factory=dict)

    @property
    def packet_bytes(self) -> int:
        """How large the packet is, at most."""
        strings = [self.topic, self.content_type, *self.user.keys(), *self.user.values()]
        # Each string has a length of two bytes, each property a number; 16 for the fixed header and the lengths.
        return 16 + sum(len(text.encode()) + 3 for text in strings) + len(self.correlation) + 3 + len(self.payload)


@dataclass(frozen=True, slots=True)
class Ack:
    """The broker's answer to a message: MQTT 5.0, 3.4.2.1. `reason` is its own word for it."""

    mid: int
    accepted: bool
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message that came. `again`: it was sent before, and we did not acknowledge it (DUP: MQTT 5.0, 3.3.1.1).

    `response_topic` and `correlation` are None where the sender gave none. `unreadable` says why nothing but the number
    of the message could be read.
    """

    mid: int
    topic: str
    payload: bytes
    qos: int
    retained: bool
    again: bool = False
    content_type: str = ""
    response_topic: str | None = None
    correlation: bytes | None = None
    unreadable: str = ""

    @classmethod
    def from_paho(cls, message: MQTTMessage) -> Incoming:
        """The same out of paho's own, whose properties are attributes that may be missing."""
        properties = message.properties
        return cls(
            message.mid,
            message.topic,
            bytes(message.payload),
            message.qos,
            retained=bool(message.retain),
            again=bool(message.dup),
            content_type=str(getattr(properties, "ContentType", "")),
            response_topic=getattr(properties, "ResponseTopic", None),
            correlation=getattr(properties, "CorrelationData", None),
        )


@dataclass(frozen=True, slots=True)
class Inbox:
    """What a connection receives, in a session that the broker keeps while we are away.

    Attributes:
        filters: subscribed to with QoS 1.
        old_filters: of former runs; the kept session has them still.
        expiry_s: how long the broker keeps the session (MQTT 5 only).
        most_unacknowledged: MQTT 5's Receive Maximum.
        max_packet_bytes: what is larger does not come (MQTT 5), or ends the connection (3.1.1).
        retained: what lies retained on the topics comes too, at every connection.
    """

    filters: Sequence[str]
    old_filters: Sequence[str] = ()
    expiry_s: int = 0
    most_unacknowledged: int = 8
    max_packet_bytes: int = MOST_PACKET_BYTES
    retained: bool = False


def connect_properties() -> Properties:
    """Empty MQTT 5 properties of a CONNECT: MQTT 5.0, 3.1.2.11."""
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    return Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]


def publish_properties(message: Message) -> Properties:
    """The MQTT 5 properties of a message: MQTT 5.0, 3.3.2.3."""
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    if message.content_type:
        properties.ContentType = message.content_type
    if message.correlation:
        properties.CorrelationData = message.correlation
    if message.user:
        properties.UserProperty = list(message.user.items())
    return properties
