"""X-rays by the DICOM network: a C-STORE and C-ECHO provider that writes into the watched folder (PS3.4, annex B).

A sender hears Success when its X-ray is on the disk under its final name, and not before.
"""

from __future__ import annotations

import logging
import re
import ssl
import threading
from typing import Any

from pynetdicom import AE, _config, evt
from pynetdicom.sop_class import Verification

from firmware_bridge.backoff import Backoff
from firmware_bridge.dicom_folder import DicomFolder
from firmware_bridge.dicom_server import Handler, Server
from firmware_bridge.dicom_settings import SOP_CLASSES, DicomSettings
from firmware_bridge.dicom_waiting import Waiting
from firmware_bridge.errors import ConfigError, ResourceError
from firmware_bridge.listening import not_yet
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
_PORT = "dicom port"


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
        self._folder = DicomFolder(context.watch, settings.folder, section="dicom")
        self._stop = threading.Event()
        self._mutex = threading.Lock()
        self._waiting = Waiting(context.journal)
        self.stored = 0
        self.refused = 0
        _config.LOG_HANDLER_LEVEL = "none"  # they turn each PDU into text
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # would quote what peers send, with tracebacks
        self._entity = self._make_entity()
        self._tls = _server_tls(settings)

    def _make_entity(self) -> AE:
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
        return entity

    def _listen(self) -> Server:
        """Listen at the port.

        Raises:
            ConfigError: it can never be listened at.
            _NotYet: it may be free, or there, later.
        """
        settings, entity = self._settings, self._entity
        try:
            server = Server(
                entity,
                (settings.bind, settings.port),
                settings.ae_title,
                entity.supported_contexts,
                ssl_context=self._tls,
                evt_handlers=[(evt.EVT_C_STORE, self._on_store)],
                request_handler=Handler,
            )
        except (OSError, ValueError) as error:
            if (reason := not_yet(error)) is not None:
                raise _NotYet(reason) from error
            came = getattr(error, "strerror", None) or str(error)
            raise _wrong("bind or port", "an address of this device and a free port", came) from error
        server.peers = settings.peers
        server.most_connections = 2 * settings.max_associations
        server.timeout = _POLL_S
        return server

    def run(self) -> None:
        """Serve until `stop`; while another program has the port, or no network has the address, ask again and again.

        Raises:
            ConfigError: the address can never be listened at.
        """
        server = self._listen_at_last()
        if server is None:
            return
        _LOG.info("DICOM: %s listens at %s:%d", self._settings.ae_title, self._settings.bind, self._settings.port)
        try:
            while not self._stop.is_set():
                server.handle_request()
        finally:
            server.server_close()
            for association in server.active_associations:
                association.abort()

    def _listen_at_last(self) -> Server | None:
        backoff = Backoff()
        while not self._stop.is_set():
            try:
                server = self._listen()
            except _NotYet as error:
                where = f"port {self._settings.port} of {self._settings.bind}"
                self._context.health.report(
                    _PORT, f"{where} {error}: no X-rays are received by DICOM meanwhile; it is tried again"
                )
                self._stop.wait(backoff.failed())
            else:
                self._context.health.report(_PORT, None)
                return server
        self._context.health.report(_PORT, None)  # the next one may have another port, or none
        return None

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
        if self._stop.is_set() or self._context.stopping.is_set():
            return OUT_OF_RESOURCES
        content: bytes = event.encoded_dataset()
        try:
            if self._waiting.are_too_many():
                return OUT_OF_RESOURCES
            if self._is_full_with(len(content)):
                return OUT_OF_RESOURCES
            self._waiting.add(self._folder.put(uid, content))
        except ResourceError:
            return OUT_OF_RESOURCES  # the journal cannot be read; the recorder tells of it
        except OSError as error:
            self._context.health.report("dicom", f"received X-rays cannot be written: {error.strerror}")
            return OUT_OF_RESOURCES
        self._context.health.report("dicom", None)
        return SUCCESS

    def _is_full_with(self, more_bytes: int) -> bool:
        usual_mb = self._context.settings.section(RetentionSettings).reserve_mb
        return self._folder.is_full_with(more_bytes, reserve_mb=self._settings.reserve_mb, usual_mb=usual_mb)


class _NotYet(Exception):
    """The port cannot be listened at now, and why."""


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
