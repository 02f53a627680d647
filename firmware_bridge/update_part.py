"""The part that listens to what the device shall run: fetches it, checks it, puts it down for `deploy.desired`.

PREFIX/desired (all devices) and PREFIX/DEVICE/desired (this one) are retained; so is the answer, PREFIX/DEVICE/update.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import logging
import os
import threading
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPMessage
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from firmware_bridge.agent_settings import AgentSettings
from firmware_bridge.backoff import Backoff
from firmware_bridge.bundle import open_bundle
from firmware_bridge.disk import space_at
from firmware_bridge.errors import BrokerError, BundleError, ConfigError, CxrEdgeError, ResourceError
from firmware_bridge.files import sync_folder, write_atomically
from firmware_bridge.mqtt import Broker
from firmware_bridge.mqtt_connection import Connection
from firmware_bridge.mqtt_message import Inbox, Message
from firmware_bridge.mqtt_part import broker_of
from firmware_bridge.parts import Context
from firmware_bridge.retention_settings import RetentionSettings
from firmware_bridge.trust import TrustedKey, read_trusted_keys
from firmware_bridge.update import (
    FETCHING,
    HANDED_OVER,
    LAST,
    MAX_MESSAGE_BYTES,
    READY,
    REFUSED,
    REPORT,
    RUNNING,
    Desired,
    dump_report,
    parse_desired,
)
from firmware_bridge.update_settings import UpdateSettings
from firmware_bridge.wake import Wake

_LOG = logging.getLogger(__name__)
_POLL_S = 1.0
_FETCH_LIMIT_S = 30.0
# A whole body: ten minutes, and longer the larger it is. The slowest is that of an old mobile network.
_FETCH_LEAST_S, _SLOWEST_BYTES_PER_S = 600.0, 5000.0
# Of the bundle at the same time: what is fetched, the root half's copy, and the layer.
_COPIES = 3
_CHUNK_BYTES = 2**18


def make_part(context: Context) -> UpdatePart | None:
    """The part, if it is enabled.

    Raises:
        ConfigError: there is no broker, or there are no trusted keys: the signature is all the trust there is.
    """
    if not context.settings.section(UpdateSettings).enabled or context.once:
        return None
    broker, keys = broker_of(context), context.settings.section(AgentSettings).trusted_keys
    if broker is None or keys is None:
        raise ConfigError(
            "updates without a broker or without trusted keys",
            expected="[mqtt] url and [agent] trusted_keys",
            came="no broker" if broker is None else "no trusted keys",
            do="add it, or leave [update] out",
        )
    return UpdatePart(context, broker, read_trusted_keys(keys))


class UpdatePart:
    """Keeps one connection of its own, fetches one bundle at a time."""

    name = "update"

    def __init__(self, context: Context, broker: Broker, trusted: tuple[TrustedKey, ...]) -> None:
        self._context, self._broker, self._trusted = context, broker, trusted
        self._folder = context.state / "update"
        self._topic = f"{broker.prefix}/{context.device}/update"
        self._filters = (f"{broker.prefix}/desired", f"{broker.prefix}/{context.device}/desired")
        self._wanted: dict[str, Desired] = {}
        self._news = False
        self._told = b""
        self._backoff = Backoff()
        self._wake = Wake()
        self._stop = threading.Event()

    def run(self) -> None:
        """Listen until `stop`."""
        try:
            self._folder.mkdir(exist_ok=True, mode=0o755)
            while not self._ended:
                try:
                    self._session()
                except (BrokerError, ResourceError, OSError) as error:
                    told = f"{error.what}: {error.came}" if isinstance(error, CxrEdgeError) else str(error)
                    self._context.health.report(self.name, f"update: {told}")
                    self._stop.wait(self._backoff.failed())
        finally:
            self._wake.close()

    def stop(self) -> None:
        """Listen no more."""
        self._stop.set()
        self._wake.up()

    @property
    def _ended(self) -> bool:
        return self._stop.is_set() or self._context.stopping.is_set()

    def _session(self) -> None:
        connection = Connection(
            self._broker,
            client_id=f"cxr-edge-{self._context.device}-update",
            wake=self._wake.readable,
            inbox=Inbox(self._filters, max_packet_bytes=4 * MAX_MESSAGE_BYTES, retained=True),
        )
        self._context.health.report(self.name, None)
        self._told = b""
        try:
            while not self._ended:
                self._tell_report(connection)
                connection.poll(_POLL_S)
                self._listen(connection)
                self._act(connection)
                self._backoff.good()
            connection.close()
        except BaseException:
            connection.abandon()
            raise

    def _listen(self, connection: Connection) -> None:
        """Take in what came."""
        for message in connection.take():
            if not message.unreadable:
                self._hear(connection, message.topic, message.payload)
            connection.acknowledge(message)

    def _hear(self, connection: Connection, topic: str, payload: bytes) -> None:
        if not payload:  # a retained message that was removed
            self._wanted.pop(topic, None)
            self._news = True
            return
        try:
            self._wanted[topic] = parse_desired(payload[:MAX_MESSAGE_BYTES])
            self._news = True
        except ConfigError as error:
            self._refuse(connection, "", error)

    def _desired(self) -> Desired | None:
        # What is said to this device alone counts before what is said to all.
        return self._wanted.get(self._filters[1]) or self._wanted.get(self._filters[0])

    def _act(self, connection: Connection) -> None:
        """Do what is wanted now, and once more where that changed under way."""
        while self._news and not self._ended:
            self._news = False
            desired = self._desired()
            if desired is None:
                return
            if desired.bundle == self._context.bundle.id:
                self._say(connection, dump_report(RUNNING, bundle=desired.bundle))
            elif not self._was_tried(desired):
                self._fetch(connection, desired)

    def _was_tried(self, desired: Desired) -> bool:
        """Whether this very message was acted upon before: what was refused or rolled back is not tried for ever."""
        try:
            return self._last() == desired.to_bytes()
        except OSError:
            return False

    def _last(self) -> bytes:
        """The message that was acted upon last.

        Raises:
            OSError: there was none.
        """
        return (self._folder / LAST).read_bytes()

    def _fetch(self, connection: Connection, desired: Desired) -> None:
        self._say(connection, dump_report(FETCHING, bundle=desired.bundle))
        part = self._folder / ".fetched.part"
        try:
            reserve_mb = self._context.settings.section(RetentionSettings).reserve_mb
            require_room(self._folder, desired.size_bytes, reserve_mb=reserve_mb)
            _download(desired, part, go_on=lambda: self._goes_on(connection, desired))
            with open_bundle(part, trusted=self._trusted) as bundle:
                if bundle.id != desired.bundle:
                    raise _other("the bundle " + desired.bundle, bundle.id)
        except _Superseded:
            part.unlink(missing_ok=True)
            return
        # ValueError: urllib's and the IDNA codec's own, of an address that is none; a server may lead to one.
        except (CxrEdgeError, OSError, ValueError, http.client.HTTPException) as error:
            part.unlink(missing_ok=True)
            known = error if isinstance(error, CxrEdgeError) else _unreachable(desired, error)
            self._refuse(connection, desired.bundle, known)
            if not isinstance(known, BundleError):
                raise known from error  # and again, after a while
            self._note(desired)  # only another message is worth another try
            return
        self._note(desired)
        (self._folder / REPORT).unlink(missing_ok=True)
        part.replace(self._folder / READY)
        sync_folder(self._folder)
        _LOG.info("bundle %s was fetched and handed over", desired.bundle[:12])
        self._say(connection, dump_report(HANDED_OVER, bundle=desired.bundle))

    def _goes_on(self, connection: Connection, desired: Desired) -> bool:
        """Keep the connection alive while something is fetched; False where it is wanted no more."""
        connection.poll(0.0)
        self._listen(connection)
        return not self._ended and self._desired() == desired

    def _note(self, desired: Desired) -> None:
        write_atomically(self._folder / LAST, desired.to_bytes())

    def _tell_report(self, connection: Connection) -> None:
        """Pass on what the root half says of its work; after a restart too."""
        with contextlib.suppress(OSError, ValueError, AttributeError, ConfigError):
            report = (self._folder / REPORT).read_bytes()
            if report != self._told:
                content = json.loads(report)
                # Root does not know what a file that it refuses was wished as: we handed it over.
                told = {**content, "bundle": content.get("bundle") or parse_desired(self._last()).bundle}
                self._say(connection, json.dumps(told).encode())
                self._told = report

    def _refuse(self, connection: Connection, bundle: str, error: CxrEdgeError) -> None:
        if not isinstance(error, ResourceError):  # which is tried again, and is a problem of the status until then
            _LOG.warning("update refused: %s: %s", error.what, error.came)
        self._say(connection, dump_report(REFUSED, bundle=bundle, error=error))

    def _say(self, connection: Connection, report: bytes) -> None:
        connection.publish(Message(self._topic, report, retain=True, content_type="application/json"))


def require_room(folder: Path, size_bytes: int, *, reserve_mb: float) -> None:
    """Whether the disk of `folder` holds a bundle beside what the agent needs.

    Raises:
        ResourceError: it does not.
    """
    space = space_at(folder)
    needed_bytes = _COPIES * size_bytes + space.least_free_bytes(reserve_mb)
    if space.free_bytes < needed_bytes:
        raise ResourceError(
            "the disk has no room for the bundle",
            expected=f"{needed_bytes / 1e6:.0f} MB free, with the reserve",
            came=f"{space.free_bytes / 1e6:.0f} MB",
            do="free some space; it is tried again after a while",
        )


class _Superseded(Exception):
    """What is fetched is wanted no more, or the agent ends."""


class _OnlyHttp(urllib.request.HTTPRedirectHandler):
    """Follows nothing to where `parse_desired` would not have let us go."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise OSError(f"it leads elsewhere, to {urlsplit(newurl).scheme}:")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(desired: Desired, part: Path, *, go_on: Callable[[], bool]) -> None:
    digest, done_bytes = hashlib.sha256(), 0
    limit_s = _FETCH_LEAST_S + desired.size_bytes / _SLOWEST_BYTES_PER_S
    begun_s = looked_s = time.monotonic()
    # `parse_desired` let http and https through, and nothing else.
    opener = urllib.request.build_opener(_OnlyHttp)
    with opener.open(desired.url, timeout=_FETCH_LIMIT_S) as answer, part.open("wb") as file:
        while done_bytes <= desired.size_bytes and (chunk := answer.read1(_CHUNK_BYTES)):
            done_bytes += len(chunk)
            if done_bytes <= desired.size_bytes:
                digest.update(chunk)
                file.write(chunk)
            now_s = time.monotonic()
            if now_s - begun_s > limit_s:
                raise TimeoutError(f"{done_bytes} of {desired.size_bytes} bytes in {limit_s:.0f} s")
            if now_s - looked_s >= _POLL_S:
                looked_s = now_s
                if not go_on():
                    raise _Superseded
        file.flush()
        os.fsync(file.fileno())
    if not go_on():
        raise _Superseded
    if done_bytes != desired.size_bytes or digest.hexdigest() != desired.sha256:
        raise _other(f"{desired.size_bytes} bytes with SHA-256 {desired.sha256}", f"{done_bytes} bytes of another file")


def _other(expected: str, came: str) -> BundleError:
    return BundleError(
        "what was fetched is not what was named", expected=expected, came=came, do="publish the desired state again"
    )


def _unreachable(desired: Desired, error: Exception) -> CxrEdgeError:
    return ResourceError(
        "the bundle cannot be fetched",
        expected=f"an answer from {desired.url[:200]}",
        came=str(error)[:200] or type(error).__name__,
        do="mend the server or the address; it is tried again after a while",
    )
