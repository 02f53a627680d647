"""DCMTK's programs, and X-rays full of identifiers to send with them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import generate_uid

# None of these may be found in anything that leaves the device.
IDENTIFIERS = {
    "PatientName": "Sichelschmidt^Wilhelmine",
    "PatientID": "MRN-90817263",
    "PatientBirthDate": "19421103",
    "OtherPatientIDs": "SSN-55667788",
    "PatientAddress": "Haselnussweg 77",
    "PatientTelephoneNumbers": "+49-555-1234567",
    "AccessionNumber": "ACC-424242",
    "StudyID": "ST-313131",
    "StudyDate": "20190607",
    "StudyTime": "112233",
    "AcquisitionDate": "20190608",
    "ReferringPhysicianName": "Quacksalber^Otto",
    "OperatorsName": "Bedienerin^Berta",
    "InstitutionName": "Klinikum Nirgendwo",
    "StationName": "RAUM-7-XR",
    "StudyDescription": "Thorax Sichelschmidt",
    "ImageComments": "Frau Sichelschmidt hustet",
}


def program(name: str) -> str:
    """The path of a DCMTK program; without it the test is skipped, and says so."""
    found = shutil.which(name)
    if not found:
        pytest.skip(f"needs DCMTK's {name}: apt-get install dcmtk")
    return found


def run(name: str, *arguments: str | Path, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
    command = [program(name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


def identified(source: Path, target: Path, *, number: int = 1) -> str:
    """A copy of a DICOM file full of identifiers; its SOP Instance UID."""
    dataset = pydicom.dcmread(source)
    for keyword, value in IDENTIFIERS.items():
        setattr(dataset, keyword, value)
    seeds = ["dcmtk", source.name, str(number)]
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[*seeds, "study"]), "1.2.3.4"
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=seeds)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(target)
    return str(dataset.SOPInstanceUID)


def told(content: bytes) -> list[str]:
    """Which identifiers, or parts of them, stand in it."""
    words = {word for value in IDENTIFIERS.values() for word in value.split("^")}
    return sorted(word for word in words if word.encode() in content)
