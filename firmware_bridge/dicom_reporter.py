"""Makes reports of results, writes them beside the X-rays and sends them, for as long as it takes."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from firmware_bridge.backoff import Backoff
from firmware_bridge.beside import CAPTURE_SUFFIX, OVERLAY_SUFFIX, REPORT_SUFFIX, path_beside
from firmware_bridge.decode import DEFAULT_LIMITS, decode
from firmware_bridge.dicom_capture import build_capture
from firmware_bridge.dicom_objects import Origin, keyed_uid, read_origin
from firmware_bridge.dicom_outbox import ReportOutbox, Waiting
from firmware_bridge.dicom_report import build_report
from firmware_bridge.dicom_sender import UNREADABLE, ArchiveError, client_tls, parse_archive, send
from firmware_bridge.dicom_settings import DicomSettings
from firmware_bridge.errors import CxrEdgeError, ResourceError
from firmware_bridge.files import sync_folder, write_atomically
from firmware_bridge.filing import DONE, places
from firmware_bridge.journal import Stored
from firmware_bridge.parts import Context
from firmware_bridge.reading import NoFile, NotFinished, read_file
from firmware_bridge.result import image_id

_LOG = logging.getLogger(__name__)
_POLL_S = 1.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 2.0, 300.0
# An archive that is full or busy says so with A7xx and is asked for ever; any other refusal is about the object.
_MOST_REFUSALS = 5
_PROBLEM = "dicom reports"
# A file whose result is there is filed away within seconds; one that is not found after this is gone.
_FILED_WITHIN_S = 30.0


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
        self._stop = threading.Event()
        self._backoff = Backoff(first_s=_FIRST_WAIT_S, longest_s=_LONGEST_WAIT_S)
        self._failed = False
        self._hold_until_s = 0.0

    def stop(self) -> None:
        """End soon."""
        self._stop.set()
        self._context.changes.note()

    def run(self) -> None:
        """Make and send until `stop`; a single run ends only when the last result is reported or cannot be."""
        seen = self._context.changes.count
        while not self._stop.is_set():
            self._work()
            seen = self._context.changes.wait(seen, timeout_s=_POLL_S)
        if self._context.once:
            self._hold_until_s = 0.0
            self._work()
        self._outbox.close()

    def _work(self) -> None:
        try:
            self._make()
            self._send()
            if self._context.health.has(_PROBLEM) and not self._failed:
                self._context.health.report(_PROBLEM, None)
        except ResourceError as error:
            self._context.health.report(_PROBLEM, f"{error.what}: {error.came}")

    # --- making

    def _make(self) -> None:
        while rows := self._context.journal.results(after=self._outbox.progress, limit=20):
            for row in rows:
                record = json.loads(row.record)
                objects: dict[str, bytes] | None = {}
                if "probability" in record and record["image"]["format"] == "dicom":
                    objects = self._objects(row, record)
                if objects is None:
                    return  # the X-ray is on its way to where it belongs; what comes after it waits
                self._outbox.add(row.seq, objects if self._archive else {})
                if self._stop.is_set() and not self._context.once:
                    return

    def _objects(self, row: Stored, record: dict[str, Any]) -> dict[str, bytes] | None:
        """SOP Instance UID -> file; nothing where the X-ray is gone; None where it may come to light yet."""
        found = self._find(record)
        if found is None:
            if time.time() - row.made_s < _FILED_WITHIN_S and not self._stop.is_set():
                return None
            _LOG.warning("no DICOM report of image %s: its file is gone", record["image"]["id"][:12])
            return {}
        path, data = found
        try:
            made = self._build(path, data, record)
        except CxrEdgeError as error:
            _LOG.warning("no DICOM report of image %s: %s (%s)", record["image"]["id"][:12], error.what, error.came)
            return {}
        except Exception as error:  # a header that pydicom chokes on must not keep back the reports behind it
            _LOG.error("no DICOM report of image %s: %s", record["image"]["id"][:12], type(error).__name__)
            return {}
        if self._settings.beside:
            self._write_beside(path, made)
        key = self._context.device_key
        kinds = {REPORT_SUFFIX: "report", CAPTURE_SUFFIX: "capture"}
        return {keyed_uid(key, record["id"], kinds[suffix]): content for suffix, content in made.items()}

    def _find(self, record: dict[str, Any]) -> tuple[Path, bytes] | None:
        """The X-ray of a result, sure to be that one: where it was taken, or where it was filed away to."""
        watch, key = self._context.watch, self._context.device_key
        path = self._context.journal.path_of(record["id"])
        if path is None:
            return None
        for place in places(path, watch, [DONE]):
            try:
                contents = read_file(place, max_bytes=DEFAULT_LIMITS.max_bytes)
            except (NoFile, NotFinished):
                continue
            if image_id(hashlib.sha256(contents.data).hexdigest(), key) == record["image"]["id"]:
                return place, contents.data
        return None

    def _build(self, path: Path, data: bytes, record: dict[str, Any]) -> dict[str, bytes]:
        key, device = self._context.device_key, self._context.device
        origin: Origin = read_origin(data, key=key, patient=self._settings.patient)
        made = {}
        if self._settings.report:
            made[REPORT_SUFFIX] = build_report(origin, record, key=key, device=device)
        if self._settings.capture:
            picture = _overlay(path)
            if picture is None:
                picture = decode(data).pixels
            made[CAPTURE_SUFFIX] = build_capture(origin, record, picture, key=key, device=device)
        return made

    def _write_beside(self, path: Path, made: dict[str, bytes]) -> None:
        try:
            for suffix, content in made.items():
                write_atomically(path_beside(path, suffix), content)
            sync_folder(path.parent)
        except OSError as error:
            self._context.health.report(_PROBLEM, f"reports beside the X-rays cannot be written: {error.strerror}")

    # --- sending

    def _send(self) -> None:
        if self._archive is None or time.monotonic() < self._hold_until_s:
            return
        while waiting := self._outbox.waiting():
            try:
                for one, status in send(waiting, self._archive, self._settings, tls=self._tls):
                    if status != 0 and not self._refused(one, status):
                        return
                    if status == 0:
                        self._outbox.sent(one)
                        self._backoff.good()
                        self._failed = False
            except ArchiveError as error:
                self._later(f"{error.what}: {error.came}")
                return
            if self._stop.is_set():
                return

    def _refused(self, one: Waiting, status: int) -> bool:
        """Note a refusal; whether the next object may be tried at once."""
        lost = status == UNREADABLE
        reason = "its file is gone or damaged" if lost else f"status {status:#06x}"
        if not lost and status & 0xFF00 == 0xA700:
            self._later(f"the archive is out of resources ({reason})")
            return False
        given_up = self._outbox.refused(one, reason, most_tries=1 if lost else _MOST_REFUSALS)
        text = f"the archive refuses a report ({reason})"
        if given_up:
            _LOG.error("%s; it was given up after %d tries, and lies in %s", text, one.tries + 1, self._outbox.folder)
            return True
        self._later(text)
        return False

    def _later(self, text: str) -> None:
        self._failed = True
        self._hold_until_s = time.monotonic() + self._backoff.failed()
        self._context.health.report(_PROBLEM, text)


def _overlay(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
    """The overlay that lies beside the X-ray: (H, W, 3) RGB uint8."""
    import cv2

    try:
        stored = read_file(path_beside(path, OVERLAY_SUFFIX), max_bytes=DEFAULT_LIMITS.max_bytes).data
        bgr = cv2.imdecode(np.frombuffer(stored, np.uint8), cv2.IMREAD_COLOR)
    except (NoFile, NotFinished, cv2.error):
        return None
    return None if bgr is None else np.ascontiguousarray(bgr[:, :, ::-1], np.uint8)
