"""Many devices' MQTT connections in one thread: real paho clients on real sockets, as the agent makes them.

Each has a last will, a retained status and QoS 1, and at most 16 results in flight. The payloads are as large as the
agent's own.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from firmware_bridge.mqtt_message import connect_properties

# Bytes, as an agent with the model that ships sent them: result 955 to 962, status 381, telemetry 478.
RESULT, STATUS, TELEMETRY = b"r" * 960, b"s" * 381, b"t" * 478
IN_FLIGHT = 16
_KEEPALIVE_S = 30
_LIMIT_S = 300.0


@dataclass
class Device:
    """One connection, and what it still has to send."""

    name: str
    client: Client
    connected: bool = False
    to_send: int = 0
    in_flight: set[int] = field(default_factory=set)

    def fill(self) -> None:
        """Send results until as many wait for their acknowledgement as may."""
        while self.to_send and len(self.in_flight) < IN_FLIGHT:
            self.to_send -= 1
            self.in_flight.add(self.client.publish(f"cxr-edge/{self.name}/result", RESULT, qos=1).mid)


class Devices:
    """`count` of them.

    Args:
        port: of the broker, on this machine.
        count: how many.
        ca: the broker's certificate is checked against it; None: no TLS.
    """

    def __init__(self, port: int, count: int, *, ca: Path | None = None) -> None:
        self._port = port
        self._ca = ca
        self._selector = selectors.DefaultSelector()
        self.refused = 0
        self._unwritten: set[str] = set()
        self._misc_due_s = 0.0
        self.all = [self._make(f"device-{number:04d}") for number in range(count)]
        self._by_name = {device.name: device for device in self.all}

    def _make(self, name: str) -> Device:
        client = Client(CallbackAPIVersion.VERSION2, client_id=f"cxr-edge-{name}", protocol=MQTTv5)
        client.will_set(f"cxr-edge/{name}/status", STATUS, qos=1, retain=True)
        if self._ca is not None:
            client.tls_set(ca_certs=str(self._ca))
        device = Device(name, client)

        def on_connect(*_: Any) -> None:
            device.connected = True
            device.in_flight.add(client.publish(f"cxr-edge/{name}/status", STATUS, qos=1, retain=True).mid)

        def on_publish(_client: Client, _data: object, mid: int, reason: Any, _properties: Any) -> None:
            self.refused += bool(reason.is_failure)
            device.in_flight.discard(mid)
            device.fill()

        client.on_connect, client.on_publish = on_connect, on_publish
        return device

    def connect(self) -> None:
        """All of them, each as soon as the one before has its socket; done when all have their status acknowledged."""
        properties = connect_properties()
        properties.MaximumPacketSize = 65536
        for device in self.all:
            device.client.connect("127.0.0.1", self._port, keepalive=_KEEPALIVE_S, properties=properties)
            sock = device.client.socket()
            assert sock is not None
            self._selector.register(sock, selectors.EVENT_READ, device)
            self.turn(0)
        self.turn_until(lambda: all(device.connected and not device.in_flight for device in self.all))

    def burst(self, each: int) -> float:
        """Every device sends so many results, as fast as the broker takes them; seconds to the last acknowledgement."""
        begun_s = time.monotonic()
        for device in self.all:
            device.to_send = each
            device.fill()
        self.turn_until(lambda: not any(device.to_send or device.in_flight for device in self.all))
        return time.monotonic() - begun_s

    def telemetry(self) -> None:
        """Every device sends one, QoS 0."""
        for device in self.all:
            device.client.publish(f"cxr-edge/{device.name}/telemetry", TELEMETRY, qos=0)
        self.turn_until(lambda: not any(device.client.want_write() for device in self.all))

    def turn_until(self, done: Callable[[], bool]) -> None:
        """Let the network work.

        Raises:
            TimeoutError: nothing came of it.
        """
        deadline_s, next_look_s = time.monotonic() + _LIMIT_S, 0.0
        while True:
            self.turn(0.01)
            if time.monotonic() > next_look_s:
                if done():
                    return
                next_look_s = time.monotonic() + 0.01
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"no end within {_LIMIT_S:g} s")

    def turn(self, timeout_s: float) -> None:
        """What can be read now, and what follows from it."""
        for key, _ in self._selector.select(timeout_s):
            key.data.client.loop_read()
            while self._ca is not None and (sock := key.data.client.socket()) and sock.pending():
                key.data.client.loop_read()  # decrypted already: the selector does not see it
            self._write(key.data)
        for name in list(self._unwritten):
            self._write(self._by_name[name])
        if time.monotonic() > self._misc_due_s:
            self._misc_due_s = time.monotonic() + _KEEPALIVE_S / 3
            for device in self.all:
                device.client.loop_misc()

    def _write(self, device: Device) -> None:
        """paho writes at once, except from inside its callbacks and when the socket's buffer is full."""
        if device.client.want_write():
            device.client.loop_write()
        if device.client.want_write():
            self._unwritten.add(device.name)
        else:
            self._unwritten.discard(device.name)

    def close(self) -> None:
        """Without a goodbye: the broker publishes all their wills."""
        for device in self.all:
            sock = device.client.socket()
            if sock is not None:
                self._selector.unregister(sock)
                sock.close()
        self._selector.close()
