"""The section [fhir]: results as FHIR resources, to a server or into a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from firmware_bridge.settings import setting


@dataclass(frozen=True, slots=True)
class FhirSettings:
    """See each key's help."""

    SECTION: ClassVar[str] = "fhir"
    url: str = setting("", "The server's base, like https://fhir.hospital.example/fhir. Without: no server.")
    token_file: Path | None = setting(None, "File with the bearer token; read anew for every request.")
    ca: Path | None = setting(None, "CA file (PEM) for https. Without: the certificates that the system trusts.")
    timeout_s: float = setting(30.0, "Seconds that a silent server is waited for.", least=1)
    folder: Path | None = setting(None, "Write each result as a Bundle (RESULT.fhir.json) into this folder.")
    write: str = setting(
        "create",
        "create: the server gives ids, and creates what it does not have; put: under ids of ours.",
        choices=("create", "put"),
    )
    refused: bool = setting(False, "Report files that got no score, too (status cancelled).")
    study: bool = setting(False, "Name study, X-ray and order by the UIDs and the accession number of a DICOM file.")
    patient: str = setting(
        "",
        "Name the patient by the Patient ID of a DICOM file: identifier leaves the id in the report, "
        "search has the server find its patient. Default: nobody is named.",
        choices=("", "identifier", "search"),
    )
    patient_system: str = setting("", "URI of the system that these patient ids belong to.")
    snomed: bool = setting(False, "Add SNOMED CT codes, where a licence covers their use.")
