"""The agent: scores every X-ray that arrives in a folder, and reports it once."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2

from firmware_bridge.agent_folders import default_state, watched_folder
from firmware_bridge.agent_settings import AgentSettings
from firmware_bridge.allocator import use_one_arena
from firmware_bridge.apart import check_apart
from firmware_bridge.audit import AuditLog, AuditSettings
from firmware_bridge.backends import open_scorer
from firmware_bridge.bundle import Bundle, open_bundle
from firmware_bridge.errors import BrokerError, ConfigError, ResourceError
from firmware_bridge.health import Health
from firmware_bridge.identity import default_device_name, load_or_make_key
from firmware_bridge.intake import Intake
from firmware_bridge.journal import Journal
from firmware_bridge.logs import LogSettings, set_up
from firmware_bridge.notify import notify, reloading
from firmware_bridge.part_set import PartSet, reload
from firmware_bridge.parts import Changes, Context
from firmware_bridge.pipeline import Labels, Tally
from firmware_bridge.result import ModelRef
from firmware_bridge.score import Scorer
from firmware_bridge.settings import Settings
from firmware_bridge.shipped import bundle_path
from firmware_bridge.signals import passed_on
from firmware_bridge.stages import Stages, assemble
from firmware_bridge.suitability_settings import ExplainSettings, SuitabilitySettings
from firmware_bridge.trust import TrustedKey, read_trusted_keys

_LOG = logging.getLogger(__name__)
_TICK_S = 0.1
_STOP_S = 4.0

# What runs beside the pipeline: section -> "module:factory". The module is imported only when the section was given.
PARTS = {
    "mqtt": "firmware_bridge.mqtt_part:make_part",
    "requests": "firmware_bridge.requests_part:make_part",
    "dicom": "firmware_bridge.dicom_part:make_part",
    "orthanc": "firmware_bridge.orthanc_part:make_part",
    "fhir": "firmware_bridge.fhir_part:make_part",
    "update": "firmware_bridge.update_part:make_part",
    "page": "firmware_bridge.page.part:make_part",
    "service": "firmware_bridge.service:make_part",
    "status": "firmware_bridge.status:make_part",
    "retention": "firmware_bridge.retention:make_part",
}
ALWAYS = ("service", "status", "retention")


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did, and how many results its broker did not take yet; None: it has no broker."""

    tally: Tally
    unsent: int | None


class Agent:
    """One agent. `run` blocks; `stop` may be called from anywhere.

    Args:
        settings: what it is told.
        once: score and send what is there, then end.
    """

    def __init__(self, settings: Settings, *, once: bool = False) -> None:
        self._settings = settings
        self._options = settings.section(AgentSettings)
        self._once = once
        self._stop = threading.Event()
        self._reload = threading.Event()
        self._failure: BaseException | None = None
        self._health = Health()

    def stop(self) -> None:
        """Finish what is decoded, record it, say goodbye, end."""
        self._stop.set()

    def reload(self) -> None:
        """Read the config file again, soon."""
        self._reload.set()

    def run(self) -> Summary:
        """Run until stopped; with `once`, until everything that was there is scored and sent.

        Raises:
            ConfigError: no such folder, a wrong setting, or another agent holds the state folder.
            BundleError: see `open_bundle`; SignatureError where trusted keys are configured.
            ResourceError: the journal cannot be opened; with `once` also: the folder cannot be read, or the disk fills.
            BrokerError: with `once`: results are left unsent (they are in the journal).
        """
        watch = watched_folder(self._options.watch)
        self._check_device_name()
        state = self._options.state or default_state(watch)
        check_apart(
            watch,
            {
                "state folder": state,
                "bundle": self._options.bundle,
                "file of trusted keys": self._options.trusted_keys,
                "config file": self._settings.file,
            },
        )
        with open_bundle(bundle_path(self._options.bundle), trusted=self._trusted_keys()) as bundle:
            journal = Journal(state)
            audit = AuditLog(state, journal.path, problem=lambda text: self._health.report("audit", text))
            try:
                return self._run(watch, bundle, journal, audit, key=load_or_make_key(state))
            finally:
                audit.close()
                journal.close()

    def _trusted_keys(self) -> tuple[TrustedKey, ...] | None:
        if self._options.trusted_keys is None:
            _LOG.warning("no trusted keys are configured: whoever can write the bundle decides what runs here")
            return None
        return read_trusted_keys(self._options.trusted_keys)

    def _check_device_name(self) -> None:
        # The name is one level of a topic; MQTT 5.0, 4.7.1: these characters would make it more.
        if any(letter in self._options.device for letter in "/+#$\0"):
            raise ConfigError(
                "the device name cannot be part of a topic",
                expected="no '/', '+', '#' or '$'",
                came=repr(self._options.device),
                do="mend --device",
            )

    def _run(self, watch: Path, bundle: Bundle, journal: Journal, audit: AuditLog, *, key: bytes) -> Summary:
        changes = Changes()
        scorer, labels = self._scoring(bundle, key)
        stages = assemble(
            watch,
            scorer,
            labels,
            owner=default_device_name(key),  # from the key: the user may give two agents one name
            journal=journal,
            health=self._health,
            settings=self._settings,
            once=self._once,
            on_change=changes.note,
            audit=self._follower(audit, journal),
        )
        context = Context(
            journal=journal,
            spool=stages.spool,
            intake=stages.intake,
            bundle=bundle,
            threshold=labels.threshold,
            health=self._health,
            changes=changes,
            device=self._options.device or default_device_name(key),
            device_key=key,
            watch=watch,
            state=journal.path.parent,
            settings=self._settings,
            tally=stages.tally,
            once=self._once,
            stopping=self._stop,
        )
        parts = PartSet(context, PARTS, always=ALWAYS, fatal=self._end_with)
        _LOG.info("agent %s, bundle %s (%s)", context.device, bundle.manifest.name, bundle.id[:12])
        stages.start(on_failure=self._end_with)
        parts.start()
        try:
            self._wait(stages.intake, journal, parts)
        finally:
            self._shut_down(stages, parts)
        return self._summary(journal, stages.tally, reports="mqtt" in parts)

    def _scoring(self, bundle: Bundle, key: bytes) -> tuple[Scorer, Labels]:
        opened = open_scorer(
            bundle,
            self._options.precision or None,
            threads=self._options.threads,
            runtime=self._options.runtime,
            engines=self._options.engines,
        )
        entry, scorer = opened.entry, opened.scorer
        self._health.report("runtime", opened.fallback or None)
        wished = self._settings.section(SuitabilitySettings)
        if scorer.judge is not None:
            scorer.judge = replace(scorer.judge, refuse_outside=wished.outside == "refuse") if wished.enabled else None
        model = ModelRef(entry.file, entry.precision, scorer.interpreter.runtime, scorer.interpreter.delegate)
        _LOG.info("model %s: %s, %s", model.file, model.runtime, model.delegate)
        self._health.tell("model", {"file": model.file, "runtime": model.runtime, "delegate": model.delegate})
        labels = Labels(
            bundle.ref,
            model,
            bundle.manifest.label_positive,
            entry.calibration.threshold,
            key,
            self._options.names,
            self._settings.section(ExplainSettings),
        )
        return scorer, labels

    def _follower(self, audit: AuditLog, journal: Journal) -> Callable[[], None]:
        """What writes the audit log, and then lets those results go out that are in it."""
        if not self._settings.section(AuditSettings).enabled:
            return lambda: None
        journal.reportable = 0

        def follow() -> None:
            journal.reportable = audit.follow()
            self._health.tell("audit", {"lines": audit.head.n, "head": audit.head.hash})

        return follow

    def _end_with(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._stop.set()

    def _wait(self, intake: Intake, journal: Journal, parts: PartSet) -> None:
        notify("READY=1")
        if not self._once:
            # Without a timeout a signal would wait until the lock is free; see the notes on signals in `threading`.
            while not self._stop.wait(1.0):
                if self._reload.is_set():
                    self._reload.clear()
                    self._read_again(parts)
            return
        while not self._stop.is_set() and not intake.idle:
            self._stop.wait(_TICK_S)
        deadline_s = time.monotonic() + self._options.flush_s
        while "mqtt" in parts and not self._stop.is_set() and journal.counts().unsent and time.monotonic() < deadline_s:
            self._stop.wait(_TICK_S)

    def _read_again(self, parts: PartSet) -> None:
        notify(reloading())
        live = {"log": lambda fresh: set_up(fresh.section(LogSettings))}
        self._settings = reload(self._settings, parts, live=live)
        notify("READY=1")

    def _shut_down(self, stages: Stages, parts: PartSet) -> None:
        notify("STOPPING=1")
        self._health.progress.release()
        deadline_s = time.monotonic() + _STOP_S
        try:
            stages.stop(deadline_s)
            parts.stop(deadline_s)
        finally:
            stages.claims.close()

    def _summary(self, journal: Journal, tally: Tally, *, reports: bool) -> Summary:
        if self._failure is not None:
            raise self._failure
        counts = journal.counts()
        if self._once and not self._stop.is_set():
            if counts.unwritten:
                raise ResourceError(
                    f"{counts.unwritten} results have no JSON beside their X-ray",
                    expected="a watched folder that can be written",
                    came=self._health.problems().get("json", "it cannot"),
                    do="mend the folder and run again; the results are in the journal",
                )
            if counts.unsent and reports:
                raise self._unsent(counts.unsent)
        return Summary(tally, counts.unsent if reports else None)

    def _unsent(self, unsent: int) -> BrokerError:
        facts = self._health.facts().get("mqtt", {})
        return BrokerError(
            f"{unsent} result{'' if unsent == 1 else 's'} not taken by the broker {facts.get('broker', '')}",
            expected=f"an acknowledgement of each within {self._options.flush_s:g} s",
            came=facts.get("error") or "not all were acknowledged in time",
            do="mend that, or wait until the broker is back, and run again: nothing is lost, nothing is scored twice",
        )


def run_agent(settings: Settings, *, once: bool = False) -> Summary:
    """Run an agent in the main thread. Raises what `Agent.run` raises.

    SIGTERM and SIGINT stop it cleanly, SIGHUP has it read its config file again.
    """
    agent = Agent(settings, once=once)
    use_one_arena()
    # Each stage has a thread; a pool of OpenCV's own beside them spins between its small tasks, on the cores of others.
    cv2.setNumThreads(1)
    with passed_on({signal.SIGTERM: agent.stop, signal.SIGINT: agent.stop, signal.SIGHUP: agent.reload}):
        return agent.run()
