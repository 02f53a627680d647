"""What a DICOM header tells of an X-ray, without reading its pixels."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from typing import Any

from toolkit.data.index import Xray

log = logging.getLogger(__name__)
_PARTS_PER_YEAR = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}
_TAGS = ("PatientID", "PatientAge", "PatientSex", "ViewPosition", "Columns", "Rows")


def fill_from_dicom(row: Xray, *, set_patient: bool) -> Xray:
    """`row` with the empty fields that its DICOM header can fill; other formats and damaged files stay as they are.

    The patient id becomes a hash: an index is copied about, and a hospital's number has no business in it. Whoever can
    guess the number can still recognise its hash.

    Args:
        row: whose `path` is looked at.
        set_patient: whether the header's patient id replaces the row's.
    """
    with_header = row.path.suffix.lower() in (".dcm", ".dicom", ".dic")
    # Opening a pipe of that name would wait for its writer for ever.
    header = _header(row) if with_header and row.path.is_file() else None
    if header is None:
        return row
    patient = str(header.get("PatientID", "") or "").strip()
    hashed = "dicom-" + hashlib.sha256(patient.encode("utf-8", "replace")).hexdigest()[:16]
    columns, rows = header.get("Columns"), header.get("Rows")
    return replace(
        row,
        patient_id=hashed if patient and set_patient else row.patient_id,
        age=parse_age(str(header.get("PatientAge", "") or "")) if row.age is None else row.age,
        sex=row.sex or str(header.get("PatientSex", "") or ""),
        view=row.view or str(header.get("ViewPosition", "") or ""),
        width_px=row.width_px or (int(columns) if columns else None),
        height_px=row.height_px or (int(rows) if rows else None),
    )


def parse_age(text: str) -> float | None:
    """Years from "63", "063Y", "018M", "003W" or "010D" (DICOM PS3.5, 6.2, AS); None for what is none.

    Above 120 is a typing error: NIH ChestX-ray14 has patients of 400 years.
    """
    text = text.strip().upper()
    parts_per_year = _PARTS_PER_YEAR.get(text[-1:])
    try:
        years = float(text[:-1]) / parts_per_year if parts_per_year else float(text)
    except ValueError:
        return None
    return round(years, 2) if 0 <= years <= 120 else None


def _header(row: Xray) -> Any:
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        return pydicom.dcmread(row.path, stop_before_pixels=True, force=True, specific_tags=list(_TAGS))
    # pydicom raises nearly anything on damaged files; the audit names each file that cannot be decoded.
    except (InvalidDicomError, OSError, ValueError, AttributeError, KeyError, TypeError, EOFError) as error:
        log.info("no DICOM header in %s: %s", row.path, error)
        return None
