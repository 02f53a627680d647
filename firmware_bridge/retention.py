"""Keeps journal and folders from growing for ever. What is not reported yet stays, unless told otherwise."""

from __future__ import annotations

import contextlib
import heapq
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from firmware_bridge.beside import CAPTURE_SUFFIX, OURS, OVERLAY_SUFFIX, REPORT_SUFFIX, SUFFIX, json_path, path_beside
from firmware_bridge.filing import DONE, REJECTED, id_in
from firmware_bridge.journal import Journal
from firmware_bridge.journal_keep import Dropped
from firmware_bridge.mqtt_settings import MqttSettings
from firmware_bridge.parts import Context
from firmware_bridge.presence import Presence
from firmware_bridge.retention_settings import RetentionSettings

_LOG = logging.getLogger(__name__)
_DAY_S = 86_400.0
_MB = 1e6
_BATCH = 100
_MOST_FILES = 5_000  # of one folder in one round: memory stays flat
# Page, export and people look at the latest; they also save a device whose clock is wrong from emptying its journal.
_LEAST_RESULTS = 1_000
_CLOCK_SLACK_S = 600.0


def make_part(context: Context) -> Retention:
    """The part; it is always on."""
    return Retention(context, context.settings.section(RetentionSettings))


class Retention:
    """Looks now and then what has been kept for long enough."""

    name = "retention"

    def __init__(self, context: Context, settings: RetentionSettings) -> None:
        self._context = context
        self._settings = settings
        self._reports = bool(context.settings.section(MqttSettings).url)
        self._stop = threading.Event()
        self._clock = Clock()
        self._presence = Presence(context.watch)

    def run(self) -> None:
        """Work until `stop`."""
        while not self._stop.wait(self._settings.every_s):
            self.round()

    def stop(self) -> None:
        """End soon."""
        self._stop.set()

    def round(self) -> None:
        """Remove what is due, once.

        Raises:
            ResourceError: the journal cannot be read or written.
        """
        settings, journal = self._settings, self._context.journal
        now_s = self._clock.now_s()
        is_gone = self._presence.is_gone
        dropped = prune(journal, settings, now_s=now_s, reports=self._reports, stop=self._stop, is_gone=is_gone)
        if dropped.unreported:
            _LOG.error("%d results were removed before anybody had acknowledged them", dropped.unreported)
        lost = journal.lost
        self._context.health.report(
            "lost", f"{lost} results were removed before they were reported: the journal was full" if lost else None
        )
        for folder, days, most_mb in (
            (DONE, settings.done_days, settings.done_mb),
            (REJECTED, settings.rejected_days, settings.rejected_mb),
        ):
            self._thin_out(self._context.watch / folder, days, most_mb, now_s)

    def _thin_out(self, folder: Path, days: float, most_mb: float, now_s: float | None) -> None:
        if not (days or most_mb) or not folder.is_dir():
            return
        oldest, total = _oldest(folder)
        removed = 0
        for one in oldest:
            too_old = bool(days) and now_s is not None and one.filed_s < now_s - days * _DAY_S
            too_much = bool(most_mb) and total > most_mb * _MB
            if self._stop.is_set() or not (too_old or too_much):
                break
            if self._is_reported(one.path):
                total -= one.bytes
                removed += one.remove()
        if removed:
            _LOG.info("%d files removed from %s", removed, folder)

    def _is_reported(self, path: Path) -> bool:
        return not self._reports or not self._context.journal.is_unsent(id_in(json_path(path)))


class Clock:
    """The time of day, unless it was set lately: ages then mean nothing, and nothing is removed for its age."""

    def __init__(self, *, wait_s: float = _DAY_S) -> None:
        self._wait_s = wait_s
        self._wall_s, self._steady_s = time.time(), time.monotonic()
        self._doubt_until_s = 0.0

    def now_s(self) -> float | None:
        """The time of day; None while it is in doubt."""
        wall_s, steady_s = time.time(), time.monotonic()
        leap_s = (wall_s - self._wall_s) - (steady_s - self._steady_s)
        self._wall_s, self._steady_s = wall_s, steady_s
        if abs(leap_s) > _CLOCK_SLACK_S:
            _LOG.warning("the clock was set by %.0f s; nothing is removed for its age for a day", leap_s)
            self._doubt_until_s = steady_s + self._wait_s
        return None if steady_s < self._doubt_until_s else wall_s


def prune(
    journal: Journal,
    settings: RetentionSettings,
    *,
    now_s: float | None,
    reports: bool,
    stop: threading.Event,
    is_gone: Callable[[Path], bool],
) -> Dropped:
    """Remove results by age, then by the file's size, oldest first; and give the room back to the disk.

    Raises:
        ResourceError: the journal cannot be read or written.
    """
    total = Dropped()
    if now_s is not None and settings.results_days:
        before_s = now_s - settings.results_days * _DAY_S
        while not stop.is_set():
            dropped = journal.drop(
                before_s=before_s, reports=reports, least=_LEAST_RESULTS, limit=_BATCH, is_gone=is_gone
            )
            total = total.and_(dropped)
            if not dropped.results:
                break
    most = settings.journal_mb * _MB
    while most and not stop.is_set() and journal.used_bytes > most:
        dropped = journal.drop(reports=reports, least=0, limit=_BATCH, is_gone=is_gone)
        if not dropped.results and settings.unreported == "drop":
            dropped = journal.drop(reports=False, least=0, limit=_BATCH, is_gone=is_gone, counted=reports)
        total = total.and_(dropped)
        if not dropped.results:
            break
    journal.shrink(replies_before_s=None if now_s is None else now_s - _DAY_S)
    return total


@dataclass(frozen=True, slots=True, order=True)
class _Kept:
    """An X-ray with its JSON in one of our folders. `filed_s`: when its JSON was written."""

    filed_s: float
    path: Path
    bytes: int

    def remove(self) -> bool:
        """Remove it and what lies beside it, the JSON last: a file without JSON would never be looked at again."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
            for suffix in (OVERLAY_SUFFIX, REPORT_SUFFIX, CAPTURE_SUFFIX, SUFFIX):
                path_beside(self.path, suffix).unlink(missing_ok=True)
            return True
        return False


def _oldest(folder: Path) -> tuple[list[_Kept], int]:
    """The oldest files that have a JSON of ours, and the bytes of all."""
    total = 0

    def kept() -> Iterator[_Kept]:
        nonlocal total
        for path, status in _files_below(folder):
            total += status.st_size
            if not path.name.endswith(OURS):
                with contextlib.suppress(OSError):
                    beside = json_path(path).lstat()
                    yield _Kept(beside.st_mtime, path, status.st_size + beside.st_size)

    return heapq.nsmallest(_MOST_FILES, kept()), total


def _files_below(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for here, _, names in os.walk(folder):
        for name in names:
            path = Path(here, name)
            with contextlib.suppress(OSError):  # removed meanwhile
                yield path, path.lstat()
