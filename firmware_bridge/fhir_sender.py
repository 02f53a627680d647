"""A Bundle to a FHIR server (R4, RESTful API, transaction), and what its answer means for us."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from firmware_bridge.fhir_settings import FhirSettings
from firmware_bridge.http_client import Answer, HttpClient, parse_address, read_secret, tls_context

FHIR_JSON = "application/fhir+json"
_MOST_ANSWER_BYTES = 4 << 20
_MOST_TOLD = 300
# It took part of it, or something passing: request timeout, conflict, locked, too early, too many requests.
_PASSING = frozenset({408, 409, 423, 425, 429})
# About us or the address, not about this Bundle: it must be mended, and then everything goes out.
_NOT_LET_IN = frozenset({401, 403, 407})

SENT, LATER, AGAIN, REFUSED = "sent", "later", "again", "refused"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a Bundle.

    Attributes:
        what: SENT; LATER (nothing can be sent now); AGAIN (this one failed at the server; others may not);
            REFUSED (it never will be taken as it is).
        why: for people.
        pause_s: that the server asked for.
    """

    what: str
    why: str = ""
    pause_s: float = 0.0


def open_client(settings: FhirSettings) -> HttpClient:
    """The client of the server in the settings.

    Raises:
        ConfigError: its address, the CA file or the token file cannot be used.
    """
    address = parse_address(settings.url, key="[fhir] url")
    tls = tls_context(address, settings.ca, key="[fhir] ca")
    token_file = settings.token_file
    if token_file is not None:
        read_secret(token_file, key="[fhir] token_file")  # told at the start, not at the first result

    def headers() -> dict[str, str]:
        common = {"Accept": FHIR_JSON, "Content-Type": FHIR_JSON}
        if token_file is None:
            return common
        return {**common, "Authorization": f"Bearer {read_secret(token_file, key='[fhir] token_file')}"}

    return HttpClient(address, headers=headers, timeout_s=settings.timeout_s, tls=tls)


def send_bundle(client: HttpClient, content: bytes) -> Verdict:
    """Post a transaction.

    Raises:
        ServerError: no answer.
        ConfigError: the token file cannot be read any more.
    """
    answer = client.ask("POST", "", body=content, most_bytes=_MOST_ANSWER_BYTES)
    return judge(answer, entries=len(json.loads(content)["entry"]))


def judge(answer: Answer, *, entries: int) -> Verdict:
    """What an answer to a transaction means.

    Args:
        answer: see there.
        entries: of the Bundle that was sent.
    """
    body = _resource(answer.body)
    told = f"status {answer.status}{_outcome(body)}"
    if answer.status in (200, 201):
        return _judge_done(body, entries)
    if answer.status in _NOT_LET_IN:
        return Verdict(LATER, f"it does not let us in ({told})")
    if answer.status >= 500 or answer.status in _PASSING:
        # 429 and 503 are about the server's load, whatever the Bundle.
        whole = answer.status in (429, 503) or answer.retry_after_s > 0
        return Verdict(LATER if whole else AGAIN, told, answer.retry_after_s)
    if 400 <= answer.status < 500 and (body.get("resourceType") == "OperationOutcome" or answer.status == 413):
        return Verdict(REFUSED, told)
    if answer.status in (400, 422):  # by something in between, which may dislike this one or all
        return Verdict(AGAIN, told)
    # A redirect, or a 404 by something that speaks no FHIR: not the server that we look for.
    return Verdict(LATER, f"no FHIR server answers there ({told})")


def _judge_done(body: dict[str, Any], entries: int) -> Verdict:
    """Only the server's own word, entry by entry, counts: a portal that wants a login answers 200 as well."""
    answered = body.get("entry")
    if body.get("resourceType") != "Bundle" or not isinstance(answered, list):
        return Verdict(LATER, "no FHIR server answers there (status 200 without a Bundle)")
    states = [_status(one) for one in answered]
    if len(states) == entries and all(state.startswith("2") for state in states):
        return Verdict(SENT)
    return Verdict(AGAIN, f"its answer tells of {sum(state.startswith('2') for state in states)} of {entries} entries")


def _status(entry: object) -> str:
    response = entry.get("response") if isinstance(entry, dict) else None
    return str(response.get("status", "")) if isinstance(response, dict) else ""


def _resource(body: bytes) -> dict[str, Any]:
    try:
        read = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


def _outcome(body: dict[str, Any]) -> str:
    """The server's reasons (R4, OperationOutcome), on one line."""
    if body.get("resourceType") != "OperationOutcome" or not isinstance(body.get("issue"), list):
        return ""
    told = []
    for issue in body["issue"]:
        if isinstance(issue, dict):
            details = issue.get("details")
            text = issue.get("diagnostics") or (details.get("text") if isinstance(details, dict) else "")
            told.append(f"{issue.get('code', '')}: {text or ''}".strip(": "))
    line = re.sub(r"[^\x20-\x7e\u00a0-\uffff]+", " ", "; ".join(told))
    return f": {line[:_MOST_TOLD]}" if line else ""
