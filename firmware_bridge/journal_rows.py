"""The journal's tables, how older ones are brought up to date, and what its rows are to the rest of the agent."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA = 4
# Schema 2; a new journal takes the same steps from there as an old one.
TABLES = """
CREATE TABLE intake (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  path BLOB NOT NULL,          -- absolute, as the kernel has it: names need not be text
  sha256 TEXT NOT NULL,        -- of the content, or a stand-in where it could not be read
  size_bytes INTEGER NOT NULL,
  mtime_ns INTEGER NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('taken', 'scored', 'done', 'superseded')),
  result_id TEXT,
  taken_s REAL NOT NULL,
  tries INTEGER NOT NULL DEFAULT 0,
  UNIQUE (path, sha256)
);
CREATE INDEX intake_open ON intake (state, seq) WHERE state IN ('taken', 'scored');
CREATE TABLE result (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  record TEXT NOT NULL,
  made_s REAL NOT NULL,
  sent_s REAL                  -- NULL until the broker acknowledged it
);
CREATE INDEX result_unsent ON result (seq) WHERE sent_s IS NULL;
"""
_SCHEMA_3 = """
ALTER TABLE intake ADD COLUMN moved INTEGER NOT NULL DEFAULT 0;  -- 1: the file is no longer at `path`
CREATE INDEX intake_result ON intake (result_id) WHERE result_id IS NOT NULL;
CREATE TABLE fact (name TEXT PRIMARY KEY, value INTEGER NOT NULL);  -- counts that outlive a run
CREATE TABLE reply (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  intake INTEGER NOT NULL,     -- seq of the row whose outcome is the answer
  kind TEXT NOT NULL,          -- which network it came by
  topic TEXT NOT NULL,         -- where the answer goes
  correlation BLOB NOT NULL,   -- handed back as it came
  record TEXT,                 -- NULL until there is an outcome
  asked_s REAL NOT NULL,
  sent_s REAL,                 -- NULL until it was acknowledged or given up
  failure TEXT                 -- why it was given up
);
CREATE INDEX reply_intake ON reply (intake) WHERE record IS NULL;
CREATE INDEX reply_unsent ON reply (kind, seq) WHERE sent_s IS NULL;
CREATE INDEX reply_asked ON reply (topic, correlation);
"""
# schema -> what makes the next one of it
STEPS = {
    1: "ALTER TABLE intake ADD COLUMN tries INTEGER NOT NULL DEFAULT 0;",
    2: _SCHEMA_3,
    3: "ALTER TABLE intake ADD COLUMN place BLOB;",  # where the file was filed away to; NULL: at `path`, or gone
}


@dataclass(frozen=True, slots=True)
class Arrival:
    """One finished file, read and hashed."""

    path: Path
    sha256: str
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Taken:
    """An intake row: `state` is 'taken' when it is (still) to be scored; else it was accounted for before."""

    seq: int
    path: Path
    sha256: str
    state: str
    result_id: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an intake row: a new record, or the id of one that is there already (`record` None).

    One that is not `reported` counts as sent from the start.
    """

    seq: int
    path: Path
    result_id: str
    record: str | None
    reported: bool = True


@dataclass(frozen=True, slots=True)
class Counts:
    """How much is open: rows to score, JSON files to write, results and replies to send; and all results ever."""

    taken: int
    unwritten: int
    unsent: int
    results: int
    unanswered: int = 0


@dataclass(frozen=True, slots=True)
class ReplyTo:
    """Where the answer to an image goes that came by a network. `correlation` is handed back as it came."""

    topic: str
    correlation: bytes = b""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that waits to be sent: `record` is the result's, or the refusal's."""

    seq: int
    to: ReplyTo
    record: str


@dataclass(frozen=True, slots=True)
class Stored:
    """A result as the journal has it. `sent_s` is None until a broker acknowledged it."""

    seq: int
    id: str
    record: str
    made_s: float
    sent_s: float | None

    @property
    def is_selftest(self) -> bool:
        """Whether it is of a deployment's golden X-ray: `Journal.settle` counts it as sent from the start."""
        return self.sent_s == self.made_s


def taken_from(row: tuple[Any, ...]) -> Taken:
    """A row of seq, path, sha256, state, result_id."""
    seq, path, sha256, state, id = row
    return Taken(seq, Path(os.fsdecode(path)), sha256, state, id)
