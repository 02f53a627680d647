"""paho's client, made to survive a message that it cannot read. Imports paho: import it where a connection is made.

A broker passes on what its own check of UTF-8 lets through; paho refuses more (U+FEFF in a content type, say, which
MQTT 5.0, 1.5.4 allows) and ends the connection. The broker would send the same message again on the next one, for ever:
one message of one sender would keep all requests from coming in.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.enums import MQTTErrorCode

_RECEIVE_BYTES = 64 * 1024


class TolerantClient(Client):
    """Calls `on_unreadable(mid, qos, why)` for a PUBLISH that cannot be read, and goes on."""

    on_unreadable: Callable[[int, int, str], None]

    def _sock_recv(self, bufsize: int) -> bytes:
        # paho asks for all the rest of a packet, and Python allocates what is asked for: 256 MiB, if a broker says so.
        return super()._sock_recv(min(bufsize, _RECEIVE_BYTES))

    # paho has no public place for this; test_mqtt_hostile.py notices when this one moves.
    def _handle_publish(self) -> MQTTErrorCode:
        try:
            return super()._handle_publish()
        except Exception as error:  # paho raises five kinds here
            packet: Any = self._in_packet
            qos = packet["command"] >> 1 & 3
            mid = _message_number(bytes(packet["packet"])) if qos else 0
            self.on_unreadable(mid, qos, f"{type(error).__name__}: {error}")
            return MQTTErrorCode.MQTT_ERR_SUCCESS


def _message_number(packet: bytes) -> int:
    """Behind the topic: MQTT 5.0, 3.3.2. Raises struct.error when there is none: then the packet is no packet."""
    (length,) = struct.unpack_from("!H", packet)
    (mid,) = struct.unpack_from("!H", packet, 2 + length)
    return int(mid)
