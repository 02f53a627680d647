"""The end of the audit log at a start: where it ends, what of it a power cut left half-written, what is missing."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from firmware_bridge.audit_anchor import Anchor
from firmware_bridge.audit_line import FIRST_PREV, MOST_BYTES, files_of, read_line

# More than one write can leave half-written. What is longer was torn by something else and is evidence: it stays.
_MOST_TORN_BYTES = 256 * 2**10


@dataclass(frozen=True, slots=True)
class Tail:
    """What the log ends with.

    Attributes:
        end: the last line that is whole and in its place; `n` 0: there is none.
        torn: half-written bytes after it, to be cut off.
        whole: whether the noted head is where it was noted, and what follows it is a chain.
    """

    end: Anchor
    torn: bytes
    whole: bool


def read_tail(folder: Path, anchor: Anchor | None) -> Tail:
    """Find the end of the log. Files that were begun and have no line yet are removed.

    Raises:
        OSError: a file cannot be read, or not be removed.
    """
    torn = b""
    files = files_of(folder)
    while files:
        with files[-1].open("rb") as file:
            tail = _tail_of(file, files[-1], anchor)
        if tail.end.n:
            return replace(tail, torn=tail.torn + torn)
        if len(tail.torn) >= _MOST_TORN_BYTES:
            break
        torn = tail.torn + torn
        files.pop().unlink()
    # A log that is damaged from its beginning is left as it is: the next one gets the name of a month after it.
    after = files[-1].name if files else ""
    return Tail(Anchor(0, FIRST_PREV, anchor.seq if anchor else 0, after, 0), torn, anchor is None and not files)


def _tail_of(file: BinaryIO, path: Path, anchor: Anchor | None) -> Tail:
    seq = anchor.seq if anchor else 0
    if anchor is not None and anchor.file == path.name:
        if line_ends_at(file, anchor):
            tail = _follow(file, anchor)
            if len(tail.torn) < _MOST_TORN_BYTES:
                return tail
        return _last_line(file, path, seq)
    # No head was noted yet, or the next month was begun after it was: the file is young and read from its beginning.
    tail = _follow(file, Anchor(0, FIRST_PREV, seq, path.name, 0))
    if len(tail.torn) >= _MOST_TORN_BYTES:
        return _last_line(file, path, seq)
    return replace(tail, whole=anchor is None or _older_has(path, anchor))


def _older_has(path: Path, anchor: Anchor) -> bool:
    try:
        with path.with_name(anchor.file).open("rb") as file:
            return anchor.file < path.name and line_ends_at(file, anchor)
    except FileNotFoundError:
        return False


def line_ends_at(file: BinaryIO, anchor: Anchor) -> bool:
    """Whether the noted line is in that file, where it was noted."""
    begin = max(0, anchor.end_bytes - MOST_BYTES)
    file.seek(begin)
    raw = file.read(anchor.end_bytes - begin)
    if len(raw) < anchor.end_bytes - begin:
        return False
    line = read_line(raw[raw[:-1].rfind(b"\n") + 1 :])
    return line is not None and (line.n, line.hash) == (anchor.n, anchor.hash)


def _follow(file: BinaryIO, start: Anchor) -> Tail:
    """From a line on, as long as each fits the one before. The first of a file is taken at its word."""
    end = start
    file.seek(start.end_bytes)
    while raw := file.readline(MOST_BYTES):
        line = read_line(raw)
        if line is None or (end.n and (line.n, line.prev) != (end.n + 1, end.hash)):
            break
        end = Anchor(line.n, line.hash, max(end.seq, line.seq), end.file, end.end_bytes + len(raw))
    file.seek(end.end_bytes)
    return Tail(end, file.read(_MOST_TORN_BYTES), whole=True)


def _last_line(file: BinaryIO, path: Path, seq: int) -> Tail:
    """The last line that is whole in itself, in a file that is not what it was. Nothing is cut off."""
    end = Anchor(0, FIRST_PREV, seq, path.name, 0)
    file.seek(0)
    while raw := file.readline(MOST_BYTES):
        line = read_line(raw)
        if line is not None:
            end = Anchor(line.n, line.hash, max(end.seq, line.seq), path.name, 0)
    return Tail(replace(end, end_bytes=os.fstat(file.fileno()).st_size), b"", whole=False)
