"""X-rays by the DICOM network: a C-STORE and C-ECHO provider that writes into the watched folder (PS3.4, annex B).

A sender hears Success when its X-ray is on the disk under its final name, and not before. Whoever is on the network may
connect: what a connection can cost in memory, threads and time is bounded here, because pynetdicom leaves that open.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any

from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from firmware_bridge.decode import DEFAULT_LIMITS
from firmware_bridge.dicom_settings import SOP_CLASSES, DicomSettings
from firmware_bridge.errors import ConfigError
from firmware_bridge.files import sync_folder, write_atomically
from firmware_bridge.parts import Context
from firmware_bridge.retention_settings import RetentionSettings

_LOG = logging.getLogger(__name__)
# PS3.7, annex C, and PS3.4, B.2.3
SUCCESS, OUT_OF_RESOURCES, NOT_SUPPORTED, INVALID_INSTANCE = 0x0000, 0xA700, 0x0122, 0x0117
_UID = re.compile(r"[0-9.]{1,64}")
# Uncompressed, then what the decoders read; pydicom says which of them are there.
_NATIVE = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.4.50")
_COMPRESSED = ("4.57", "4.70", "4.80", "4.81", "4.90", "4.91", "5")
_POLL_S = 0.5
_MOST_WAITING = 1000
_LEAST_PDU_LIMIT_BYTES = 131072  # an association request with many contexts is larger than a small PDU for data
_MESSAGE_SPARE_BYTES = 1 << 20


class _Socket(AssociationSocket):  # type: ignore[misc]
    """A socket on which neither one PDU nor one message can grow or take time without end."""

    max_pdu_bytes = 0
    pdu_s = 0.0
    received_bytes = 0  # since the last message was handled

    def recv(self, nr_bytes: int) -> bytearray:
        """Like the original, within bounds.

        Raises:
            OSError: too much, or too slow; the association ends.
        """
        self.received_bytes += nr_bytes
        if nr_bytes > self.max_pdu_bytes or self.received_bytes > DEFAULT_LIMITS.max_bytes + _MESSAGE_SPARE_BYTES:
            raise ConnectionAbortedError("too much")
        content, deadline_s = bytearray(), time.monotonic() + self.pdu_s
        while len(content) < nr_bytes:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("too slow")
            self.socket.settimeout(left_s)
            some = self.socket.recv(min(nr_bytes - len(content), 65536))
            if not some:
                break
            content += some
        self.socket.settimeout(self.pdu_s)
        return content


class _Handler(RequestHandler):  # type: ignore[misc]
    def _create_association(self) -> Association:
        association = super()._create_association()
        bounded = association.dul.socket
        bounded.__class__ = _Socket  # a second one in its place would tell the state machine of a second connection
        bounded.max_pdu_bytes = max(self.ae.maximum_pdu_size, _LEAST_PDU_LIMIT_BYTES)
        bounded.pdu_s = self.ae.network_timeout
        return association


class _Server(ThreadedAssociationServer):  # type: ignore[misc]
    """Refuses by address and number before anything is read."""

    peers: tuple[str, ...] = ()
    most_connections = 1

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether this connection is served at all."""
        if self.peers and str(client_address[0]).removeprefix("::ffff:") not in self.peers:
            _LOG.warning("DICOM: a connection from an address that may not")
            return False
        return len(self.active_associations) < self.most_connections

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept. The TLS handshake waits for the connection's own thread: a silent peer must not stop the others."""
        client, address = self.socket.accept()
        client.settimeout(self.ae.network_timeout)
        if self.ssl_context:
            client = self.ssl_context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
        return client, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that failed is its peer's matter; the original prints a traceback."""
        _LOG.info("DICOM: a connection broke off")


class Receiver:
    """Listens until `stop`.

    Args:
        context: where files go, and whether the agent stops.
        settings: see there; `port` is not 0.

    Raises:
        ConfigError: a class, a title, a certificate or the address cannot be used.
    """

    def __init__(self, context: Context, settings: DicomSettings) -> None:
        self._context = context
        self._settings = settings
        self._folder = _subfolder(context.watch, settings.folder)
        self._stop = threading.Event()
        self._mutex = threading.Lock()
        self.stored = 0
        self.refused = 0
        _config.LOG_HANDLER_LEVEL = "none"  # they turn each PDU into text
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # would quote what peers send, with tracebacks
        self._server = self._listen()

    @property
    def port(self) -> int:
        """The port that is listened at."""
        return int(self._server.socket.getsockname()[1])

    def _listen(self) -> _Server:
        settings = self._settings
        try:
            entity = AE(settings.ae_title)
            entity.require_calling_aet = list(settings.callers)
        except (ValueError, TypeError) as error:
            raise _wrong("ae_title or callers", "titles of 1 to 16 characters", str(error)) from error
        entity.maximum_pdu_size = settings.max_pdu_bytes
        entity.maximum_associations = settings.max_associations
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = settings.timeout_s
        entity.add_supported_context(Verification)
        syntaxes = _readable_syntaxes()
        self._classes = frozenset(_class_uids(settings.classes))
        for uid in sorted(self._classes):
            entity.add_supported_context(uid, syntaxes)
        try:
            server = _Server(
                entity,
                (settings.bind, settings.port),
                settings.ae_title,
                entity.supported_contexts,
                ssl_context=_server_tls(settings),
                evt_handlers=[(evt.EVT_C_STORE, self._on_store)],
                request_handler=_Handler,
            )
        except (OSError, ValueError) as error:
            came = getattr(error, "strerror", None) or str(error)
            raise _wrong("bind or port", "an address of this device and a free port", came) from error
        server.peers = settings.peers
        server.most_connections = 2 * settings.max_associations
        server.timeout = _POLL_S
        return server

    def run(self) -> None:
        """Serve until `stop`."""
        _LOG.info("DICOM: %s listens at %s:%d", self._settings.ae_title, self._settings.bind, self.port)
        try:
            while not self._stop.is_set():
                self._server.handle_request()
        finally:
            self._server.server_close()
            for association in self._server.active_associations:
                association.abort()

    def stop(self) -> None:
        """Take nothing more; what was acknowledged is on the disk."""
        self._stop.set()

    def _on_store(self, event: Any) -> int:
        """One C-STORE request: its status."""
        event.assoc.dul.socket.received_bytes = 0
        status = self._status(event)
        with self._mutex:
            self.stored += status == SUCCESS
            self.refused += status != SUCCESS
        if status != SUCCESS:
            _LOG.warning("DICOM: an X-ray was refused with status %#06x", status)
        return status

    def _status(self, event: Any) -> int:
        request = event.request
        if str(request.AffectedSOPClassUID) not in self._classes:
            return NOT_SUPPORTED
        uid = str(request.AffectedSOPInstanceUID)
        if not _UID.fullmatch(uid):
            return INVALID_INSTANCE
        if self._stop.is_set() or self._context.stopping.is_set() or self._context.intake.waiting >= _MOST_WAITING:
            return OUT_OF_RESOURCES
        content: bytes = event.encoded_dataset()
        try:
            if shutil.disk_usage(self._context.watch).free < self._reserve_bytes() + len(content):
                return OUT_OF_RESOURCES
            self._write(uid, content)
        except OSError as error:
            self._context.health.report("dicom", f"received X-rays cannot be written: {error.strerror}")
            return OUT_OF_RESOURCES
        self._context.health.report("dicom", None)
        return SUCCESS

    def _reserve_bytes(self) -> float:
        told_mb = self._settings.reserve_mb
        return 1e6 * (self._context.settings.section(RetentionSettings).reserve_mb if told_mb is None else told_mb)

    def _write(self, uid: str, content: bytes) -> None:
        """Durable when it returns. The name tells neither patient nor study; the same X-ray again has the same one."""
        # The content is part of it: another picture under the same UID must not replace one that is not read yet.
        digest = hashlib.sha256(content).hexdigest()
        path = self._folder / f"{hashlib.sha256(uid.encode()).hexdigest()[:24]}-{digest[:16]}.dcm"
        if path.is_file() and path.stat().st_size == len(content):
            return
        if not self._folder.is_dir():
            self._folder.mkdir(mode=0o700)
            sync_folder(self._folder.parent)
        with self._mutex:  # two senders of the same X-ray
            write_atomically(path, content, mode=0o600, temporary=path.with_name(f".{path.name}.part"))
        sync_folder(self._folder)


def _subfolder(watch: Path, name: str) -> Path:
    if Path(name).name != name or name.startswith(".") or not name:
        raise _wrong("folder", "the name of a folder in the watched one, not hidden", repr(name))
    return watch / name


def _class_uids(names: tuple[str, ...]) -> list[str]:
    for name in names:
        if name not in SOP_CLASSES and not (_UID.fullmatch(name) and "." in name):
            raise _wrong("classes", f"{', '.join(SOP_CLASSES)}, or the UID of a class", repr(name)[:80])
    return [SOP_CLASSES.get(name, name) for name in names]


def _readable_syntaxes() -> list[str]:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    compressed = [UID(f"1.2.840.10008.1.2.{end}") for end in _COMPRESSED]
    return [*_NATIVE, *(str(uid) for uid in compressed if get_decoder(uid).is_available)]


def _server_tls(settings: DicomSettings) -> ssl.SSLContext | None:
    if settings.tls_certificate is None:
        return None
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
        if settings.tls_ca is not None:
            context.load_verify_locations(settings.tls_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        came = getattr(error, "strerror", None) or str(error)
        raise _wrong("tls_certificate, tls_key or tls_ca", "PEM files that fit each other", came) from error
    return context


def _wrong(key: str, expected: str, came: str) -> ConfigError:
    return ConfigError(f"[dicom] {key} cannot be used", expected=expected, came=came, do="mend the config file")
