"""A FHIR server on loopback: takes R4's transactions, checks each with fhir.resources, and fails when told to.

No server that a package brings can be started here, so this one does what the tests need: conditional create, update
under a client's id, OperationOutcome, and every way to fail in between. What it has outlives `stop` and `start`.
"""

from __future__ import annotations

import contextlib
import json
import re
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from firmware_bridge.fhir_validate import InvalidFhir, validate
from tests.end_to_end.conftest import free_port


class FhirServer:
    """See the module.

    Attributes:
        resources: (type, id) -> resource.
        bodies: every request's body, as it came.
        faults: what the next requests get instead of an answer: a status, "lost" (done, but no answer), "cut" (half an
            answer), "hang", "portal" (a page of HTML with status 200), "redirect".
        retry_after_s: sent with 429 and 503.
        refuses: a text; a Bundle that holds it gets 422.
        token: that must be sent; empty: none.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.resources: dict[tuple[str, str], dict[str, Any]] = {}
        self.bodies: list[bytes] = []
        self.times: list[float] = []
        self.faults: list[int | str] = []
        self.retry_after_s = 0
        self.refuses = ""
        self.token = ""
        self.mutex = threading.Lock()
        self.invalid: list[str] = []
        self._tls: ssl.SSLContext | None = None
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/fhir"

    def secure(self, certificate: Path, key: Path) -> None:
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate, key)

    def start(self) -> None:
        made = self

        class Handler(_Handler):
            fhir = made

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        if self._tls:
            self._server.socket = self._tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        with self.mutex:
            return [resource for (type_, _), resource in self.resources.items() if type_ == kind]

    def transaction(self, bundle: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """R4, http.html#transaction: all or nothing, references between entries put right."""
        try:
            validate(bundle)
        except (InvalidFhir, LookupError) as error:
            self.invalid.append(str(error))
            return 400, _outcome("structure", str(error))
        if self.refuses and self.refuses in json.dumps(bundle):
            return 422, _outcome("business-rule", "This profile wants\na subject")
        places, answers = {}, []
        for entry in bundle["entry"]:
            place, status = self._place(entry)
            answers.append({"response": {"status": status, "location": "/".join(place)}})
            places[entry.get("fullUrl", "/".join(place))] = (place, status)
        text = json.dumps(bundle["entry"])
        for url, (place, _) in places.items():
            text = text.replace(f'"reference": "{url}"', f'"reference": "{"/".join(place)}"')
        assert "urn:uuid:" not in re.sub(r'"(value|fullUrl|ifNoneExist)": "[^"]*"', "", text), "a loose reference"
        for entry, (place, status) in zip(json.loads(text), places.values(), strict=True):
            if status != "200 OK" or entry["request"]["method"] == "PUT":
                self.resources[place] = entry["resource"]
        return 200, {"resourceType": "Bundle", "type": "transaction-response", "entry": answers}

    def _place(self, entry: dict[str, Any]) -> tuple[tuple[str, str], str]:
        request, resource = entry["request"], entry["resource"]
        kind = resource["resourceType"]
        if request["method"] == "PUT":
            place = (kind, request["url"].split("/")[1])
            assert place[1] == resource["id"]
            return place, "200 OK" if place in self.resources else "201 Created"
        system, _, value = request["ifNoneExist"].removeprefix("identifier=").partition("|")
        wanted = {"system": system, "value": value}
        there = [key for key, one in self.resources.items() if key[0] == kind and wanted in one["identifier"]]
        assert len(there) < 2, "twice"
        assert wanted in resource["identifier"], "the condition is not about the resource"
        return (there[0], "200 OK") if there else ((kind, f"s{len(self.resources)}-{value[-12:]}"), "201 Created")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fhir: FhirServer

    def do_POST(self) -> None:
        fhir = self.fhir
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with fhir.mutex:
            fhir.bodies.append(body)
            fhir.times.append(time.monotonic())
            fault = fhir.faults.pop(0) if fhir.faults else None
            if fault is None and fhir.token and self.headers["Authorization"] != f"Bearer {fhir.token}":
                self._answer(401, _outcome("login", "who are you?"))
                return
            if self.path != "/fhir" or self.headers["Content-Type"] != "application/fhir+json":
                self._answer(404, None)
                return
            self._do(fault, body)

    def _do(self, fault: int | str | None, body: bytes) -> None:
        if isinstance(fault, int):
            self._answer(fault, _outcome("transient", "not now") if fault >= 500 else None)
        elif fault == "hang":
            time.sleep(3)
        elif fault == "portal":
            self._send(200, b"<html>Please log in</html>", "text/html")
        elif fault == "redirect":
            self._send(302, b"", "text/html", Location="http://127.0.0.1:1/elsewhere")
        else:
            status, answer = self.fhir.transaction(json.loads(body))
            if fault is None:
                self._answer(status, answer)
            elif fault == "cut":
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + json.dumps(answer).encode()[:20])
        if fault in ("hang", "lost", "cut"):
            self.close_connection = True

    def _answer(self, status: int, resource: dict[str, Any] | None) -> None:
        self._send(status, json.dumps(resource).encode() if resource else b"", "application/fhir+json")

    def _send(self, status: int, body: bytes, kind: str, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if status in (429, 503) and self.fhir.retry_after_s:
            self.send_header("Retry-After", str(self.fhir.retry_after_s))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def _outcome(code: str, text: str) -> dict[str, Any]:
    issue = {"severity": "error", "code": code, "diagnostics": text}
    return {"resourceType": "OperationOutcome", "issue": [issue]}


@contextmanager
def fhir_server() -> Iterator[FhirServer]:
    server = FhirServer()
    try:
        yield server
    finally:
        server.stop()
