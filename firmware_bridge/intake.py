"""Which files are finished, and in what order they are taken.

A file is finished when the kernel says that its writer closed it or that it was moved in (inotify(7), IN_CLOSE_WRITE,
IN_MOVED_TO). Where nobody says so (files that were there before, network file systems), it must keep its size and time
for a while, and decode in full. One that does not decode gets a longer while before it is refused.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from firmware_bridge.beside import is_taken_path
from firmware_bridge.errors import ResourceError
from firmware_bridge.intake_line import Candidate, Line
from firmware_bridge.intake_settings import IntakeSettings
from firmware_bridge.listing import files_below
from firmware_bridge.lookout import FALLBACK_POLL_S, Lookout
from firmware_bridge.mounts import network_type

_LOG = logging.getLogger(__name__)
_MAX_SETTLING = 10_000
_TICK_S = 0.2
_LOOK_S = 5.0
# Of its time an idle agent spends at most this share on looking at files that it knows.
_LOOKING_SHARE = 0.002


@dataclass(slots=True)
class _Settling:
    size_bytes: int
    mtime_ns: int
    since_s: float
    need_s: float


class Intake(Line):
    """Finds files in a folder and hands them out, each once at a time. Memory stays flat however many there are.

    One lock with the line: a file goes from settling into the line in one step.

    Args:
        folder: watched with its subfolders; links are not followed.
        known: whether a file (path, size, time in ns) was taken before.
        options: see `IntakeSettings`.
        once: look once, and never again.
        not_into: subfolders that are ours, and not looked into.
        on_look: called after each look at everything.
        problem: called with a text when the folder cannot be read, with None when it can again.
        watch_problem: the same when the kernel cannot watch it; nothing is lost then, see `Lookout`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        known: Callable[[Path, os.stat_result], bool],
        options: IntakeSettings,
        once: bool,
        problem: Callable[[str | None], None],
        not_into: frozenset[str] = frozenset(),
        on_look: Callable[[], None] = lambda: None,
        watch_problem: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        super().__init__()
        self._folder = folder
        self._known = known
        self._options = options
        self._once = once
        self._not_into = not_into
        self._on_look = on_look
        self._look_took_s = 0.0
        self.how = ""
        self._problem = problem
        self._watch_problem = watch_problem
        self._lookout: Lookout | None = None
        self._settling: dict[Path, _Settling] = {}
        self._scanned = False
        self._rescan = threading.Event()

    def run(self) -> None:
        """Find files until `stop`; with `once`, those that are there now.

        Raises:
            ConfigError: this system has no inotify.
            ResourceError: with `once`: the folder cannot be read.
        """
        poll_s = self._poll_s()
        self._scan()
        try:
            if not self._once and not poll_s:
                self._lookout = Lookout(
                    self._folder, self._on_event, problem=self._watch_problem, retry_s=self._options.rescan_s
                )
                self._lookout.start()
                self._scan()  # what came between the first look and the watch
            self._scanned = True
            _LOG.info("watching (%s)", self.how)
            self._loop(poll_s or self._options.rescan_s)
        finally:
            if self._lookout:
                self._lookout.stop()

    def _poll_s(self) -> float | None:
        """How often to look; None when the kernel tells. `how` says it in words, for log and status."""
        poll_s = self._options.poll_s
        network = network_type(self._folder)
        self.how = "once" if self._once else "by polling" if poll_s else "by inotify"
        if network and not self._once and not poll_s:
            poll_s, self.how = FALLBACK_POLL_S, f"by polling: {network} is a network file system"
        return poll_s

    def _loop(self, told_s: float) -> None:
        last_s = look_s = time.monotonic()
        while not self._stopped:
            every_s = min(told_s, (self._lookout and self._lookout.poll_s) or told_s)
            with self._changed:
                if not self._rescan.is_set() or self._is_full:
                    self._changed.wait(_TICK_S if self._settling else min(every_s, _LOOK_S))
            self._check_settling()
            now_s = time.monotonic()
            if self._lookout and now_s - look_s >= _LOOK_S:
                look_s = now_s
                if self._lookout.renew():  # the folder was removed and made again, or mounted over
                    self._rescan.set()
            due = not self._once and now_s - last_s >= max(every_s, self._look_took_s / _LOOKING_SHARE)
            if due or (self._rescan.is_set() and not self._is_full):
                self._look_again()
                last_s = time.monotonic()

    def _look_again(self) -> None:
        with self._changed:
            # Not idle until it is done: `--once` would end over what the look is going to find.
            self._scanned = False
            self._rescan.clear()
        self._scan()
        self._scanned = True

    @property
    def _is_full(self) -> bool:
        return len(self._settling) >= _MAX_SETTLING

    @property
    def idle(self) -> bool:
        """Whether everything that was there is done."""
        with self._changed:
            return self._scanned and not (self._present or self._settling or self._rescan.is_set())

    @property
    def waiting(self) -> int:
        """How many files wait or are being worked on."""
        with self._changed:
            return len(self._present) + len(self._settling)

    def later(self, path: Path, *, decoded: bool) -> None:
        """The file is not finished after all: hand it out again when it has kept still for a while.

        Args:
            path: the file.
            decoded: False when it could not be decoded (it then gets `grace_s`), True when it changed under our hands.
        """
        with self._changed:
            self.done(path)
            self._settle(path, need_s=self._options.settle_s if decoded else self._options.grace_s)

    def recover(self, paths: Iterator[Path]) -> None:
        """Offer files that an earlier run took and did not finish."""
        for path in paths:
            # What came by a network was whole when it was journaled.
            self._offer(Candidate(path, recovered=True, last_chance=not path.is_relative_to(self._folder)))

    def _add(self, candidate: Candidate, line: deque[Candidate] | None = None) -> None:
        # In one step: between the two the file would be nowhere, and a single run that looks then would end.
        self._settling.pop(candidate.path, None)
        super()._add(candidate, line)

    def _on_event(self, path: Path | None) -> None:
        """A finished file from the kernel; None when only another look can tell what happened."""
        with self._changed:
            if path is None or self._is_long:
                self._rescan.set()
                self._changed.notify_all()
            elif is_taken_path(below := path.relative_to(self._folder)) and below.parts[0] not in self._not_into:
                if self._is_known(path):
                    return  # put back by ourselves, where it was before
                if path in self._present:
                    self._again.add(path)
                self._add(Candidate(path))

    def _is_known(self, path: Path) -> bool:
        try:
            return self._known(path, path.lstat())
        except OSError:
            return False

    def _scan(self) -> None:
        try:
            start_s = time.thread_time()  # waiting for others does not count
            inodes: set[int] = set()
            for path, status in files_below(self._folder, not_into=self._not_into, on_folder=inodes.add):
                if self._stopped:
                    return
                self._look_at(path, status)
            self._problem(None)
            self._on_look()
            if self._lookout:
                self._lookout.check(inodes)
            self._look_took_s = time.thread_time() - start_s
        except OSError as error:
            if self._once:  # nobody looks again: "0 scored" would pass for an empty folder
                raise ResourceError(
                    f"the watched folder {self._folder} cannot be read",
                    expected="a folder that this user may read, on a disk that is there",
                    came=error.strerror or str(error),
                    do="mend its permissions or the disk, and run again",
                ) from error
            self._problem(f"the watched folder cannot be read: {error.strerror}")

    def _look_at(self, path: Path, status: os.stat_result) -> None:
        with self._changed:
            if path in self._present or path in self._settling:
                return
        if self._known(path, status):
            return
        # A time in the future tells nothing: such a file is watched like a fresh one.
        if time.time() - status.st_mtime >= self._options.settle_s:
            self._offer(Candidate(path))
            return
        with self._changed:
            self._settle(path, need_s=self._options.settle_s, status=status)

    def _settle(self, path: Path, *, need_s: float, status: os.stat_result | None = None) -> None:
        if self._is_full:
            self._rescan.set()
            return
        try:
            status = status or path.lstat()
        except OSError:
            self._add(Candidate(path))  # gone: whoever reads it next will see, and close its row
            return
        self._settling[path] = _Settling(status.st_size, status.st_mtime_ns, time.monotonic(), need_s)
        self._changed.notify_all()

    def _check_settling(self) -> None:
        now_s = time.monotonic()
        with self._changed:
            entries = list(self._settling.items())
        for path, entry in entries:
            try:
                status = path.lstat()
            except OSError:
                with self._changed:
                    self._add(Candidate(path))
                continue
            if (status.st_size, status.st_mtime_ns) != (entry.size_bytes, entry.mtime_ns):
                entry.size_bytes, entry.mtime_ns, entry.since_s = status.st_size, status.st_mtime_ns, now_s
            elif now_s - entry.since_s >= entry.need_s and path in self._settling:  # no event was faster
                self._offer(Candidate(path, last_chance=entry.need_s >= self._options.grace_s))
