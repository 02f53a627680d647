"""A result as FHIR: valid, the same every time, naming nobody unasked; and what a server's answer means."""

from __future__ import annotations

import copy
import json
import re
import threading
from dataclasses import fields
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.fhir import FhirOrigin, fhir_bundle
from firmware_bridge.fhir_part import read_fhir_origin
from firmware_bridge.fhir_sender import AGAIN, LATER, REFUSED, SENT, judge, open_client, send_bundle
from firmware_bridge.fhir_settings import FhirSettings
from firmware_bridge.fhir_validate import InvalidFhir, validate
from firmware_bridge.http_client import Answer
from firmware_bridge.result import NOTICE
from firmware_bridge.settings import load_settings
from tests.conftest import REPOSITORY
from tests.end_to_end.dcmtk import IDENTIFIERS, identified, told

HEAD: dict[str, Any] = {
    "schema": 1,
    "notice": NOTICE,
    "id": "31bf2e3229cd085f47f883ca4733b6ceaf87d1b6c4b83b8f571800be7bfb5279",
    "time": "2026-11-23T15:07:27.219Z",
    "image": {"id": "f0" * 32, "width_px": 320, "height_px": 252, "format": "dicom", "name": "Sichelschmidt.dcm"},
    "bundle": {"id": "bc" * 32, "name": "demo <1>"},
}
SCORED: dict[str, Any] = {
    **HEAD,
    "label_positive": "pneumonia",
    "probability": 0.440411,
    "threshold": 0.4374659689422829,
    "decision": "positive",
    "suitability": {"population": "outside", "distance": 1.25},
}
NEGATIVE = {**SCORED, "decision": "negative", "suitability": None, "label_positive": "effusion & more"}
REFUSAL: dict[str, Any] = {
    **HEAD,
    "refused": {"what": "no lungs", "expected": "two", "came": "none", "do": "send a chest", "reason": "no_lungs"},
    "suitability": {"area": 0.01},
}
ALL = FhirOrigin("1.2.3", "1.2.3.4", "ACC-1", "A,B|$ \\1", "urn:oid:1.2.276", True)
BARE = FhirOrigin("1.2.3", "1.2.3.4", "", "MRN-1", "", False)
# R4: required bindings of what we set; fhir.resources does not hold against them.
REPORT_STATES = {"registered", "partial", "preliminary", "final", "amended", "cancelled", "entered-in-error", "unknown"}


def resources(bundle: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [one["resource"] for one in bundle["entry"] if one["resource"]["resourceType"] == kind]


@pytest.fixture
def _library() -> None:
    pytest.importorskip("fhir.resources", reason="needs the extra 'fhir'")


def test_only_references_hold_the_address_of_another_entry() -> None:
    """Servers that write real addresses for it do so wherever they find it: in an identifier, doubles come of it."""

    def held(value: Any, key: str = "") -> list[tuple[str, str]]:
        if isinstance(value, dict):
            return [one for name, below in value.items() for one in held(below, name)]
        if isinstance(value, list):
            return [one for below in value for one in held(below, key)]
        return [(key, value)]

    bundle = fhir_bundle(SCORED)
    urls = {entry["fullUrl"] for entry in bundle["entry"]}
    assert len(urls) == len(bundle["entry"])
    found = [key for entry in bundle["entry"] for key, value in held(entry["resource"]) if value in urls]
    assert set(found) == {"reference"}


@pytest.mark.usefixtures("_library")
@pytest.mark.parametrize("write", ["create", "put"])
@pytest.mark.parametrize("origin", [FhirOrigin(), ALL, BARE], ids=["nobody", "all", "bare"])
@pytest.mark.parametrize("record", [SCORED, NEGATIVE, REFUSAL], ids=["positive", "negative", "refused"])
def test_every_bundle_is_valid_and_says_that_it_is_not_for_diagnosis(
    record: dict[str, Any], origin: FhirOrigin, write: str
) -> None:
    bundle = fhir_bundle(record, device="ward", origin=origin, write=write, snomed=True)
    validate(bundle)
    (report,) = resources(bundle, "DiagnosticReport")
    assert report["status"] in REPORT_STATES
    assert report["status"] == ("cancelled" if "refused" in record else "preliminary")
    assert NOTICE in report["conclusion"]
    assert NOTICE in report["text"]["div"]
    observations = resources(bundle, "Observation")
    assert len(observations) == (1 if "refused" in record else 3) == len(report["result"])
    for one in observations:
        assert one["status"] == "preliminary"
        assert one["note"] == [{"text": NOTICE}]
        assert "interpretation" not in one, "a viewer would raise an alarm by it"
    assert "Sichelschmidt" not in json.dumps(bundle)


@pytest.mark.usefixtures("_library")
def test_the_check_finds_what_is_wrong_and_quotes_nothing() -> None:
    broken = copy.deepcopy(fhir_bundle(SCORED, origin=BARE))
    resources(broken, "DiagnosticReport")[0]["subject"]["identifier"]["bogus"] = "MRN-1"
    with pytest.raises(InvalidFhir) as raised:
        validate(broken)
    assert "MRN-1" not in str(raised.value)


@pytest.mark.usefixtures("_library")
@given(
    text=st.text(min_size=1, max_size=40).filter(str.strip),
    share=st.floats(0, 1),
    numbers=st.dictionaries(st.text(min_size=1, max_size=9).filter(str.strip), st.floats(-1e9, 1e9), max_size=3),
)
def test_whatever_a_bundle_calls_its_label_the_result_is_valid(
    text: str, share: float, numbers: dict[str, float]
) -> None:
    record = {**SCORED, "label_positive": text, "probability": share, "suitability": numbers}
    bundle = fhir_bundle(record)
    validate(bundle)
    json.dumps(bundle, allow_nan=False).encode()


def test_numbers_decision_and_threshold() -> None:
    probability, decision, suitability = resources(fhir_bundle(SCORED), "Observation")
    assert probability["valueQuantity"]["value"] == 44.0411
    assert probability["code"]["coding"][0]["code"] == "111012"
    assert decision["valueCodeableConcept"]["coding"][0]["code"] == "positive"
    assert decision["component"][0]["valueQuantity"]["value"] == 43.7466
    assert suitability["valueCodeableConcept"]["coding"][0]["code"] == "outside"
    assert suitability["component"][0]["valueQuantity"]["value"] == 1.25


def test_the_same_result_has_the_same_ids_and_another_has_others() -> None:
    def ids(record: dict[str, Any], write: str) -> set[str]:
        bundle = fhir_bundle(record, write=write)
        return {one["resource"]["identifier"][0]["value"] for one in bundle["entry"]}

    assert fhir_bundle(SCORED) == fhir_bundle(SCORED)
    assert ids(SCORED, "create") == ids(SCORED, "put")
    assert len(ids(SCORED, "create") & ids({**SCORED, "id": "00" * 32}, "create")) == 1, "the device alone"
    for one in fhir_bundle(SCORED, write="put")["entry"]:
        assert one["request"]["url"] == f"{one['resource']['resourceType']}/{one['resource']['id']}"


def test_snomed_only_where_it_is_asked_for() -> None:
    assert "snomed" not in json.dumps(fhir_bundle(SCORED))
    assert "233604007" in json.dumps(fhir_bundle(SCORED, snomed=True))


def test_a_patient_is_searched_by_the_whole_id() -> None:
    (report,) = resources(fhir_bundle(SCORED, origin=ALL), "DiagnosticReport")
    # A bare comma would mean "this one or that one" (R4, search.html#escaping).
    assert report["subject"] == {"reference": "Patient?identifier=urn:oid:1.2.276|A%5C%2CB%5C%7C%5C%24%20%5C%5C1"}
    assert report["basedOn"][0]["identifier"]["value"] == "ACC-1"
    assert report["imagingStudy"][0]["identifier"] == {"system": "urn:dicom:uid", "value": "urn:oid:1.2.3"}


def test_nobody_is_named_unless_the_settings_say_so(samples: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.dcm"
    uid = identified(samples / "dicom" / "pneumonia_cr_monochrome1_12bit.dcm", path)
    data = path.read_bytes()

    def sent(settings: FhirSettings) -> bytes:
        return json.dumps(fhir_bundle(SCORED, origin=read_fhir_origin(data, settings))).encode()

    assert told(sent(FhirSettings())) == []
    assert uid.encode() not in sent(FhirSettings())
    assert told(sent(FhirSettings(study=True))) == [IDENTIFIERS["AccessionNumber"]]
    assert uid.encode() in sent(FhirSettings(study=True))
    assert told(sent(FhirSettings(patient="identifier"))) == [IDENTIFIERS["PatientID"]]


CREATED = {"response": {"status": "201 Created"}}
DONE = {"resourceType": "Bundle", "type": "transaction-response", "entry": [CREATED, CREATED]}
HALF = {**DONE, "entry": [CREATED, {"response": {"status": "404"}}]}
OUTCOME = {"resourceType": "OperationOutcome", "issue": [{"code": "invalid", "diagnostics": "no\nsubject"}]}


@pytest.mark.parametrize(
    ("status", "body", "what"),
    [
        (200, DONE, SENT),
        (200, HALF, AGAIN),
        (200, {**DONE, "entry": [CREATED]}, AGAIN),
        (200, "<html>Please log in</html>", LATER),
        (200, {"resourceType": "Bundle"}, LATER),
        (200, "[1]", LATER),
        (200, "", LATER),
        (302, "", LATER),
        (400, OUTCOME, REFUSED),
        (422, OUTCOME, REFUSED),
        (412, OUTCOME, REFUSED),
        (404, OUTCOME, REFUSED),
        (413, "too large", REFUSED),
        (400, "a proxy's page", AGAIN),
        (404, "no such page", LATER),
        (405, "", LATER),
        (401, OUTCOME, LATER),
        (403, "", LATER),
        (409, OUTCOME, AGAIN),
        (429, "", LATER),
        (500, OUTCOME, AGAIN),
        (502, "", AGAIN),
        (503, "", LATER),
        (200, '{"resourceType": "Bundle", "entry": [null, {"response": []}]}', AGAIN),
        (200, '{"resourceType": "Bundle", "entry": [{"response": [1]}, {"response": "201"}]}', AGAIN),
        (500, '{"resourceType": "OperationOutcome", "issue": [null, {"details": 3}]}', AGAIN),
    ],
)
def test_what_an_answer_means(status: int, body: Any, what: str) -> None:
    text = body if isinstance(body, str) else json.dumps(body)
    verdict = judge(Answer(status, {}, text.encode()), entries=2)
    assert verdict.what == what
    if body is OUTCOME:
        assert verdict.why.endswith(": invalid") or what == LATER
        assert verdict.reasons == "no\nsubject"


class _Refusing(BaseHTTPRequestHandler):
    words = ""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        issues = [{"code": self.words, "diagnostics": self.words}, {"code": "not-found", "diagnostics": "\ud800"}]
        self.send_response(422)
        self.end_headers()
        self.wfile.write(json.dumps({"resourceType": "OperationOutcome", "issue": issues}).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.mark.parametrize("search", [True, False])
def test_a_server_that_quotes_the_patient_is_not_quoted(search: bool) -> None:
    """Servers do, of a search that finds nobody. Status and broker get codes, the log masked words."""
    origin = FhirOrigin("1.2.3", "1.2.3.4", "A 17", "P$1|x", "urn:hospital", search=search)
    content = json.dumps(fhir_bundle(SCORED, origin=origin)).encode()
    found = "Patient?identifier=urn:hospital|P%5C%241%5C%7Cx" if search else "P%241%7Cx"
    _Refusing.words = f"Invalid match URL {found}: no P$1|x; study 1.2.3 with 1.2.3.4, order A 17"
    server = HTTPServer(("127.0.0.1", 0), _Refusing)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    client = open_client(FhirSettings(url=f"http://127.0.0.1:{server.server_port}"))
    try:
        verdict = send_bundle(client, content)
    finally:
        client.close()
        server.shutdown()
        server.server_close()
    assert (verdict.what, verdict.why) == (REFUSED, "status 422: not-found")
    assert verdict.reasons.startswith("Invalid match URL ")
    assert not [one for one in ("P$1", "P%5C%241", "P%241", "1.2.3", "A 17") if one in verdict.reasons]


def test_every_key_is_explained_as_it_is_and_the_examples_are_read(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "fhir.md").read_text(encoding="utf-8")
    for key in fields(FhirSettings):
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{key.name}` |")]
        assert row.endswith(f"| {key.metadata['help']} |")
    config = tmp_path / "agent.toml"
    for example in re.findall(r"```toml\n(.*?)```", page, re.DOTALL):
        config.write_text(example)
        assert load_settings(config).section(FhirSettings) != FhirSettings()


def test_retry_after_is_seconds_or_a_date() -> None:
    assert judge(Answer(503, {"retry-after": "17"}), entries=1).pause_s == 17
    date = Answer(429, {"retry-after": formatdate(4102444800, usegmt=True)})
    assert date.retry_after_s == 3600, "an hour at most"
    for odd in ("soon", "²", "-3", "Fri, 31 Dec 99999 23:59:59 GMT", ""):
        assert Answer(429, {"retry-after": odd}).retry_after_s == 0
    assert Answer(429, {"retry-after": "9" * 5000}).retry_after_s == 3600
