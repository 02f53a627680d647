"""A result as FHIR R4 (hl7.org/fhir/R4): one transaction Bundle with a DiagnosticReport, its Observations and a Device.

The same result always gives the same Bundle, and a server that gets it twice has each resource once: either it creates
only what it does not have (`If-None-Exist` by an identifier made from the result's id), or it puts resources under ids
made from it.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from firmware_bridge import fhir_codes as codes
from firmware_bridge.fhir_codes import Json, concept
from firmware_bridge.result import NOTICE

_MOST_TEXT = 1000
_SPECIAL = re.compile(r"[\\\\,$|]")


@dataclass(frozen=True, slots=True)
class FhirOrigin:
    """What the X-ray's own file says of study and patient. Nothing of it unless the settings ask for it.

    Attributes:
        study: Study Instance UID.
        instance: SOP Instance UID.
        accession: number of the order.
        patient: id of the patient.
        patient_system: URI of the system that the id belongs to.
        search: have the server find the patient by the id, instead of leaving the id in the report.
    """

    study: str = ""
    instance: str = ""
    accession: str = ""
    patient: str = ""
    patient_system: str = ""
    search: bool = False


NOBODY = FhirOrigin()


def fhir_bundle(
    record: Mapping[str, Any],
    *,
    device: str = "",
    origin: FhirOrigin = NOBODY,
    write: str = "create",
    snomed: bool = False,
) -> Json:
    """The transaction of one result.

    Args:
        record: the result record, scored or refused. A file name in it is left out.
        device: name of the device that scored; empty: not told.
        origin: study and patient.
        write: "create" (If-None-Exist) or "put" (ids of ours).
        snomed: add SNOMED CT codes.
    """
    shared = _Shared(record, origin, write)
    machine = shared.entry("Device", _device(record, device), record["bundle"]["id"], device)
    observed = [
        shared.entry("Observation", resource, str(record["id"]), kind)
        for kind, resource in _observations(shared, machine, snomed=snomed).items()
    ]
    report = shared.entry("DiagnosticReport", _report(shared, observed), str(record["id"]), "report")
    return {
        "resourceType": "Bundle",
        "type": "transaction",
        "timestamp": record["time"],
        "entry": [one.json for one in (machine, *observed, report)],
    }


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of the Bundle, and how others in it refer to it."""

    json: Json
    reference: str


@dataclass(frozen=True, slots=True)
class _Shared:
    record: Mapping[str, Any]
    origin: FhirOrigin
    write: str

    def entry(self, kind: str, resource: Json, *parts: str) -> _Entry:
        """A resource with identifier, or id, and the request that writes it."""
        id = codes.uuid_of(kind, *parts)
        identifier = {"system": codes.URIS, "value": f"urn:uuid:{id}"}
        full = {"resourceType": kind, "meta": {"tag": [codes.NOT_FOR_DIAGNOSIS]}, "identifier": [identifier]}
        for key, value in resource.items():
            full[key] = [identifier, *value] if key == "identifier" else value
        if self.write == "put":
            full = {"resourceType": kind, "id": id, **full}
            return _Entry({"resource": full, "request": {"method": "PUT", "url": f"{kind}/{id}"}}, f"{kind}/{id}")
        condition = f"identifier={codes.URIS}|urn:uuid:{id}"
        request = {"method": "POST", "url": kind, "ifNoneExist": condition}
        # Not the identifier's: there are servers that write the new resource's address wherever they find its fullUrl.
        url = f"urn:uuid:{codes.uuid_of('fullUrl', id)}"
        return _Entry({"fullUrl": url, "resource": full, "request": request}, url)

    def subject(self) -> Json:
        """{"subject": ...}, or nothing: who is not named in the settings' words is nobody here."""
        origin = self.origin
        if not origin.patient:
            return {}
        if origin.search:
            system = f"{quote(origin.patient_system, safe=':/')}|" if origin.patient_system else ""
            # R4, Search, 3.1.1.5: a comma would ask for two patients.
            value = quote(_SPECIAL.sub(r"\\\g<0>", origin.patient), safe="")
            return {"subject": {"reference": f"Patient?identifier={system}{value}"}}
        identifier = {"system": origin.patient_system} if origin.patient_system else {}
        return {"subject": {"type": "Patient", "identifier": {**identifier, "value": origin.patient}}}

    def study(self) -> Json:
        """A logical reference: by the study's UID where that may be told, else by the keyed id of the X-ray."""
        if self.origin.study:
            identifier = {"system": codes.DICOM_UIDS, "value": f"urn:oid:{self.origin.study}"}
            return {"type": "ImagingStudy", "identifier": identifier}
        identifier = {"system": codes.OWN_IMAGES, "value": self.record["image"]["id"]}
        return {"type": "ImagingStudy", "identifier": identifier, "display": "The X-ray, by a keyed id of its device"}

    def focus(self) -> Json:
        """{"focus": ...} with the one picture that was scored, where its UID may be told."""
        if not self.origin.instance:
            return {}
        identifier = {"system": codes.DICOM_UIDS, "value": f"urn:oid:{self.origin.instance}"}
        return {"focus": [{"identifier": identifier, "display": "The X-ray"}]}


def _device(record: Mapping[str, Any], device: str) -> Json:
    name = {"name": "cxr-edge", "type": "model-name"}
    named = {"identifier": [{"system": codes.OWN_DEVICES, "value": device}]} if device else {}
    return {
        **named,
        "status": "active",
        "manufacturer": "cxr-edge",
        "deviceName": [name],
        "version": [{"type": {"text": "bundle"}, "value": record["bundle"]["id"]}],
        "note": [{"text": f"Bundle {record['bundle']['name']}. {NOTICE}"}],
    }


def _observations(shared: _Shared, machine: _Entry, *, snomed: bool) -> dict[str, Json]:
    """kind -> Observation; of a refusal there is only why."""
    record = shared.record
    common = {
        "status": "preliminary",
        "category": [codes.IMAGING],
        **shared.subject(),
        **shared.focus(),
        "issued": record["time"],
        "note": [{"text": NOTICE}],
        "device": {"reference": machine.reference},
        "derivedFrom": [shared.study()],
    }
    made = {"suitability": {**common, "code": codes.SUITABILITY, **_suitability(record)}}
    if "refused" in record:
        return made
    probability = {**common, "code": codes.PROBABILITY, "valueQuantity": codes.percent(record["probability"])}
    probability["method"] = {"text": f"cxr-edge bundle {record['bundle']['name']}"}
    threshold = {"code": codes.THRESHOLD, "valueQuantity": codes.percent(record["threshold"])}
    decision = {
        **common,
        "code": codes.finding(record["label_positive"], snomed=snomed),
        "valueCodeableConcept": concept(codes.DECISIONS[record["decision"]], text=_conclusion(record)),
        "component": [threshold],
    }
    return {"probability": probability, "decision": decision, **made}


def _suitability(record: Mapping[str, Any]) -> Json:
    numbers = {k: v for k, v in (record.get("suitability") or {}).items() if isinstance(v, (int, float))}
    told = {"component": [_number(name, value) for name, value in numbers.items()]} if numbers else {}
    if "refused" in record:
        return {"valueCodeableConcept": concept(codes.REFUSED, text=_conclusion(record)), **told}
    code = codes.POPULATIONS[(record.get("suitability") or {}).get("population", "")]
    return {"valueCodeableConcept": concept(code, text=code["display"]), **told}


def _number(name: str, value: float) -> Json:
    quantity = {"value": value, "unit": "1", "system": codes.UCUM, "code": "1"}
    return {"code": {"text": name}, "valueQuantity": quantity}


def _report(shared: _Shared, observed: list[_Entry]) -> Json:
    record = shared.record
    number = shared.origin.accession
    order = {"identifier": {"type": codes.ACCESSION, "value": number}, "type": "ServiceRequest"}
    text = _conclusion(record)
    return {
        "text": {"status": "generated", "div": _narrative(record, text)},
        **({"basedOn": [order]} if number else {}),
        # There is no result, and none will come: R4, DiagnosticReportStatus.
        "status": "cancelled" if "refused" in record else "preliminary",
        "category": [codes.RADIOLOGY],
        "code": codes.CHEST_X_RAY,
        **shared.subject(),
        "issued": record["time"],
        "result": [{"reference": one.reference} for one in observed],
        "imagingStudy": [shared.study()],
        "conclusion": text,
    }


def _conclusion(record: Mapping[str, Any]) -> str:
    if "refused" in record:
        reason = record["refused"]
        text = f"Not scored: {reason['what']} ({reason.get('reason') or reason['came']})."
    else:
        side = "at or above" if record["decision"] == "positive" else "below"
        text = (
            f"{record['decision']} for {record['label_positive']}: probability {record['probability']:.3f}, "
            f"{side} the threshold of {record['threshold']:.3f}."
        )
    return f"{text[:_MOST_TEXT]} {NOTICE}"


def _narrative(record: Mapping[str, Any], text: str) -> str:
    """XHTML (R4, Narrative)."""
    bundle = f"cxr-edge, bundle {record['bundle']['name']} ({record['bundle']['id'][:12]}), {record['time']}"
    lines = (NOTICE, text.removesuffix(f" {NOTICE}"), bundle, "Preliminary, made by a program, read by nobody.")
    inside = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    return f'<div xmlns="http://www.w3.org/1999/xhtml">{inside}</div>'
