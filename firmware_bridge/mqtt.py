"""One connection to an MQTT broker: v5, or 3.1.1 where the broker refuses v5. Used by one thread, never reused.

paho's own threads end silently when a callback raises, and its client resends what it holds in memory next to what the
journal resends. So the network loop runs here (paho's documented `loop_read`, `loop_write`, `loop_misc`), every error
of it becomes a BrokerError, and a lost connection takes its client with it: what is to be sent stands in the journal.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from firmware_bridge.errors import BrokerError, ConfigError

if TYPE_CHECKING:
    from paho.mqtt.client import Client

PASSWORD_VARIABLE = "CXR_EDGE_MQTT_PASSWORD"  # noqa: S105 - the name of a variable, not a password
_MAX_PREFIX_BYTES = 1000  # a topic has 65,535 at most (MQTT 5.0, 1.5.4), and the device's name follows
_KEEPALIVE_S = 30
_TCP_TIMEOUT_S = 5.0
# Some brokers without MQTT 5 (amqtt 0.12) neither answer nor hang up when its CONNECT has a will: so not for long.
_CONNACK_TIMEOUT_S = {"5": 2.0, "3.1.1": 10.0}
_MOST_IN_FLIGHT = 16
_UNSUPPORTED_PROTOCOL = 132  # MQTT 5.0, 2.4; paho maps 3.1.1's return code 1 onto it


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is, and how it knows us. `prefix` is the first part of every topic."""

    host: str
    port: int
    tls: bool = False
    username: str = ""
    password: str = field(default="", repr=False)
    prefix: str = "cxr-edge"
    ca_file: Path | None = None

    @property
    def where(self) -> str:
        """Host and port, for messages."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Message:
    """What is published: QoS 1 always."""

    topic: str
    payload: str
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Ack:
    """The broker's answer to a message. `reason` is its own word for it."""

    mid: int
    accepted: bool
    reason: str


def parse_broker(url: str, *, password_file: Path | None = None, ca_file: Path | None = None) -> Broker:
    """Read `mqtt://[user@]host[:port][/topic/prefix]`; `mqtts` is TLS.

    The password comes from a file or from the environment (CXR_EDGE_MQTT_PASSWORD), never from the URL: command lines
    are readable by every user of a machine.

    Raises:
        ConfigError: anything else.
    """
    try:
        parts = urlsplit(url)
        password, port = parts.password, parts.port
    except ValueError:
        # Neither the address nor what Python says of it is shown: a password with '/', '#' or '?' looks like a port.
        raise _wrong_address("an address that cannot be taken apart") from None
    if password is not None:
        raise ConfigError(
            "the MQTT address holds a password",
            expected="the password in a file or in the environment",
            came="user:password@ in the address",
            do=f"put it into a file and name that with --mqtt-password-file, or set {PASSWORD_VARIABLE}",
        )
    prefix = unquote(parts.path).strip("/") or "cxr-edge"
    # An empty query or fragment leaves no trace in the parts; "#" is also what a wildcard would be.
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or "?" in url or "#" in url:
        raise _wrong_address("another scheme, no host, or a '?' or '#'")
    if any(letter in prefix for letter in "+#") or prefix.startswith("$") or not prefix.isprintable():
        came = repr(prefix)[:80]
        raise ConfigError("the topic prefix is wrong", expected="no '+', '#' or '$'", came=came, do="mend --mqtt")
    if len(prefix.encode()) > _MAX_PREFIX_BYTES:
        raise ConfigError(
            "the topic prefix is too long",
            expected=f"at most {_MAX_PREFIX_BYTES} bytes",
            came=f"{len(prefix.encode())} bytes",
            do="mend --mqtt",
        )
    _check_ca(ca_file)
    return Broker(
        host=parts.hostname,
        port=port or (8883 if parts.scheme == "mqtts" else 1883),
        tls=parts.scheme == "mqtts",
        username=unquote(parts.username or ""),
        password=_password(password_file),
        prefix=prefix,
        ca_file=ca_file,
    )


def _wrong_address(came: str) -> ConfigError:
    return ConfigError(
        "the MQTT address is wrong",
        expected="mqtt://[user@]host[:port][/prefix] or mqtts://...",
        came=came,
        do=f"mend --mqtt; a password goes into a file (--mqtt-password-file) or into {PASSWORD_VARIABLE}",
    )


def _check_ca(file: Path | None) -> None:
    """A CA file that is not there would otherwise look like a broker that is away, and be tried for ever."""
    if file is None:
        return
    try:
        with file.open("rb") as opened:
            opened.read(1)
    except OSError as error:
        raise ConfigError(
            f"the CA file {file} cannot be read",
            expected="a file with certificates (PEM)",
            came=error.strerror or str(error),
            do="mend --mqtt-ca",
        ) from error


def _password(file: Path | None) -> str:
    if file is None:
        return os.environ.get(PASSWORD_VARIABLE, "")
    try:
        return file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the password file {file} cannot be read",
            expected="a text file with the password on its first line",
            came=getattr(error, "strerror", None) or str(error),
            do="mend --mqtt-password-file",
        ) from error


class Connection:
    """An open connection.

    Args:
        broker: where to.
        client_id: of this device; a second client with the same id would throw this one out.
        will: what the broker publishes when we vanish.
        wake: a readable socket that ends a `poll` early.

    Raises:
        BrokerError: the broker is away or refuses us; from every method: the connection is lost.
    """

    def __init__(self, broker: Broker, *, client_id: str, will: Message, wake: socket.socket) -> None:
        self._broker = broker
        self._client_id = client_id
        self._will = will
        self._wake = wake
        self._acks: list[Ack] = []
        self._answer: tuple[bool, int, str] | None = None  # refused, reason code, its name
        self._lost = ""
        self.protocol = "5"
        self.most_in_flight = _MOST_IN_FLIGHT
        if not self._open("5") and not self._open("3.1.1"):
            raise self._error("a broker that speaks MQTT 5 or 3.1.1", "it refuses both", "check what listens there")

    def _open(self, protocol: str) -> bool:
        """Connect; False when the broker does not speak that version."""
        self._reset(protocol)
        try:
            self._client = self._make_client()
            self._client.connect(self._broker.host, self._broker.port, keepalive=_KEEPALIVE_S)
        except (OSError, ValueError) as error:
            # ValueError: host names that cannot be encoded. Certificates that do not fit are an OSError.
            raise self._error(
                "a broker that answers", str(error), "start the broker, check address and network"
            ) from error
        deadline_s = time.monotonic() + _CONNACK_TIMEOUT_S[protocol]
        while self._answer is None:
            # Other brokers hang up instead of naming the version they miss.
            if self._lost or time.monotonic() > deadline_s:
                self.abandon()
                if protocol == "5":
                    return False
                raise self._error("an answer to CONNECT", self._lost or "none in time", "check what listens there")
            self._turn(0.5)
        refused, code, reason = self._answer
        if refused:
            self.close()
            if code == _UNSUPPORTED_PROTOCOL:
                return False
            raise self._error("to be let in", reason, "check user, password, and the broker's access list")
        return True

    def _reset(self, protocol: str) -> None:
        self.protocol, self._answer, self._lost = protocol, None, ""

    def _make_client(self) -> Client:
        # paho costs about 100 ms to import; the first X-ray is scored before that.
        from paho.mqtt.client import Client, MQTTv5, MQTTv311
        from paho.mqtt.enums import CallbackAPIVersion

        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            protocol=MQTTv5 if self.protocol == "5" else MQTTv311,
            reconnect_on_failure=False,
        )
        client.connect_timeout = _TCP_TIMEOUT_S
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.will_set(self._will.topic, self._will.payload, qos=1, retain=self._will.retain)
        if self._broker.username:
            client.username_pw_set(self._broker.username, self._broker.password or None)
        if self._broker.tls:
            client.tls_set(ca_certs=str(self._broker.ca_file) if self._broker.ca_file else None)
        return client

    def _on_connect(self, _client: Client, _data: object, _flags: object, reason: Any, properties: Any) -> None:
        self._answer = (bool(reason.is_failure), int(reason.value), str(reason))
        # MQTT 5.0, 3.1.2.11.3: sending more unacknowledged messages than this is a protocol error.
        self.most_in_flight = min(_MOST_IN_FLIGHT, int(getattr(properties, "ReceiveMaximum", _MOST_IN_FLIGHT)))

    def _on_disconnect(self, _client: Client, _data: object, _flags: object, reason: Any, _properties: Any) -> None:
        self._lost = self._lost or f"the connection ended ({reason})"

    def _on_publish(self, _client: Client, _data: object, mid: int, reason: Any, _properties: Any) -> None:
        self._acks.append(Ack(mid, not reason.is_failure, str(reason)))

    def publish(self, message: Message) -> int:
        """Send; the answer comes out of `poll` with the number that is returned here."""
        try:
            info = self._client.publish(message.topic, message.payload.encode(), qos=1, retain=message.retain)
        except Exception as error:  # whatever paho raises here, this message did not go out
            raise self._error("to send", f"{type(error).__name__}: {error}", "nothing: it is tried again") from error
        if info.rc != 0:
            raise self._error("to send", self._lost or f"paho's code {info.rc}", "nothing: it is tried again")
        return info.mid

    def poll(self, timeout_s: float) -> list[Ack]:
        """Let the network work until something happens; the answers that came."""
        if not self._acks:
            self._turn(timeout_s)
        acks, self._acks = self._acks, []
        if not acks and self._lost:
            raise self._error("a connection that stays", self._lost, "nothing: it is tried again")
        return acks

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
        if self._client.want_write():
            self._client.loop_write()
        self._client.loop_misc()

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
