"""A peer on the port of a broker that is none: it answers CONNECT properly, if told so, then sends what it likes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from types import TracebackType

CONNACK = b"\x20\x03\x00\x00\x00"  # MQTT 5.0, 3.2: no session, success, no properties


class HostileBroker:
    """Listens on a loopback port while the `with` lasts; `behave` gets each connection, in a thread of its own."""

    def __init__(self, behave: Callable[[socket.socket], None]) -> None:
        self._behave = behave
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self.port = int(self._listener.getsockname()[1])
        self.connections = 0

    def __enter__(self) -> HostileBroker:
        self._listener.settimeout(0.2)
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def _start(self, body: Callable[[], None]) -> None:
        thread = threading.Thread(target=body, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                sock, _ = self._listener.accept()
            except TimeoutError:
                continue
            self.connections += 1
            self._start(lambda sock=sock: self._serve(sock))  # type: ignore[misc]

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            sock.settimeout(5)
            try:
                self._behave(sock)
            except OSError:
                return  # the client hung up, as it should


def read_packet(sock: socket.socket) -> bytes:
    """One MQTT packet of the client, without its fixed header."""
    _exactly(sock, 1)
    length, shift = 0, 0
    while True:
        (byte,) = _exactly(sock, 1)
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return _exactly(sock, length)


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise ConnectionResetError
        data += part
    return data


def packet(first: int, body: bytes) -> bytes:
    """A packet with its fixed header: MQTT 5.0, 2.1."""
    length, header = len(body), bytes([first])
    while True:
        header += bytes([length & 127 | (128 if length > 127 else 0)])
        length >>= 7
        if not length:
            return header + body


def publish(topic: str, payload: bytes, *, mid: int = 1, qos: int = 1, properties: bytes = b"") -> bytes:
    """A PUBLISH: MQTT 5.0, 3.3."""
    number = mid.to_bytes(2, "big") if qos else b""
    head = len(topic.encode()).to_bytes(2, "big") + topic.encode() + number + bytes([len(properties)]) + properties
    return packet(0x30 | qos << 1, head + payload)
