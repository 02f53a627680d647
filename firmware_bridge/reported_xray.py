"""The X-ray that a result is about, found again: where it was taken, or where it was filed away to."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from firmware_bridge.beside import CAPTURE_SUFFIX, OVERLAY_SUFFIX, REPORT_SUFFIX, path_beside
from firmware_bridge.decode import DEFAULT_LIMITS, decode
from firmware_bridge.dicom_capture import build_capture
from firmware_bridge.dicom_objects import keyed_uid, read_origin
from firmware_bridge.dicom_report import build_report
from firmware_bridge.filing import DONE, places
from firmware_bridge.journal import Stored
from firmware_bridge.parts import Context
from firmware_bridge.reading import NoFile, NotFinished, read_file
from firmware_bridge.result import image_id

KINDS = {REPORT_SUFFIX: "report", CAPTURE_SUFFIX: "capture"}
# A file whose result is there is filed away within seconds; one that is not found after this is gone.
_FILED_WITHIN_S = 30.0


def find_xray(context: Context, record: Mapping[str, Any]) -> tuple[Path, bytes] | None:
    """Path and bytes of the X-ray of a result, sure to be that one; None where it is not to be found now."""
    path = context.journal.path_of(record["id"])
    return None if path is None else read_xray(context, path, record)


def read_xray(context: Context, path: Path, record: Mapping[str, Any]) -> tuple[Path, bytes] | None:
    """The same, for one that was taken at `path`."""
    for place in places(path, context.watch, [DONE]):
        try:
            contents = read_file(place, max_bytes=DEFAULT_LIMITS.max_bytes)
        except (NoFile, NotFinished):
            continue
        if image_id(hashlib.sha256(contents.data).hexdigest(), context.device_key) == record["image"]["id"]:
            return place, contents.data
    return None


def may_be_filed_yet(row: Stored) -> bool:
    """Whether the X-ray of a result that is so young may be on its way to where it belongs."""
    return time.time() - row.made_s < _FILED_WITHIN_S


def build_objects(
    context: Context,
    path: Path,
    data: bytes,
    record: Mapping[str, Any],
    *,
    report: bool,
    capture: bool,
    patient: bool,
) -> dict[str, bytes]:
    """Structured Report and Secondary Capture of a result; suffix of the file's name -> DICOM file.

    Args:
        context: for the device's name and key.
        path: of the X-ray; its overlay lies beside it, where there is one.
        data: its bytes.
        record: its result.
        report: make the report.
        capture: make the capture.
        patient: copy patient and study.

    Raises:
        CxrEdgeError: it is no DICOM file that can be referred to.
    """
    key, device = context.device_key, context.device
    origin = read_origin(data, key=key, patient=patient)
    made = {}
    if report:
        made[REPORT_SUFFIX] = build_report(origin, record, key=key, device=device)
    if capture:
        picture = _overlay(path)
        if picture is None:
            picture = decode(data).pixels
        made[CAPTURE_SUFFIX] = build_capture(origin, record, picture, key=key, device=device)
    return made


def object_uid(context: Context, record: Mapping[str, Any], suffix: str) -> str:
    """The SOP Instance UID of such an object."""
    return keyed_uid(context.device_key, record["id"], KINDS[suffix])


def _overlay(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
    """The overlay that lies beside the X-ray: (H, W, 3) RGB uint8."""
    import cv2

    try:
        stored = read_file(path_beside(path, OVERLAY_SUFFIX), max_bytes=DEFAULT_LIMITS.max_bytes).data
        bgr = cv2.imdecode(np.frombuffer(stored, np.uint8), cv2.IMREAD_COLOR)
    except (NoFile, NotFinished, cv2.error):
        return None
    return None if bgr is None else np.ascontiguousarray(bgr[:, :, ::-1], np.uint8)
