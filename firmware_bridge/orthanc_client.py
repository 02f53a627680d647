"""Orthanc's REST API (orthanc.uclouvain.be/book/users/rest.html), as far as it is needed here."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from firmware_bridge.http_client import (
    Answer,
    HttpClient,
    ServerError,
    TooLarge,
    parse_address,
    read_secret,
    tls_context,
)
from firmware_bridge.orthanc_settings import OrthancSettings

NEW_INSTANCE = "NewInstance"
# SHA-1 of patient, study, series and instance, in five groups. It becomes a part of addresses: nothing else may.
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")
_MOST_JSON_BYTES = 4 << 20
_MESSAGE = re.compile(r"[A-Za-z][A-Za-z0-9 ,.'()/-]{1,99}")  # Orthanc's own, one for each of its error codes


class OrthancRefusal(ServerError):
    """Orthanc answers, and does not do this one thing.

    Attributes:
        passing: it may do it later: the fault is at its side.
    """

    passing = False


@dataclass(frozen=True, slots=True)
class Change:
    """Something that happened in Orthanc. `mark` tells it from every other, in a rebuilt database too."""

    seq: int
    kind: str
    id: str
    date: str

    @property
    def mark(self) -> str:
        """See the class."""
        return f"{self.seq} {self.date} {self.kind} {self.id}"


@dataclass(frozen=True, slots=True)
class Page:
    """Changes in their order. `last`: where the next page goes on; at the end, the last change that ever was."""

    changes: tuple[Change, ...]
    last: int
    done: bool


class Orthanc:
    """Asks one Orthanc. Not thread-safe.

    Every method raises ServerError when Orthanc cannot be used at all (away, or it does not let us in), and
    OrthancRefusal when it refuses this request alone.

    Args:
        settings: see there; `url` is set.

    Raises:
        ConfigError: the address, the CA file or the password file cannot be used.
    """

    def __init__(self, settings: OrthancSettings) -> None:
        address = parse_address(settings.url, key="[orthanc] url")
        tls = tls_context(address, settings.ca, key="[orthanc] ca")
        self._settings = settings
        self._headers()  # told at the start, not at the first request
        self._client = HttpClient(address, headers=self._headers, timeout_s=settings.timeout_s, tls=tls)

    @property
    def where(self) -> str:
        """Its address, for people."""
        return self._client.address.where

    def close(self) -> None:
        """Hang up."""
        self._client.close()

    def changes(self, *, since: int, limit: int) -> Page:
        """What happened after change number `since`."""
        return self._page(f"/changes?since={since}&limit={limit}")

    def last_change(self) -> Page:
        """The last thing that happened."""
        return self._page("/changes?last")

    def size_bytes(self, id: str) -> int | None:
        """Of an instance's file; None: there is no such instance (any more)."""
        found = self._json(f"/instances/{id}", one=True)
        try:
            return None if found is None else _whole(found.get("FileSize") or 0)
        except (TypeError, ValueError) as error:
            raise self._refusal("to tell of an instance", "no size of its file", passing=True) from error

    def tags(self, id: str) -> Mapping[str, Any] | None:
        """An instance's elements by keyword, pixels left out; None: no such instance."""
        return self._json(f"/instances/{id}/simplified-tags", one=True)

    def file(self, id: str, *, most_bytes: int) -> bytes | None:
        """An instance's DICOM file; None: no such instance."""
        answer = self._ask("GET", f"/instances/{id}/file", most_bytes=most_bytes)
        if answer is None:
            return None
        if answer.body[128:132] != b"DICM":  # PS3.10, 7.1: a portal's page in its place must not pass for the X-ray
            raise self._refusal("an instance's file", "no DICOM file", passing=True)
        return answer.body

    def store(self, content: bytes) -> None:
        """Store a DICOM object. One that is there already is that one."""
        answer = self._ask("POST", "/instances", body=content)
        status = _object(answer.body if answer else b"").get("Status")
        if status not in ("Success", "AlreadyStored"):
            raise self._refusal("an object of ours", f"status {status}", passing=False)

    def _page(self, path: str) -> Page:
        found = self._json(path)
        try:
            assert found is not None
            changes = tuple(
                Change(_whole(one["Seq"]), str(one["ChangeType"]), str(one["ID"]), str(one["Date"]))
                for one in found["Changes"]
            )
            if not all(_ID.fullmatch(one.id) for one in changes if one.kind == NEW_INSTANCE):
                raise ValueError("an id that is none")
            if not all(one.mark.isascii() for one in changes):
                raise ValueError("a change that no text can hold")
            if any(one.seq >= other.seq for one, other in pairwise(changes)):
                raise ValueError("changes out of their order")
            return Page(changes, _whole(found["Last"]), bool(found["Done"]))
        except (AssertionError, LookupError, TypeError, ValueError) as error:
            raise self._no_orthanc("no list of changes") from error

    def _json(self, path: str, *, one: bool = False) -> dict[str, Any] | None:
        """The object at `path`. `one`: it is about one instance, and no other may wait for that."""
        try:
            answer = self._ask("GET", path)
        except TooLarge as error:
            if one:
                raise self._refusal(
                    "to tell of an instance", f"more than {_MOST_JSON_BYTES} bytes", passing=False
                ) from error
            raise
        if answer is None:
            return None
        found = _object(answer.body)
        if not found:
            if one:
                raise self._refusal("to tell of an instance", "no JSON object", passing=True)
            raise self._no_orthanc("no JSON object")
        return found

    def _ask(
        self, method: str, path: str, *, body: bytes | None = None, most_bytes: int = _MOST_JSON_BYTES
    ) -> Answer | None:
        answer = self._client.ask(method, path, body=body, most_bytes=most_bytes)
        status = answer.status
        if status == 200:
            return answer
        if status == 404 and method == "GET":
            return None
        if status in (401, 403, 407):
            raise ServerError(
                f"Orthanc at {self.where}",
                expected="to be let in",
                came=f"status {status}",
                do="mend user and password_file in [orthanc], or the user's rights in Orthanc",
            )
        if status < 400:
            raise self._no_orthanc(f"status {status}")
        # Not its "Details": what they quote may be a patient's, and this goes into log and status.
        told = str(_object(answer.body).get("Message") or "")
        came = f"status {status}{f': {told}' if _MESSAGE.fullmatch(told) else ''}"
        raise self._refusal("a request", came, passing=status >= 500 or status in (408, 409, 429))

    def _headers(self) -> dict[str, str]:
        settings = self._settings
        if not settings.user:
            return {}
        password = "" if settings.password_file is None else read_secret(settings.password_file, key="password_file")
        pair = base64.b64encode(f"{settings.user}:{password}".encode()).decode()
        return {"Authorization": f"Basic {pair}"}  # RFC 7617

    def _refusal(self, what: str, came: str, *, passing: bool) -> OrthancRefusal:
        refusal = OrthancRefusal(
            f"Orthanc at {self.where} refuses {what}",
            expected="that it does it",
            came=came,
            do="look into Orthanc's log",
        )
        refusal.passing = passing
        return refusal

    def _no_orthanc(self, came: str) -> ServerError:
        return ServerError(
            f"no Orthanc answers at {self.where}", expected="its REST API", came=came, do="mend [orthanc] url"
        )


def _whole(value: Any) -> int:
    """A whole number that a database holds, of JSON, which has more kinds of numbers.

    Raises:
        TypeError, ValueError: another.
    """
    number = int(str(value))
    if not 0 <= number < 2**63:
        raise ValueError(f"{number} is out of bounds")
    return number


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
