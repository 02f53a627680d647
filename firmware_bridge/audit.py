"""The audit log: a hash chain over every outcome, written before the outcome is reported.

It follows the journal: each result row there becomes one line here, in the order of the rows. So a kill between the
two loses nothing and doubles nothing: the last line says up to which row the log has come, and the rest is written at
the next start, to the same bytes. The head (number and hash of the last line) is noted in the journal and published
with the status; `audit_verify.py` reads all of it back.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from firmware_bridge.audit_anchor import Anchor, AnchorStore
from firmware_bridge.audit_foreign import Backing, Foreign, set_aside
from firmware_bridge.audit_line import FIRST_PREV, FOLDER, file_name, month_after, month_of, result_fields, write_line
from firmware_bridge.audit_tail import Tail, read_tail
from firmware_bridge.errors import ResourceError
from firmware_bridge.files import sync_folder
from firmware_bridge.result import utc_now
from firmware_bridge.settings import setting

_LOG = logging.getLogger(__name__)
_BATCH = 200


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """See each key's help."""

    SECTION: ClassVar[str] = "audit"
    enabled: bool = setting(True, "Write a line for every outcome into a hash chain before it is reported.")


class AuditLog:
    """The log below a state folder; opened at the first `follow`. One thread writes; `head` may be read from any.

    Args:
        state: the state folder.
        journal: the journal's file; it must be there.
        problem: told when the log that is there is not the one that was written, with None when all is well.
    """

    def __init__(self, state: Path, journal: Path, *, problem: Callable[[str | None], None]) -> None:
        self._folder = state / FOLDER
        self._problem = problem
        self._handle = -1
        self._store = AnchorStore(journal)
        self.head = Anchor(0, FIRST_PREV, 0, "", 0)

    def follow(self) -> int:
        """Write a line for each result that has none yet; durable when it returns.

        Returns:
            The journal's number of the last result that is in the log: up to there may be reported.

        Raises:
            ResourceError: the disk is full or broken. Nothing half-written stays; call again.
        """
        if not self._is_ours():
            self._open()
        while rows := self._store.results_after(self.head.seq, limit=_BATCH):
            batch: list[Mapping[str, Any]] = []
            for seq, record, golden in rows:
                fields = self._fields(seq, record, golden=golden)
                month = str(fields["time"])[:7]
                # Never back to an older file, whatever the clock says.
                if month > month_of(self.head.file):
                    self._append(batch)
                    self._new_month(month)
                    batch = []
                batch.append(fields)
            self._append(batch)
            self._store.anchor(self.head)
        return self.head.seq

    def _fields(self, seq: int, record: str, *, golden: bool) -> Mapping[str, Any]:
        try:
            return {**result_fields(seq, record), **({"golden": True} if golden else {})}
        except (LookupError, TypeError) as error:
            raise self._store.damaged(error) from error

    def close(self) -> None:
        """Close the files."""
        self._close_file()
        self._store.close()

    # --- opening and mending

    def _open(self) -> None:
        """Find the end of the log, cut off what a power cut left half-written, and say in the log what is amiss."""
        self._close_file()
        anchor = self._store.read()
        with _translated(self._folder):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            foreign = set_aside(self._folder, anchor, Backing(anchor, self._store.following)) if anchor else []
            tail = read_tail(self._folder, anchor)
            self.head = tail.end
            if tail.end.n:
                self._open_file(tail.end.file)
            else:
                self._start()
        self._mend(tail, anchor)
        self._tell_of(foreign)
        last_seq = self._store.last_seq()
        if tail.end.n and (anchor is None or self.head.seq > last_seq):
            # The journal is younger or older than the log: its numbers begin again, so must ours.
            self.head = replace(self.head, seq=last_seq if anchor else 0)
            self._note("journal", seq=self.head.seq)
        self._store.anchor(self.head, durable=anchor is None)

    def _mend(self, tail: Tail, anchor: Anchor | None) -> None:
        if tail.torn:
            # Not synced, so not reported: what these lines were about is written again.
            _LOG.warning("audit log: %d bytes after line %d were half-written: cut off", len(tail.torn), tail.end.n)
            with _translated(self._folder):
                if tail.end.n:
                    os.ftruncate(self._handle, tail.end.end_bytes)
            self._note("torn", bytes=len(tail.torn), sha256=hashlib.sha256(tail.torn).hexdigest())
        if tail.whole:
            self._problem(None)
            return
        # What was synced is not there: that is no power cut. The log goes on, and says what it lacks.
        with _translated(self._folder):
            self._end_last_line()
        self._note("lost", lost_n=anchor.n if anchor else 0, lost_hash=anchor.hash if anchor else "")
        lost = f"line {anchor.n}" if anchor else "its beginning"
        self._problem(f"audit log: {lost} is missing or changed; look with `cxr-edge audit verify`")

    def _tell_of(self, foreign: list[Foreign]) -> None:
        for one in foreign:
            self._note("foreign", bytes=one.bytes, sha256=one.sha256, kept=one.name)
        if foreign:
            self._problem(
                f"audit log: lines that this agent did not write are set aside in {foreign[0].name}; "
                "look with `cxr-edge audit verify`"
            )

    def _start(self) -> None:
        month = max(utc_now()[:7], month_after(month_of(self.head.file)))
        self._open_file(file_name(month))
        self.head = replace(self.head, file=file_name(month))
        self._append([{"kind": "start", "time": utc_now()}])

    def _end_last_line(self) -> None:
        if self.head.end_bytes and os.pread(self._handle, 1, self.head.end_bytes - 1) != b"\n":
            os.write(self._handle, b"\n")
            self.head = replace(self.head, end_bytes=self.head.end_bytes + 1)

    def _open_file(self, name: str) -> None:
        self._close_file()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._handle = os.open(self._folder / name, flags, 0o600)
        sync_folder(self._folder)

    def _close_file(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _is_ours(self) -> bool:
        """Whether the open file is still the one in the folder, as long as we left it."""
        if self._handle < 0:
            return False
        status = os.fstat(self._handle)
        return status.st_nlink > 0 and status.st_size == self.head.end_bytes

    # --- writing

    def _new_month(self, month: str) -> None:
        """Begin the next file; the chain goes on in it."""
        before = self.head
        with _translated(self._folder):
            self._open_file(file_name(month))
        self.head = replace(before, file=file_name(month), end_bytes=0)
        try:
            self._append([{"kind": "month", "time": utc_now(), "month": month, "after": before.file}])
        except ResourceError:
            self.head = before
            self._close_file()  # the next try opens again, and removes the file without a line
            raise

    def _note(self, what: str, **facts: object) -> None:
        self._append([{"kind": "note", "time": utc_now(), "what": what, **facts}])

    def _append(self, entries: list[Mapping[str, Any]]) -> None:
        if not entries:
            return
        head = self.head
        number, digest, seq, parts = head.n, head.hash, head.seq, []
        for fields in entries:
            number += 1
            raw, digest = write_line({"n": number, **fields}, prev=digest)
            parts.append(raw)
            seq = max(seq, fields.get("seq", 0) if fields["kind"] == "result" else 0)
        data = b"".join(parts)
        with _translated(self._folder):
            try:
                _write_all(self._handle, data)
                os.fsync(self._handle)
            except OSError:
                # What was not synced may be there in part; it is written again, whole.
                os.ftruncate(self._handle, head.end_bytes)
                raise
        self.head = Anchor(number, digest, seq, head.file, head.end_bytes + len(data))


def _write_all(handle: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise ResourceError(
            f"the audit log {folder} cannot be written",
            expected="a folder that this user can write, with some space: nothing is reported without its line",
            came=str(error),
            do="free some space or mend the disk; the results wait in the journal",
        ) from error
