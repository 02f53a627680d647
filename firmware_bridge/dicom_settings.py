"""The section [dicom]: X-rays by the DICOM network, and reports that go back by it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from firmware_bridge.settings import setting

# Classes that a chest X-ray comes in, by the names that the key `classes` takes (PS3.4, B.5).
SOP_CLASSES = {
    "CR": "1.2.840.10008.5.1.4.1.1.1",
    "DX": "1.2.840.10008.5.1.4.1.1.1.1",
    "DX-processing": "1.2.840.10008.5.1.4.1.1.1.1.1",
    "SC": "1.2.840.10008.5.1.4.1.1.7",
}


@dataclass(frozen=True, slots=True)
class DicomSettings:
    """See each key's help."""

    SECTION: ClassVar[str] = "dicom"
    port: int = setting(0, "Where X-rays are received (often 104 or 11112). 0: nowhere.", least=0, most=65535)
    bind: str = setting("127.0.0.1", "The address to listen at; 0.0.0.0 for every network of this device.")
    ae_title: str = setting("CXR-EDGE", "Our application entity title.")
    callers: tuple[str, ...] = setting((), "Titles that may call. None named: all.")
    peers: tuple[str, ...] = setting((), "Addresses that may connect. None named: all.")
    classes: tuple[str, ...] = setting(
        ("CR", "DX", "SC"), f"What is taken: {', '.join(SOP_CLASSES)}, or the UID of another class."
    )
    folder: str = setting("dicom", "The subfolder of the watched folder that received X-rays go into.")
    max_pdu_bytes: int = setting(131072, "The largest piece that a sender may send.", least=4096, most=1048576)
    max_associations: int = setting(4, "Senders at a time; each may hold one X-ray in memory.", least=1, most=64)
    timeout_s: float = setting(30.0, "Seconds that a silent sender, or one that is too slow, is waited for.", least=1)
    reserve_mb: float | None = setting(
        None, "Free disk below which senders are told to come back later. Default: that of [retention].", least=0
    )
    tls_certificate: Path | None = setting(None, "Our certificate chain (PEM): only TLS connections are taken.")
    tls_key: Path | None = setting(None, "Its key (PEM).")
    tls_ca: Path | None = setting(None, "Whose certificates senders must have; and the receiver of reports.")
    report: bool = setting(False, "Make a Structured Report of each result of a DICOM file.")
    capture: bool = setting(False, "Make a Secondary Capture, a picture with the overlay, of each.")
    beside: bool = setting(False, "Write them beside the X-ray.")
    send_to: str = setting("", "Send them to TITLE@HOST:PORT.")
    send_tls: bool = setting(False, "Send by TLS.")
    patient: bool = setting(
        False, "Copy patient and study from the X-ray, so that reports join its study. Otherwise they name nobody."
    )
