"""An image that came by a network: on disk and journaled before it counts as taken, gone when it is answered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from firmware_bridge.errors import ResourceError
from firmware_bridge.intake import Intake
from firmware_bridge.intake_settings import IntakeSettings
from firmware_bridge.journal import Journal, ReplyTo
from firmware_bridge.spool import Spool


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "state")
    yield opened
    opened.close()


@pytest.fixture
def intake(tmp_path: Path) -> Intake:
    return Intake(tmp_path, known=lambda *_: False, options=IntakeSettings(), once=True, problem=lambda _: None)


@pytest.fixture
def spool(tmp_path: Path, journal: Journal, intake: Intake) -> Spool:
    return Spool(tmp_path / "state", journal, intake, on_change=lambda: None)


def test_what_was_submitted_is_on_disk_in_the_journal_and_offered(
    spool: Spool, journal: Journal, intake: Intake
) -> None:
    submitted = spool.submit(b"image", kind="mqtt", reply=ReplyTo("answers"))
    assert submitted.path.read_bytes() == b"image"
    assert submitted.path.stat().st_mode & 0o777 == 0o600
    assert [row.seq for row in journal.open_intakes()] == [submitted.seq]
    assert [one.path for one in intake.batch(8, timeout_s=0)] == [submitted.path]
    assert journal.counts().unanswered == 1
    assert spool.holds(submitted.path)


def test_what_a_crash_left_before_the_journal_had_it_is_removed(spool: Spool) -> None:
    kept = spool.submit(b"image", kind="mqtt", reply=None).path
    (spool.folder / "half.image").write_bytes(b"never journaled")
    spool.tidy()
    assert list(spool.folder.iterdir()) == [kept]


def test_a_failed_submission_leaves_nothing(spool: Spool, journal: Journal) -> None:
    journal.close()
    with pytest.raises(ResourceError):
        spool.submit(b"image", kind="mqtt", reply=None)
    assert list(spool.folder.iterdir()) == []


def test_what_came_by_a_network_goes_before_a_backlog_of_the_folder(
    spool: Spool, intake: Intake, tmp_path: Path
) -> None:
    backlog = [tmp_path / f"{number}.jpg" for number in range(1000)]
    intake.recover(iter(backlog))
    asked = [spool.submit(b"%d" % number, kind="mqtt", reply=None).path for number in range(2)]
    assert intake.waiting == 1002
    assert spool.has_room, "only what came by a network fills the spool"
    assert [one.path for one in intake.batch(3, timeout_s=0)] == [*asked, backlog[0]]


def test_a_full_spool_takes_no_more_until_something_is_done(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firmware_bridge.spool._MOST_WAITING", 2)
    first, _ = (spool.submit(b"%d" % number, kind="mqtt", reply=None).path for number in range(2))
    assert not spool.has_room
    spool.discard(first)
    assert spool.has_room
