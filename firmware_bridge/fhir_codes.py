"""The codes and identifiers of our FHIR resources: of a standard where it has them, else of a system of our own."""

from __future__ import annotations

import uuid
from typing import Any

# The root of what no standard has: an OID below 2.25 needs no registration (ITU-T X.667). Never change it.
_ROOT = uuid.UUID("d8bbb284-44ab-41ad-a0a9-f54ca4a1b611")
OWN_CODES = f"urn:oid:2.25.{_ROOT.int}.1"
OWN_IMAGES = f"urn:oid:2.25.{_ROOT.int}.2"  # keyed ids of X-rays
OWN_DEVICES = f"urn:oid:2.25.{_ROOT.int}.3"  # names of devices
DICOM_UIDS = "urn:dicom:uid"
URIS = "urn:ietf:rfc:3986"
DCM = "http://dicom.nema.org/resources/ontology/DCM"
UCUM = "http://unitsofmeasure.org"
_V2 = "http://terminology.hl7.org/CodeSystem/v2-"

Json = dict[str, Any]


def coding(system: str, code: str, display: str) -> Json:
    """A Coding."""
    return {"system": system, "code": code, "display": display}


def concept(*codings: Json, text: str) -> Json:
    """A CodeableConcept."""
    return {"coding": list(codings), "text": text} if codings else {"text": text}


def own(code: str, display: str) -> Json:
    """A Coding of our own system."""
    return coding(OWN_CODES, code, display)


def percent(share: float) -> Json:
    """A share of one as a Quantity in percent, to a ten-thousandth of one."""
    return {"value": round(100 * share, 4), "unit": "%", "system": UCUM, "code": "%"}


# One frontal picture is what was scored, whatever the study holds. (36643-5: two views; 24627-2: CT of the chest.)
CHEST_X_RAY = concept(coding("http://loinc.org", "36554-4", "XR Chest Single view"), text="Chest X-ray, single view")
RADIOLOGY = concept(coding(f"{_V2}0074", "RAD", "Radiology"), text="Radiology")
IMAGING = concept(
    coding("http://terminology.hl7.org/CodeSystem/observation-category", "imaging", "Imaging"), text="Imaging"
)
ACCESSION = concept(coding(f"{_V2}0203", "ACSN", "Accession ID"), text="Accession number")
PROBABILITY = concept(
    coding(DCM, "111012", "Certainty of Finding"),
    own("probability", "Calibrated probability of a model"),
    text="Calibrated probability of a model (research, not for diagnosis)",
)
THRESHOLD = concept(own("threshold", "Threshold of the decision"), text="Threshold of the decision")
DECISION = own("decision", "Decision of a model at its threshold")
SUITABILITY = concept(
    own("suitability", "Whether the X-ray was fit to be scored"), text="Whether the X-ray was fit to be scored"
)
NOT_FOR_DIAGNOSIS = own("not-for-diagnosis", "Not for diagnosis")
DECISIONS = {
    "positive": own("positive", "At or above the threshold"),
    "negative": own("negative", "Below the threshold"),
}
POPULATIONS = {
    "inside": own("inside", "Scored; inside the training population"),
    "outside": own("outside", "Scored; outside the training population"),
    "": own("not-judged", "Scored; the bundle has no statistics to judge it by"),
}
REFUSED = own("refused", "Not scored")
# SNOMED CT may be used only where a licence covers it; the settings ask for it.
_SNOMED = {"pneumonia": ("233604007", "Pneumonia")}


def finding(label: str, *, snomed: bool) -> Json:
    """What a decision is about: the bundle's positive label."""
    known = _SNOMED.get(label.lower()) if snomed else None
    standard = [coding("http://snomed.info/sct", *known)] if known else []
    return concept(*standard, DECISION, text=f"{label}: decision of a model at its threshold (not for diagnosis)")


def uuid_of(*parts: str) -> str:
    """A UUID that is the same for the same parts, whoever asks: what makes sending twice harmless (RFC 9562, 5.5)."""
    return str(uuid.uuid5(_ROOT, "\0".join(parts)))
