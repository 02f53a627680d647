"""Makes reports of results, writes them beside the X-rays and sends them, for as long as it takes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from firmware_bridge.beside import path_beside
from firmware_bridge.dicom_sender import UNREADABLE, ArchiveError, client_tls, parse_archive, send
from firmware_bridge.dicom_settings import DicomSettings
from firmware_bridge.errors import CxrEdgeError
from firmware_bridge.files import sync_folder, write_atomically
from firmware_bridge.journal import Stored
from firmware_bridge.parts import Context
from firmware_bridge.report_outbox import ReportOutbox, Waiting
from firmware_bridge.reported_xray import build_objects, find_xray, may_be_filed_yet, object_uid
from firmware_bridge.reporting import Reporting

_LOG = logging.getLogger(__name__)
# An archive that is full or busy says so with A7xx and is asked for ever; any other refusal is about the object.
_MOST_REFUSALS = 5
_PROBLEM = "dicom reports"


class Reporter:
    """See the module.

    Args:
        context: see there.
        settings: `report` or `capture` is on.

    Raises:
        ConfigError: `send_to` is no address, or a TLS file cannot be used.
        ResourceError: the outbox cannot be opened.
    """

    def __init__(self, context: Context, settings: DicomSettings) -> None:
        self._context = context
        self._settings = settings
        self._archive = parse_archive(settings.send_to) if settings.send_to else None
        self._tls = client_tls(settings)
        # What was scored before reports were asked for is not reported.
        self._outbox = ReportOutbox(context.state, first_seq=context.journal.last_result_seq())
        self._loop = Reporting(context, self._outbox, problem=_PROBLEM, make=self._make, send=self._send, facts="dicom")

    def stop(self) -> None:
        """End soon."""
        self._loop.stop()

    def run(self) -> None:
        """See `Reporting.run`."""
        self._loop.run()

    # --- making

    def _make(self, row: Stored, record: Mapping[str, Any]) -> dict[str, bytes] | None:
        """SOP Instance UID -> file; nothing where the X-ray is gone; None where it may come to light yet."""
        if "probability" not in record or record["image"]["format"] != "dicom":
            return {}
        found = find_xray(self._context, record)
        if found is None:
            if may_be_filed_yet(row) and not self._loop.stopped:
                return None
            _LOG.warning("no DICOM report of image %s: its file is gone", record["image"]["id"][:12])
            return {}
        path, data = found
        wished = self._settings
        try:
            made = build_objects(
                self._context,
                path,
                data,
                record,
                report=wished.report,
                capture=wished.capture,
                patient=wished.patient,
            )
        except CxrEdgeError as error:
            _LOG.warning("no DICOM report of image %s: %s (%s)", record["image"]["id"][:12], error.what, error.came)
            return {}
        except Exception as error:  # a header that pydicom chokes on must not keep back the reports behind it
            _LOG.error("no DICOM report of image %s: %s", record["image"]["id"][:12], type(error).__name__)
            return {}
        if wished.beside:
            self._write_beside(path, made)
        if self._archive is None:
            return {}
        return {object_uid(self._context, record, suffix): content for suffix, content in made.items()}

    def _write_beside(self, path: Path, made: dict[str, bytes]) -> None:
        try:
            for suffix, content in made.items():
                write_atomically(path_beside(path, suffix), content)
            sync_folder(path.parent)
        except OSError as error:
            self._context.health.report(_PROBLEM, f"reports beside the X-rays cannot be written: {error.strerror}")

    # --- sending

    def _send(self) -> None:
        if self._archive is None:
            return
        while waiting := self._outbox.waiting():
            try:
                for one, status in send(waiting, self._archive, self._settings, tls=self._tls):
                    if status != 0 and not self._refused(one, status):
                        return
                    if status == 0:
                        self._outbox.sent(one)
                        self._loop.good()
            except ArchiveError as error:
                self._loop.later(f"{error.what}: {error.came}")
                return
            if self._loop.stopped:
                return

    def _refused(self, one: Waiting, status: int) -> bool:
        """Note a refusal; whether the next object may be tried at once."""
        lost = status == UNREADABLE
        reason = "its file is gone or damaged" if lost else f"status {status:#06x}"
        if not lost and status & 0xFF00 == 0xA700:
            self._loop.later(f"the archive is out of resources ({reason})")
            return False
        given_up = self._outbox.refused(one, reason, most_tries=1 if lost else _MOST_REFUSALS)
        text = f"the archive refuses a report ({reason})"
        if given_up:
            _LOG.error("%s; it was given up after %d tries, and lies in %s", text, one.tries + 1, self._outbox.folder)
            return True
        self._loop.later(text)
        return False
