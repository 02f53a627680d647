"""Who tells that a folder changed: the kernel, and where it has no watch left for it, a look every few seconds.

Watches and instances of inotify are limited for each user, and shared with whatever else that user runs (inotify(7),
"/proc interfaces"). That they are used up is no reason to score nothing. watchdog says so for the folder itself alone,
so the watches are counted where the kernel lists them: proc(5), /proc/PID/fdinfo, "inotify".
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Set
from pathlib import Path

from firmware_bridge.errors import ResourceError
from firmware_bridge.watch import FolderWatch

FALLBACK_POLL_S = 2.0
_DESCRIPTORS = Path("/proc/self/fd")
_INODE = re.compile(rb"^inotify wd:\S+ ino:([0-9a-f]+)", re.MULTILINE)


class Lookout:
    """A `FolderWatch` that may fail.

    Args:
        folder: watched with its subfolders.
        tell: see `FolderWatch`.
        problem: called with a text when the kernel cannot be asked (any more), with None when it can again.
        retry_s: so often it is asked anew.
    """

    def __init__(
        self,
        folder: Path,
        tell: Callable[[Path | None], None],
        *,
        problem: Callable[[str | None], None],
        retry_s: float,
    ) -> None:
        self._watch = FolderWatch(folder, tell)
        self._problem = problem
        self._retry_s = retry_s
        self._tried_s = 0.0
        self._lacking = 0  # looks in a row that found a folder without a watch
        self._failed = False

    @property
    def poll_s(self) -> float | None:
        """How often to look, because the kernel does not tell everything; None when it does."""
        return FALLBACK_POLL_S if self._failed or self._lacking else None

    def start(self) -> None:
        """Ask the kernel, if it can be asked.

        Raises:
            ConfigError: this system has no inotify.
        """
        self._tried_s = time.monotonic()
        try:
            self._watch.start()
            self._failed = False
        except ResourceError as error:
            self._fail(error.came)

    def stop(self) -> None:
        """Ask no more."""
        self._watch.stop()

    def renew(self) -> bool:
        """Ask anew where the folder is another one, or where it failed a while ago; True: look at everything.

        Raises:
            ConfigError: this system has no inotify.
        """
        if self.poll_s is not None and time.monotonic() - self._tried_s >= self._retry_s:
            self._watch.stop()
            self.start()
            return True
        try:
            return self._watch.renew()
        except ResourceError as error:
            self._fail(error.came)
            return True

    def check(self, inodes: Set[int]) -> None:
        """After a look: whether each folder that was looked into is watched. One made just now is not yet: twice."""
        if self._failed:
            return
        watched = _watched()
        # Where a file system has other numbers for the kernel than for us (some overlays), they tell nothing.
        if inodes <= watched or self._watch.inode not in watched:
            self._lacking = 0
            self._problem(None)
            return
        self._lacking += 1
        if self._lacking > 1:
            self._tell("there are more subfolders than watches")

    def _fail(self, came: str) -> None:
        self._failed = True
        self._tell(came)

    def _tell(self, came: str) -> None:
        self._problem(
            f"the kernel cannot watch the folder ({came}): it is looked at every {FALLBACK_POLL_S:g} s instead; "
            "raise the sysctls fs.inotify.max_user_watches and max_user_instances"
        )


def _watched() -> frozenset[int]:
    """The inodes that this process has inotify watches on."""
    found: set[int] = set()
    for name in os.listdir(_DESCRIPTORS):  # noqa: PTH208 - names alone
        with contextlib.suppress(OSError):  # closed meanwhile
            if os.readlink(_DESCRIPTORS / name) == "anon_inode:inotify":  # noqa: PTH115 - text out
                listed = (_DESCRIPTORS.with_name("fdinfo") / name).read_bytes()
                found |= {int(inode, 16) for inode in _INODE.findall(listed)}
    return frozenset(found)
