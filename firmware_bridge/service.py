"""The part that speaks with the service manager: feeds the watchdog while every stage moves, and says how we are."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from firmware_bridge.errors import ResourceError
from firmware_bridge.notify import notify, watchdog_s
from firmware_bridge.parts import Context
from firmware_bridge.settings import setting

_TICK_S = 5.0


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """See each key's help."""

    SECTION: ClassVar[str] = "service"
    stall_s: float = setting(
        60.0, "Seconds that a stage may be at one thing (an image, a commit) before it counts as hung.", least=1
    )


def make_part(context: Context) -> ServicePart | None:
    """The part; a single run needs none."""
    return None if context.once else ServicePart(context, context.settings.section(ServiceSettings))


class ServicePart:
    """Looks at the stages every few seconds."""

    name = "service"

    def __init__(self, context: Context, settings: ServiceSettings) -> None:
        self._context = context
        self._stall_s = settings.stall_s
        watchdog = watchdog_s()
        self._feeds = watchdog is not None
        # sd_watchdog_enabled(3) recommends half of the time; a third leaves room for a busy machine.
        self._tick_s = min(_TICK_S, watchdog / 3 if watchdog else _TICK_S, settings.stall_s / 3)
        self._stop = threading.Event()

    def run(self) -> None:
        """Look until `stop`."""
        said = ""
        while not self._stop.is_set():
            stuck = self._context.health.progress.stuck(self._stall_s)
            text = "; ".join(f"{name} {how}" for name, how in stuck.items())
            # How long it has hung is news for the log once, not every few seconds.
            if bool(stuck) != self._context.health.has("stalled"):
                self._context.health.report("stalled", f"hung: {text}" if stuck else None)
            if self._feeds and not stuck:
                notify("WATCHDOG=1")
            status = status_text(self._context)
            if status != said:
                notify(f"STATUS={status}")
                said = status
            self._stop.wait(self._tick_s)

    def stop(self) -> None:
        """End."""
        self._stop.set()


def status_text(context: Context) -> str:
    """One line for `systemctl status`; no patient in it."""
    tally = context.tally
    problems = context.health.problems()
    if problems:
        return "problem: " + "; ".join(problems.values()).replace("\n", " ")
    parts = [f"{tally.scored} scored", f"{tally.refused} refused", f"{context.intake.waiting} waiting"]
    parts += _unsent(lambda: context.journal.counts().unsent) if context.settings.given("mqtt") else []
    return ", ".join(parts)


def _unsent(count: Callable[[], int]) -> list[str]:
    try:
        return [f"{count()} unsent"]
    except ResourceError:
        return []  # the journal's own trouble is a problem that is reported where it happens
