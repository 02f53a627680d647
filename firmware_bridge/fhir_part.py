"""The part that reports results as FHIR: made once, on the disk until the server has them."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from firmware_bridge.errors import ConfigError, CxrEdgeError
from firmware_bridge.fhir import NOBODY, FhirOrigin, fhir_bundle
from firmware_bridge.fhir_sender import AGAIN, LATER, SENT, Verdict, open_client, send_bundle
from firmware_bridge.fhir_settings import FhirSettings
from firmware_bridge.fhir_validate import InvalidFhir, can_validate, preload, validate
from firmware_bridge.files import sync_folder, write_atomically
from firmware_bridge.http_client import ServerError
from firmware_bridge.journal import Stored
from firmware_bridge.mqtt import warn_of_open_secrets
from firmware_bridge.parts import Context
from firmware_bridge.report_outbox import BEHIND_AFTER, ReportOutbox, Waiting
from firmware_bridge.reported_xray import find_xray, may_be_filed_yet
from firmware_bridge.reporting import Reporting

_LOG = logging.getLogger(__name__)
FOLDER, SUFFIX = "fhir", ".json"
IN_FOLDER = ".fhir.json"
_FOLDER_PROBLEM = "fhir folder"
_STUCK_S = 300.0
_FOR_EVER = 1 << 30


def make_part(context: Context) -> FhirPart | None:
    """The part, if there is a server or a folder to report to.

    Raises:
        ConfigError: see `open_client`; a folder that is not there; patient ids without a word on their system.
        ResourceError: the outbox cannot be opened.
    """
    settings = context.settings.section(FhirSettings)
    if not settings.url and settings.folder is None:
        return None
    return FhirPart(context, settings)


class FhirPart:
    """See the module."""

    name = "fhir"

    def __init__(self, context: Context, settings: FhirSettings) -> None:
        self._context = context
        self._settings = settings
        self._check()
        self._client = open_client(settings) if settings.url else None
        warn_of_open_secrets(settings.token_file)
        self._validates = can_validate()
        self._stuck_until_s = 0.0
        self._told = ""  # by the server, last
        # What was scored before reports were asked for is not reported.
        first_seq = context.journal.last_result_seq()
        self._outbox = ReportOutbox(context.state, first_seq=first_seq, folder=FOLDER, suffix=SUFFIX)
        if again := self._outbox.offer_again():
            _LOG.info("FHIR: %d reports that the server had refused are offered once more", again)
        self._loop = Reporting(
            context, self._outbox, problem=self.name, make=self._make, send=self._send, facts=self.name
        )

    def _check(self) -> None:
        folder = self._settings.folder
        if folder is not None and not folder.is_dir():
            raise _wrong("folder", "a folder that is there", "none", do="make it, or mend the config file")
        if folder is not None and folder.resolve().is_relative_to(self._context.watch.resolve()):
            # Each report would be taken for an X-ray, refused, and reported.
            raise _wrong("folder", "a folder outside of the watched one", "one in it")
        if self._settings.patient == "search" and not self._settings.patient_system:
            # A bare number is somebody else's in another system.
            raise _wrong("patient", "patient_system beside patient = 'search'", "none")

    def run(self) -> None:
        """See `Reporting.run`."""
        if self._validates:
            preload()
        self._loop.run()

    def stop(self) -> None:
        """End soon."""
        self._loop.stop()

    # --- making

    def _make(self, row: Stored, record: Mapping[str, Any]) -> dict[str, bytes] | None:
        if row.is_selftest or ("refused" in record and not self._settings.refused):
            return {}
        origin = self._origin(row, record)
        if origin is None:
            return None
        settings = self._settings
        bundle = fhir_bundle(
            record, device=self._context.device, origin=origin, write=settings.write, snomed=settings.snomed
        )
        if self._validates:
            try:
                validate(bundle)
            except InvalidFhir as error:
                _LOG.error("no FHIR report of image %s: %s (%s)", record["image"]["id"][:12], error.what, error.came)
                return {}
        content = json.dumps(bundle, ensure_ascii=False, allow_nan=False).encode()
        if settings.folder is not None and not self._written(settings.folder / f"{record['id']}{IN_FOLDER}", content):
            return None
        return {record["id"]: content} if self._client is not None else {}

    def _written(self, path: Path, content: bytes) -> bool:
        try:
            write_atomically(path, content, mode=0o640)
            sync_folder(path.parent)
        except OSError as error:
            text = f"FHIR: {path.parent} cannot be written: {error.strerror}; results wait"
            self._context.health.report(_FOLDER_PROBLEM, text)
            return False
        self._context.health.report(_FOLDER_PROBLEM, None)
        return True

    def _origin(self, row: Stored, record: Mapping[str, Any]) -> FhirOrigin | None:
        """What may be told of study and patient; None where the X-ray may come to light yet."""
        settings = self._settings
        if not (settings.study or settings.patient) or record["image"].get("format") not in ("dicom", ""):
            return NOBODY
        found = find_xray(self._context, record)
        if found is None:
            return None if may_be_filed_yet(row) and not self._loop.stopped else NOBODY
        try:
            return read_fhir_origin(found[1], settings)
        except Exception as error:  # whatever a header holds, the result goes out
            _LOG.warning("FHIR: image %s names no study: %s", record["image"]["id"][:12], type(error).__name__)
            return NOBODY

    # --- sending

    def _send(self) -> None:
        if self._client is None:
            return
        while waiting := self._outbox.waiting():
            for one in waiting:
                if self._loop.stopped and not self._context.once:
                    return
                if one.tries >= BEHIND_AFTER and time.monotonic() < self._stuck_until_s:
                    return  # and so are those behind it
                if not self._settle(one):
                    return

    def _settle(self, one: Waiting) -> bool:
        """Send one; whether the next may be tried at once."""
        client = self._client
        assert client is not None
        try:
            content = one.path.read_bytes()
            len(json.loads(content)["entry"])
        except (OSError, ValueError, LookupError, TypeError):
            self._outbox.refused(one, "its file is gone or damaged", most_tries=1)
            _LOG.error("FHIR: a report is gone or damaged on the disk: %s", one.path.name)
            return True
        try:
            verdict = send_bundle(client, content)
        except (ServerError, ConfigError) as error:
            verdict = Verdict(LATER, f"{error.came}")
        where = client.address.where
        if verdict.reasons and verdict.reasons != self._told:  # not with each of many tries
            self._told = verdict.reasons
            _LOG.warning("FHIR server %s says: %s", where, verdict.reasons)
        if verdict.what == SENT:
            self._outbox.sent(one)
            self._loop.good()
            return True
        if verdict.what in (LATER, AGAIN):
            if verdict.what == AGAIN:
                self._outbox.refused(one, verdict.why, most_tries=_FOR_EVER)
            if verdict.what == AGAIN and one.tries >= BEHIND_AFTER:  # this one alone: it must not hold up the others
                self._stuck_until_s = time.monotonic() + _STUCK_S
                self._context.health.report(self.name, f"FHIR server {where}: {verdict.why}")
                return True
            self._loop.later(f"FHIR server {where}: {verdict.why}", least_s=verdict.pause_s)
            return False
        self._outbox.refused(one, verdict.why, most_tries=1)
        _LOG.error("FHIR server %s refuses result %s: %s", where, one.uid[:12], verdict.why)
        return True


def read_fhir_origin(data: bytes, settings: FhirSettings) -> FhirOrigin:
    """What the settings want told of a DICOM file's study and patient.

    Raises:
        Exception: what pydicom raises on damage.
    """
    from firmware_bridge.dicom_file import read_header

    wished: dict[str, str] = {}
    if settings.study:
        wished |= {"study": "StudyInstanceUID", "instance": "SOPInstanceUID", "accession": "AccessionNumber"}
    if settings.patient:
        wished["patient"] = "PatientID"
    header = read_header(data, [*wished.values(), "SpecificCharacterSet"])
    told = {name: str(header.get(keyword) or "").strip() for name, keyword in wished.items()}
    return FhirOrigin(**told, patient_system=settings.patient_system, search=settings.patient == "search")


def _wrong(key: str, expected: str, came: str, *, do: str = "mend the config file") -> CxrEdgeError:
    return ConfigError(f"[fhir] {key} cannot be used", expected=expected, came=came, do=do)
