"""Reading the audit log back: is it whole, in order, unchanged, and what the journal and the outside know of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from firmware_bridge.audit_anchor import QUERY, Anchor
from firmware_bridge.audit_foreign import PREFIX, Backing, is_of
from firmware_bridge.audit_line import FIRST_PREV, FOLDER, MOST_BYTES, Line, files_of, read_line
from firmware_bridge.errors import ResourceError
from firmware_bridge.journal_reader import open_reader, results

_MOST_FAULTS = 20


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: the file, the line in it (from 1; 0: the log as a whole), and what."""

    file: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}" if self.line else self.what


@dataclass(slots=True)
class Verdict:
    """What was found.

    Attributes:
        lines: how many there are.
        results: how many of them are outcomes of X-rays that came in.
        golden: how many are outcomes of a deployment's golden X-rays, which are nobody's results.
        head: the hash of the last line.
        faults: the first of them, at most 20; none: the log is whole.
        notes: what the log itself says of power cuts and of journals that were exchanged.
        waiting: results in the journal that have no line yet. (They are not reported yet.)
    """

    lines: int = 0
    results: int = 0
    golden: int = 0
    head: str = FIRST_PREV
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    waiting: int = 0

    def blame(self, file: str, line: int, what: str) -> None:
        """Note a fault."""
        if len(self.faults) < _MOST_FAULTS:
            self.faults.append(Fault(file, line, what))


def verify(state: Path, *, head: str = "") -> Verdict:
    """Read the whole log, a line at a time.

    Args:
        state: the state folder; the agent may be running.
        head: a hash that the device published once; the log must have it.

    Raises:
        ConfigError: there is no journal in the folder.
        ResourceError: the log or the journal cannot be read.
    """
    verdict = Verdict()
    folder = state / FOLDER
    seen_head = seen_anchor = False
    with open_reader(state) as journal, _translated(folder):
        # The anchor first: a running agent moves it on while the log is read.
        anchor = _anchor(journal)
        rows = _Rows(journal, *_last_exchange(folder, anchor))
        backing = Backing(anchor, lambda seq: next(results(journal, after=seq), None)) if anchor else None
        for path, number, line in _chain(folder, verdict):
            seen_head = seen_head or line.hash == head
            if anchor is not None and backing is not None:
                seen_anchor = seen_anchor or (line.n, line.hash) == (anchor.n, anchor.hash)
                if line.n > anchor.n and not backing.holds(line, path.name):
                    what = f"line {line.n}, behind the one noted in the journal, is about nothing that the journal has"
                    verdict.blame(path.name, number, f"{what}: somebody else wrote it")
            rows.compare(line, verdict)
        verdict.waiting = rows.rest()
        for path in sorted(folder.glob(f"{PREFIX}*")):
            verdict.blame("", 0, f"{path.name} keeps lines that the agent found behind its own and had not written")
    if anchor is not None and not seen_anchor:
        what = f"line {anchor.n} ({anchor.hash[:12]}), noted in the journal, is missing"
        verdict.blame("", 0, f"{what}: cut off or changed")
    if head and not seen_head:
        verdict.blame("", 0, f"no line has the hash {head}: the log was cut off before it, or written anew")
    if not verdict.lines and anchor is None:
        verdict.blame("", 0, "there is no audit log")
    return verdict


def _chain(folder: Path, verdict: Verdict) -> Iterator[tuple[Path, int, Line]]:
    """Each line that is whole in itself, with its file and its number there.

    What is wrong between it and the one before is noted in the verdict.
    """
    last = Line(0, FIRST_PREV, "", "", 0, {})
    for path in files_of(folder):
        with path.open("rb") as file:
            number = 0
            while raw := file.readline(MOST_BYTES):
                number += 1
                line = read_line(raw)
                if line is None:
                    _blame_bytes(verdict, path, number, raw=raw, last=last)
                    continue
                _check_place(verdict, path, number, line=line, last=last)
                last = line
                verdict.lines += 1
                if line.kind == "result":
                    golden = line.fields.get("golden") is True
                    verdict.golden += golden
                    verdict.results += not golden
                verdict.head = line.hash
                yield path, number, line


def _blame_bytes(verdict: Verdict, path: Path, number: int, *, raw: bytes, last: Line) -> None:
    if raw.endswith(b"\n"):
        verdict.blame(path.name, number, f"changed or foreign: its hash is not that of its bytes (after line {last.n})")
    else:
        verdict.blame(path.name, number, f"half-written (after line {last.n}); the agent mends that at its next start")


def _check_place(verdict: Verdict, path: Path, number: int, *, line: Line, last: Line) -> None:
    if line.n == last.n + 1 and line.prev == last.hash:
        if line.kind == "note":
            _read_note(verdict, path, number, line)
        return
    if line.n > last.n + 1:
        what = f"lines {last.n + 1} to {line.n - 1} are missing"
    elif line.n <= last.n:
        what = f"line {line.n} after line {last.n}: moved, inserted or doubled"
    else:
        what = f"line {line.n} does not hold the hash of line {last.n}: one of them was exchanged"
    verdict.blame(path.name, number, what)


def _read_note(verdict: Verdict, path: Path, number: int, line: Line) -> None:
    what = line.fields.get("what")
    if what == "lost":
        verdict.blame(
            path.name, number, f"the agent found line {line.fields.get('lost_n')} missing or changed at a start"
        )
    elif what == "foreign":
        kept = line.fields.get("kept")
        verdict.blame(path.name, number, f"the agent found lines that it had not written; {kept} keeps them")
    elif what == "torn":
        verdict.notes.append(f"{path.name}:{number}: {line.fields.get('bytes')} half-written bytes were cut off")
    elif what == "journal":
        verdict.notes.append(f"{path.name}:{number}: another journal begins after result {line.fields.get('seq')}")


class _Rows:
    """The journal's results, read along with the lines: both are in the order of `seq`.

    Args:
        journal: open.
        after_line: what is before belongs to another journal.
        after_seq: so do these results.
    """

    def __init__(self, journal: sqlite3.Connection, after_line: int, after_seq: int) -> None:
        # Rows that the agent adds meanwhile have no line among those read: the last one is asked for first.
        (last,) = journal.execute("SELECT coalesce(max(seq), 0) FROM result").fetchone()
        self._rows = takewhile(lambda row: row[0] <= last, results(journal, after=after_seq))
        self._next = next(self._rows, None)
        self._last = 0
        self._after_line = after_line

    def compare(self, line: Line, verdict: Verdict) -> None:
        """A line and the row that it is about."""
        if line.n <= self._after_line or line.kind != "result":
            return
        if line.seq <= self._last:
            verdict.blame("", 0, f"line {line.n}: result {line.seq} has a line already, or is out of order")
            return
        self._last = line.seq
        while self._next is not None and self._next[0] < line.seq:
            verdict.blame("", 0, f"result {self._next[0]} of the journal has no line (line {line.n} comes after it)")
            self._next = next(self._rows, None)
        # Rows that are gone were kept for as long as they should be.
        if self._next is not None and self._next[0] == line.seq:
            if not is_of(*self._next, line):
                verdict.blame("", 0, f"result {line.seq} in the journal is not the one of line {line.n}")
            self._next = next(self._rows, None)

    def rest(self) -> int:
        """How many rows are left."""
        return (self._next is not None) + sum(1 for _ in self._rows)


def _last_exchange(folder: Path, anchor: Anchor | None) -> tuple[int, int]:
    """The last line that says that another journal begins, and the result after which its lines begin.

    Up to the noted head: what comes behind it is looked at more closely, and must not say what to pass over.
    """
    number = seq = 0
    for path in files_of(folder):
        with path.open("rb") as file:
            while raw := file.readline(MOST_BYTES):
                if b'"what":"journal"' in raw and (line := read_line(raw)) and line.kind == "note":
                    if anchor is not None and line.n > anchor.n and line.seq >= anchor.seq:
                        continue
                    number, seq = line.n, line.seq
    return number, seq


def _anchor(journal: sqlite3.Connection) -> Anchor | None:
    if journal.execute("SELECT 1 FROM sqlite_master WHERE name='audit_head'").fetchone() is None:
        return None
    row = journal.execute(QUERY).fetchone()
    return Anchor(*row) if row else None


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"the audit log {folder} cannot be read",
            expected="a folder that this user may read",
            came=str(error),
            do="run this as the agent's user, or as root",
        ) from error
