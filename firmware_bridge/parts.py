"""What runs beside the pipeline: senders, receivers, pages. Each is a `Part`, made from the same `Context`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from firmware_bridge.backoff import Backoff
from firmware_bridge.errors import ConfigError, CxrEdgeError, MissingExtraError

if TYPE_CHECKING:
    from firmware_bridge.bundle import Bundle
    from firmware_bridge.health import Health
    from firmware_bridge.intake import Intake
    from firmware_bridge.journal import Journal
    from firmware_bridge.pipeline import Tally
    from firmware_bridge.settings import Settings
    from firmware_bridge.spool import Spool

_LOG = logging.getLogger(__name__)
_FIRST_WAIT_S = 1.0


class Changes:
    """A counter of what happened to the journal (intakes, results), for whoever waits for news. Thread-safe."""

    def __init__(self) -> None:
        self._count = 0
        self._condition = threading.Condition()
        self._listeners: list[Callable[[], None]] = []

    @property
    def count(self) -> int:
        """How often something changed so far."""
        with self._condition:
            return self._count

    def note(self) -> None:
        """Something changed: wake everybody."""
        with self._condition:
            self._count += 1
            self._condition.notify_all()
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    def wait(self, seen: int, *, timeout_s: float) -> int:
        """Wait until the count is no longer `seen`, or the time is over; the count then."""
        with self._condition:
            self._condition.wait_for(lambda: self._count != seen, timeout_s)
            return self._count

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Have `listener` called after each change, by whoever made it: it must not block. Returns what undoes it."""
        with self._condition:
            self._listeners.append(listener)

        def undo() -> None:
            with self._condition:
                self._listeners.remove(listener)

        return undo


@dataclass(frozen=True, slots=True)
class Context:
    """What a part may use.

    Attributes:
        journal: open, thread-safe.
        spool: takes images that came by a network.
        intake: what waits; parts do not hand files in by it, see `spool`.
        bundle: the one that scores.
        threshold: of the model file that scores: each file of a bundle has its own.
        health: problems, and facts for others to see.
        changes: tells when the journal changed.
        device: the name of this device.
        device_key: what ids are keyed with; it never leaves the device.
        watch: the watched folder.
        state: the state folder; a part may keep files of its own in it.
        settings: each part asks for its own section.
        tally: what this run did so far.
        once: a single run, which ends by itself.
        stopping: set when the agent stops: receive nothing new.
    """

    journal: Journal
    spool: Spool
    intake: Intake
    bundle: Bundle
    threshold: float
    health: Health
    changes: Changes
    device: str
    device_key: bytes
    watch: Path
    state: Path
    settings: Settings
    tally: Tally
    once: bool
    stopping: threading.Event


class Part(Protocol):
    """Runs in a thread of its own."""

    @property
    def name(self) -> str:
        """For threads, problems and the log."""

    def run(self) -> None:
        """Work until `stop`."""

    def stop(self) -> None:
        """Make `run` return soon; called from another thread, perhaps before `run` began."""


# None: the part's section does not enable it. Whatever it raises ends the agent's start. When a part is made again,
# ConfigError and MissingExtraError end the agent; after any other error it is tried once more.
Factory = Callable[[Context], Part | None]


class Supervisor:
    """Runs one part, and runs a new one in its place when it fails: a broken page must not stop the scoring.

    Args:
        part: the first one.
        again: makes the next one.
        context: see there.
        fatal: called with an error that a new one cannot mend: a wrong setting.
    """

    def __init__(self, part: Part, again: Factory, *, context: Context, fatal: Callable[[BaseException], None]) -> None:
        self._part = part
        self._again = again
        self._context = context
        self._fatal = fatal
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=part.name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the part to end."""
        self._stop.set()
        self._part.stop()

    def join(self, timeout_s: float) -> None:
        """Wait for its end, for so long."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        backoff = Backoff(first_s=_FIRST_WAIT_S)
        while True:
            try:
                self._part.run()
                return
            except (ConfigError, MissingExtraError) as error:
                self._fatal(error)
                return
            except Exception as error:  # whatever it is, the other parts and the pipeline go on
                wait_s = self._tell(error, backoff)
            if not self._renewed(wait_s, backoff):
                return
            self._context.health.report(self._part.name, None)

    def _tell(self, error: Exception, backoff: Backoff) -> float:
        """Log and report a failure; the seconds until the next try."""
        name, wait_s = self._part.name, backoff.failed()
        came = f"{error.what}: {error.came}" if isinstance(error, CxrEdgeError) else type(error).__name__
        _LOG.exception("%s failed; it is started again in %.1f s", name, wait_s)
        self._context.health.report(name, f"{name} failed: {came}")
        return wait_s

    def _renewed(self, wait_s: float, backoff: Backoff) -> bool:
        """Wait, and make a new part in place of the one that failed, as often as it takes; False: there is none."""
        while not self._stop.wait(wait_s):
            try:
                part = self._again(self._context)
            except (ConfigError, MissingExtraError) as error:
                self._fatal(error)
                return False
            except Exception as error:  # a disk that is full for a while, say
                wait_s = self._tell(error, backoff)
                continue
            if part is None:
                return False
            self._part = part
            if self._stop.is_set():  # `stop` may have met the old one
                part.stop()
            return True
        return False
