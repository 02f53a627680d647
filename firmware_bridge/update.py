"""What a device is told to run, and what it says of it: the two messages of an update by desired state."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from firmware_bridge.bundle import MAX_BUNDLE_BYTES
from firmware_bridge.errors import ConfigError, CxrEdgeError
from firmware_bridge.result import utc_now

SCHEMA = 1
READY, REPORT, LAST = "ready.cxr", "report.json", "desired.json"
FETCHING, HANDED_OVER, RUNNING, ROLLED_BACK, REFUSED = "fetching", "handed over", "running", "rolled back", "refused"
_HASH = re.compile(r"[0-9a-f]{64}")
MAX_MESSAGE_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class Desired:
    """A bundle that shall run.

    Attributes:
        bundle: its id.
        url: where the file is; http will do, the signature is the trust.
        sha256: of the file.
        size_bytes: of the file.
    """

    bundle: str
    url: str
    sha256: str
    size_bytes: int

    def to_bytes(self) -> bytes:
        """The message."""
        content = {"schema": SCHEMA, "bundle": self.bundle, "url": self.url}
        return json.dumps({**content, "sha256": self.sha256, "bytes": self.size_bytes}).encode()


def parse_desired(raw: bytes) -> Desired:
    """Read the message.

    Raises:
        ConfigError: it is none.
    """
    try:
        content = json.loads(raw.decode("utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']!r}")
        desired = Desired(content["bundle"], content["url"], content["sha256"], content["bytes"])
        if not _HASH.fullmatch(desired.bundle) or not _HASH.fullmatch(desired.sha256):
            raise ValueError("a hash that is none")
        if type(desired.size_bytes) is not int or not 0 < desired.size_bytes <= MAX_BUNDLE_BYTES:
            raise ValueError(f"{desired.size_bytes!r} bytes")
        if urlsplit(desired.url).scheme not in ("http", "https") or not desired.url.isprintable():
            raise ValueError("an address that is neither http nor https")
        if not desired.url.isascii() or not urlsplit(desired.url).hostname:
            raise ValueError("an address without a host, or with letters that are none of ASCII's (write them as %XX)")
        str(urlsplit(desired.url).hostname).encode("idna")  # what a name server could be asked for: 63 letters a label
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(
            "the desired state cannot be read",
            expected=f'{{"schema": {SCHEMA}, "bundle": ID, "url": "https://…", "sha256": HEX, "bytes": N}}',
            came=str(error)[:200],
            do="publish it again, retained",
        ) from error
    return desired


def dump_report(state: str, *, bundle: str, error: CxrEdgeError | None = None) -> bytes:
    """What a device says of an update."""
    told = None if error is None else error.told()
    content = {"schema": SCHEMA, "time": utc_now(), "state": state, "bundle": bundle, "error": told}
    return json.dumps(content, ensure_ascii=False).encode()
