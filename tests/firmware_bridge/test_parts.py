"""What runs beside the pipeline: a part that fails is started again; one with a wrong setting ends the agent."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import cast

import pytest

from firmware_bridge import parts
from firmware_bridge.errors import ConfigError, ResourceError
from firmware_bridge.health import Health
from firmware_bridge.parts import Changes, Context, Supervisor

WAIT_S = 10.0


class Flaky:
    """Fails so often, then runs until it is stopped."""

    name = "flaky"

    def __init__(self, failures: list[Exception]) -> None:
        self.failures = failures
        self.runs = threading.Event()
        self._stop = threading.Event()

    def run(self) -> None:
        if self.failures:
            raise self.failures.pop()
        self.runs.set()
        assert self._stop.wait(WAIT_S)

    def stop(self) -> None:
        self._stop.set()


def start(part: Flaky, health: Health) -> tuple[Supervisor, list[BaseException]]:
    fatal: list[BaseException] = []
    context = cast(Context, SimpleNamespace(health=health))
    supervisor = Supervisor(part, lambda _: part, context=context, fatal=fatal.append)
    supervisor.start()
    return supervisor, fatal


def test_a_part_that_fails_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_FIRST_WAIT_S", 0.01)
    health, part = Health(), Flaky([OSError("b"), ValueError("a")])
    seen: list[dict[str, str]] = []
    health.listen(lambda: seen.append(health.problems()))
    supervisor, fatal = start(part, health)
    assert part.runs.wait(WAIT_S)
    supervisor.stop()
    supervisor.join(WAIT_S)
    assert fatal == []
    assert seen == [{"flaky": "flaky failed: ValueError"}, {}, {"flaky": "flaky failed: OSError"}, {}]


def test_a_part_that_cannot_be_made_again_for_a_while_is_made_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_FIRST_WAIT_S", 0.01)
    health, part = Health(), Flaky([ValueError("a")])
    hindrances: list[Exception] = [ResourceError("x", expected="a", came="b", do="c"), OSError("full")]

    def again(_: Context) -> Flaky:
        if hindrances:
            raise hindrances.pop()
        return part

    fatal: list[BaseException] = []
    seen: list[dict[str, str]] = []
    health.listen(lambda: seen.append(health.problems()))
    supervisor = Supervisor(part, again, context=cast(Context, SimpleNamespace(health=health)), fatal=fatal.append)
    supervisor.start()
    assert part.runs.wait(WAIT_S)
    supervisor.stop()
    supervisor.join(WAIT_S)
    assert fatal == []
    assert [one.get("flaky", "").partition(": ")[2] for one in seen] == ["ValueError", "OSError", "x: b", ""]


def test_a_wrong_setting_is_not_tried_again() -> None:
    error = ConfigError("x", expected="a", came="b", do="c")
    supervisor, fatal = start(Flaky([error]), Health())
    supervisor.join(WAIT_S)
    assert fatal == [error]


def test_changes_wake_whoever_waits() -> None:
    changes, heard = Changes(), threading.Event()
    undo = changes.listen(heard.set)
    seen = changes.count
    waiter = threading.Thread(target=lambda: changes.wait(seen, timeout_s=WAIT_S))
    waiter.start()
    changes.note()
    waiter.join(WAIT_S)
    assert not waiter.is_alive()
    assert heard.is_set()
    heard.clear()
    undo()
    changes.note()
    assert not heard.is_set()
    assert changes.wait(seen, timeout_s=0) == seen + 2
