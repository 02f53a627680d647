"""A Bundle to a FHIR server (R4, RESTful API, transaction), and what its answer means for us."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, unquote

from firmware_bridge.fhir_settings import FhirSettings
from firmware_bridge.http_client import Answer, HttpClient, parse_address, read_secret, tls_context

FHIR_JSON = "application/fhir+json"
_MOST_ANSWER_BYTES = 4 << 20
_MOST_TOLD, _MOST_CODES = 300, 80
_CODE = re.compile(r"[a-z-]{1,30}")
_NAMING = ("subject", "focus", "basedOn", "derivedFrom", "imagingStudy")
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
        why: for people, wherever they are: the status, and the codes of the server's reasons.
        reasons: in the server's words, which may name whom the Bundle names: for the log alone.
        pause_s: that the server asked for.
    """

    what: str
    why: str = ""
    reasons: str = ""
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
    bundle = json.loads(content)
    verdict = judge(answer, entries=len(bundle["entry"]))
    return replace(verdict, reasons=_masked(verdict.reasons, bundle)[:_MOST_TOLD])


def judge(answer: Answer, *, entries: int) -> Verdict:
    """What an answer to a transaction means.

    Args:
        answer: see there.
        entries: of the Bundle that was sent.
    """
    body = _resource(answer.body)
    codes, reasons = _outcome(body)
    verdict = _judge(answer, body, entries, f"status {answer.status}{codes and f': {codes}'}")
    return replace(verdict, reasons=reasons)


def _judge(answer: Answer, body: dict[str, Any], entries: int, told: str) -> Verdict:
    if answer.status in (200, 201):
        return _judge_done(body, entries)
    if answer.status in _NOT_LET_IN:
        return Verdict(LATER, f"it does not let us in ({told})")
    if answer.status >= 500 or answer.status in _PASSING:
        # 429 and 503 are about the server's load, whatever the Bundle.
        whole = answer.status in (429, 503) or answer.retry_after_s > 0
        return Verdict(LATER if whole else AGAIN, told, pause_s=answer.retry_after_s)
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


def _outcome(body: dict[str, Any]) -> tuple[str, str]:
    """The server's reasons (R4, OperationOutcome): their codes, and its words; each on one line."""
    if body.get("resourceType") != "OperationOutcome" or not isinstance(body.get("issue"), list):
        return "", ""
    codes, words = [], []
    for issue in body["issue"]:
        if isinstance(issue, dict):
            code, details = issue.get("code"), issue.get("details")
            # R4, IssueType: what else comes in its place may be anything.
            codes += [code] if isinstance(code, str) and _CODE.fullmatch(code) and code not in codes else []
            words.append(str(issue.get("diagnostics") or (details.get("text") if isinstance(details, dict) else "")))
    return ", ".join(codes)[:_MOST_CODES], "; ".join(one for one in words if one)


def _masked(words: str, bundle: dict[str, Any]) -> str:
    """Words of a server on one line, without what the Bundle names patient, study and order by: servers quote it."""
    named: set[str] = set()
    for entry in bundle["entry"]:
        for key in _NAMING:
            named |= set(_texts(entry["resource"].get(key)))
    for text in sorted(named, key=len, reverse=True):
        words = words.replace(text, "…")
    return re.sub(r"[^\x20-\x7e\u00a0-\ud7ff\ue000-\uffff]+", " ", words)


def _texts(found: object) -> Iterator[str]:
    """What stands under `value` and `reference`: as it is, without its system, and without the escapes of a search."""
    if isinstance(found, list):
        for one in found:
            yield from _texts(one)
    elif isinstance(found, dict):
        for key, value in found.items():
            if key in ("value", "reference") and isinstance(value, str):
                search = value.rpartition("identifier=")[2].rpartition("|")[2] if key == "reference" else value
                plain = unquote(search).replace("\\", "") if key == "reference" else value
                forms = (search, unquote(search), plain, quote(plain, safe=""), plain.removeprefix("urn:oid:"))
                yield from (one for one in forms if one)
            else:
                yield from _texts(value)
