"""What is kept for how long: by age only when the clock can be believed, never what is not reported."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from firmware_bridge.beside import CAPTURE_SUFFIX, OVERLAY_SUFFIX, REPORT_SUFFIX, json_path, path_beside
from firmware_bridge.health import Health
from firmware_bridge.journal import Arrival, Journal, Outcome
from firmware_bridge.parts import Context
from firmware_bridge.presence import Presence
from firmware_bridge.retention import Clock, Retention, prune
from firmware_bridge.retention_settings import RetentionSettings
from firmware_bridge.settings import Settings

DAY_S = 86_400.0


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "state")
    yield opened
    opened.close()


def fill(journal: Journal, number: int, *, sent: int) -> None:
    paths = [Path(f"/nowhere/{one}") for one in range(number)]
    rows = journal.take([Arrival(path, path.name, 10, 20) for path in paths])
    journal.settle([Outcome(row.seq, row.path, f"id{row.path.name}", "x" * 4000) for row in rows])
    journal.settle([], written=[row.seq for row in rows])
    journal.mark_sent([one.seq for one in journal.results(limit=sent)])


def made(tmp_path: Path, journal: Journal, settings: RetentionSettings) -> Retention:
    told = Settings(arguments={"mqtt": {"url": "mqtt://broker"}})
    context = SimpleNamespace(journal=journal, health=Health(), settings=told, watch=tmp_path)
    return Retention(cast(Context, context), settings)


def test_the_journal_stays_below_its_size_and_what_is_not_reported_stays(tmp_path: Path, journal: Journal) -> None:
    fill(journal, 1000, sent=600)
    made(tmp_path, journal, RetentionSettings(journal_mb=3.0)).round()
    assert journal.used_bytes < 3.2e6
    assert len(journal.unsent(limit=1000)) == 400
    made(tmp_path, journal, RetentionSettings(journal_mb=0.1)).round()
    assert len(journal.unsent(limit=1000)) == 400, "however small it should be"


def test_only_when_told_unreported_results_leave_loudly(tmp_path: Path, journal: Journal) -> None:
    fill(journal, 1000, sent=0)
    retention = made(tmp_path, journal, RetentionSettings(journal_mb=2.0, unreported="drop"))
    retention.round()
    lost = 1000 - len(journal.unsent(limit=1000))
    assert lost > 0
    assert journal.lost == lost
    assert retention._context.health.problems()["lost"].startswith(f"{lost} results were removed before")
    assert journal.unsent(limit=1)[0][0] == lost + 1, "the oldest went"


def test_a_clock_that_was_set_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    assert clock.now_s() is not None
    real = time.time
    for leap_s in (-DAY_S, 3650 * DAY_S):
        monkeypatch.setattr(time, "time", lambda leap_s=leap_s: real() + leap_s)
        assert clock.now_s() is None
    monkeypatch.setattr(time, "time", real)
    patient = Clock(wait_s=0.0)
    monkeypatch.setattr(time, "time", lambda: real() + DAY_S)
    patient.now_s()
    assert patient.now_s() == pytest.approx(real() + DAY_S, abs=60), "after a while the new time is the time"


def test_nothing_leaves_for_its_age_while_the_clock_is_in_doubt(journal: Journal) -> None:
    fill(journal, 1100, sent=1100)
    settings = RetentionSettings(results_days=1.0)
    kept = {"settings": settings, "reports": True, "stop": threading.Event(), "is_gone": lambda _: True}
    assert prune(journal, now_s=None, **kept).results == 0  # type: ignore[arg-type]
    assert prune(journal, now_s=time.time() + 2 * DAY_S, **kept).results == 100, "the newest stay"  # type: ignore[arg-type]


def test_done_is_thinned_out_oldest_first_but_not_what_waits_for_the_broker(tmp_path: Path, journal: Journal) -> None:
    fill(journal, 4, sent=3)
    done = tmp_path / "done" / "study"
    done.mkdir(parents=True)
    for number in range(4):
        path = done / f"{number}.jpg"
        path.write_bytes(b"x")
        json_path(path).write_text(f'{{"id": "id{number}"}}')
        old_s = time.time() - (10 - number) * DAY_S
        os.utime(json_path(path), (old_s, old_s))
    (done / "somebody's.txt").write_text("not ours")
    made(tmp_path, journal, RetentionSettings()).round()
    assert len(list(done.iterdir())) == 9, "for ever is the default"
    made(tmp_path, journal, RetentionSettings(done_days=8.5)).round()
    assert sorted(path.name for path in done.glob("*.jpg")) == ["2.jpg", "3.jpg"]
    made(tmp_path, journal, RetentionSettings(done_days=1.0)).round()
    assert sorted(path.name for path in done.iterdir()) == ["3.jpg", "3.jpg.cxr.json", "somebody's.txt"]


def test_what_lies_beside_an_xray_is_thinned_out_with_it(tmp_path: Path, journal: Journal) -> None:
    path = tmp_path / "done" / "1.jpg"
    path.parent.mkdir()
    beside = [path_beside(path, suffix) for suffix in (OVERLAY_SUFFIX, REPORT_SUFFIX, CAPTURE_SUFFIX)]
    for one in (path, *beside):
        one.write_bytes(b"x")
    json_path(path).write_text('{"id": "an id"}')
    os.utime(json_path(path), (1.8e9, 1.8e9 - 400 * DAY_S))
    made(tmp_path, journal, RetentionSettings(done_mb=1e-6)).round()
    assert list(path.parent.iterdir()) == []


def test_rows_of_files_whose_disk_is_away_stay(tmp_path: Path, journal: Journal) -> None:
    watch, names = tmp_path / "watch", ("study/1.jpg", "study/2.jpg", "3.jpg")
    (watch / "study").mkdir(parents=True)
    rows = journal.take([Arrival(watch / name, name, 1, 2) for name in names])
    journal.settle([Outcome(row.seq, row.path, row.sha256, "x") for row in rows])
    journal.settle([], written=[row.seq for row in rows])
    journal.mark_sent([one.seq for one in journal.results()])
    (watch / "3.jpg").touch()

    def known() -> list[str]:
        return [name for name in names if journal.knows(watch / name, size_bytes=1, mtime_ns=2)]

    presence = Presence(watch)
    (watch / "3.jpg").unlink()
    (watch / "study").rmdir()
    assert not any(presence.is_gone(watch / name) for name in names), "empty, like the mount point of a disk"
    watch.rename(tmp_path / "elsewhere")
    assert not any(presence.is_gone(watch / name) for name in names), "not even a mount point"
    (tmp_path / "elsewhere").rename(watch)
    (watch / "study").mkdir()
    (watch / "study" / "1.jpg").touch()
    assert [name for name in names if presence.is_gone(watch / name)] == ["study/2.jpg", "3.jpg"]
    made(watch, journal, RetentionSettings(journal_mb=1e-6)).round()
    assert known() == ["study/1.jpg"]
    assert journal.results() == []
