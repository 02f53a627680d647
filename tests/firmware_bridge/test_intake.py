"""Which files are handed out, and when there is nothing left."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from firmware_bridge import intake as module
from firmware_bridge.intake import Intake
from firmware_bridge.intake_settings import IntakeSettings


@contextmanager
def running(folder: Path, *, settle_s: float) -> Iterator[Intake]:
    made = Intake(
        folder,
        known=lambda *_: False,
        options=IntakeSettings(settle_s=settle_s),
        once=True,
        problem=lambda _: None,
    )
    yield made
    made.stop()


class Onlooker(threading.Condition):
    """The intake's lock, with somebody who looks whenever it is let go: no moment between two steps is missed."""

    def __init__(self, intake: Intake) -> None:
        super().__init__()
        self._intake = intake
        self._looking = False
        self.idle_at: list[int] = []
        self.handed_out = 0

    def __exit__(self, *what: Any) -> None:
        super().__exit__(*what)
        if not self._looking:
            self._looking = True
            if self._intake.idle:
                self.idle_at.append(self.handed_out)
            self._looking = False


def test_a_single_run_is_at_no_moment_idle_while_a_fresh_file_is_not_handed_out(tmp_path: Path) -> None:
    (tmp_path / "fresh.jpg").write_bytes(b"x")
    with running(tmp_path, settle_s=0.05) as intake:
        onlooker = Onlooker(intake)
        intake._changed = onlooker
        thread = threading.Thread(target=intake.run)
        thread.start()
        deadline_s = time.monotonic() + 10
        while not (batch := intake.batch(8, timeout_s=0.1)) and time.monotonic() < deadline_s:
            pass
        onlooker.handed_out = len(batch)
        assert [candidate.path.name for candidate in batch] == ["fresh.jpg"]
        assert onlooker.idle_at == []
        intake.done(batch[0].path)
        assert intake.idle
        intake.stop()
        thread.join()


def test_a_single_run_ends_with_more_fresh_files_than_it_keeps_an_eye_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_SETTLING", 3)
    for number in range(10):
        (tmp_path / f"{number}.jpg").write_bytes(b"x")
    known: set[Path] = set()
    intake = Intake(
        tmp_path,
        known=lambda path, _: path in known,
        options=IntakeSettings(settle_s=0.05),
        once=True,
        problem=lambda _: None,
    )
    thread = threading.Thread(target=intake.run)
    thread.start()
    deadline_s = time.monotonic() + 10
    while not intake.idle and time.monotonic() < deadline_s:
        for candidate in intake.batch(8, timeout_s=0.1):
            assert candidate.path not in known
            known.add(candidate.path)
            intake.done(candidate.path)
    assert intake.idle
    assert len(known) == 10
    intake.stop()
    thread.join()
