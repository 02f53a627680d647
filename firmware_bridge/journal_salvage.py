"""A damaged journal is moved aside, and what can still be read of it goes into a new one."""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from firmware_bridge.audit_line import result_fields
from firmware_bridge.errors import ResourceError
from firmware_bridge.files import sync_folder

_LOG = logging.getLogger(__name__)
SUSPECT = "journal.suspect"
# Numbers of results must never come twice: the audit log and others go by them.
_GAP = 1_000_000
_SIGNS = ("malformed", "not a database", "Could not decode to UTF-8")


class JournalDamaged(ResourceError):
    """Nothing can be done while running: the next start salvages what it can."""


def damaged(journal: Path, error: BaseException) -> JournalDamaged:
    """The error that ends the agent; the next start is told of it."""
    with contextlib.suppress(OSError):
        (journal.parent / SUSPECT).touch()
    return JournalDamaged(
        f"the journal {journal} is damaged",
        expected="a file as SQLite wrote it",
        came=str(error).partition(" with text ")[0],  # a row's own text is nobody's business
        do="start again: it is then moved aside, and what can be read of it goes into a new one",
    )


def is_damage(error: BaseException) -> bool:
    """Whether an error of SQLite says that the file is damaged, rather than that the disk is full or broken."""
    text = str(error)
    return isinstance(error, sqlite3.DatabaseError) and any(sign in text for sign in _SIGNS)


def checked(record: str) -> str:
    """A record as it was written: SQLite keeps no checksums, so that a flipped bit in a row goes unnoticed by it.

    Raises:
        sqlite3.DatabaseError: it is damaged.
    """
    try:
        whole = isinstance(json.loads(record), dict)
    except (ValueError, RecursionError):
        whole = False
    if not whole:
        raise sqlite3.DatabaseError("malformed: a record that cannot be read")
    return record


def _is_whole(record: str, id: str) -> bool:
    """Whether a row can be what was written, as far as it tells. U+FFFD stands for bytes that are no text."""
    try:
        return "\ufffd" not in record and result_fields(0, record)["id"] == id
    except (ValueError, LookupError, TypeError, RecursionError):
        return False


def move_aside(path: Path) -> Path:
    """Rename the journal's files, so that a new one can be made; where the old one is now.

    Raises:
        OSError: the folder cannot be written.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    aside = path.with_name(f"damaged-{stamp}-{time.monotonic_ns()}.sqlite")
    for suffix in ("-wal", "", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    (path.parent / SUSPECT).unlink(missing_ok=True)
    sync_folder(path.parent)
    return aside


def salvage(aside: Path, into: sqlite3.Connection) -> int:
    """Copy every row that can be read into a new, empty journal; how many results.

    Raises:
        sqlite3.Error: the new one cannot be written.
    """
    counts = {}
    into.execute("BEGIN IMMEDIATE")
    for table in ("result", "intake", "reply"):
        columns = [row[1] for row in into.execute(f"PRAGMA table_info({table})")]
        marks = ", ".join("?" * len(columns))
        insert = f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 - names are ours
        before = into.total_changes
        for row in _rows(aside, table, columns):
            # A damaged row, that no longer is what it was.
            with contextlib.suppress(sqlite3.IntegrityError, sqlite3.DataError):
                if table == "result":
                    named = dict(zip(columns, row, strict=True))
                    if not _is_whole(str(named["record"]), str(named["id"])):
                        continue
                into.execute(insert, row)
        counts[table] = into.total_changes - before
        last = into.execute(f"SELECT coalesce(max(seq), 0) FROM {table}").fetchone()[0]  # noqa: S608
        into.execute("DELETE FROM sqlite_sequence WHERE name=?", (table,))
        into.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, last + _GAP))
    # A row whose result was lost is open again: its file is scored once more, under the same id.
    into.execute(
        "UPDATE intake SET state='taken', result_id=NULL"
        " WHERE state='scored' AND result_id NOT IN (SELECT id FROM result)"
    )
    into.execute("COMMIT")
    _LOG.error(
        "the journal was damaged; it is kept as %s, and %d results and %d intakes of it go on",
        aside.name, counts["result"], counts["intake"],
    )  # fmt: skip
    return counts["result"]


def _rows(aside: Path, table: str, columns: list[str]) -> Iterator[tuple[Any, ...]]:
    """Rows from the front until the damage, then from the back until the damage."""
    for order in ("", " DESC"):
        try:
            database = sqlite3.connect(aside)
        except sqlite3.Error:
            return
        try:
            # A text that is none must not keep the rows behind it; what is replaced in it makes it a damaged row.
            database.text_factory = lambda raw: raw.decode("utf-8", "replace")
            here = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
            wanted = ", ".join(name if name in here else "0" for name in columns)
            yield from database.execute(f"SELECT {wanted} FROM {table} ORDER BY seq{order}")  # noqa: S608
        except sqlite3.Error:
            continue  # as far as it goes
        else:
            return
        finally:
            database.close()
