"""The journal: durable in order, one record an id, one process at a time."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path

import pytest

from firmware_bridge.errors import ConfigError
from firmware_bridge.journal import Arrival, Counts, Journal, JournalDamaged, Outcome, ReplyTo, Taken
from firmware_bridge.journal_keep import Dropped
from firmware_bridge.results_export import Choice, export_lines
from firmware_bridge.status_report import report

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
    first._unlock()  # as a kill would: no orderly close of the database
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
    journal._unlock()  # as a kill would
    again = Journal(state)
    assert take(again, A, "s1").seq == row.seq
    assert again.begin(row.seq) == 2
    again.survived(row.seq)
    assert again.begin(row.seq) == 0
    again.close()


@pytest.mark.parametrize("schema", [1, 2, 3])
def test_a_journal_of_an_older_schema_is_brought_up_to_date(state: Path, schema: int) -> None:
    journal = Journal(state)
    row = take(journal, A, "s1")
    journal.close()
    with sqlite3.connect(state / "journal.sqlite") as db:
        db.execute("ALTER TABLE intake DROP COLUMN place")
        if schema < 3:
            db.execute("DROP TABLE reply")
            db.execute("DROP TABLE fact")
            db.execute("DROP INDEX intake_result")
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


def test_what_can_be_read_of_a_damaged_journal_goes_on(state: Path) -> None:
    journal = Journal(state)
    fill(journal, 400, sent=0)
    last = journal.results(after=399)[0].seq
    journal.close()
    with (state / "journal.sqlite").open("r+b") as file:
        file.seek(40 * 4096)
        file.write(b"\xa5" * 4096 * 6)
    try:
        again = Journal(state)
        again._rows("SELECT sum(length(record)) FROM result")  # the damage may hide until it is met
    except JournalDamaged:
        again.close()
        again = Journal(state)
    results = again.results(limit=1000)
    assert 0 < len(results) < 400
    assert all(one.record == record_of(one.id) for one in results)
    (row,) = again.take([Arrival(Path("/watched/new"), "s", 1, 2)])
    again.settle([Outcome(row.seq, row.path, "new", "{}")])
    assert [one.id for one in again.results(after=last)] == ["new"], "no number comes twice"
    assert again._rows("PRAGMA integrity_check") == [("ok",)]
    assert list(state.glob("damaged-*.sqlite"))
    again.close()


def test_what_is_no_journal_at_all_is_moved_aside(state: Path) -> None:
    state.mkdir()
    (state / "journal.sqlite").write_bytes(b"no database " * 1000)
    journal = Journal(state)
    assert journal.counts() == Counts(0, 0, 0, 0)
    (aside,) = state.glob("damaged-*.sqlite")
    assert aside.read_bytes().startswith(b"no database")
    journal.close()


def record_of(id: str) -> str:
    """A refusal of two thousand letters."""
    head = {"id": id, "time": "2026-11-24T00:00:00Z", "image": {"id": "i"}, "bundle": {"id": "b"}}
    return json.dumps({**head, "refused": {"what": ""}}).replace('""', '"' + "x" * 1870 + '"')


def fill(journal: Journal, number: int, *, sent: int) -> None:
    """So many results of files that are no longer there; the first ones acknowledged."""
    paths = [Path(f"/nowhere/{one}") for one in range(number)]
    rows = journal.take([Arrival(path, path.name, 10, 20) for path in paths])
    outcomes = [Outcome(row.seq, row.path, f"id{row.path.name}", record_of(f"id{row.path.name}")) for row in rows]
    journal.settle(outcomes)
    journal.settle([], written=[row.seq for row in rows])
    journal.mark_sent([one.seq for one in journal.results(limit=sent)])


def test_reported_results_leave_oldest_first_and_the_file_shrinks(state: Path) -> None:
    journal = Journal(state)
    fill(journal, 300, sent=200)
    journal.shrink(replies_before_s=None)
    before_bytes = journal.path.stat().st_size
    assert journal.drop(reports=True, least=0, limit=150) == Dropped(150)
    assert journal.results(limit=1)[0].id == "id150"
    assert journal.drop(reports=True, least=0, limit=150) == Dropped(50), "what is not reported stays"
    assert journal.drop(reports=True, least=0, limit=150) == Dropped()
    journal.shrink(replies_before_s=None)
    assert journal.path.stat().st_size < before_bytes / 2
    assert len(journal.unsent(limit=1000)) == 100
    journal.close()


def test_what_is_dropped_unreported_is_counted_for_good(state: Path) -> None:
    journal = Journal(state)
    fill(journal, 20, sent=0)
    assert journal.drop(reports=False, least=0, limit=5, counted=True) == Dropped(5, 5)
    assert journal.drop(reports=False, least=0, limit=3, counted=True) == Dropped(3, 3)
    journal.close()
    again = Journal(state)
    assert again.lost == 8
    again.close()


def test_age_is_by_the_clock_but_never_takes_the_newest_or_what_has_no_age(state: Path) -> None:
    journal = Journal(state)
    fill(journal, 20, sent=20)
    far_s = time.time() + 1e6
    assert journal.drop(before_s=far_s, reports=True, least=15, limit=100) == Dropped(5)
    journal._rows("UPDATE result SET made_s=1000")  # written before the clock was set
    assert journal.drop(before_s=far_s, reports=True, least=0, limit=100) == Dropped()
    journal.close()


def test_a_file_that_still_lies_there_stays_known(state: Path, tmp_path: Path) -> None:
    journal = Journal(state)
    here = tmp_path / "here.jpg"
    here.write_bytes(b"x")
    for path in (here, tmp_path / "gone.jpg"):
        row = take(journal, path, path.name)
        journal.settle([Outcome(row.seq, path, path.name, "{}")], written=[row.seq])
        journal.settle([], written=[row.seq])
    assert journal.drop(reports=False, least=0, limit=10) == Dropped(2)
    assert journal.knows(here, size_bytes=10, mtime_ns=20)
    assert not journal.knows(tmp_path / "gone.jpg", size_bytes=10, mtime_ns=20)
    assert take(journal, here, here.name).result_id is None
    journal.close()


def test_nothing_leaves_before_the_audit_log_has_it(state: Path) -> None:
    journal = Journal(state)
    fill(journal, 10, sent=10)
    journal.reportable = 4
    assert journal.drop(reports=True, least=0, limit=100) == Dropped(4)
    journal.close()


def test_a_lock_file_that_somebody_removed_lets_no_second_agent_in(state: Path) -> None:
    journal = Journal(state)
    (state / "agent.lock").unlink()
    with pytest.raises(ConfigError, match="in use"):
        Journal(state)
    journal.close()
    Journal(state).close()


def test_a_journal_is_read_by_no_other_user(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)  # a folder that was there before
    journal = Journal(tmp_path)
    journal.take([Arrival(tmp_path / "1.jpg", "0" * 64, 1, 1)])
    assert (tmp_path / "journal.sqlite-wal").exists()
    for path in tmp_path.glob("journal.sqlite*"):
        assert path.stat().st_mode & 0o007 == 0, path
    journal.close()


def test_the_outcome_of_a_file_waits_for_its_report_and_a_selftest_is_told_apart(state: Path) -> None:
    journal, other = Journal(state), Path("/watched/b.jpg")
    one, two = take(journal, A, "a1"), take(journal, other, "b1")
    assert journal.outcome_of(A, "other") is None
    assert journal.outcome_of(A, "a1") == (one, None)
    journal.settle([Outcome(one.seq, A, "id1", "{}"), Outcome(two.seq, other, "id2", "{}", reported=False)])
    journal.reportable = 0
    found = journal.outcome_of(A, "a1")
    assert found is not None
    assert (found[0].state, found[0].result_id, found[1]) == ("scored", "id1", None), (
        "there, and not to be reported yet"
    )
    journal.reportable = 2
    found = journal.outcome_of(A, "a1")
    assert found is not None
    assert found[1] == journal.results()[0]
    assert [row.is_selftest for row in journal.results()] == [False, True]
    journal.mark_sent([1])
    assert [row.is_selftest for row in journal.results()] == [False, True]
    journal.close()


def test_a_deployments_own_xray_is_no_result(state: Path) -> None:
    journal, other = Journal(state), Path("/watched/b.jpg")
    one, two = take(journal, A, "a1"), take(journal, other, "b1")
    record = {"time": "2026-01-01T00:00:00.000Z", "image": {"id": "i"}, "decision": "negative"}
    patient, ours = (json.dumps({**record, "id": id}) for id in ("id1", "id2"))
    journal.settle([Outcome(one.seq, A, "id1", patient), Outcome(two.seq, other, "id2", ours, reported=False)])
    assert journal.counts().results == 1
    exported = [json.loads(line)["id"] for line in export_lines(state, form="jsonl", choice=Choice())]
    assert exported == ["id1"]
    found = report(state)
    assert (found["queue"]["results"], [row["id"] for row in found["last_results"]]) == (1, ["id1"])
    journal.close()
