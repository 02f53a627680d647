"""What every DICOM object of ours has in common: where it belongs, who made it, and that nobody is named unasked."""

from __future__ import annotations

import hashlib
import hmac
import importlib.metadata
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from firmware_bridge.dicom_file import read_header
from firmware_bridge.errors import UnreadableImage

MANUFACTURER = "cxr-edge (research tool, not a medical device)"
_PATIENT = ("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex")
_STUDY = ("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber", "StudyDescription")
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


@dataclass(frozen=True)
class Origin:
    """The X-ray that an object is about.

    Attributes:
        sop_class: of the X-ray.
        instance: its SOP Instance UID; like study and series a keyed stand-in where patients are not to be named.
        study: Study Instance UID.
        series: Series Instance UID.
        shared: patient and study as they go into the object (PS3.3 C.7.1.1, C.7.2.1).
    """

    sop_class: str
    instance: str
    study: str
    series: str
    shared: Dataset


def keyed_uid(key: bytes, *parts: str) -> str:
    """A UID that only this device can make, and always makes the same (PS3.5, B.2: a UUID below 2.25)."""
    digest = hmac.new(key, "\0".join(parts).encode(), hashlib.sha256).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def read_origin(data: bytes, *, key: bytes, patient: bool) -> Origin:
    """Where objects about a DICOM file belong.

    Args:
        data: the file.
        key: of the device, for stand-ins.
        patient: copy patient and study, and give the UIDs as they are.

    Raises:
        UnreadableImage: it has no UIDs to refer to.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote the values of elements
        header = read_header(data, [*_NEEDED, *_PATIENT, *_STUDY, "SpecificCharacterSet"])
        sop_class, instance, study, series = (str(header.get(keyword) or "") for keyword in _NEEDED)
        if not all((sop_class, instance, study, series)):
            raise UnreadableImage(
                "the X-ray cannot be referred to",
                expected="a DICOM file with SOP, series and study UIDs",
                came="one without",
                do="send it from a system that gives UIDs",
            )
        shared = Dataset()
        for keyword in (*_PATIENT, *_STUDY):
            wanted = patient and (keyword != "IssuerOfPatientID" or keyword in header)
            if wanted or keyword not in ("IssuerOfPatientID", "StudyDescription"):
                setattr(shared, keyword, header.get(keyword, "") if patient else "")
        if patient and header.get("SpecificCharacterSet"):
            shared.SpecificCharacterSet = header.SpecificCharacterSet
    if not patient:
        instance, study, series = (keyed_uid(key, "stand-in", uid) for uid in (instance, study, series))
    return Origin(sop_class, instance, study, series, shared)


def new_object(
    origin: Origin, record: Mapping[str, Any], *, key: bytes, kind: str, sop_class: str, modality: str, device: str
) -> Dataset:
    """An object in the study of the X-ray. The same result gives the same UIDs, so that sending it twice adds nothing.

    Args:
        origin: see there.
        record: the result.
        key: of the device.
        kind: "report" or "capture".
        sop_class: its SOP class.
        modality: of its series.
        device: the device's name.
    """
    made = Dataset()
    made.update(origin.shared)
    when = datetime.fromisoformat(str(record["time"]).replace("Z", "+00:00"))
    made.SOPClassUID, made.SOPInstanceUID = sop_class, keyed_uid(key, str(record["id"]), kind)
    made.StudyInstanceUID, made.Modality = origin.study, modality
    made.SeriesInstanceUID = keyed_uid(key, str(record["id"]), kind, "series")
    made.SeriesNumber, made.InstanceNumber = {"report": 9801, "capture": 9802}[kind], 1
    made.SeriesDescription = "CXR-EDGE, NOT FOR DIAGNOSIS"
    made.Manufacturer, made.ManufacturerModelName = MANUFACTURER, "cxr-edge"
    made.DeviceSerialNumber = device[:64]
    made.SoftwareVersions = importlib.metadata.version("cxr-edge")
    made.InstanceCreationDate = made.ContentDate = when.strftime("%Y%m%d")
    made.InstanceCreationTime = made.ContentTime = when.strftime("%H%M%S")
    made.TimezoneOffsetFromUTC = "+0000"
    return made


def dump_object(made: Dataset) -> bytes:
    """The object as a file (PS3.10)."""
    made.file_meta = FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a patient's name or date that breaks a rule was so at its source
        made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def plain(text: str, *, most: int = 1024) -> str:
    """Text in ASCII, which every character set has."""
    return text.encode("ascii", "replace").decode()[:most]
