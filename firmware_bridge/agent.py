"""The agent: scores every X-ray that arrives in a folder, and reports it once."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from firmware_bridge.bundle import Bundle, open_bundle
from firmware_bridge.errors import BrokerError, ConfigError, ResourceError
from firmware_bridge.health import Health
from firmware_bridge.identity import default_device_name, load_or_make_key
from firmware_bridge.intake import Intake, IntakeOptions
from firmware_bridge.journal import Journal
from firmware_bridge.notify import notify
from firmware_bridge.pipeline import Labels, Pipeline, Tally
from firmware_bridge.recorder import Recorder
from firmware_bridge.result import ModelRef

if TYPE_CHECKING:
    from firmware_bridge.mqtt import Broker
    from firmware_bridge.outbox import Outbox

_LOG = logging.getLogger(__name__)
_TICK_S = 0.1
_STOP_S = 4.0
# paho's import (100 ms) waits for the first result, but not for long: a quiet folder must show up as online too.
_MQTT_HEAD_START_S = 1.0


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """What an agent is told.

    Attributes:
        watch: the folder, with its subfolders.
        bundle: the bundle file.
        broker: None keeps results in the journal and beside the X-rays alone.
        state: the folder for journal and device key, on a local disk; None: `default_state`.
        intake: when files count as finished.
        device: the name in topics; empty: made from the device key.
        threads: of the interpreter; decoding takes another core.
        send_names: put file names into records. They can hold patients' names.
        flush_s: how long a single run waits for the broker at its end.
    """

    watch: Path
    bundle: Path
    broker: Broker | None = None
    state: Path | None = None
    intake: IntakeOptions = field(default_factory=IntakeOptions)
    device: str = ""
    threads: int = 1
    send_names: bool = False
    flush_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did, and what it left."""

    tally: Tally
    unsent: int


def default_state(watch: Path) -> Path:
    """Where the journal lies: systemd's STATE_DIRECTORY, else below the user's state folder, one for each `watch`."""
    managed = os.environ.get("STATE_DIRECTORY", "")
    if managed:
        return Path(managed.split(":")[0])
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return base / "cxr-edge" / hashlib.sha256(os.fsencode(watch)).hexdigest()[:16]


class Agent:
    """One agent. `run` blocks; `stop` may be called from anywhere."""

    def __init__(self, options: AgentOptions) -> None:
        self._options = options
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._first_results = threading.Event()
        self._health = Health()
        self._outbox: Outbox | None = None

    def stop(self) -> None:
        """Finish what is decoded, record it, say goodbye, end."""
        self._stop.set()

    def run(self) -> Summary:
        """Run until stopped; with `once`, until everything that was there is scored and sent.

        Raises:
            ConfigError: no such folder, or another agent holds the state folder.
            BundleError: see `open_bundle`.
            ResourceError: the journal cannot be opened; with `once` also when the disk fills.
            BrokerError: with `once`: results are left unsent (they are in the journal).
        """
        watch = self._watched_folder()
        self._check_device_name()
        state = self._options.state or default_state(watch)
        with open_bundle(self._options.bundle) as bundle:
            journal = Journal(state)
            try:
                return self._run(watch, bundle, journal, key=load_or_make_key(state))
            finally:
                journal.close()

    def _watched_folder(self) -> Path:
        try:
            watch = self._options.watch.resolve()
        except (OSError, RuntimeError):  # links in a loop: which of the two depends on the version of Python
            watch = self._options.watch
        if not watch.is_dir():
            raise ConfigError(
                f"the folder {self._options.watch} cannot be watched",
                expected="a folder",
                came="a file" if watch.exists() else "nothing of that name",
                do="make the folder, or mend --watch",
            )
        return watch

    def _check_device_name(self) -> None:
        # The name is one level of a topic; MQTT 5.0, 4.7.1: these characters would make it more.
        if any(letter in self._options.device for letter in "/+#$\0"):
            raise ConfigError(
                "the device name cannot be part of a topic",
                expected="no '/', '+', '#' or '$'",
                came=repr(self._options.device),
                do="mend --device",
            )

    def _run(self, watch: Path, bundle: Bundle, journal: Journal, *, key: bytes) -> Summary:
        options = self._options
        entry = bundle.manifest.model()
        scorer = bundle.scorer(threads=options.threads)
        model = ModelRef(entry.file, entry.precision, scorer.interpreter.runtime, scorer.interpreter.delegate)
        labels = Labels(
            bundle.ref, model, bundle.manifest.label_positive, entry.calibration.threshold, key, options.send_names
        )
        intake = Intake(
            watch,
            known=lambda path, status: journal.knows(path, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns),
            options=options.intake,
            problem=lambda text: self._health.report("folder", text),
        )
        recorder = Recorder(
            journal,
            self._health,
            on_results=self._on_results,
            on_done=intake.done,
            patient=not options.intake.once,
        )
        pipeline = Pipeline(
            scorer, labels, journal=journal, intake=intake, recorder=recorder, grace_s=options.intake.grace_s
        )
        stages = [
            self._thread("recorder", recorder.run, broken=recorder.broken),
            self._thread("inference", pipeline.infer, broken=recorder.broken),
            self._thread("reader", pipeline.read, broken=recorder.broken),
            self._thread("intake", lambda: self._take_in(intake, journal), broken=recorder.broken),
        ]
        device = options.device or default_device_name(key)
        sender = self._sender(journal, intake, bundle, device)
        _LOG.info("agent %s, bundle %s (%s), %s", device, bundle.manifest.name, bundle.id[:12], model.delegate)
        try:
            self._wait(intake, journal, sender)
        finally:
            self._shut_down(intake, recorder, stages, sender)
        return self._summary(journal, pipeline.tally)

    def _take_in(self, intake: Intake, journal: Journal) -> None:
        # Read as a whole before anything is taken: these rows are few, the short queues see to that.
        intake.recover(iter([row.path for row in journal.open_intakes(limit=-1)]))
        intake.run()

    def _thread(
        self, name: str, body: Callable[[], None], *, broken: threading.Event | None = None
    ) -> threading.Thread:
        """Start a thread whose error ends the agent; `broken` tells the threads before it that its queue is dead."""

        def guarded() -> None:
            try:
                body()
            except BaseException as error:
                self._failure = self._failure or error
                if broken is not None:
                    broken.set()
                self._stop.set()

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        thread.start()
        return thread

    def _sender(self, journal: Journal, intake: Intake, bundle: Bundle, device: str) -> threading.Thread | None:
        broker = self._options.broker
        if broker is None:
            return None

        def status() -> dict[str, Any]:
            return {
                "bundle": {"id": bundle.id, "name": bundle.manifest.name},
                "waiting": intake.waiting,
                "unsent": _unsent_count(journal),
                "problems": self._health.problems(),
            }

        def send() -> None:
            self._first_results.wait(_MQTT_HEAD_START_S)
            from firmware_bridge.outbox import Outbox

            self._outbox = Outbox(broker, journal, device=device, status=status)
            self._health.changed = self._outbox.refresh
            if not self._stop.is_set() or self._options.intake.once:
                self._outbox.run()

        return self._thread("outbox", send)

    def _on_results(self) -> None:
        self._first_results.set()
        if self._outbox is not None:
            self._outbox.wake()

    def _wait(self, intake: Intake, journal: Journal, sender: threading.Thread | None) -> None:
        notify("READY=1")
        if not self._options.intake.once:
            # Without a timeout a signal would wait until the lock is free; see the notes on signals in `threading`.
            while not self._stop.wait(1.0):
                pass
            return
        while not self._stop.is_set() and not intake.idle:
            self._stop.wait(_TICK_S)
        deadline_s = time.monotonic() + self._options.flush_s
        while sender and not self._stop.is_set() and journal.counts().unsent and time.monotonic() < deadline_s:
            self._stop.wait(_TICK_S)

    def _shut_down(
        self, intake: Intake, recorder: Recorder, stages: list[threading.Thread], sender: threading.Thread | None
    ) -> None:
        notify("STOPPING=1")
        deadline_s = time.monotonic() + _STOP_S
        recorder.stopping.set()
        intake.stop()
        for thread in reversed(stages):
            thread.join(max(0.1, deadline_s - time.monotonic()))
        self._first_results.set()
        if self._outbox is not None:
            self._outbox.stop()
        if sender is not None:
            sender.join(max(0.1, deadline_s - time.monotonic()))

    def _summary(self, journal: Journal, tally: Tally) -> Summary:
        if self._failure is not None:
            raise self._failure
        counts = journal.counts()
        if self._options.intake.once and not self._stop.is_set():
            if counts.unwritten:
                raise ResourceError(
                    f"{counts.unwritten} results have no JSON beside their X-ray",
                    expected="a watched folder that can be written",
                    came=self._health.problems().get("json", "it cannot"),
                    do="mend the folder and run again; the results are in the journal",
                )
            if counts.unsent and self._options.broker:
                raise self._unsent(counts.unsent, self._options.broker)
        return Summary(tally, counts.unsent)

    def _unsent(self, unsent: int, broker: Broker) -> BrokerError:
        last = self._outbox.last_error if self._outbox else None
        return BrokerError(
            f"{unsent} results wait for the broker {broker.where}",
            expected=f"an acknowledgement of each within {self._options.flush_s:g} s",
            came=last.came if last else "not all were acknowledged in time",
            do="run again when the broker is back: nothing is lost, nothing is scored twice",
        )


def _unsent_count(journal: Journal) -> int | None:
    try:
        return journal.counts().unsent
    except ResourceError:
        return None  # a broken disk must not keep the status, which tells of it, from going out


def run_agent(options: AgentOptions) -> Summary:
    """Run an agent in the main thread; SIGTERM and SIGINT stop it cleanly. Raises what `Agent.run` raises."""
    agent = Agent(options)

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        agent.stop()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return agent.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
