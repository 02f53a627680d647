"""The section [orthanc]: X-rays from an Orthanc server, and reports that go back into their studies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from firmware_bridge.settings import setting


@dataclass(frozen=True, slots=True)
class OrthancSettings:
    """See each key's help."""

    SECTION: ClassVar[str] = "orthanc"
    url: str = setting("", "Orthanc's address, like http://127.0.0.1:8042. Without: no Orthanc.")
    user: str = setting("", "One of its registered users.")
    password_file: Path | None = setting(None, "File with that user's password; read anew for every request.")
    ca: Path | None = setting(None, "CA file (PEM) for https. Without: the certificates that the system trusts.")
    timeout_s: float = setting(30.0, "Seconds that a silent Orthanc is waited for.", least=1)
    poll_s: float = setting(2.0, "Seconds between two looks at its changes.", least=0.1)
    backlog: bool = setting(False, "Score what it holds already, too. Default: what comes after the first look.")
    modalities: tuple[str, ...] = setting(("CR", "DX"), "Modalities that are taken.")
    body_parts: tuple[str, ...] = setting(
        ("CHEST", "THORAX"), "Body parts that are taken, where one is named. None named here: all."
    )
    views: tuple[str, ...] = setting(
        ("PA", "AP"), "View positions that are taken, where one is named. None named here: all."
    )
    folder: str = setting("orthanc", "The subfolder of the watched folder that its X-rays go into.")
    keep: bool = setting(False, "Keep our copy of an X-ray when its reports are stored. Default: it is removed.")
    report: bool = setting(True, "Store a Structured Report of each result into the X-ray's study.")
    capture: bool = setting(True, "Store a Secondary Capture, with the heat map where [explain] overlay is on.")
