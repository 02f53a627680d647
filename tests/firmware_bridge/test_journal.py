"""The journal: durable in order, one record an id, one process at a time."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from firmware_bridge.errors import ConfigError, ResourceError
from firmware_bridge.journal import Arrival, Counts, Journal, Outcome, ReplyTo, Taken

A = Path("/watched/a.jpg")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def take(journal: Journal, path: Path, sha256: str) -> Taken:
    (row,) = journal.take([Arrival(path, sha256, 10, 20)])
    return row


def test_the_life_of_an_xray(state: Path) -> None:
    journal = Journal(state)
    row = take(journal, A, "s1")
    assert row.state == "taken"
    assert journal.knows(A, size_bytes=10, mtime_ns=20)
    assert not journal.knows(A, size_bytes=10, mtime_ns=21)
    assert journal.counts() == Counts(taken=1, unwritten=0, unsent=0, results=0)
    assert journal.settle([Outcome(row.seq, A, "id1", "{}")]) == ["{}"]
    assert journal.unwritten() == [(row.seq, A, "{}")]
    assert journal.counts() == Counts(taken=0, unwritten=1, unsent=1, results=1)
    journal.settle([], written=[row.seq])
    ((seq, record),) = journal.unsent()
    assert record == "{}"
    journal.mark_sent([seq])
    assert journal.counts() == Counts(taken=0, unwritten=0, unsent=0, results=1)
    journal.close()


def test_what_was_taken_is_there_after_a_crash(state: Path) -> None:
    first = Journal(state)
    row = take(first, A, "s1")
    first._lock_file.close()  # as a kill would: no orderly close of the database
    again = Journal(state)
    assert again.open_intakes() == [Taken(row.seq, A, "s1", "taken")]
    again.close()


def test_an_id_has_one_record(state: Path) -> None:
    journal = Journal(state)
    one, two = take(journal, A, "s1"), take(journal, Path("/watched/b.jpg"), "s1")
    outcomes = [Outcome(one.seq, one.path, "id1", '"first"'), Outcome(two.seq, two.path, "id1", '"second"')]
    assert journal.settle(outcomes) == ['"first"', '"first"']
    assert len(journal.unsent()) == 1
    journal.close()


def test_an_older_content_that_was_not_scored_gives_way(state: Path) -> None:
    journal = Journal(state)
    half, whole = take(journal, A, "half"), take(journal, A, "whole")
    assert [row.seq for row in journal.open_intakes()] == [whole.seq]
    assert take(journal, A, "half").state == "taken", "and comes back when the file is as it was"
    assert half.seq == take(journal, A, "half").seq
    journal.close()


def test_results_leave_oldest_first(state: Path) -> None:
    journal = Journal(state)
    for number in range(10):
        row = take(journal, Path(f"/watched/{number}"), f"s{number}")
        journal.settle([Outcome(row.seq, row.path, f"id{number}", f"{number}")])
    assert [record for _, record in journal.unsent(limit=3)] == ["0", "1", "2"]
    journal.mark_sent([seq for seq, _ in journal.unsent(limit=3)])
    assert [record for _, record in journal.unsent(limit=2)] == ["3", "4"]
    journal.close()


def test_names_that_are_not_text(state: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a\udcff\n.jpg"
    journal = Journal(state)
    assert take(journal, odd, "s1").path == odd
    assert journal.open_intakes()[0].path == odd
    journal.close()


def test_one_process_at_a_time(state: Path) -> None:
    journal = Journal(state)
    with pytest.raises(ConfigError, match="another agent runs"):
        Journal(state)
    journal.close()
    Journal(state).close()


def test_a_newer_journal_is_not_touched(state: Path) -> None:
    Journal(state).close()
    database = sqlite3.connect(state / "journal.sqlite")
    database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(ConfigError, match="newer than this cxr-edge"):
        Journal(state)


def test_tries_are_counted_across_runs_until_one_does_no_harm(state: Path) -> None:
    journal = Journal(state)
    row = take(journal, A, "s1")
    assert [journal.begin(row.seq), journal.begin(row.seq)] == [0, 1]
    journal._lock_file.close()  # as a kill would
    again = Journal(state)
    assert take(again, A, "s1").seq == row.seq
    assert again.begin(row.seq) == 2
    again.survived(row.seq)
    assert again.begin(row.seq) == 0
    again.close()


@pytest.mark.parametrize("schema", [1, 2])
def test_a_journal_of_an_older_schema_is_brought_up_to_date(state: Path, schema: int) -> None:
    journal = Journal(state)
    row = take(journal, A, "s1")
    journal.close()
    with sqlite3.connect(state / "journal.sqlite") as db:
        db.execute("DROP TABLE reply")
        db.execute("ALTER TABLE intake DROP COLUMN moved")
        if schema == 1:
            db.execute("ALTER TABLE intake DROP COLUMN tries")
        db.execute(f"PRAGMA user_version={schema}")
    db.close()
    again = Journal(state)
    assert again.open_intakes() == [row]
    assert again.begin(row.seq) == 0
    (asked,) = again.take([Arrival(Path("/spool/1"), "s2", 1, 2)], reply=ReplyTo("answers"), kind="mqtt")
    again.settle([Outcome(asked.seq, asked.path, "id", "{}")])
    assert len(again.unsent_replies("mqtt")) == 1
    again.close()


def test_an_answer_waits_for_the_outcome_and_is_sent_once(state: Path) -> None:
    journal = Journal(state)
    to = ReplyTo("answers/7", b"\x00\xff")
    (asked,) = journal.take([Arrival(Path("/spool/1"), "s1", 1, 2)], reply=to, kind="mqtt")
    assert journal.unsent_replies("mqtt") == []
    assert journal.counts().unanswered == 1
    journal.settle([Outcome(asked.seq, asked.path, "id1", '"first"')])
    # The same picture, asked for again: the answer is the record that its id has.
    (again,) = journal.take([Arrival(Path("/spool/2"), "s1", 1, 2)], reply=to, kind="mqtt")
    journal.settle([Outcome(again.seq, again.path, "id1", None)])
    first, second = journal.unsent_replies("mqtt")
    assert (first.to, first.record, second.record) == (to, '"first"', '"first"')
    assert journal.unsent_replies("another network") == []
    journal.mark_replies_sent([first.seq])
    journal.mark_replies_sent([second.seq], failure="not authorized")
    assert journal.unsent_replies("mqtt") == []
    assert journal.counts().unanswered == 0
    journal.close()


def test_results_can_be_read_on_from_any_point(state: Path) -> None:
    journal = Journal(state)
    for number in range(5):
        row = take(journal, Path(f"/watched/{number}"), f"s{number}")
        journal.settle([Outcome(row.seq, row.path, f"id{number}", f"{number}")])
    first, second = journal.results(limit=2)
    assert [first.record, second.record] == ["0", "1"]
    assert [one.id for one in journal.results(after=second.seq)] == ["id2", "id3", "id4"]
    journal.close()


def test_a_damaged_journal_is_told(state: Path) -> None:
    state.mkdir()
    (state / "journal.sqlite").write_bytes(b"no database " * 1000)
    with pytest.raises(ResourceError, match="cannot be read or written"):
        Journal(state)
