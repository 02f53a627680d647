"""C-STORE towards an archive (PS3.4, annex B): one association for what waits, an answer for each object."""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from firmware_bridge.dicom_settings import DicomSettings
from firmware_bridge.errors import ConfigError, CxrEdgeError
from firmware_bridge.report_outbox import Waiting

_ADDRESS = re.compile(r"(?P<title>[^@\\]{1,16})@(?P<host>\[[0-9a-fA-F:]+\]|[^:@\s]+):(?P<port>\d{1,5})")
UNREADABLE = -1  # in a status's place: an object that cannot be sent
_WARNINGS = (0x0001, 0xB000, 0xB006, 0xB007)  # stored, with a remark (PS3.4, B.2.3)


class ArchiveError(CxrEdgeError):
    """The archive cannot be reached or does not answer."""

    exit_code = 9


@dataclass(frozen=True, slots=True)
class Archive:
    """Where reports go."""

    title: str
    host: str
    port: int


def parse_archive(text: str) -> Archive:
    """`TITLE@HOST:PORT`.

    Raises:
        ConfigError: it is none.
    """
    found = _ADDRESS.fullmatch(text.strip())
    if not found or not 0 < int(found["port"]) < 65536:
        raise ConfigError(
            "[dicom] send_to is no address",
            expected="TITLE@HOST:PORT, the title of at most 16 characters",
            came=text[:80],
            do="mend the config file",
        )
    return Archive(found["title"], found["host"].strip("[]"), int(found["port"]))


def send(
    objects: Sequence[Waiting], archive: Archive, settings: DicomSettings, *, tls: ssl.SSLContext | None
) -> Iterator[tuple[Waiting, int]]:
    """Send; each object with the status that the archive gave it, as it comes; UNREADABLE where its file is no object.

    Args:
        objects: what is sent, in that order.
        archive: where to.
        settings: our title, and how long the archive is waited for.
        tls: see `client_tls`; None: no TLS.

    Raises:
        ArchiveError: no connection, no association, or no answer; what was not yielded is not sent.
    """
    association = _entity(settings).associate(
        archive.host, archive.port, ae_title=archive.title, tls_args=(tls, archive.host) if tls else None
    )
    if not association.is_established:
        raise _unreachable(archive, "refused" if association.is_rejected else "no association")
    try:
        for one in objects:
            dataset = _read(one)
            if dataset is None:
                yield one, UNREADABLE
                continue
            try:
                status = association.send_c_store(dataset)
            except (ValueError, RuntimeError) as error:  # no context for it, or the association is gone
                if not association.is_established:
                    raise _unreachable(archive, "the association broke off") from error
                yield one, 0x0122
                continue
            if "Status" not in status:
                raise _unreachable(archive, f"no answer within {settings.timeout_s:g} s")
            yield one, 0 if status.Status in _WARNINGS else int(status.Status)
    finally:
        if association.is_established:
            association.release()
        else:
            association.abort()


def _entity(settings: DicomSettings) -> Any:
    from pynetdicom import AE, _config
    from pynetdicom.sop_class import ComprehensiveSRStorage, SecondaryCaptureImageStorage

    _config.LOG_HANDLER_LEVEL = "none"
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # would quote what is sent
    entity = AE(settings.ae_title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = settings.timeout_s
    entity.connection_timeout = settings.timeout_s
    for sop_class in (ComprehensiveSRStorage, SecondaryCaptureImageStorage):
        entity.add_requested_context(sop_class, ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"])
    return entity


def _read(one: Waiting) -> Any:
    """The object; None where its file is gone or damaged, so that it does not hold up those behind it."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        return pydicom.dcmread(one.path)
    except (OSError, InvalidDicomError):
        return None


def client_tls(settings: DicomSettings) -> ssl.SSLContext | None:
    """What a TLS connection to the archive is made with; None without `send_tls`.

    Raises:
        ConfigError: a file is missing or does not fit.
    """
    if not settings.send_tls:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if settings.tls_certificate is not None:
            context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            "[dicom] tls_certificate, tls_key or tls_ca cannot be used",
            expected="PEM files that fit each other",
            came=getattr(error, "strerror", None) or str(error),
            do="mend the config file",
        ) from error
    return context


def _unreachable(archive: Archive, came: str) -> ArchiveError:
    return ArchiveError(
        f"the archive {archive.title} at {archive.host}:{archive.port}",
        expected="an answer to C-STORE",
        came=came,
        do="check its address, that it knows our title, and the network; reports wait on the disk",
    )
