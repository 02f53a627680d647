"""What a DICOM header tells of an X-ray, without reading its pixels."""

from __future__ import annotations

import hashlib
import logging
import warnings
from dataclasses import replace
from typing import Any

from toolkit.data.index import Xray

log = logging.getLogger(__name__)
_PARTS_PER_YEAR = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}
_TAGS = ("PatientID", "PatientAge", "PatientSex", "ViewPosition")


def fill_from_dicom(row: Xray, *, set_patient: bool) -> Xray:
    """`row` with the empty fields that its DICOM header can fill; other formats and damaged files stay as they are.

    Rows and columns are not taken: they are the size of this very file, which whoever decodes it sees, not that of an
    original. The patient id becomes a hash: an index is copied about, and a hospital's number has no business in it.
    Whoever can guess the number can still recognise its hash.

    Args:
        row: whose `path` is looked at.
        set_patient: whether the header's patient id replaces the row's.
    """
    with_header = row.path.suffix.lower() in (".dcm", ".dicom", ".dic")
    # Opening a pipe of that name would wait for its writer for ever.
    header = _header(row) if with_header and row.path.is_file() else {}
    if not header:
        return row
    patient = header["PatientID"]
    hashed = "dicom-" + hashlib.sha256(patient.encode("utf-8", "replace")).hexdigest()[:16]
    return replace(
        row,
        patient_id=hashed if patient and set_patient else row.patient_id,
        age=parse_age(header["PatientAge"]) if row.age is None else row.age,
        sex=row.sex or header["PatientSex"],
        view=row.view or header["ViewPosition"],
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


def _header(row: Xray) -> dict[str, str]:
    """The text of each of `_TAGS`, "" for what is not there or damaged; {} where there is no header at all."""
    import pydicom

    try:
        with warnings.catch_warnings():
            # pydicom's warnings quote the values of elements.
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(row.path, stop_before_pixels=True, force=True, specific_tags=list(_TAGS))
            found = {tag: _text(header, tag) for tag in _TAGS}
    except Exception as error:  # pydicom raises anything on damaged files; the audit names each that cannot be decoded
        log.info("no DICOM header in %s: %s", row.path, type(error).__name__)
        return {}
    return found if any(found.values()) else {}


def _text(header: Any, tag: str) -> str:
    try:
        return str(header.get(tag) or "").strip()
    except Exception:  # An element is parsed when it is asked for; one that is damaged must not cost the patient's id.
        return ""
