"""One line of the audit log, and how each holds the one before it.

A line is a JSON object in compact form whose last two keys are `prev` and `hash`. `hash` is SHA-256 over the bytes of
the line without its `hash`; `prev` is the `hash` of the line before. So whoever changes, removes, inserts or moves a
line must compute every later one again, and then the last hash is another one than the one that left the device.
(Schneier and Kelsey 1999, "Secure audit logs to support computer forensics", without keys: the head is published.)
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIRST_PREV = "0" * 64
FOLDER = "audit"
_NAME = re.compile(r"audit-(\d{4}-\d{2})\.jsonl")
_HASH_BYTES = 64
_TAIL = b',"hash":"'
# A line holds numbers and hashes only; what is longer was not written by us and is not read into memory.
MOST_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Line:
    """A line that is whole in itself: its hash fits its bytes. Whether it fits its neighbours is another question.

    Attributes:
        n: counts from 1, without gaps, across all files.
        hash: of this line.
        prev: the hash of the line before.
        kind: "start", "month", "result" or "note".
        seq: the journal's number of the result; 0 for lines of another kind.
        fields: all of it.
    """

    n: int
    hash: str
    prev: str
    kind: str
    seq: int
    fields: Mapping[str, Any]


def write_line(fields: Mapping[str, Any], *, prev: str) -> tuple[bytes, str]:
    """The bytes of a line, newline included, and its hash."""
    body = json.dumps({**fields, "prev": prev}, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()
    digest = hashlib.sha256(body).hexdigest()
    return body[:-1] + _TAIL + digest.encode() + b'"}\n', digest


def read_line(raw: bytes) -> Line | None:
    """The line, or None where the bytes are none that `write_line` makes: changed, cut off, or something else."""
    end = len(_TAIL) + _HASH_BYTES + 3
    if len(raw) < end or raw[-end : -end + len(_TAIL)] != _TAIL or raw[-3:] != b'"}\n':
        return None
    body = raw[:-end] + b"}"
    digest = hashlib.sha256(body).hexdigest()
    if raw[-3 - _HASH_BYTES : -3] != digest.encode():
        return None
    try:
        fields = json.loads(body)
        return Line(
            int(fields["n"]), digest, str(fields["prev"]), str(fields["kind"]), int(fields.get("seq", 0)), fields
        )
    # Whoever writes a line with a hash that fits can put anything into it: numbers without end, brackets in brackets.
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def result_fields(seq: int, record_text: str) -> dict[str, Any]:
    """What the log says of a result: made from its record alone, so that the same result gives the same line.

    Args:
        seq: the journal's number of the result.
        record_text: as it is in the journal; its own hash goes along, so that it cannot be changed unseen either.
    """
    record = json.loads(record_text)
    fields: dict[str, Any] = {"kind": "result", "seq": seq, "time": record["time"], "id": record["id"]}
    fields["image"] = record["image"]["id"]
    fields["bundle"] = record["bundle"]["id"]
    if "refused" in record:
        fields["decision"] = "refused"
    else:
        fields["model"] = record["model"]["file"]
        fields |= {"score": record["probability"], "threshold": record["threshold"], "decision": record["decision"]}
    fields["record_sha256"] = hashlib.sha256(record_text.encode()).hexdigest()
    return fields


def files_of(folder: Path) -> list[Path]:
    """The files of the log, oldest first.

    Raises:
        OSError: the folder cannot be read; one that is not there has no files.
    """
    try:
        names = sorted(path.name for path in folder.iterdir() if _NAME.fullmatch(path.name))
    except FileNotFoundError:
        return []
    return [folder / name for name in names]


def file_name(month: str) -> str:
    """The name of the file for a month such as "2026-11"."""
    return f"audit-{month}.jsonl"


def month_of(name: str) -> str:
    """The month that a file of the log is for; empty for another name."""
    match = _NAME.fullmatch(name)
    return match.group(1) if match else ""


def month_after(month: str) -> str:
    """The next month; nothing comes after nothing."""
    if not month:
        return ""
    year, number = int(month[:4]), int(month[5:])
    return f"{year + number // 12:04d}-{number % 12 + 1:02d}"
