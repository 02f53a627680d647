"""HTTP towards one server of the hospital (FHIR, Orthanc), with Python's own client: no package more on the device.

One connection, kept alive. Nothing is followed elsewhere: a redirect would carry the token to whoever names it. What an
answer can cost in memory and time is bounded here.
"""

from __future__ import annotations

import contextlib
import email.utils
import errno
import http.client
import os
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from firmware_bridge.errors import ConfigError, CxrEdgeError

_CHUNK_BYTES = 1 << 16
_MOST_WAIT_S = 3600.0
_QUOTING = (http.client.BadStatusLine, http.client.UnknownProtocol)
_MOST_SECRET_BYTES = 1 << 16


class ServerError(CxrEdgeError):
    """A server cannot be reached, does not answer, or answers what is no HTTP."""

    exit_code = 9


class TooLarge(ServerError):
    """An answer with more bytes than are taken."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is. `path` has no slash at its end."""

    tls: bool
    host: str
    port: int
    path: str

    @property
    def where(self) -> str:
        """For people and the log."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{self.path}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; the names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def retry_after_s(self) -> float:
        """RFC 9110, 10.2.3: how long to wait, in seconds or up to a date; 0 where nobody said. An hour at most."""
        text = self.headers.get("retry-after", "").strip()
        if text.isascii() and text.isdigit():  # "²" is a digit, too, and no number
            return min(float(text), _MOST_WAIT_S)
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            return min(max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time()), _MOST_WAIT_S)
        return 0.0


def parse_address(url: str, *, key: str) -> Address:
    """An address from the settings.

    Args:
        url: http://HOST[:PORT][/PATH] or https://...
        key: its place in the settings, for the message.

    Raises:
        ConfigError: it is none, or it holds a password.
    """
    # Neither the address nor what Python says of it is quoted: wherever something slipped, it may be a password.
    try:
        parts = urlsplit(url.strip())
        port, host = parts.port, parts.hostname or ""
        host.encode("idna")
    except ValueError:
        raise _wrong(key, "one that cannot be taken apart, or a host that no name server can have") from None
    if parts.scheme not in ("http", "https") or not host:
        raise _wrong(key, "another scheme, or no host")
    if not url.isprintable() or " " in url.strip() or not parts.path.isascii():
        raise _wrong(key, "one with letters that no address has; such are written as %NN")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise _wrong(key, "one with a user, a query or a fragment")
    tls = parts.scheme == "https"
    return Address(tls, host, port or (443 if tls else 80), parts.path.rstrip("/"))


def _wrong(key: str, came: str) -> ConfigError:
    return ConfigError(
        f"{key} is no address",
        expected="http://HOST[:PORT][/PATH] or https://..., without a user or a query",
        came=came,
        do="mend the config file; a password or token goes into a file of its own",
    )


def read_secret(file: Path, *, key: str) -> str:
    """The first line of a file with a password or a token.

    Raises:
        ConfigError: it cannot be read, is empty, or has what no header can carry.
    """
    try:
        text = _small_file(file).decode("utf-8").rstrip("\r\n")
        came = "" if text and text.isprintable() else "an empty file" if not text else "more than one line"
    except (OSError, UnicodeDecodeError) as error:
        came = getattr(error, "strerror", None) or "bytes that are no text"
    if came:
        raise ConfigError(
            f"the file {file} of {key} cannot be used",
            expected="a text file with the secret on its only line",
            came=came,
            do="mend the file or its name in the config file",
        )
    return text


def _small_file(path: Path) -> bytes:
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a named pipe would be waited for without end
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "a folder, pipe or device")
        return os.read(handle, _MOST_SECRET_BYTES)
    finally:
        os.close(handle)


def tls_context(address: Address, ca: Path | None, *, key: str) -> ssl.SSLContext | None:
    """What a TLS connection is made with; None for http.

    Raises:
        ConfigError: the CA file cannot be used, or is named for an address without TLS.
    """
    if not address.tls:
        if ca is not None:
            raise ConfigError(
                f"{key} without TLS", expected="an address with https://", came="http://", do="mend the config file"
            )
        return None
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"{key} cannot be used",
            expected="a PEM file with the certificate of whoever signed the server's",
            came=getattr(error, "strerror", None) or str(error),
            do="mend the config file",
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


@contextlib.contextmanager
def _hung_up_after(limit_s: float, sock: socket.socket) -> Iterator[None]:
    """End a conversation that is not over after so long: one byte now and then keeps every read within its timeout.

    Raises:
        TimeoutError: it was ended.
    """
    late = threading.Event()

    def hang_up() -> None:
        late.set()
        with contextlib.suppress(OSError):
            # Not the method of a TLS socket: that one forgets the encryption under whoever reads.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)

    timer = threading.Timer(limit_s, hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, http.client.HTTPException, ValueError) as error:
        if late.is_set():
            raise TimeoutError(f"the answer was not whole after {limit_s:g} s") from error
        raise
    finally:
        timer.cancel()
    if late.is_set():
        raise TimeoutError(f"the answer was not whole after {limit_s:g} s")


class HttpClient:
    """Asks one server. Not thread-safe.

    Args:
        address: of the server.
        headers: sent with every request; asked for each time, so that a renewed token is used at once.
        timeout_s: so long one read may wait; a whole answer may take ten times that.
        tls: see `tls_context`.
    """

    def __init__(
        self,
        address: Address,
        *,
        headers: Callable[[], Mapping[str, str]],
        timeout_s: float,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.address = address
        self._headers = headers
        self._timeout_s = min(timeout_s, _MOST_WAIT_S)  # no socket takes any number
        self._tls = tls
        self._connection: http.client.HTTPConnection | None = None

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        most_bytes: int = 1 << 20,
    ) -> Answer:
        """One request and its answer, whatever its status.

        A request on a connection that the server had closed meanwhile is sent once more on a new one. So it must be one
        that may come twice: all of ours are.

        Args:
            method: GET, POST, ...
            path: below the address; begins with a slash or is empty.
            body: what is sent.
            headers: besides those of every request.
            most_bytes: of the answer's body.

        Raises:
            ServerError: no answer.
            TooLarge: a longer answer.
        """
        kept = self._connection is not None
        try:
            return self._ask_once(method, path, body, headers or {}, most_bytes)
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as error:
            self.close()
            if not kept:
                raise self._unreachable(error) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise self._unreachable(error) from error
        except BaseException:
            self.close()
            raise
        return self.ask(method, path, body=body, headers=headers, most_bytes=most_bytes)

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask_once(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], most_bytes: int
    ) -> Answer:
        sent = {**self._headers(), **headers}
        connection = self._connection = self._connection or self._connect()
        if connection.sock is None:
            connection.connect()
        with _hung_up_after(10 * self._timeout_s, connection.sock):
            connection.request(method, f"{self.address.path}{path}", body, sent)
            answer = connection.getresponse()
            whole = self._whole(answer, most_bytes)
        if answer.will_close:
            self.close()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, whole)

    def _whole(self, answer: http.client.HTTPResponse, most_bytes: int) -> bytes:
        """The body of an answer."""
        parts, size = [], 0
        while chunk := answer.read(_CHUNK_BYTES):
            size += len(chunk)
            if size > most_bytes:
                raise TooLarge(
                    f"an answer of {self.address.where} is too large",
                    expected=f"at most {most_bytes} bytes",
                    came="more",
                    do="check what answers at that address",
                )
            parts.append(chunk)
        if answer.length:  # `read` with a size takes an early end for the end
            raise http.client.IncompleteRead(b"", answer.length)
        return b"".join(parts)

    def _connect(self) -> http.client.HTTPConnection:
        host, port, timeout_s = self.address.host, self.address.port, self._timeout_s
        if self._tls is not None:
            return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=self._tls)
        return http.client.HTTPConnection(host, port, timeout=timeout_s)

    def _unreachable(self, error: Exception) -> ServerError:
        came = getattr(error, "strerror", None) or str(error)[:200] or type(error).__name__
        if isinstance(error, _QUOTING) and not isinstance(error, http.client.RemoteDisconnected):
            came = "no HTTP"  # what came instead is not told: this goes to log, status and broker
        return ServerError(
            f"the server {self.address.where}",
            expected="an answer",
            came=came,
            do="check its address, the network, and whether it runs; what is to be sent waits on the disk",
        )
