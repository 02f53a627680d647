"""The journal's copy: consistent while an agent writes, and in its place again when the old release needs it."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from firmware_bridge.deploy.journal_copy import JOURNAL, drop_copy, keep_copy, put_back
from firmware_bridge.deploy.layout import Layout
from firmware_bridge.errors import DeployError


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    layout.base.mkdir(parents=True)
    layout.agent_state.mkdir(parents=True)
    return layout


def rows(layout: Layout) -> list[int]:
    database = sqlite3.connect(layout.agent_state / JOURNAL)
    try:
        return [row[0] for row in database.execute("SELECT n FROM t ORDER BY n")]
    finally:
        database.close()


def test_what_a_running_agent_wrote_is_in_the_copy_and_what_came_later_is_not(layout: Layout) -> None:
    agent = sqlite3.connect(layout.agent_state / JOURNAL)
    agent.execute("PRAGMA journal_mode=WAL")
    agent.execute("CREATE TABLE t (n)")
    agent.execute("INSERT INTO t VALUES (1)")
    agent.commit()
    keep_copy(layout)
    agent.execute("INSERT INTO t VALUES (2)")
    agent.execute("ALTER TABLE t ADD COLUMN migrated")
    agent.commit()
    agent.close()
    assert put_back(layout)
    assert rows(layout) == [1]
    assert not put_back(layout)
    assert [path.name for path in layout.base.iterdir()] == []


def test_no_journal_is_no_copy(layout: Layout) -> None:
    keep_copy(layout)
    assert not put_back(layout)


def test_a_copy_that_is_not_needed_goes(layout: Layout) -> None:
    database = sqlite3.connect(layout.agent_state / JOURNAL)
    database.execute("CREATE TABLE t (n)")
    database.commit()
    database.close()
    keep_copy(layout)
    drop_copy(layout)
    assert not put_back(layout)
    assert rows(layout) == []


def test_a_journal_that_cannot_be_copied_says_so(layout: Layout) -> None:
    (layout.agent_state / JOURNAL).write_bytes(b"no database at all" * 100)
    with pytest.raises(DeployError, match="cannot be copied"):
        keep_copy(layout)


def test_a_link_in_the_journals_place_is_not_followed(layout: Layout, tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "roots-own.sqlite")
    database.execute("CREATE TABLE t (n)")
    database.commit()
    database.close()
    (layout.agent_state / JOURNAL).symlink_to(tmp_path / "roots-own.sqlite")
    keep_copy(layout)
    assert not put_back(layout)


def test_a_pipe_in_the_journals_place_stops_nobody(layout: Layout) -> None:
    os.mkfifo(layout.agent_state / JOURNAL)
    keep_copy(layout)
    assert not put_back(layout)


def test_who_keeps_the_journal_locked_is_stopped(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = sqlite3.connect(layout.agent_state / JOURNAL, isolation_level=None)
    holder.execute("CREATE TABLE t (n)")
    holder.execute("INSERT INTO t VALUES (7)")
    holder.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr("firmware_bridge.deploy.journal_copy._LOCK_LIMIT_S", 0.1)
    keep_copy(layout, stop_agent=holder.close)
    assert put_back(layout)
    assert rows(layout) == [7]


def test_a_failed_copy_leaves_the_one_before(layout: Layout) -> None:
    database = sqlite3.connect(layout.agent_state / JOURNAL)
    database.execute("CREATE TABLE t (n)")
    database.commit()
    database.close()
    keep_copy(layout)
    (layout.agent_state / JOURNAL).write_bytes(b"no database at all" * 100)
    with pytest.raises(DeployError):
        keep_copy(layout)
    assert put_back(layout)
    assert rows(layout) == []
