"""The stages that an X-ray passes, from the folder to its result: how they are put together, started and stopped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from firmware_bridge.claims import Claims
from firmware_bridge.disk import Disk
from firmware_bridge.filing import DONE, REJECTED, Filing
from firmware_bridge.health import Health
from firmware_bridge.intake import Intake
from firmware_bridge.intake_settings import IntakeSettings
from firmware_bridge.journal import Journal
from firmware_bridge.pipeline import Labels, Pipeline, Tally
from firmware_bridge.possession import Possession
from firmware_bridge.recorder import Recorder, Stopped
from firmware_bridge.retention_settings import RetentionSettings
from firmware_bridge.settings import Settings
from firmware_bridge.spool import Spool
from firmware_bridge.taking import Taker

if TYPE_CHECKING:
    from firmware_bridge.score import Scorer


@dataclass(slots=True)
class Stages:
    """The stages of one agent. `start` once, then `stop` once."""

    journal: Journal
    health: Health
    claims: Claims
    intake: Intake
    spool: Spool
    taker: Taker
    pipeline: Pipeline
    recorder: Recorder
    tally: Tally
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, *, on_failure: Callable[[BaseException], None]) -> None:
        """Start the threads, the last stage first. The error of any is handed to `on_failure`, and ends all."""
        for name, body in (
            ("recorder", self.recorder.run),
            ("explainer", self.pipeline.explain),
            ("inference", self.pipeline.infer),
            ("decoder", self.pipeline.decode),
            ("taker", self.taker.run),
            ("intake", self._take_in),
        ):
            self._threads.append(self._thread(name, body, on_failure))

    def stop(self, deadline_s: float) -> None:
        """Let the stages end, the first one first; what is decoded is finished, if the time (monotonic) allows."""
        self.recorder.stopping.set()
        self.intake.stop()
        for thread in reversed(self._threads):
            thread.join(max(0.1, deadline_s - time.monotonic()))

    def _take_in(self) -> None:
        # Read as a whole before anything is taken: these rows are few, the short queues see to that.
        self.intake.recover(iter([row.path for row in self.journal.open_intakes(limit=-1)]))
        self.intake.run()

    def _thread(
        self, name: str, body: Callable[[], None], on_failure: Callable[[BaseException], None]
    ) -> threading.Thread:
        def guarded() -> None:
            try:
                body()
            except Stopped:  # while it told the next thread that it ends: that one ended first
                self.recorder.broken.set()
            except BaseException as error:
                self.recorder.broken.set()  # tells the threads before it that their queue is dead
                on_failure(error)

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        self.health.progress.watch(thread)
        thread.start()
        return thread


def assemble(
    watch: Path,
    scorer: Scorer,
    labels: Labels,
    *,
    owner: str,
    journal: Journal,
    health: Health,
    settings: Settings,
    once: bool,
    on_change: Callable[[], None],
    audit: Callable[[], None],
) -> Stages:
    """Put the stages together, and put back what an earlier run had claimed.

    Args:
        watch: the watched folder.
        scorer: of the bundle that `labels` names.
        labels: see there.
        owner: the name under which files are claimed.
        journal: open.
        health: told about problems.
        settings: the sections [intake] and [retention] are used.
        once: a single run, which ends by itself.
        on_change: called after intakes and results became durable.
        audit: see `Recorder`.

    Raises:
        ResourceError: the spool's folder cannot be made.
    """
    options = settings.section(IntakeSettings)
    claims = Claims(watch, owner, stale_s=options.stale_claim_s, problem=lambda text: health.report("claims", text))
    claims.put_back(keep={path for _, path, _ in journal.unwritten(limit=-1)})
    moves = frozenset(name for name, told in ((DONE, options.done), (REJECTED, options.rejected)) if told == "move")
    intake = _intake(watch, options, journal=journal, health=health, claims=claims, moves=moves, once=once)
    disk = Disk([journal.path.parent, watch], reserve_mb=settings.section(RetentionSettings).reserve_mb, health=health)
    spool = Spool(journal.path.parent, journal, intake, disk=disk, on_change=on_change)
    spool.tidy()
    filing = Filing(watch, claims, spool, moves=moves)
    recorder = Recorder(
        journal,
        health,
        on_results=on_change,
        on_done=intake.done,
        more_than=intake.works_on_more_than,
        filing=filing,
        report_again=options.repeated == "report",
        patient=not once,
        audit=audit,
    )
    tally = Tally()
    possession = Possession(
        journal=journal, intake=intake, recorder=recorder, claims=claims, filing=filing, on_known=tally.note_known
    )
    shared = _Shared(journal, recorder, possession, options.grace_s)
    taker, pipeline = _line(shared, scorer, labels, intake=intake, disk=disk, patient=not once, tally=tally)
    return Stages(journal, health, claims, intake, spool, taker, pipeline, recorder, tally)


def _intake(
    watch: Path,
    options: IntakeSettings,
    *,
    journal: Journal,
    health: Health,
    claims: Claims,
    moves: frozenset[str],
    once: bool,
) -> Intake:
    return Intake(
        watch,
        known=lambda path, status: journal.knows(path, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns),
        options=options,
        once=once,
        problem=lambda text: health.report("folder", text),
        not_into=moves,
        on_look=claims.tidy,
        watch_problem=lambda text: health.report("watch", text),
    )


@dataclass(frozen=True, slots=True)
class _Shared:
    """What taker and pipeline both hold on to."""

    journal: Journal
    recorder: Recorder
    possession: Possession
    grace_s: float


def _line(
    shared: _Shared, scorer: Scorer, labels: Labels, *, intake: Intake, disk: Disk, patient: bool, tally: Tally
) -> tuple[Taker, Pipeline]:
    """The stages between intake and recorder."""
    taker = Taker(
        journal=shared.journal,
        intake=intake,
        recorder=shared.recorder,
        possession=shared.possession,
        disk=disk,
        patient=patient,
        grace_s=shared.grace_s,
        refuse=lambda row, error: pipeline.refuse(row, error),
        identify=lambda row: pipeline.identify(row),
    )
    pipeline = Pipeline(
        scorer,
        labels,
        journal=shared.journal,
        recorder=shared.recorder,
        possession=shared.possession,
        batches=taker.batches,
        grace_s=shared.grace_s,
        tally=tally,
    )
    return taker, pipeline
