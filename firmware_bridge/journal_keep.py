"""What leaves the journal: reported results and the rows of files that are gone, oldest first, by their numbers."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# A device without a battery-backed clock wakes up in 1970: what it wrote then has no age that could be known.
_PLAUSIBLE_S = 1_767_225_600.0  # 2026-01-01


@dataclass(frozen=True, slots=True)
class Dropped:
    """How many results were removed, and how many of them nobody had acknowledged."""

    results: int = 0
    unreported: int = 0

    def and_(self, other: Dropped) -> Dropped:
        """Both together."""
        return Dropped(self.results + other.results, self.unreported + other.unreported)


def drop(
    db: sqlite3.Connection,
    *,
    up_to: int,
    before_s: float | None,
    reported_only: bool,
    least: int,
    limit: int,
    is_gone: Callable[[Path], bool],
) -> Dropped:
    """Remove results, within the caller's transaction.

    Args:
        db: the journal.
        up_to: the last number that may go.
        before_s: only those made before; None: whatever their age.
        reported_only: only what was acknowledged.
        least: so many of the newest stay.
        limit: at most so many at once.
        is_gone: whether a file is not where it was taken any more.
    """
    query = """
        SELECT seq, id, sent_s FROM result
        WHERE seq <= ? AND seq <= (SELECT max(seq) FROM result) - ?
          AND (NOT ? OR sent_s IS NOT NULL) AND (? IS NULL OR (made_s < ? AND made_s >= ?))
          AND NOT EXISTS (SELECT 1 FROM intake WHERE result_id = result.id AND state = 'scored')
        ORDER BY seq LIMIT ?"""
    values = (up_to, least, reported_only, before_s, before_s, _PLAUSIBLE_S, limit)
    rows = db.execute(query, values).fetchall()
    for seq, id, _ in rows:
        files = db.execute("SELECT seq, path, moved FROM intake WHERE result_id=?", (id,)).fetchall()
        # The row of a file that still lies in the folder stays: it says that the file has been scored.
        gone = [(intake,) for intake, path, moved in files if moved or is_gone(Path(os.fsdecode(path)))]
        db.executemany("DELETE FROM intake WHERE seq=?", gone)
        db.execute("DELETE FROM result WHERE seq=?", (seq,))
    return Dropped(len(rows), sum(sent_s is None for _, _, sent_s in rows))


def count_lost(db: sqlite3.Connection, number: int) -> None:
    """Note for good that so many results were removed before they were reported."""
    add = """INSERT INTO fact (name, value) VALUES ('lost', ?)
             ON CONFLICT (name) DO UPDATE SET value = value + excluded.value"""
    db.execute(add, (number,))


def forget_old(db: sqlite3.Connection, before_s: float) -> None:
    """Remove answers that were sent, and rows of files that never were whole, from before that time."""
    db.execute("DELETE FROM reply WHERE sent_s < ?", (before_s,))
    db.execute("DELETE FROM intake WHERE state='superseded' AND taken_s < ?", (before_s,))


def forget_answers(db: sqlite3.Connection, *, keep: int) -> None:
    """Remove all but the newest so many refusals that were sent and that no image stands behind.

    They are kept for requests that come again; a flood of them must not fill the journal, and drive results out of it.
    """
    delete = """DELETE FROM reply WHERE intake=0 AND sent_s IS NOT NULL AND seq < (SELECT min(seq) FROM (
                  SELECT seq FROM reply WHERE intake=0 AND sent_s IS NOT NULL ORDER BY seq DESC LIMIT ?))"""
    db.execute(delete, (keep,))
