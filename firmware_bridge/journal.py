"""The journal: what was taken, what came out, what is still to be reported. Its file: `journal_database.py`.

An intake row is durable before the file is scored, a result row before it is reported. After a crash at any point the
rows say what is left to do:

    intake 'taken'    read the file again, score it; `tries` says how often the process died of that, see `begin`
    intake 'scored'   the result is there; write the JSON beside the file
    result unsent     publish it
    reply unsent      answer whoever sent that image by a network
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from firmware_bridge.journal_database import Database
from firmware_bridge.journal_keep import Dropped, count_lost, drop, forget_answers, forget_old
from firmware_bridge.journal_rows import SCHEMA, Arrival, Counts, Outcome, Reply, ReplyTo, Stored, Taken, taken_from
from firmware_bridge.journal_salvage import JournalDamaged, checked

__all__ = ["SCHEMA", "Arrival", "Counts", "Journal", "JournalDamaged", "Outcome", "Reply", "ReplyTo", "Stored", "Taken"]


_VACUUM_PAGES = 1000


class Journal(Database):
    """The journal in a state folder. Thread-safe. One process at a time: a lock on the folder sees to it.

    Raises:
        ConfigError: another agent uses the folder, or a newer cxr-edge wrote it.
        ResourceError: (every method) the disk is full, broken, or the file is damaged.
    """

    def __init__(self, state: Path) -> None:
        super().__init__(state)
        # The number of the last result that may be reported: the audit log has come so far.
        self.reportable = sys.maxsize

    def knows(self, path: Path, *, size_bytes: int, mtime_ns: int) -> bool:
        """Whether this very file (as far as its name, size and time tell) was taken before and is still there."""
        query = """SELECT 1 FROM intake WHERE path=? AND size_bytes=? AND mtime_ns=? AND state!='superseded'
                   AND NOT moved LIMIT 1"""
        return bool(self._rows(query, (os.fsencode(path), size_bytes, mtime_ns)))

    def take(self, arrivals: Iterable[Arrival], *, reply: ReplyTo | None = None, kind: str = "") -> list[Taken]:
        """Make intakes durable, all in one commit. The same content under the same path is the same row as before.

        An older content of the path that was not scored yet is superseded: the file was still being written.

        Args:
            arrivals: the files.
            reply: where the answer to each of them goes, if anybody waits for one.
            kind: by which network they came; the sender of replies asks by it.
        """
        upsert = """
            INSERT INTO intake (path, sha256, size_bytes, mtime_ns, state, taken_s) VALUES (?, ?, ?, ?, 'taken', ?)
            ON CONFLICT (path, sha256) DO UPDATE SET size_bytes=excluded.size_bytes, mtime_ns=excluded.mtime_ns,
              state=CASE state WHEN 'superseded' THEN 'taken' ELSE state END,
              moved=0, place=NULL -- it lies at its path again
            RETURNING seq, path, sha256, state, (SELECT id FROM result WHERE id = result_id)"""
        taken = []
        with self._transaction() as db:
            for arrival in arrivals:
                path = os.fsencode(arrival.path)
                values = (path, arrival.sha256, arrival.size_bytes, arrival.mtime_ns, time.time())
                row = taken_from(db.execute(upsert, values).fetchone())
                older = "UPDATE intake SET state='superseded' WHERE path=? AND seq!=? AND state='taken'"
                db.execute(older, (path, row.seq))
                if reply is not None:
                    insert = "INSERT INTO reply (intake, kind, topic, correlation, asked_s) VALUES (?, ?, ?, ?, ?)"
                    db.execute(insert, (row.seq, kind, reply.topic, reply.correlation, time.time()))
                taken.append(row)
        return taken

    def supersede(self, path: Path) -> None:
        """The file went away before it ever was a whole image: a temporary file, renamed since."""
        with self._transaction() as db:
            db.execute("UPDATE intake SET state='superseded' WHERE path=? AND state='taken'", (os.fsencode(path),))

    def begin(self, seq: int) -> int:
        """A row that an earlier run left 'taken' is tried again, alone; how often that was begun before.

        Durable before it returns: a file of which the process dies is known by that count.
        """
        with self._transaction() as db:
            query = "UPDATE intake SET tries=tries+1 WHERE seq=? RETURNING tries-1"
            return int(db.execute(query, (seq,)).fetchone()[0])

    def survived(self, seq: int) -> None:
        """The try that was begun came to no outcome (the file is not finished), but did no harm either."""
        with self._transaction() as db:
            db.execute("UPDATE intake SET tries=0 WHERE seq=?", (seq,))

    def close_row(self, seq: int) -> None:
        """The file is accounted for without a result of ours: another agent has scored it."""
        with self._transaction() as db:
            db.execute("UPDATE intake SET state='done' WHERE seq=?", (seq,))

    def settle(
        self,
        outcomes: Sequence[Outcome],
        *,
        written: Sequence[int] = (),
        moved: Sequence[int] = (),
        places: Mapping[int, Path] | None = None,
        report_again: bool = False,
    ) -> list[str]:
        """Make outcomes durable, all in one commit.

        Args:
            outcomes: what came of rows.
            written: the rows whose JSON lies beside the file.
            moved: those of them whose file is no longer where it was found: a new one may come under its name.
            places: where those of them lie now that are still there.
            report_again: an outcome whose record is there already is to be reported once more.

        Returns:
            The record of each outcome: where its id was there already, the first one, so that an id has one record.
        """
        records = []
        insert = "INSERT INTO result (id, record, made_s, sent_s) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO NOTHING"
        with self._transaction() as db:
            db.executemany("UPDATE intake SET state='done' WHERE seq=?", [(seq,) for seq in written])
            db.executemany("UPDATE intake SET moved=1 WHERE seq=?", [(seq,) for seq in moved])
            now_at = [(os.fsencode(place), seq) for seq, place in (places or {}).items()]
            db.executemany("UPDATE intake SET place=? WHERE seq=?", now_at)
            for outcome in outcomes:
                if outcome.record is not None:
                    now_s = time.time()
                    db.execute(insert, (outcome.result_id, outcome.record, now_s, None if outcome.reported else now_s))
                elif report_again:
                    db.execute("UPDATE result SET sent_s=NULL WHERE id=?", (outcome.result_id,))
                row = db.execute("SELECT record FROM result WHERE id=?", (outcome.result_id,)).fetchone()
                records.append(str(row[0]))
                update = "UPDATE intake SET state='scored', result_id=? WHERE seq=?"
                db.execute(update, (outcome.result_id, outcome.seq))
                db.execute("UPDATE reply SET record=? WHERE intake=? AND record IS NULL", (row[0], outcome.seq))
        return records

    def has_result(self, id: str) -> bool:
        """Whether there is a record under that id."""
        return bool(self._rows("SELECT 1 FROM result WHERE id=?", (id,)))

    def open_intakes(self, *, after: int = 0, limit: int = 100) -> list[Taken]:
        """Rows that a former run took and did not score, oldest first."""
        query = """SELECT seq, path, sha256, state, result_id FROM intake
                   WHERE state='taken' AND seq>? ORDER BY seq LIMIT ?"""
        return [taken_from(row) for row in self._rows(query, (after, limit))]

    def unwritten(self, *, after: int = 0, limit: int = 100) -> list[tuple[int, Path, str]]:
        """(seq, path, record) of rows whose JSON is not known to lie beside the file, oldest first."""
        query = """SELECT intake.seq, path, record FROM intake JOIN result ON result.id = result_id
                   WHERE state='scored' AND intake.seq>? ORDER BY intake.seq LIMIT ?"""
        rows = self._rows(query, (after, limit))
        with self._translated():
            return [(seq, Path(os.fsdecode(path)), checked(record)) for seq, path, record in rows]

    def unsent(self, *, limit: int = 100) -> list[tuple[int, str]]:
        """(seq, record) of results that no broker acknowledged, oldest first."""
        query = "SELECT seq, record FROM result WHERE sent_s IS NULL AND seq<=? ORDER BY seq LIMIT ?"
        return [(seq, record) for seq, record in self._rows(query, (self.reportable, limit))]

    def mark_sent(self, seqs: Iterable[int]) -> None:
        """The broker acknowledged these."""
        now_s = time.time()
        with self._transaction() as db:
            db.executemany("UPDATE result SET sent_s=? WHERE seq=?", [(now_s, seq) for seq in seqs])

    def unsent_replies(self, kind: str, *, limit: int = 100) -> list[Reply]:
        """Answers that are there and were not acknowledged, oldest request first."""
        query = """SELECT seq, topic, correlation, record FROM reply
                   WHERE sent_s IS NULL AND kind=? AND record IS NOT NULL AND NOT EXISTS (
                     SELECT 1 FROM intake JOIN result ON result.id = result_id
                     WHERE intake.seq = reply.intake AND result.seq > ?) ORDER BY seq LIMIT ?"""
        rows = self._rows(query, (kind, self.reportable, limit))
        return [Reply(seq, ReplyTo(topic, correlation), record) for seq, topic, correlation, record in rows]

    def asked(self, kind: str, to: ReplyTo, *, sha256: str) -> bool:
        """Whether this very question was taken before: the same image (or one that was refused) and correlation data.

        Without correlation data nothing tells a question that comes again from another one.
        """
        query = """SELECT 1 FROM reply LEFT JOIN intake ON intake.seq = reply.intake
                   WHERE kind=? AND topic=? AND correlation=? AND (sha256=? OR intake.seq IS NULL) LIMIT 1"""
        return bool(to.correlation and self._rows(query, (kind, to.topic, to.correlation, sha256)))

    def answer(self, kind: str, to: ReplyTo, *, record: str) -> None:
        """Put down an answer that no intake stands behind: a refusal."""
        insert = """INSERT INTO reply (intake, kind, topic, correlation, record, asked_s) VALUES (0, ?, ?, ?, ?, ?)"""
        with self._transaction() as db:
            db.execute(insert, (kind, to.topic, to.correlation, record, time.time()))

    def unsent_refusals(self) -> int:
        """How many answers wait that no intake stands behind."""
        return int(self._rows("SELECT count(*) FROM reply WHERE sent_s IS NULL AND intake=0")[0][0])

    def forget_answers(self, *, keep: int) -> None:
        """See `journal_keep.forget_answers`."""
        with self._transaction() as db:
            forget_answers(db, keep=keep)

    def mark_replies_sent(self, seqs: Iterable[int], *, failure: str | None = None) -> None:
        """These were acknowledged; or, with a `failure`, given up for that reason."""
        now_s = time.time()
        with self._transaction() as db:
            db.executemany("UPDATE reply SET sent_s=?, failure=? WHERE seq=?", [(now_s, failure, seq) for seq in seqs])

    def results(self, *, after: int = 0, limit: int = 100) -> list[Stored]:
        """Results that may be reported, in the order in which they became durable, from the one behind `after` on."""
        query = "SELECT seq, id, record, made_s, sent_s FROM result WHERE seq>? AND seq<=? ORDER BY seq LIMIT ?"
        return [Stored(*row) for row in self._rows(query, (after, self.reportable, limit))]

    def outcome_of(self, path: Path, sha256: str) -> tuple[Taken, Stored | None] | None:
        """The intake of that content at that path (None: there is none), and its result where it may be reported."""
        query = """SELECT intake.seq, path, sha256, state, result_id, result.seq, result.id, record, made_s, sent_s
                   FROM intake LEFT JOIN result ON result.id = result_id AND result.seq <= ?
                   WHERE path=? AND sha256=?"""
        for row in self._rows(query, (self.reportable, os.fsencode(path), sha256)):
            return taken_from(row[:5]), Stored(*row[5:]) if row[5] is not None else None
        return None

    def last_result_seq(self) -> int:
        """The number of the newest result; 0 without any."""
        return int(self._rows("SELECT coalesce(max(seq), 0) FROM result")[0][0])

    def path_of(self, result_id: str) -> Path | None:
        """Where the image of a result lies that was taken last: where it was filed away to, or where it was found."""
        # From the newest row backwards: it is found among the first, without an index.
        rows = self._rows(
            "SELECT coalesce(place, path) FROM intake WHERE result_id=? ORDER BY seq DESC LIMIT 1", (result_id,)
        )
        return Path(os.fsdecode(rows[0][0])) if rows else None

    def latest(self, *, limit: int) -> list[str]:
        """The records of the latest results, newest first."""
        return [record for (record,) in self._rows("SELECT record FROM result ORDER BY seq DESC LIMIT ?", (limit,))]

    def is_unsent(self, id: str) -> bool:
        """Whether there is a result of that id that was not acknowledged."""
        return bool(self._rows("SELECT 1 FROM result WHERE id=? AND sent_s IS NULL", (id,)))

    @property
    def lost(self) -> int:
        """How many results were ever removed before they were reported."""
        rows = self._rows("SELECT value FROM fact WHERE name='lost'")
        return int(rows[0][0]) if rows else 0

    def drop(
        self,
        *,
        before_s: float | None = None,
        reports: bool,
        least: int,
        limit: int,
        is_gone: Callable[[Path], bool] = lambda path: not os.path.lexists(path),
        counted: bool = False,
    ) -> Dropped:
        """Remove the oldest results, in one commit; see `journal_keep.drop`. None that the audit log does not have yet.

        Args:
            before_s: only those made before.
            reports: only what was acknowledged.
            least: so many of the newest stay.
            limit: at most so many.
            is_gone: whether a file is not where it was taken any more; the row of one that is stays.
            counted: note what was removed unreported as lost.
        """
        with self._transaction() as db:
            dropped = drop(
                db,
                up_to=self.reportable,
                before_s=before_s,
                reported_only=reports,
                least=least,
                limit=limit,
                is_gone=is_gone,
            )
            if counted and dropped.unreported:
                count_lost(db, dropped.unreported)
        return dropped if counted else Dropped(dropped.results)

    def shrink(self, *, replies_before_s: float | None) -> None:
        """Remove what nobody needs any more, and give free room back to the disk, in small steps."""
        if replies_before_s is not None:
            with self._transaction() as db:
                forget_old(db, replies_before_s)
        while before := self._pragma("freelist_count")[0][0]:
            self._pragma(f"incremental_vacuum({_VACUUM_PAGES})")
            if self._pragma("freelist_count")[0][0] >= before:
                break  # an old file that was not made for it
        self._pragma("wal_checkpoint(TRUNCATE)")

    def counts(self) -> Counts:
        """How much is open. A deployment's golden X-rays, which count as sent from the start, are no results."""
        query = """SELECT (SELECT count(*) FROM intake WHERE state='taken'),
                          (SELECT count(*) FROM intake WHERE state='scored'),
                          (SELECT count(*) FROM result WHERE sent_s IS NULL),
                          (SELECT count(*) FROM result WHERE sent_s IS NOT made_s),
                          (SELECT count(*) FROM reply WHERE sent_s IS NULL)"""
        return Counts(*self._rows(query)[0])
