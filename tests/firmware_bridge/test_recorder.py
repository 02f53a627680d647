"""The recorder: what comes together is made durable together, and nobody waits for what does not come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from firmware_bridge.beside import json_path
from firmware_bridge.claims import Claims
from firmware_bridge.disk import Disk
from firmware_bridge.filing import DONE, Filing
from firmware_bridge.health import Health
from firmware_bridge.intake import Intake
from firmware_bridge.intake_settings import IntakeSettings
from firmware_bridge.journal import Arrival, Journal, Outcome
from firmware_bridge.recorder import Recorder
from firmware_bridge.spool import Spool


class Bench:
    """A recorder with real files around it; `news` counts its rounds, `done` what it says of files."""

    def __init__(self, folder: Path, more_than: Callable[[int], bool]) -> None:
        self.watch, state = folder / "watched", folder / "state"
        self.watch.mkdir()
        self.journal = Journal(state)
        self.news: list[int] = []
        self.done: list[Path] = []
        health = Health()
        intake = Intake(
            self.watch, known=lambda *_: False, options=IntakeSettings(), once=True, problem=lambda _text: None
        )
        disk = Disk([state], reserve_mb=0.0, health=health)
        spool = Spool(state, self.journal, intake, disk=disk, on_change=lambda: None)
        claims = Claims(self.watch, "owner", stale_s=900.0, problem=lambda _text: None)
        self.recorder = Recorder(
            self.journal,
            health,
            on_results=lambda: self.news.append(self.journal.counts().results),
            on_done=self.done.append,
            more_than=more_than,
            filing=Filing(self.watch, claims, spool, moves=frozenset({DONE})),
            report_again=False,
            patient=False,
        )

    def outcome(self, name: str) -> Outcome:
        """A picture in the folder, taken and scored."""
        path = self.watch / name
        path.write_bytes(name.encode())
        (row,) = self.journal.take([Arrival(path, name, len(name), path.stat().st_mtime_ns)])
        return Outcome(row.seq, path, f"id {name}", f'{{"id": "id {name}"}}')

    def records(self) -> list[str]:
        """The pictures that have their JSON."""
        return [path.name for path in sorted(self.watch.rglob("*.jpg")) if json_path(path).exists()]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[[Callable[[int], bool]], Bench]]:
    made: list[Bench] = []

    def make(more_than: Callable[[int], bool]) -> Bench:
        made.append(Bench(tmp_path, more_than))
        return made[-1]

    yield make
    for one in made:
        one.journal.close()


def test_what_is_about_to_come_is_recorded_in_the_same_round(bench: Callable[[Callable[[int], bool]], Bench]) -> None:
    def more_than(count: int) -> bool:
        if count < 3:  # asked with one in hand: the next one arrives while the recorder asks
            made.recorder.put(made.outcome(f"{count}.jpg"))
            return True
        made.recorder.put(None)
        return False

    made = bench(more_than)
    made.recorder.put(made.outcome("0.jpg"))
    made.recorder.run()
    assert made.news == [3]
    assert made.records() == ["0.jpg", "1.jpg", "2.jpg"]
    assert [path.name for path in made.done] == ["0.jpg", "1.jpg", "2.jpg"]


def test_a_file_that_does_not_come_is_not_waited_for(bench: Callable[[Callable[[int], bool]], Bench]) -> None:
    made = bench(lambda _count: True)

    def on_done(path: Path) -> None:
        made.done.append(path)
        made.recorder.put(None)  # only now: the round must have ended without it

    made.recorder._on_done = on_done
    made.recorder.put(made.outcome("0.jpg"))
    made.recorder.run()
    assert made.news == [1]
    assert made.records() == ["0.jpg"]
    assert made.journal.counts().unwritten == 0


def test_what_an_earlier_watched_folder_left_waits_and_stops_nothing(
    bench: Callable[[Callable[[int], bool]], Bench], tmp_path: Path
) -> None:
    made = bench(lambda _count: False)
    (tmp_path / "earlier").mkdir()
    watched, made.watch = made.watch, tmp_path / "earlier"
    made.journal.settle([made.outcome("left.jpg")])  # the power went before its JSON was there
    made.watch = watched
    made.recorder.put(made.outcome("0.jpg"))
    made.recorder.put(None)
    made.recorder.run()
    assert made.records() == ["0.jpg"]
    assert [path.name for _, path, _ in made.journal.unwritten()] == ["left.jpg"]
