"""Lines behind the noted head: the agent writes none that the journal does not account for.

The head is noted in the journal after the log is synced, so a kill or a power cut leaves lines behind it, and these are
about results that were durable before. Everything else there was written by somebody else, however well its hashes fit.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from firmware_bridge.audit_anchor import Anchor
from firmware_bridge.audit_line import MOST_BYTES, Line, files_of, month_of, read_line, result_fields
from firmware_bridge.audit_tail import line_ends_at
from firmware_bridge.files import create_new, sync_folder

PREFIX = "foreign-"
_PIECE_BYTES = 2**20
# seq -> the first result of the journal behind it: (seq, record)
Next = Callable[[int], "tuple[int, str] | None"]


class Backing:
    """What the journal accounts for, line by line from the noted head on.

    Args:
        anchor: the noted head.
        following: see `Next`.
    """

    def __init__(self, anchor: Anchor, following: Next) -> None:
        self._anchor = anchor
        self._following = following
        self._seq = anchor.seq

    def holds(self, line: Line, file: str) -> bool:
        """Whether the agent can have written the next line, in the file of that name."""
        if line.kind == "note":
            # They tell of something amiss; one alone tells `verify` to pass over results.
            return line.fields.get("what") != "journal" or line.seq < self._anchor.seq
        if line.kind not in ("result", "month"):
            return False
        row = self._following(self._seq)
        if row is None:
            return False
        if line.kind == "month":
            month = line.fields.get("month")
            return month == month_of(file) and month == _month_of_record(row[1])
        if row[0] != line.seq or not is_of(row[0], row[1], line):
            return False
        self._seq = line.seq
        return True


def is_of(seq: int, record: str, line: Line) -> bool:
    """Whether a line is the one of that row."""
    try:
        return not result_fields(seq, record).items() - line.fields.items()
    except (ValueError, LookupError, TypeError, RecursionError):
        return False  # no record any more, or lists where the line has words


def _month_of_record(record: str) -> str:
    try:
        return str(json.loads(record)["time"])[:7]
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""


@dataclass(frozen=True, slots=True)
class Foreign:
    """What was set aside: the name of the file that keeps it, its bytes and their SHA-256."""

    name: str
    bytes: int
    sha256: str


def set_aside(folder: Path, anchor: Anchor, backing: Backing) -> list[Foreign]:
    """Take out of the log what nobody accounts for, into files of its own beside it, which are never written again.

    Half-written bytes are left for `read_tail`, as is a log whose noted head is not where it should be.

    Raises:
        OSError: a file cannot be read or written.
    """
    found: list[Foreign] = []
    last = (anchor.n, anchor.hash)
    for path in files_of(folder):
        if path.name < anchor.file:
            continue
        with path.open("r+b") as file:
            if path.name == anchor.file:
                if not line_ends_at(file, anchor):
                    return found
                file.seek(anchor.end_bytes)
            while True:
                begin = file.tell()
                line = read_line(raw) if (raw := file.readline(MOST_BYTES)) else None
                if line is None:
                    break
                if (line.n - 1, line.prev) != last or not backing.holds(line, path.name):
                    found.append(_take_out(folder, file, path.name, begin=begin, number=line.n))
                    break
                last = (line.n, line.hash)
    return found


def _take_out(folder: Path, file: BinaryIO, name: str, *, begin: int, number: int) -> Foreign:
    kept = folder / f"{PREFIX}{number}-{name}"
    while os.path.lexists(kept):
        kept = kept.with_name(f"{kept.name}.again")
    digest, size = hashlib.sha256(), 0
    file.seek(begin)
    with os.fdopen(create_new(kept, mode=0o600), "wb") as target:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
            size += len(piece)
            target.write(piece)
        target.flush()
        os.fsync(target.fileno())
    sync_folder(folder)
    file.truncate(begin)
    os.fsync(file.fileno())
    return Foreign(kept.name, size, digest.hexdigest())
