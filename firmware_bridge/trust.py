"""The trusted keys of a device: a TOML file that people can read and change, one `[[key]]` for each key.

    [[key]]
    name = "clinic 2026"
    public = "mB7q…="                     # 32 bytes in base64
    valid_from = "2026-01-01T00:00:00Z"   # optional
    valid_until = "2027-12-31T23:59:59Z"  # optional
    revoked = false                       # optional

To change keys: add the new one, sign with both for a while, then set `revoked` (or `valid_until`) on the old one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firmware_bridge.errors import ConfigError

_MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z")
_MAX_FILE_BYTES = 2**16
_FIELDS = {"name", "public", "valid_from", "valid_until", "revoked"}


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A public key and how far it is trusted.

    Attributes:
        name: for people.
        public: 32 bytes.
        valid_from: moment in UTC (ISO 8601 with Z) of the earliest content that it may sign; empty: no limit.
        valid_until: the latest; empty: no limit.
        revoked: trusted for nothing any more, whenever it was made.
    """

    name: str
    public: bytes
    valid_from: str = ""
    valid_until: str = ""
    revoked: bool = False

    @property
    def id(self) -> str:
        """As signatures name it."""
        return key_id(self.public)

    def to_toml(self) -> str:
        """Its `[[key]]`. JSON's strings are TOML's."""
        name = json.dumps(self.name, ensure_ascii=False)  # TOML has no surrogate pairs, by which JSON would escape
        lines = ["[[key]]", f"name = {name}", f'public = "{base64.b64encode(self.public).decode()}"']
        lines += [f'{name} = "{value}"' for name in ("valid_from", "valid_until") if (value := getattr(self, name))]
        return "\n".join([*lines, "revoked = true"] if self.revoked else lines) + "\n"


def read_trusted_keys(path: Path) -> tuple[TrustedKey, ...]:
    """Read a file of trusted keys.

    Raises:
        ConfigError: it cannot be read, holds no key, or a key is not as it should be.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _wrong(path, "a readable file", error.strerror or str(error)) from error
    if len(raw) > _MAX_FILE_BYTES:
        raise _wrong(path, f"at most {_MAX_FILE_BYTES} bytes", "more")
    return parse_trusted_keys(raw, path)


def parse_trusted_keys(raw: bytes, path: Path) -> tuple[TrustedKey, ...]:
    """The keys in the bytes of such a file; `path` is for messages.

    Raises:
        ConfigError: see `read_trusted_keys`.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        content = tomllib.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _wrong(path, "TOML", str(error)) from error
    tables = content.pop("key", None)
    if content or not isinstance(tables, list) or not tables:
        raise _wrong(path, "one or more [[key]] and nothing else", ", ".join(content)[:80] or "none")
    keys = tuple(_key(path, table) for table in tables)
    if len({key.id for key in keys}) < len(keys):
        # Of two entries for one key, one of them revoked, nobody could say which counts.
        raise _wrong(path, "each key once", "the same public key twice")
    return keys


def key_id(public: bytes) -> str:
    """How a key is named: the first 32 hex digits of the SHA-256 of its 32 public bytes."""
    return hashlib.sha256(public).hexdigest()[:32]


def _key(path: Path, table: Any) -> TrustedKey:
    if not isinstance(table, Mapping) or not table.keys() <= _FIELDS or not {"name", "public"} <= table.keys():
        raise _wrong(path, "a [[key]] with name and public, and at most " + ", ".join(sorted(_FIELDS)), repr(table))
    name, public, revoked = table["name"], table["public"], table.get("revoked", False)
    if not isinstance(name, str) or not 1 <= len(name) <= 100 or not name.isprintable():
        raise _wrong(path, "a name of 1 to 100 printable characters", repr(name))
    if not isinstance(revoked, bool):
        raise _wrong(path, "revoked = true or false", repr(revoked))
    for limit in ("valid_from", "valid_until"):
        moment = table.get(limit, "")
        if moment and not (isinstance(moment, str) and _MOMENT.fullmatch(moment)):
            raise _wrong(path, f'{limit} = "2026-01-01T00:00:00Z" (a text, in UTC)', repr(moment))
    try:
        raw = base64.b64decode(public, validate=True) if isinstance(public, str) else b""
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 32:
        raise _wrong(path, f"32 public bytes in base64 for key {name}", repr(public))
    return TrustedKey(name, raw, table.get("valid_from", ""), table.get("valid_until", ""), revoked)


def _wrong(path: Path, expected: str, came: str) -> ConfigError:
    return ConfigError(
        f"the trusted keys {path} cannot be used",
        expected=expected,
        came=came[:200],
        do="mend the file; `cxr-edge bundle keygen` prints the entry of a new key",
    )
